"""A journal of our own, or SQLite? What lies behind the decision record on it, measured again.

Both are given the same records. SQLite is given them sealed already, which is less than it would have to do, and once
more with the sealing, which is the same work.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path

import aiosqlite
import msgspec
from nacl.public import PrivateKey

from tillstream_agent.clock import SystemClock
from tillstream_agent.journal import Journal, JournalIdentity
from tillstream_protocol.codec import encode
from tillstream_protocol.events import KIND_NUMBERS, Record
from tillstream_protocol.framing import NO_TAG, ClearHeader, Place, seal_frame
from tillstream_protocol.limits import DEFAULT
from tillstream_protocol.messages import Range
from tillstream_protocol.sealing import RecordSeal
from tillstream_protocol.signing import SignKey
from tillstream_protocol.transaction import Transaction

from . import floors
from .figures import Answer, Conclusion, Measure, Row
from .harness import Rounds, Subject, Timings, interleave, rows
from .records import sale
from .rivals import NothingDone
from .rivals.persistent import DISK_FLOOR, FLOOR
from .sizes import Sizes

QUESTION = "journal"
JOURNAL, JOURNAL_DISK = "journal, sealing", "journal, sealing, and the disk has confirmed it"
SAME_WORK = "SQLite WAL NORMAL, sealing"
SAME_WORK_DISK = "SQLite WAL FULL, sealing"
PACED, BURST, AT_ONCE = "one every 2 ms", "back to back", "sixteen at once"
_TOGETHER = 16
_KIND = KIND_NUMBERS[Transaction]
_PAGE = 1_000


@dataclass(frozen=True, slots=True)
class _Item:
    """One record as the capture path hands it on, and as it lies sealed."""

    plain: bytes
    sealed: bytes
    tag: bytes


_Call = Callable[[_Item], Awaitable[object]]


class _Sealing:
    """Seals records as the journal does."""

    def __init__(self) -> None:
        self._seal = RecordSeal(os.urandom(32), limit=DEFAULT.record)
        self._place = Place(os.urandom(16), os.urandom(16), 0)
        self._model = msgspec.convert(sale(0, "-"), Transaction)

    def seal(self, plain: bytes, tag: bytes) -> bytes:
        """One sealed frame."""
        return seal_frame(self._seal, self._place, ClearHeader(0, _KIND, tag, NO_TAG), plain, os.urandom(24))

    def item(self, number: int) -> _Item:
        """The record of a round."""
        body = msgspec.structs.replace(self._model, pos_id=f"choice-{number}")
        plain, tag = encode(Record(body, captured_at=1_769_000_000_000 + number)), os.urandom(16)
        return _Item(plain, self.seal(plain, tag), tag)


class _Table:
    """A queue in SQLite: sealed bytes under the tag by which a repeat is known, as the journal keeps it."""

    def __init__(self, file: Path, synchronous: str) -> None:
        self.file = file
        self.database = sqlite3.connect(file)
        self.database.execute("PRAGMA journal_mode=WAL")
        self.database.execute(f"PRAGMA synchronous={synchronous}")
        self.database.execute(_CREATE)

    def put(self, tag: bytes, sealed: bytes) -> None:
        """One record, committed."""
        self.database.execute(_INSERT, (tag, sealed))
        self.database.commit()

    def drain(self) -> int:
        """Read everything in pages and delete each page once it was acknowledged; how many records."""
        count = 0
        while found := self.database.execute(f"SELECT id, body FROM queue ORDER BY id LIMIT {_PAGE}").fetchall():
            self.database.execute("DELETE FROM queue WHERE id <= ?", (found[-1][0],))
            self.database.commit()
            count += len(found)
        return count


_CREATE = "CREATE TABLE queue (id INTEGER PRIMARY KEY, tag BLOB NOT NULL UNIQUE, body BLOB NOT NULL)"
_INSERT = "INSERT INTO queue (tag, body) VALUES (?, ?)"


@dataclass(frozen=True, slots=True)
class _Bench:
    """Everything that takes part."""

    sealing: _Sealing
    journal: Journal
    folder: Path
    file: floors.File
    normal: _Table
    normal_sealing: _Table
    full: _Table
    full_sealing: _Table
    plain: aiosqlite.Connection


async def run(folder: Path, sizes: Sizes) -> Answer:
    """Paced as a till's sales are, back to back as a backlog's are, and waiting for the disk; then drained."""
    async with AsyncExitStack() as stack:
        bench = await _set_up(stack, folder)
        count = sizes.stored
        synced = Rounds.of(max(2, count // 10), first=20_000_000)
        together = Rounds.of(max(2, count // 50), first=30_000_000)
        timed = [
            *rows(QUESTION, await _time(bench, PACED, Rounds.of(count), _process(bench), 0.002)),
            *rows(QUESTION, await _time(bench, BURST, Rounds.of(count, first=10_000_000), _process(bench), 0)),
            *rows(QUESTION, await _time(bench, PACED, synced, _disk(bench), 0.002)),
            *rows(QUESTION, await _time_together(bench, together)),
        ]
        measures = await _drained(bench, 2 * Rounds.of(count).total)
    return Answer(tuple(timed), tuple(measures), (), tuple(conclude(timed)))


async def _set_up(stack: AsyncExitStack, folder: Path) -> _Bench:
    def table(name: str, synchronous: str) -> _Table:
        made = _Table(folder / f"{name}.db", synchronous)
        stack.enter_context(closing(made.database))
        return made

    plain = await stack.enter_async_context(aiosqlite.connect(folder / "plain.db"))
    await plain.execute("PRAGMA journal_mode=WAL")
    await plain.execute("PRAGMA synchronous=NORMAL")
    await plain.execute(_CREATE)
    return _Bench(
        _Sealing(),
        await stack.enter_async_context(_journal(folder / "journal")),
        folder / "journal",
        await stack.enter_async_context(floors.file(folder)),
        table("normal", "NORMAL"),
        table("normal-sealing", "NORMAL"),
        table("full", "FULL"),
        table("full-sealing", "FULL"),
        plain,
    )


@asynccontextmanager
async def _journal(folder: Path) -> AsyncIterator[Journal]:
    server, escrow = PrivateKey.generate(), PrivateKey.generate()
    device = SignKey(os.urandom(32))
    identity = JournalIdentity(os.urandom(16), device, bytes(server.public_key), bytes(escrow.public_key))
    journal = await Journal.open(folder, identity=identity, clock=SystemClock(), randomness=os.urandom)
    try:
        yield journal
    finally:
        await journal.close()


def _process(bench: _Bench) -> list[Subject[_Item]]:
    async def plain(item: _Item) -> None:
        await bench.plain.execute(_INSERT, (item.tag, item.sealed))
        await bench.plain.commit()

    return [
        Subject(FLOOR, lambda item: bench.file.write(item.sealed), "floor", "process"),
        Subject(JOURNAL, _appending(bench), "ours", "process", True, FLOOR),
        Subject("SQLite WAL NORMAL, sealed before", _given(bench.normal), "rival", "process", True, FLOOR, JOURNAL),
        Subject(SAME_WORK, _sealed(bench, bench.normal_sealing), "rival", "process", True, FLOOR, JOURNAL),
        Subject("aiosqlite WAL NORMAL, sealed before", plain, "rival", "process", True, FLOOR, JOURNAL),
    ]


def _disk(bench: _Bench) -> list[Subject[_Item]]:
    async def durably(item: _Item) -> None:
        await bench.journal.synced(bench.journal.append(item.plain, kind=_KIND, tag=item.tag))

    return [
        Subject(DISK_FLOOR, lambda item: bench.file.sync(item.sealed), "floor", "disk"),
        Subject(JOURNAL_DISK, durably, "ours", "disk", True, DISK_FLOOR),
        Subject("SQLite WAL FULL, sealed before", _given(bench.full), "rival", "disk", True, DISK_FLOOR, JOURNAL_DISK),
        Subject(SAME_WORK_DISK, _sealed(bench, bench.full_sealing), "rival", "disk", True, DISK_FLOOR, JOURNAL_DISK),
    ]


def _appending(bench: _Bench) -> _Call:
    async def append(item: _Item) -> None:
        bench.journal.append(item.plain, kind=_KIND, tag=item.tag)

    return append


def _given(table: _Table) -> _Call:
    async def put(item: _Item) -> None:
        table.put(item.tag, item.sealed)

    return put


def _sealed(bench: _Bench, table: _Table) -> _Call:
    async def put(item: _Item) -> None:
        table.put(item.tag, bench.sealing.seal(item.plain, item.tag))

    return put


async def _time(
    bench: _Bench, condition: str, rounds: Rounds, subjects: Sequence[Subject[_Item]], pause_s: float
) -> list[Timings[_Item]]:
    before = bench.journal.position.seq
    timed = await interleave(subjects, condition, rounds, bench.sealing.item, lambda: asyncio.sleep(pause_s))
    if bench.journal.position.seq != before + rounds.total:
        raise NothingDone("the journal does not hold what was appended")
    return timed


async def _time_together(bench: _Bench, rounds: Rounds) -> list[Timings[list[_Item]]]:
    """Several sales come at once, and all of them wait for the disk."""
    before = bench.journal.position.seq
    timed = await interleave(
        [_together(subject) for subject in _disk(bench)],
        AT_ONCE,
        rounds,
        lambda number: [bench.sealing.item(_TOGETHER * number + k) for k in range(_TOGETHER)],
        lambda: asyncio.sleep(0.002),
    )
    if bench.journal.position.seq != before + _TOGETHER * rounds.total:
        raise NothingDone("the journal does not hold what was appended")
    return timed


def _together(subject: Subject[_Item]) -> Subject[list[_Item]]:
    async def call(items: list[_Item]) -> None:
        await asyncio.gather(*(subject.call(item) for item in items))

    return Subject(subject.name, call, subject.role, subject.promise, subject.sealed, subject.floor, subject.versus)


async def _drained(bench: _Bench, stored: int) -> list[Measure]:
    """How much room the records take, and how fast they are read and, once acknowledged, done with."""
    last = bench.journal.position
    await bench.journal.synced(type(last)(last.epoch, last.seq - 1))
    size = sum(file.stat().st_size for file in bench.folder.iterdir())
    bench.normal_sealing.database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    beside = bench.normal_sealing.file.stat().st_size
    ours, records = _clocked(lambda: _drain(bench.journal))
    theirs, others = _clocked(bench.normal_sealing.drain)
    if records != last.seq or others != stored:
        raise NothingDone(
            f"{records} of {last.seq} records were read from the journal, {others} of {stored} from SQLite"
        )
    return [
        Measure(QUESTION, JOURNAL, "on the disk", round(size / records), "bytes a record"),
        Measure(QUESTION, SAME_WORK, "on the disk", round(beside / others), "bytes a record", "rival"),
        Measure(QUESTION, JOURNAL, "read, acknowledged, done with", round(records / ours), "records/s"),
        Measure(QUESTION, SAME_WORK, "read, acknowledged, done with", round(others / theirs), "records/s", "rival"),
    ]


def _clocked(work: Callable[[], int]) -> tuple[float, int]:
    started = time.perf_counter()
    done = work()
    return time.perf_counter() - started, done


def _drain(journal: Journal) -> int:
    count = 0
    while (
        piece := journal.next_slice("live", DEFAULT.batch) or journal.next_slice("backlog", DEFAULT.batch)
    ) is not None:
        journal.acknowledge(piece.epoch, [Range(piece.first, piece.last)])
        count += piece.last - piece.first + 1
    return count


def conclude(timed: Sequence[Row]) -> list[Conclusion]:
    """What follows, in figures and in a verdict."""
    texts, behind = [], []
    for row in timed:
        if row.role != "ours":
            continue
        same = SAME_WORK if row.subject == JOURNAL else SAME_WORK_DISK
        other = next(one for one in timed if one.condition == row.condition and one.subject == same)
        ratio = row.against[same]
        texts.append(
            f"{row.condition}: {same} takes {ratio.p50:g} × (p50), {ratio.p99:g} × (p99) and"
            f" {other.max / row.max:.2f} × (longest) as long as {row.subject}"
        )
        if ratio.p99 < 1:
            behind.append(row)
    return [Conclusion(QUESTION, text) for text in [*texts, _verdict(behind)]]


def _verdict(behind: Sequence[Row]) -> str:
    """The acknowledgement that a POS gets by default decides; what waits for the disk is told beside it."""
    if by_default := [row.condition for row in behind if row.promise == "process"]:
        return f"The decision for a journal of our own falls: for the same work SQLite is ahead at p99, {by_default}."
    stands = "The decision for a journal of our own stands: for the same work it is ahead at p99 of the `os` ack."
    if waits := [row.condition for row in behind]:
        return f"{stands} A sale that waits for the disk waits longer than with SQLite: {', '.join(waits)}."
    return f"{stands} So it is for sales that wait for the disk."
