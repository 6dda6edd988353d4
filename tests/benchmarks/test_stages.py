"""Where time goes, by samples: what a task waits for, and what a thread runs."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
import time
from pathlib import Path

import pytest

from benchmarks.ledgers import join
from benchmarks.stages import ELSEWHERE, STAGES, Sampler
from benchmarks.stand import data
from tillstream_protocol.sealing import RecordSeal
from tillstream_server.ledger.database import Database

SERVER = Path(sys.modules["tillstream_server"].__path__[0])
PROTOCOL = Path(sys.modules["tillstream_protocol"].__path__[0])


async def test_what_a_thread_computes_is_told_by_the_innermost_frame_of_ours() -> None:
    seal = RecordSeal(os.urandom(32), limit=10_000_000)
    plain = os.urandom(2_000_000)
    sampler = Sampler()

    def work() -> None:
        ends = time.monotonic() + 10
        while not sampler.counts["open"] and time.monotonic() < ends:
            seal.seal(plain, b"", os.urandom(24))

    await sampler.watch(asyncio.to_thread(work))
    assert sampler.counts["open"] > 0


async def test_what_a_task_waits_for_is_told_by_its_innermost_coroutine_of_ours(tmp_path: Path) -> None:
    async with data(tmp_path / "data") as parts:
        sampler = Sampler()
        database: Database = parts.database

        async def work() -> None:
            ends = time.monotonic() + 10
            async with database.write() as conn:
                while not sampler.counts["vault"] and time.monotonic() < ends:
                    await parts.vault.reveal(conn, b"nobody")

        await sampler.watch(work())
        assert sampler.counts["vault"] > 0


async def test_what_is_not_ours_is_elsewhere_and_the_shares_make_up_the_whole() -> None:
    sampler = Sampler()

    def work() -> None:
        while not sampler.counts[ELSEWHERE]:
            hashlib.sha256(b"x" * 100_000).digest()

    await sampler.watch(asyncio.to_thread(work))
    shares = dict(sampler.shares())
    assert shares[ELSEWHERE] == 1
    assert set(shares) == {*STAGES.values(), ELSEWHERE}


async def test_a_sampler_gives_what_it_watched_and_raises_what_that_raised() -> None:
    async def seven() -> int:
        return 7

    async def fails() -> None:
        raise ZeroDivisionError

    interval = sys.getswitchinterval()
    assert await Sampler().watch(seven()) == 7
    with pytest.raises(ZeroDivisionError):
        await Sampler().watch(fails())
    assert sys.getswitchinterval() == interval


async def test_most_of_a_batch_belongs_to_a_stage(tmp_path: Path) -> None:
    async with data(tmp_path / "data") as parts:
        (sealer,) = await join(parts, 1)
        await parts.intake.pipeline.process(sealer.device, sealer.batch(1))
        sampler = Sampler()
        for _ in range(5):
            await sampler.watch(parts.intake.pipeline.process(sealer.device, sealer.batch(200)))
    shares = dict(sampler.shares())
    assert shares[ELSEWHERE] < 0.5
    assert shares["open"] > 0
    assert shares["project"] + shares["write"] > 0


def test_every_stage_names_a_file_that_there_is() -> None:
    files = {path.name for place in (SERVER, PROTOCOL) for path in place.rglob("*.py")}
    assert {file for file, _ in STAGES} <= files
