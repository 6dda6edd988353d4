"""Takes deliveries whose signatures are good: one after the other for each source, and by the pipeline alone.

    seen before? → read and cut → seal under the source's next names → the pipeline's transaction → noted as seen

An event is noted in a transaction after the pipeline's. If the server ends between the two, the vendor delivers it
again; then the ledger finds that it has the content already, and nothing changes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal, TypeVar

from tillstream_protocol.errors import InvalidInput, TillstreamError, UnknownField
from tillstream_protocol.framing import ChunkHeader
from tillstream_protocol.limits import DEFAULT, Limits
from tillstream_protocol.messages import Batch, DeadLetter

from ..clock import Clock
from ..devices import Devices
from ..gateway import dead_letters
from ..gateway.batches import Intake
from ..gateway.dead_letters import Letter
from ..gateway.flow import Busy
from ..keys import Randomness, ServerKeys
from ..ledger.database import Database
from ..pipeline.facts import drop_dead
from ..pipeline.opening import SERVER_DEFECT, Opener, Report, harmless, unheard
from . import book, readings, returns, sources
from .deliveries import Delivery
from .journal import SourceJournal
from .readings import Hint
from .sources import Source, SourceUnusable

Result = Literal["stored", "repeat", "ignored", "ping", "hint", "dead_letter"]
T = TypeVar("T")
MOST_WAITING: Final = 32
"""Deliveries of one source that wait for their turn."""


class Unreadable(InvalidInput):
    """A delivery in which a sale should be, and none could be read; it is kept among the dead letters.

    `code` and the rest are those of what was wrong with it.
    """

    def __init__(self, error: InvalidInput) -> None:
        super().__init__(error.message, field=error.field, limit=error.limit, hint="it is kept: see dead-letters list")
        self.code = error.code


class ReadingFailed(InvalidInput):
    """A delivery that our own adapter fails over: kept like one that cannot be read, to be read by a better one."""

    code = SERVER_DEFECT


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of a delivery, and how many transactions it held."""

    result: Result
    records: int = 0
    problem: InvalidInput | None = None


class _Desk:
    """Where one source's deliveries wait."""

    def __init__(self, journal: SourceJournal) -> None:
        self.journal = journal
        self.turn = asyncio.Lock()
        self.waiting = 0

    @contextmanager
    def one(self) -> Iterator[None]:
        if self.waiting >= MOST_WAITING:
            limit = f"{MOST_WAITING} deliveries"
            raise Busy("too many deliveries of this source wait", limit=limit, hint="send later")
        self.waiting += 1
        try:
            yield
        finally:
            self.waiting -= 1


class HookIntake:
    """Takes deliveries, and dead letters of them that are tried again."""

    def __init__(
        self,
        database: Database,
        devices: Devices,
        intake: Intake,
        keys: ServerKeys,
        clock: Clock,
        random: Randomness,
        *,
        limits: Limits = DEFAULT,
        report: Report = unheard,
    ) -> None:
        """`report` is told of the server's own defects that a delivery has set off."""
        self._database = database
        self._devices = devices
        self._intake = intake
        self._keys = keys
        self._clock = clock
        self._random = random
        self._limits = limits
        self._report = report
        self._opener = Opener(keys, limits)
        self._desks: dict[bytes, _Desk] = {}

    async def take(self, source: Source, delivery: Delivery) -> Taken:
        """Take a delivery; when this returns, what it held is on the disk. Raises `Busy` or `LedgerFault`."""
        if not delivery.concerns_sales:
            return Taken("ignored")
        desk = self._desk(source.till_id)
        with desk.one():
            async with desk.turn:
                return await self._take(source, delivery, desk.journal)

    async def _take(self, source: Source, delivery: Delivery, journal: SourceJournal) -> Taken:
        till_id, event = source.till_id, book.event_of(self._keys, source.till_id, delivery)
        async with self._database.read() as conn:
            if await book.outcome_of(conn, till_id, event) is not None:
                return Taken("repeat")
            seq = await journal.next_seq(conn)
        try:
            records = await self._records(source, delivery)
            held = await asyncio.to_thread(journal.seal, records, seq) if records else _hint(delivery)
        except InvalidInput as error:
            taken = Taken("dead_letter", problem=error)
            await self._keep(source, delivery, journal, seq, error)
        else:
            taken = await self._taken(till_id, held, len(records))
        async with self._database.write() as conn:
            await book.note(conn, till_id, event, taken.result, self._clock.now_ms())
        return taken

    async def _records(self, source: Source, delivery: Delivery) -> list[bytes]:
        """What a delivery comes to, with what it says by its silence. Raises `InvalidInput`."""
        found = await asyncio.to_thread(self._guarded, partial(readings.readings_of, source, delivery))
        if any(one.returns is not None for one in found):
            async with self._database.read() as conn:
                found = await returns.settled(conn, self._keys, source.till_id, found)
        encoded = partial(readings.records_of, found, delivery, self._clock.now_ms())
        return await asyncio.to_thread(self._guarded, encoded)

    def _guarded(self, work: Callable[[], T]) -> T:
        """In a thread. Raises `InvalidInput`."""
        try:
            return work()
        except (InvalidInput, MemoryError):
            raise
        except Exception as error:  # a defect of ours, of whatever class, must cost nobody a sale
            self._report("hooks", error)
            raise ReadingFailed("the server failed over this", field="body") from error

    async def _taken(self, till_id: bytes, held: Batch | Hint, records: int) -> Taken:
        if isinstance(held, Batch):
            dead = await self._process(till_id, held)
            return Taken("dead_letter" if dead else "stored", records)
        async with self._database.write() as conn:
            await book.note_hint(conn, till_id, held, self._clock.now_ms())
        return Taken("hint")

    async def _keep(
        self, source: Source, delivery: Delivery, journal: SourceJournal, seq: int, error: InvalidInput
    ) -> None:
        """Keep what cannot be read: the pipeline sets it aside like a till's record, and then it is said why."""
        plain = await asyncio.to_thread(readings.kept, delivery)
        batch = await asyncio.to_thread(journal.seal, [plain], seq)
        await self._process(source.till_id, batch)
        epoch = ChunkHeader.decode(batch.header).epoch
        async with self._database.write() as conn:
            await book.explain(conn, source.till_id, epoch, seq, error.code, _reason(error))

    async def _process(self, till_id: bytes, batch: Batch) -> tuple[DeadLetter, ...]:
        """The one way into the ledger, which a till's batch takes too."""
        device = await self._devices.find(self._keys.source_device(till_id).key_id)
        assert device is not None
        return (await self._intake.take(device, batch)).dead

    async def read_again(self, letter: Letter) -> bool | None:
        """Read a kept delivery again; whether it could be. None for a letter that holds something else.

        The first of its transactions takes the letter's own name, and so the letter's place.
        """
        header = ChunkHeader.decode(letter.header)
        try:
            async with self._database.read() as conn:
                source = await sources.of_till(conn, header.till)
        except SourceUnusable as error:
            async with self._database.write() as conn:
                await dead_letters.say_why(conn, letter, DeadLetter(0, error.code, error.message))
            return False
        held = None if source is None else self._held(header, letter)
        if source is None or held is None:
            return None
        seq, delivery = held
        desk = self._desk(source.till_id)
        async with desk.turn:
            try:
                await self._again(source, delivery, desk.journal, header, seq)
            except InvalidInput as error:
                async with self._database.write() as conn:
                    await book.explain(conn, source.till_id, header.epoch, seq, error.code, _reason(error))
                return False
        return True

    async def _again(
        self, source: Source, delivery: Delivery, journal: SourceJournal, header: ChunkHeader, seq: int
    ) -> None:
        records = await self._records(source, delivery)
        if not records:
            await self._only_named(source, _hint(delivery), header, seq)
            return
        first, *others = records
        own = await asyncio.to_thread(journal.seal_again, header, first, seq)
        if others:
            async with self._database.read() as conn:
                free = await journal.next_seq(conn)
            await self._process(source.till_id, await asyncio.to_thread(journal.seal, others, free))
        if await self._process(source.till_id, own):
            raise InvalidInput("is still not taken", field="body")

    async def _only_named(self, source: Source, hint: Hint, header: ChunkHeader, seq: int) -> None:
        """Note which order it names: it held no sale that could be lost, so that is all there is to keep of it."""
        async with self._database.write() as conn:
            await book.note_hint(conn, source.till_id, hint, self._clock.now_ms())
            await drop_dead(conn, header, [seq])

    def _held(self, header: ChunkHeader, letter: Letter) -> tuple[int, Delivery] | None:
        """The seq and the delivery that a letter holds."""
        try:
            ((seq, plain),) = self._opener.plain(header, letter.batch())
        except (TillstreamError, ValueError):
            return None
        kept = readings.kept_of(plain)
        return None if kept is None else (seq, kept.delivery())

    def _desk(self, till_id: bytes) -> _Desk:
        desk = self._desks.get(till_id)
        if desk is None:
            journal = SourceJournal(till_id, self._keys, self._clock, self._random, self._limits)
            desk = self._desks[till_id] = _Desk(journal)
        return desk


def _hint(delivery: Delivery) -> Hint:
    """What a delivery of a sale's topic names, that holds none. Raises `InvalidInput` where it names nothing either."""
    hint = readings.hint_of(delivery)
    if hint is None:
        raise _nothing()
    return hint


def _nothing() -> InvalidInput:
    return InvalidInput("holds no transaction", field="body")


def _reason(error: InvalidInput) -> str:
    """Why, without what the sender wrote: the name of a field that nobody knows is the sender's own."""
    return error.code if isinstance(error, UnknownField) else harmless(error)
