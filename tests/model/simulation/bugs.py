"""Bugs to be planted, each the kind of thing that the promise rests on. A simulator that finds none of them is none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

from support.simdisk import SimDisk, SimFile
from tillstream_agent.aftermath import Aftermath
from tillstream_agent.journal import Journal, Slice
from tillstream_agent.sync.flow import UploadFlow
from tillstream_agent.sync.rewind import Rewind
from tillstream_protocol.messages import EpochRanges, Range
from tillstream_protocol.ranges import collect, merge
from tillstream_server.ledger import received
from tillstream_server.pipeline.outcome import Outcome
from tillstream_server.pipeline.process import Pipeline

from . import till
from .nodes import here
from .till import Machine

Patch = AbstractContextManager[Any]


@dataclass(frozen=True, slots=True)
class Bug:
    """A planted bug, and the kinds of trouble that bring it to light."""

    name: str
    plant: Callable[[], Patch]
    only: tuple[str, ...]


def _no_sync() -> Patch:
    async def sync(file: SimFile) -> None:
        await file._disk.pause()

    return patch.object(SimFile, "sync", sync)


def _no_folder_sync() -> Patch:
    async def sync_folder(disk: SimDisk) -> None:
        await disk.pause()

    return patch.object(SimDisk, "sync_folder", sync_folder)


def _same_epoch_again() -> Patch:
    async def opened(folder: Path, **about: Any) -> Journal:
        machine: Machine = here().place
        draws = iter([machine.name.encode().ljust(16, b"e")])

        def randomness(size: int) -> bytes:
            return next(draws, b"") or machine.chance.randbytes(size) if size == 16 else machine.chance.randbytes(size)

        return await Journal.open(folder, **(about | {"disk": machine.disk, "randomness": randomness}))

    return patch.object(till._SimJournal, "open", staticmethod(opened))


def _every_answer_is_an_ack() -> Patch:
    def failed(flow: UploadFlow, sent: Slice, _failure: object, _now: float) -> bool:
        flow._queue.acknowledge(sent.epoch, [Range(sent.first, sent.last)])
        return False

    return patch.object(UploadFlow, "failed", failed)


def _no_rewind() -> Patch:
    def back(_rewind: Rewind, _missing: Sequence[EpochRanges]) -> None:
        return None

    return patch.object(Rewind, "back", back)


def _no_word_of_losses() -> Patch:
    async def round_(_aftermath: Aftermath) -> None:
        return None

    return patch.object(Aftermath, "round", round_)


def _ack_before_commit() -> Patch:
    real = Pipeline._take

    async def take(pipeline: Pipeline, device: Any, opened: Any, alone: bool) -> Outcome:
        async def later() -> None:
            await asyncio.sleep(0.5)
            await real(pipeline, device, opened, alone)

        asyncio.get_running_loop().create_task(later())
        acked = merge(collect(sorted({item.seq for item in opened.items})))
        return Outcome(reply_acked=acked, repeated=0, dead=(), counts={"stored": len(opened.items)}, pushes=())

    both = ExitStack()
    both.enter_context(patch.object(Pipeline, "_take", take))
    both.enter_context(_no_rewind())
    return both


def _received_in_another_transaction() -> Patch:
    real_add, real_take = received.add_each, Pipeline._take

    async def add_each(_conn: Any, batches: Any) -> list[tuple[Range, ...]]:
        return [merge([*stretch.ranges, *ranges]) for stretch, ranges in batches]

    async def take(pipeline: Pipeline, device: Any, opened: Any, alone: bool) -> Outcome:
        outcome = await real_take(pipeline, device, opened, alone)
        await asyncio.sleep(0.2)
        seqs = [item.seq for item in opened.items]
        header = opened.header
        async with pipeline._database.write() as conn:
            stretch = await received.near(conn, header.till, header.epoch, received.spanning(seqs))
            await real_add(conn, [(stretch, merge(collect(sorted(set(seqs)))))])
        return outcome

    both = ExitStack()
    both.enter_context(patch.object(received, "add_each", add_each))
    both.enter_context(patch.object(Pipeline, "_take", take))
    return both


BUGS: Final[Mapping[str, Bug]] = {
    bug.name: bug
    for bug in (
        Bug("nothing is synced before it counts as synced", _no_sync, ("power_cut", "crash")),
        Bug("a new chunk's name is not synced", _no_folder_sync, ("power_cut", "crash")),
        Bug("an epoch is used again after a restart", _same_epoch_again, ("crash", "stop")),
        Bug("every answer counts as an acknowledgement", _every_answer_is_an_ack, ("sick_server",)),
        Bug("what a restored server lacks is not sent again", _no_rewind, ("back_up", "restore")),
        Bug("what may be lost is not reported", _no_word_of_losses, ("power_cut",)),
        Bug("the server acknowledges before it commits, and tills do not rewind", _ack_before_commit, ("kill_server",)),
        Bug(
            "what was received is noted in another transaction",
            _received_in_another_transaction,
            ("kill_server",),
        ),
    )
}
