"""The journal itself: appending, syncing, and remembering. The package's docstring has its rules."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tillstream_protocol.framing import NO_TAG, Entry, Spend
from tillstream_protocol.limits import DEFAULT, Limits
from tillstream_protocol.messages import Range

from ..clock import Clock
from .chunks import Chunk, OpenChunk, Unsynced
from .disk import Disk, FolderDisk
from .errors import JournalError, translate
from .observer import JournalObserver
from .reader import Lane, Slice
from .recovery import recover
from .shelf import Acked, Queue, Shelf, Sweep
from .writer import ChunkWriter, JournalIdentity, Lineage, Randomness

Settled = Mapping[tuple[int, bytes], int]
"""Units spent in chunks that were unlinked, by chunk number and lease."""


@dataclass(frozen=True, slots=True)
class Name:
    """A record's name, together with the till's."""

    epoch: bytes
    seq: int


@dataclass(frozen=True, slots=True)
class Seen:
    """A record with this tag was captured as `name`. `check` is None if that was before the last restart."""

    name: Name
    check: int | None


class Journal:
    """One till's journal. Everything but the syncing itself runs on the event loop that opened it."""

    def __init__(
        self,
        shelf: Shelf,
        writer: ChunkWriter,
        disk: Disk,
        epoch: bytes,
        next_number: int,
        clock: Clock,
        limits: Limits,
        observer: JournalObserver,
    ) -> None:
        self._shelf = shelf
        self._writer = writer
        self._disk = disk
        self._clock = clock
        self._limits = limits
        self._observer = observer
        self._epoch = epoch
        self._next_number = next_number
        self._next_seq = 0
        self._synced_before = 0
        self._open: OpenChunk | None = None
        self._closing: list[OpenChunk] = []
        self._homeless: list[Unsynced] = []
        self._seen: dict[bytes, Seen] = {}
        self._spent: dict[bytes, int] = {}
        self._wakeup: Callable[[], None] = lambda: None
        self._dirty = asyncio.Event()
        self._urgent = asyncio.Event()
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._syncer: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls,
        folder: Path,
        *,
        identity: JournalIdentity,
        clock: Clock,
        randomness: Randomness,
        acked: Acked | None = None,
        settled: Settled | None = None,
        limits: Limits = DEFAULT,
        disk: Disk | None = None,
        observer: JournalObserver | None = None,
    ) -> Journal:
        """Recover what is there and open a new epoch.

        `acked` and `settled` are what earlier runs kept of acknowledgements, and of spends in unlinked chunks; without
        `acked` everything is sent again, and acknowledged again. Raises `JournalError` only where the folder itself
        cannot be read; with no room for a new chunk, `append` says so until there is.
        """
        observer = observer or JournalObserver()
        try:
            disk = disk or FolderDisk(folder)
            found = recover(disk, observer)
        except OSError as error:
            raise translate(error, f"the journal in {folder} cannot be read") from error
        lineage = Lineage(randomness(16), found.parent, found.parent_position)
        writer = ChunkWriter(disk, identity, lineage, randomness, limits)
        shelf = Shelf(disk, found.chunks, found.next_number, clock, limits, observer)
        journal = cls(shelf, writer, disk, lineage.epoch, found.next_number, clock, limits, observer)
        journal._remember(found.chunks, acked or {}, settled or {})
        with contextlib.suppress(JournalError):
            journal._open_chunk(0)
        journal._syncer = asyncio.create_task(journal._sync_for_ever(), name="journal sync")
        journal._dirty.set()
        return journal

    # Capturing

    @property
    def position(self) -> Name:
        """The name that the next record gets."""
        return Name(self._epoch, self._next_seq)

    def find(self, tag: bytes) -> Seen | None:
        """The record that was captured under a tag."""
        return self._seen.get(tag)

    @property
    def spent(self) -> Mapping[bytes, int]:
        """Units drawn so far on each lease."""
        return self._spent

    def append(
        self, plain: bytes, *, kind: int, tag: bytes = NO_TAG, check: int = 0, spends: Sequence[Spend] = ()
    ) -> Name:
        """Seal and write one record: when this returns, it survives the process.

        Raises `JournalError` or `JournalFull`, and `TooLarge`; then nothing was written and nothing is counted.
        """
        target = self._target()
        seq = self._next_seq
        entry = Entry(tag, tuple(spends))
        try:
            self._writer.write(target, seq, kind, entry, plain)
        except OSError as error:
            if not self._writer.cut_back(target):
                self._next_seq += 1  # the record may turn up after all, so nothing else may have its name
                self._give_up(target)
            raise translate(error, "the record could not be written") from error
        self._next_seq = seq + 1
        name = Name(self._epoch, seq)
        self._note(entry, Seen(name, check))
        self._dirty.set()
        return name

    async def synced(self, name: Name) -> None:
        """Return when a record survives a power cut."""
        if name.epoch != self._epoch or name.seq < self._synced_before:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append((name.seq, waiter))
        self._urgent.set()
        self._dirty.set()
        await waiter

    # Sending

    def set_wakeup(self, callback: Callable[[], None]) -> None:
        """`callback` is called whenever there may be something new to send."""
        self._wakeup = callback

    def next_slice(self, lane: Lane, max_bytes: int) -> Slice | None:
        """The oldest synced and unacknowledged frames of a lane. The same again until they are acknowledged.

        Raises `JournalError`.
        """
        return self._shelf.next_slice(lane, max_bytes)

    def acknowledge(self, epoch: bytes, ranges: Iterable[Range]) -> None:
        """The server holds these seqs of an epoch durably."""
        self._shelf.acknowledge(epoch, ranges)

    def acked(self) -> Mapping[bytes, tuple[Range, ...]]:
        """What was acknowledged, of the epochs that still have chunks here."""
        return self._shelf.acked()

    def roll(self) -> None:
        """Start a fresh chunk that goes ahead of everything queued so far. Raises `JournalError`."""
        if self._open is not None and not self._open.chunk.present:
            self._shelf.live_from = self._open.chunk.number
            return
        self._close_open()
        self._shelf.live_from = self._next_number
        self._open_chunk(self._next_seq)

    def backlog_exists(self) -> bool:
        """Whether anything is queued behind the live lane."""
        return self._shelf.backlog_exists()

    def queue(self) -> Queue:
        """What is not acknowledged yet."""
        return self._shelf.queue()

    # Keeping house

    def sweep(self) -> Sweep:
        """Which acknowledged chunks are over their time, or over the room that is kept for them.

        The spends in them must be kept durably before `discard` is called. The newest chunk always stays, since the
        next epoch names it.
        """
        return self._shelf.sweep()

    def discard(self, sweep: Sweep) -> None:
        """Unlink swept chunks. Raises `JournalError`; what was not unlinked is swept again."""
        for chunk in [c for c in self._shelf.chunks if c.number in sweep.chunks]:
            self._shelf.discard(chunk)
            for entry in chunk.entries:
                self._seen.pop(entry.tag, None)

    async def close(self) -> None:
        """Close the open chunk, sync everything, and stop. Who still waits for the disk is cancelled."""
        self._close_open()
        if self._syncer is not None:
            self._syncer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._syncer
        await self._sync_once()
        for _, waiter in self._waiters:
            waiter.cancel()

    # Inside

    def _target(self) -> OpenChunk:
        target = self._open
        if target is not None:
            full = target.chunk.size >= self._limits.chunk
            old = self._clock.monotonic() - target.opened >= self._limits.chunk_age
            if not target.chunk.present or not (full or old):
                return target
            self._close_open()
        return self._open_chunk(self._next_seq)

    def _open_chunk(self, first_seq: int) -> OpenChunk:
        number = self._next_number
        self._next_number += 1
        opened = self._writer.open(number, first_seq, created_ms=self._clock.now_ms(), opened=self._clock.monotonic())
        self._shelf.chunks.append(opened.chunk)
        self._open = opened
        self._observer.opened(number)
        return opened

    def _close_open(self) -> None:
        target = self._open
        if target is not None:
            self._writer.close(target)
            self._give_up(target)

    def _give_up(self, target: OpenChunk) -> None:
        """Write no more to a chunk; what it holds is still synced and sent."""
        self._open = None
        target.chunk.closed = True
        self._shelf.settle(target.chunk)
        self._closing.append(target)
        self._dirty.set()

    def _note(self, entry: Entry, seen: Seen) -> None:
        if entry.tag != NO_TAG:
            self._seen[entry.tag] = seen
        for spend in entry.spends:
            self._spent[spend.lease] = self._spent.get(spend.lease, 0) + spend.amount

    def _remember(self, chunks: Sequence[Chunk], acked: Acked, settled: Settled) -> None:
        """Read back from clear headers what the till must know, and take up what was acknowledged."""
        for chunk in chunks:
            seqs = (seq for part in chunk.present for seq in range(part.first, part.last + 1))
            for seq, entry in zip(seqs, chunk.entries, strict=False):
                self._note(entry, Seen(Name(chunk.epoch, seq), None))
            self._shelf.settle(chunk)
        here = {chunk.number for chunk in chunks}
        for (number, lease), units in settled.items():
            if number not in here:
                self._spent[lease] = self._spent.get(lease, 0) + units
        for epoch, ranges in acked.items():
            self.acknowledge(epoch, ranges)

    # Syncing

    async def _sync_for_ever(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._dirty.wait()
            timer = loop.call_later(self._limits.sync_interval, self._urgent.set)
            await self._urgent.wait()
            timer.cancel()
            self._dirty.clear()
            self._urgent.clear()
            await self._sync_once()

    async def _sync_once(self) -> None:
        await self._sync_recovered()
        self._house()
        for target in list(self._closing):
            await self._sync_chunk(target)
            target.file.close()
            self._closing.remove(target)
        if self._open is not None:
            await self._sync_chunk(self._open)
        self._release_waiters()
        self._wakeup()

    async def _sync_recovered(self) -> None:
        """What an earlier run wrote must be on the disk before it is sent."""
        for chunk in self._shelf.chunks:
            if chunk.epoch == self._epoch:
                return
            if chunk.synced_end >= chunk.frames_end or chunk.done:
                continue
            try:
                file = self._disk.append_to(chunk.name)
                try:
                    await file.sync()
                finally:
                    file.close()
                chunk.synced_end = chunk.frames_end
            except OSError as error:
                self._observer.sync_failed(chunk.number, str(error))

    async def _sync_chunk(self, target: OpenChunk) -> None:
        pending = len(target.unsynced)
        end = target.chunk.frames_end
        started = self._clock.monotonic()
        try:
            await target.file.sync()
        except OSError as error:
            self._observer.sync_failed(target.chunk.number, str(error))
            self._distrust(target)
            return
        target.chunk.synced_end = max(target.chunk.synced_end, end)
        if pending:
            last = target.unsynced[pending - 1].seq
            del target.unsynced[:pending]
            self._shelf.note_synced(self._epoch, last)
            self._observer.synced(pending, self._clock.monotonic() - started)
        self._synced_before = self._first_unsynced()

    def _first_unsynced(self) -> int:
        """Every seq of this epoch before this one survives a power cut."""
        targets = [*self._closing, *([self._open] if self._open is not None else [])]
        waiting = [target.unsynced[0].seq for target in targets if target.unsynced]
        waiting.extend(record.seq for record in self._homeless[:1])
        return min(waiting, default=self._next_seq)

    def _distrust(self, target: OpenChunk) -> None:
        """Never trust a file again whose sync failed: what it did not sync is to be sealed anew."""
        chunk = target.chunk
        if self._open is target:
            self._open = None
        kept = len(chunk.entries) - len(target.unsynced)
        chunk.entries = chunk.entries[:kept]
        chunk.frames_end = min(chunk.frames_end, chunk.synced_end)
        first = chunk.present[0].first if chunk.present else 0
        chunk.present = (Range(first, first + kept - 1),) if kept else ()
        chunk.closed = True
        self._shelf.settle(chunk)
        if target not in self._closing:
            target.file.close()
        self._homeless.extend(target.unsynced)
        target.unsynced = []
        self._house()

    def _house(self) -> None:
        """Seal what lost its file into a new chunk, under its own names. Tried again at every sync."""
        if not self._homeless:
            return
        self._dirty.set()
        self._homeless.sort(key=lambda record: record.seq)
        with contextlib.suppress(JournalError, OSError):
            while self._homeless:
                record = self._homeless[0]
                target = self._open
                if target is None or not _continues(target.chunk, record.seq):
                    self._close_open()
                    target = self._open_chunk(record.seq)
                self._rewrite(target, record)
                del self._homeless[0]
        if self._open is not None and not _continues(self._open.chunk, self._next_seq):
            self._close_open()

    def _rewrite(self, target: OpenChunk, record: Unsynced) -> None:
        """Seal one record again. Raises `OSError`; what a failed write left behind is cut, or the chunk left."""
        try:
            self._writer.write(target, record.seq, record.kind, record.entry, record.plain)
        except OSError:
            if not self._writer.cut_back(target):
                self._give_up(target)
            raise

    def _release_waiters(self) -> None:
        still: list[tuple[int, asyncio.Future[None]]] = []
        for seq, waiter in self._waiters:
            if seq >= self._synced_before:
                still.append((seq, waiter))
            elif not waiter.done():
                waiter.set_result(None)
        self._waiters = still


def _continues(chunk: Chunk, seq: int) -> bool:
    """Whether a record may follow what a chunk holds: its seqs have no gap."""
    return seq == (chunk.present[-1].last + 1 if chunk.present else chunk.header.first_seq)
