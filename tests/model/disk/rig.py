"""One till's journal on a simulated disk, driven step by step and held against its book."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Coroutine, Iterable, Mapping
from random import Random
from typing import Any, Final, TypeVar

from model.simulation.chance import Clock
from model.simulation.loop import VirtualLoop
from support.medium import Manner
from support.simdisk import SimDisk, from_image
from support.tills import crash
from tillstream_agent.journal import Journal, JournalError, Lane, Name, Slice
from tillstream_protocol.framing import HEADER_SIZE, Spend
from tillstream_protocol.limits import Limits
from tillstream_protocol.messages import Range
from tillstream_protocol.ranges import contains, merge

from .book import Book, Broken, Fact
from .look import FOLDER, SMALL, Reader, keys_of, opened

T = TypeVar("T")

PATIENCE_S: Final = 5.0
"""A journal whose disk is well again works within this time."""
LEASES: Final = (b"one lease".ljust(16), b"another lease".ljust(16))


class Rig:
    """A till that captures, sends, dies and starts again. Every method is one step; between them no time passes."""

    def __init__(self, seed: int, *, limits: Limits = SMALL, disk: SimDisk | None = None) -> None:
        self.loop = VirtualLoop()
        self.random = Random(seed)
        self.clock = Clock(self.loop.time)
        self.keys = keys_of(self.random)
        self.limits = limits
        self.disk = disk or SimDisk(swift=seed % 2 == 0)
        self.book = Book()
        self.kept_acks: Mapping[bytes, tuple[Range, ...]] = {}
        self.aside: set[Name] = set()
        """What the server refused."""
        self.journal: Journal | None = None
        self.refusals_us: list[float] = []
        """Processor time that each refusal of a record took."""
        self._tags = 0

    def do(self, step: Coroutine[Any, Any, T]) -> T:
        """Run one step."""
        return self.loop.run_until_complete(step)

    def close(self) -> None:
        """End it."""
        self.kill()
        self.loop.close()

    @property
    def running(self) -> Journal:
        """The journal, which runs."""
        assert self.journal is not None
        return self.journal

    @property
    def reader(self) -> Reader:
        """Who can see what this till's disk holds."""
        return Reader(self.keys, self.limits, self.book, self.clock.off_ms)

    # The life of a till

    def start(self) -> None:
        """A new run on what is on the disk. Raises `JournalError` where the folder cannot be read."""
        self.journal = self.do(self._open())

    def kill(self) -> None:
        """The process dies; what it wrote stays."""
        journal, self.journal = self.journal, None
        self.disk = self.disk.crash()
        if journal is not None:
            self.do(_end(journal))

    def stop(self) -> None:
        """The process ends in order."""
        journal, self.journal = self.running, None
        self.do(journal.close())
        self.disk = self.disk.crash()

    def cut_power(self, manner: Manner) -> None:
        """The machine dies."""
        disk = self.disk.power_cut(manner, self.random)
        self.kill()
        self.disk = disk

    def fill(self, room: int) -> None:
        """Leave so many bytes on the disk."""
        self.disk.capacity = sum(map(len, self.disk.image().values())) + room

    def flip(self, where: float, byte_bit: int) -> None:
        """A bit turns in one of the chunks, somewhere behind the first copy of its header."""
        files = {name: content for name, content in self.disk.image().items() if name.endswith(".chunk")}
        room = [(name, HEADER_SIZE, len(content)) for name, content in files.items() if len(content) > HEADER_SIZE]
        if room:
            name, first, end = room[int(where * len(room)) % len(room)]
            before = self.reader.look(from_image(self.disk.image())).records
            self.disk.flip(name, first + int(self.random.random() * (end - first)), byte_bit)
            self.book.worn |= before.keys() - self.reader.look(from_image(self.disk.image())).records.keys()

    def check_and_start(self, promised: frozenset[Name], *, excused: int = 0) -> None:
        """Hold what the last run left against the book, and start on it."""
        found = self.reader.look(from_image(self.disk.image()))
        self.book.check(found, promised, excused=excused)
        self.book.forget_lost(found)
        self.aside &= set(found.records)
        self.start()

    def capture(self, size: int, spends: int = 0) -> Fact | None:
        """Append a record; None where the journal refused it."""
        return self.do(self._capture(size, spends))

    def knows(self, fact: Fact) -> bool:
        """Whether the till finds a record by its tag, as it must before it says anything of it."""
        try:
            seen = self.running.find(fact.tag)
        except JournalError:
            return False
        return seen is not None and seen.name == fact.name

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.do(asyncio.sleep(seconds))

    def ask_safe(self, fact: Fact, seconds: float = PATIENCE_S) -> bool:
        """Wait for a record to be safe; whether it said so."""
        return self.do(self._ask_safe(fact, seconds))

    def send(self, lane: Lane, max_bytes: int, *, reply_lost: bool = False, keep: bool = True) -> int:
        """Send one slice; how many records arrived. `keep`: the till keeps the acknowledgement at once."""
        return self.do(self._send(lane, max_bytes, reply_lost=reply_lost, keep=keep))

    def refuse_next(self, lane: Lane) -> None:
        """The server refuses the next record of a lane."""
        self.do(self._refuse_next(lane))

    def take_up(self) -> None:
        """Send again what the server refused."""
        epochs = _by_epoch(self.aside)
        taken = sum(self.running.take_up(epoch, ranges) for epoch, ranges in epochs.items())
        if taken != len(self.aside):
            raise Broken(f"{len(self.aside)} records were set aside, and {taken} taken up")
        self.aside.clear()

    def restore_server(self, share: float) -> None:
        """The server is put back to an older state, and tells the till what it lacks."""
        here = self.reader.look(from_image(self.disk.image())).records
        acked = self.running.acked()
        lacks = {name for name in self.book.server if name in here and self.random.random() < share}
        known = sum(contains(acked.get(name.epoch, ()), name.seq) for name in lacks)
        told = sum(self.running.unacknowledge(epoch, ranges) for epoch, ranges in _by_epoch(lacks).items())
        for name in lacks:
            del self.book.server[name]
        if told != known:
            raise Broken(f"{known} acknowledged records are missing at the server, and {told} are queued again")
        self.kept_acks = dict(self.running.acked())

    def export(self, fact: Fact) -> None:
        """Take one record out as it travels."""
        self.do(self._export(fact))

    def roll(self) -> None:
        """Begin a fresh chunk."""
        self.do(self._roll())

    def sweep(self) -> None:
        """Let old acknowledged chunks go. Their spends are kept first."""
        self.do(self._sweep())

    # Inside

    async def _open(self) -> Journal:
        return await Journal.open(
            FOLDER,
            identity=self.keys.identity(),
            clock=self.clock,
            randomness=self.random.randbytes,
            acked=self.kept_acks,
            aside=_by_epoch(self.aside),
            settled=self.book.settled,
            limits=self.limits,
            disk=self.disk,
        )

    async def _capture(self, size: int, spends: int) -> Fact | None:
        self._tags += 1
        tag = self.random.randbytes(16)
        drawn = tuple(Spend(self.random.choice(LEASES), self.random.randrange(1, 9)) for _ in range(spends))
        plain = self._tags.to_bytes(4, "big") + self.random.randbytes(size)
        fact = Fact(self.running.position, plain, tag, drawn)
        self.book.attempt(fact)
        began = time.thread_time()
        try:
            name = self.running.append(plain, kind=1, tag=tag, check=self._tags, spends=drawn)
        except JournalError:
            self.refusals_us.append((time.thread_time() - began) * 1e6)
            if self.running.find(tag) is not None:
                raise Broken("a refused record is known by its tag") from None
            return None
        if name != fact.name:
            raise Broken(f"{name} was promised {fact.name}")
        self.book.accept(fact)
        return fact

    async def _ask_safe(self, fact: Fact, seconds: float) -> bool:
        asking = asyncio.ensure_future(self.running.synced(fact.name))
        done, _ = await asyncio.wait({asking}, timeout=seconds)
        if not done:
            asking.cancel()
            return False
        if isinstance(asking.exception(), JournalError):
            return False
        asking.result()
        fact.safe = True
        return True

    async def _send(self, lane: Lane, max_bytes: int, *, reply_lost: bool, keep: bool) -> int:
        try:
            piece = self.running.next_slice(lane, max_bytes)
        except JournalError:
            return 0
        if piece is None:
            return 0
        self._check_safe(piece)
        records = opened(self.keys, piece)
        if not self.aside.isdisjoint(name for name, _ in records):
            raise Broken("a record that was set aside was sent")
        self.book.arrive(records)
        if not reply_lost:
            self.running.acknowledge(piece.epoch, [Range(piece.first, piece.last)])
            if keep:
                self.kept_acks = dict(self.running.acked())
        return len(records)

    async def _refuse_next(self, lane: Lane) -> None:
        with contextlib.suppress(JournalError):
            piece = self.running.next_slice(lane, 1)
            if piece is not None:
                self.running.set_aside(piece.epoch, piece.first)
                self.aside.add(Name(piece.epoch, piece.first))

    async def _export(self, fact: Fact) -> None:
        with contextlib.suppress(JournalError):
            piece = self.running.slice_of(fact.name.epoch, fact.name.seq)
            if piece is not None and opened(self.keys, piece) != [(fact.name, fact.plain)]:
                raise Broken(f"{fact.name} was taken out as another record")

    def _check_safe(self, piece: Slice) -> None:
        """What is sent survives a power cut, as far as anybody can know after a sync that failed."""
        name = f"{piece.chunk:010d}.chunk"
        start = piece.end - len(piece.frames)
        if not self.disk.survives(name, start, piece.frames) and not self.disk.betrayed(name):
            raise Broken(f"{name} was sent before it was synced")

    async def _roll(self) -> None:
        self.running.roll()

    async def _sweep(self) -> None:
        sweep = self.running.sweep()
        self.book.settled.update(sweep.spends)
        with contextlib.suppress(JournalError):
            self.running.discard(sweep)


def _by_epoch(names: Iterable[Name]) -> dict[bytes, tuple[Range, ...]]:
    epochs: dict[bytes, list[Range]] = {}
    for name in sorted(names, key=lambda name: (name.epoch, name.seq)):
        epochs.setdefault(name.epoch, []).append(Range(name.seq, name.seq))
    return {epoch: merge(ranges) for epoch, ranges in epochs.items()}


async def _end(journal: Journal) -> None:
    await crash(journal)
    await asyncio.sleep(0)
