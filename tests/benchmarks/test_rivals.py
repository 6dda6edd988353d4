"""What captures are measured beside: every store really holds what it was given, and none is left out silently."""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from benchmarks import floors
from benchmarks.records import Basket, given
from benchmarks.rivals import Entrant, NothingDone, Rival, RivalFailed, check, enter
from benchmarks.rivals.in_memory import MEMORY
from benchmarks.rivals.jetstream import JETSTREAM, JETSTREAM_ALWAYS
from benchmarks.rivals.persistent import DISK, PROCESS, SQLITE_FULL, SQLITE_NORMAL

EVERYONE = [*PROCESS, *DISK, *MEMORY, JETSTREAM, JETSTREAM_ALWAYS]
NEEDS = {
    "persist-queue, file": "persistqueue",
    "persist-queue, SQLite": "persistqueue",
    "litequeue": "litequeue",
    "Segment SDK, in memory": "segment.analytics",
    "PostHog SDK, in memory": "posthog",
    "Mixpanel SDK, in memory": "mixpanel",
    "NATS JetStream, publish and ack": "nats",
    "NATS JetStream, sync always": "nats",
}


def installed(entrant: Entrant) -> bool:
    try:
        importlib.import_module(NEEDS.get(entrant.name, "sqlite3"))
    except ImportError:
        return False
    return True


@pytest.mark.parametrize("entrant", EVERYONE, ids=lambda entrant: entrant.name)
async def test_a_rival_holds_what_it_was_given_or_is_said_to_be_missing(entrant: Entrant, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        entered, skipped = await enter(stack, "capture", tmp_path, [entrant])
        for number in range(5):
            for one in entered:
                await one.subject().call(given(number, "test", 2, "os"))
                if number % 2:
                    one.rival.tidy()
        assert len(entered) + len(skipped) == 1
        assert bool(entered) == installed(entrant), skipped
        assert all("not installed here" in one.reason for one in skipped)
        await check(entered, 5)
        for one in entered:
            assert await one.rival.held() == 5
            with pytest.raises(NothingDone, match="holds 5 of 6"):
                await check([one], 6)


def test_what_needs_nothing_to_be_installed_always_takes_part() -> None:
    always = {entrant.name for entrant in EVERYONE if entrant.name not in NEEDS}
    assert always == {SQLITE_NORMAL, SQLITE_FULL, "aiosqlite, plain queue, WAL NORMAL"}


async def nothing(*_: object) -> int:
    return 0


def failing(error: Exception | None) -> Entrant:
    @asynccontextmanager
    async def opened(_: Path) -> AsyncIterator[Rival]:
        if error is not None:
            raise error
        yield Rival(put=nothing, held=nothing)

    return Entrant("one", "process", opened)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ModuleNotFoundError("No module", name="one"), "not installed here: one"),
        (RivalFailed("it ended with exit code 3"), "it ended with exit code 3"),
        (TimeoutError(), "TimeoutError"),
        (OSError(13, "Permission denied"), "Permission denied"),
    ],
)
async def test_a_rival_that_does_not_start_is_told_with_the_reason(
    error: Exception, reason: str, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        entered, (skipped,) = await enter(stack, "capture", tmp_path, [failing(error)])
    assert entered == []
    assert reason in skipped.reason
    assert (skipped.question, skipped.subject) == ("capture", "one")


async def test_a_fault_of_our_own_is_not_taken_for_a_rival_that_is_missing(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        with pytest.raises(ZeroDivisionError):
            await enter(stack, "capture", tmp_path, [failing(ZeroDivisionError())])


async def test_a_nats_server_that_is_not_there_or_ends_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("nats")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    async with AsyncExitStack() as stack:
        _, (skipped,) = await enter(stack, "capture", tmp_path / "a", [JETSTREAM])
        assert skipped.reason == "nats-server is not installed here"
        broken = tmp_path / "nats-server"
        broken.write_text("#!/bin/sh\necho out of order\nexit 3\n")
        broken.chmod(0o700)
        _, (skipped,) = await enter(stack, "capture", tmp_path / "b", [JETSTREAM])
        assert skipped.reason == "nats-server ended with exit code 3: out of order"


async def test_a_floor_file_holds_what_was_written(tmp_path: Path) -> None:
    async with floors.file(tmp_path) as file:
        await file.write(b"one")
        await file.sync(b"two")
    assert (tmp_path / "floor.bin").read_bytes() == b"onetwo"


@pytest.mark.parametrize("unix", [False, True])
async def test_an_echo_answers_each_message_and_ends_with_the_run(unix: bool, tmp_path: Path) -> None:
    async with floors.echo(tmp_path / "echo.sock" if unix else None) as echo:
        for size in (0, 1, 300_000):
            await echo.round_trip(b"x" * size)
        peer = echo.writer.get_extra_info("peername")
    assert echo.writer.is_closing()
    with pytest.raises(OSError, match=r".*"):
        await (asyncio.open_unix_connection(peer) if unix else asyncio.open_connection(*peer))


def test_every_sale_is_another_and_each_door_gets_it_under_its_own_name() -> None:
    made = [given(number, "x", 10, "os") for number in range(3)]
    assert len({one.basket.body for one in made}) == 3
    assert b'"h-x-1"' in made[1].basket.http
    assert b"s-x-1" in made[1].call
    assert len(Basket(1, "x").sale["lines"]) == 10
    assert Basket(1, "x", 200).sale["total"] == sum(line["amount"] for line in Basket(1, "x", 200).sale["lines"])
