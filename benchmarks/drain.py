"""How fast does a backlog get from the disk of its till to an acknowledgement?

One till is an agent process; many are journals and uploaders in this process, each with a connection of its own. The
floor is the same chunk files, read and sent over a bare loopback connection in pieces of a batch's size.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from tillstream_protocol.limits import DEFAULT

from . import floors
from .figures import Answer, Conclusion, Measure
from .ledgers import counted_in
from .machine import Weight, weigh
from .sizes import Sizes
from .stand import Standing, agent, calling, enrol, in_process, server, until, uploading

QUESTION = "drain"
AGENT, FLEET = "an agent process", "journals and uploaders in one process"
FLOOR = "floor: the same files over bare loopback"
_POLL_S = 0.02


class NotDrained(Exception):
    """The server does not hold what was acknowledged."""


@dataclass(frozen=True, slots=True)
class _Drain:
    """One drain: records and bytes on disk, its seconds by the wall, and of the server's processor time."""

    records: int
    size: int
    wall: float
    server_cpu: float


async def run(folder: Path, sizes: Sizes) -> Answer:
    """One till, then many; what each takes, and what the bytes alone would."""
    async with server(folder) as standing:
        one = await _one(folder, standing, sizes.drained)
        many = await _many(folder, standing, sizes)
        _check(standing, one.records + many.records)
        floor = await _floor(folder / "one" / "journal")
    shares = [(AGENT, "1 till", one), (FLEET, f"{sizes.fleet} tills", many)]
    measures = [found for subject, condition, drain in shares for found in _measures(subject, condition, drain, floor)]
    measures.append(Measure(QUESTION, FLOOR, "1 till", round(floor / 1e6, 1), "MB/s", "floor"))
    text = (
        f"A week at two records a second would drain from one till in"
        f" {7 * 86_400 * 2 / (one.records / one.wall) / 60:.1f} minutes at this rate."
    )
    return Answer(measures=tuple(measures), conclusions=(Conclusion(QUESTION, text),))


async def _one(folder: Path, standing: Standing, records: int) -> _Drain:
    state = folder / "one"
    await enrol(state, standing)
    async with in_process(state, standing.server.url) as till:
        await till.fill(records, "one")
    size = _size([state])
    running = agent(state, folder)
    before = weigh(standing.pid)
    try:
        await running.start()
        started = time.perf_counter()
        async with calling(running) as doors:

            async def empty() -> bool:
                return await doors.queued() == 0

            await until(empty, 3600, every=_POLL_S)
            wall = time.perf_counter() - started
        return _Drain(records, size, wall, _spent(standing, before))
    finally:
        await running.program.stop()


async def _many(folder: Path, standing: Standing, sizes: Sizes) -> _Drain:
    each = max(1, sizes.drained // sizes.fleet)
    async with AsyncExitStack() as stack:
        tills = []
        for number in range(sizes.fleet):
            state = folder / f"many-{number}"
            await enrol(state, standing)
            tills.append(await stack.enter_async_context(in_process(state, standing.server.url)))
            await tills[-1].fill(each, f"many-{number}")
        size = _size([folder / f"many-{number}" for number in range(sizes.fleet)])
        before, started = weigh(standing.pid), time.perf_counter()

        async def empty() -> bool:
            return all(till.journal.queue().records == 0 for till in tills)

        async with uploading(*tills):
            await until(empty, 3600, every=_POLL_S)
        wall = time.perf_counter() - started
        return _Drain(each * sizes.fleet, size, wall, _spent(standing, before))


def _size(states: Sequence[Path]) -> int:
    return sum(file.stat().st_size for state in states for file in (state / "journal").iterdir() if file.is_file())


def _spent(standing: Standing, before: Weight) -> float:
    return weigh(standing.pid).cpu - before.cpu


def _check(standing: Standing, records: int) -> None:
    """Ask the server how many transactions it counts. Raises `NotDrained`."""
    counted = counted_in(standing.server.folder)
    if counted != records:
        raise NotDrained(f"{counted} of {records} records are in the ledger")


async def _floor(journal: Path) -> float:
    """Bytes a second."""
    sent = 0
    async with floors.echo(None) as echo:
        await echo.round_trip(b"\0")
        started = time.perf_counter()
        for file in sorted(journal.iterdir()):
            with file.open("rb") as chunk:
                while piece := chunk.read(DEFAULT.batch):
                    await echo.round_trip(piece)
                    sent += len(piece)
        return sent / (time.perf_counter() - started)


def _measures(subject: str, condition: str, drain: _Drain, floor: float) -> list[Measure]:
    speed = drain.size / drain.wall
    return [
        Measure(QUESTION, subject, condition, round(drain.records / drain.wall), "records/s"),
        Measure(QUESTION, subject, condition, round(speed / 1e6, 3), "MB/s", floor_share=round(speed / floor, 5)),
        Measure(
            QUESTION,
            f"{subject}, the server",
            condition,
            round(drain.server_cpu / drain.records * 1e6, 1),
            "µs of processor a record",
        ),
    ]
