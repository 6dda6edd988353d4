"""The journal itself: appending, sending, and remembering. The package's docstring has its rules."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tillstream_protocol.framing import NO_TAG, Entry, Spend
from tillstream_protocol.limits import DEFAULT, Limits
from tillstream_protocol.messages import Range

from ..clock import Clock
from .chain import Chain
from .damage import Damage
from .directory import Directory
from .disk import Disk, FolderDisk
from .doubts import Doubts
from .errors import JournalError, JournalFull, translate
from .inherited import Inherited
from .mending import quarantine
from .observer import JournalObserver
from .reader import Lane, Slice
from .reading import look_up
from .recovery import Found, recover
from .retention import Sweep
from .room import Room
from .shelf import Queue, Ranges, Shelf
from .syncing import MAX_BURDEN, Syncer
from .tags import Name, Seen, Tags
from .writer import ChunkWriter, JournalIdentity, Lineage, Randomness

Settled = Mapping[tuple[int, bytes], int]
"""Units spent in chunks that were unlinked, by chunk number and lease."""


@dataclass(frozen=True, slots=True)
class _Parts:
    disk: Disk
    found: Found
    shelf: Shelf
    tags: Tags
    room: Room
    chain: Chain
    inherited: Inherited
    syncer: Syncer
    observer: JournalObserver


class Journal:
    """One till's journal. Everything but the syncing itself runs on the event loop that opened it."""

    def __init__(self, parts: _Parts, lineage: Lineage, spent: dict[bytes, int]) -> None:
        self._disk = parts.disk
        self._found = parts.found
        self._shelf = parts.shelf
        self._tags = parts.tags
        self._room = parts.room
        self._chain = parts.chain
        self._inherited = parts.inherited
        self._syncer = parts.syncer
        self._observer = parts.observer
        self._lineage = lineage
        self._epoch = lineage.epoch
        self._spent = spent

    @classmethod
    async def open(
        cls,
        folder: Path,
        *,
        identity: JournalIdentity,
        clock: Clock,
        randomness: Randomness,
        acked: Ranges | None = None,
        aside: Ranges | None = None,
        settled: Settled | None = None,
        limits: Limits = DEFAULT,
        disk: Disk | None = None,
        observer: JournalObserver | None = None,
    ) -> Journal:
        """Recover what is there and open a new epoch.

        `acked`, `aside` and `settled` are what earlier runs kept of acknowledgements, of records set aside, and of
        spends in unlinked chunks; without `acked` everything is sent again, and acknowledged again. Raises
        `JournalError` only where the folder itself cannot be read; with no room for a new chunk, `append` says so
        until there is.
        """
        observer = observer or JournalObserver()
        tags = Tags(lambda number, tag: look_up(parts.disk, parts.shelf.get(number), tag))
        try:
            disk = disk or FolderDisk(folder)
            found = recover(disk, observer, till=identity.till_id, acked=acked, tags=tags)
        except OSError as error:
            raise translate(error, f"the journal in {folder} cannot be read") from error
        lineage = Lineage(randomness(16), found.parent, found.parent_position)
        doubts = Doubts(disk, found.names)
        directory = Directory(disk, doubts)
        writer = ChunkWriter(disk, directory, identity, lineage, randomness, limits)
        shelf = Shelf(disk, found.chunks, identity.till_id, found.next_number, clock, limits, observer)
        shelf.damage.extend(found.damage)
        shelf.begin(acked or {}, aside or {})
        room = Room(disk, clock, limits)
        chain = Chain(writer, shelf, tags, clock, limits, observer, found.next_number)
        inherited = Inherited(disk, directory, doubts, shelf, clock, observer, found.unfinished)
        syncer = Syncer(directory, doubts, chain, shelf, tags, room, inherited, clock, limits, observer)
        parts = _Parts(disk, found, shelf, tags, room, chain, inherited, syncer, observer)
        journal = cls(parts, lineage, _sum_spent(shelf, settled or {}))
        with contextlib.suppress(JournalError):
            chain.begin(0)
        syncer.start()
        return journal

    # Capturing

    @property
    def position(self) -> Name:
        """The name that the next record gets."""
        return Name(self._epoch, self._chain.next_seq)

    def find(self, tag: bytes) -> Seen | None:
        """The record that was captured under a tag. Raises `JournalError` where its chunk cannot be read."""
        return self._tags.find(tag)

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
        self._refuse_if_full()
        chain = self._chain
        target = chain.target()
        seq = chain.next_seq
        entry = Entry(tag, tuple(spends))
        try:
            size = chain.writer.write(target, seq, kind, entry, plain)
        except OSError as error:
            if not chain.writer.cut_back(target):
                chain.next_seq += 1  # the record may turn up after all, so nothing else may have its name
                chain.give_up(target)
                self._shelf.lose(target.chunk, [Range(seq, seq)])
            self._syncer.stir()
            raise translate(error, "the record could not be written") from error
        chain.next_seq = seq + 1
        name = Name(self._epoch, seq)
        self._room.take(size)
        if tag != NO_TAG:
            self._tags.note(tag, Seen(name, check), target.chunk.number)
        for spend in entry.spends:
            self._spent[spend.lease] = self._spent.get(spend.lease, 0) + spend.amount
        self._syncer.wrote(len(plain))
        return name

    async def synced(self, name: Name) -> None:
        """Return when a record survives a power cut.

        Raises `JournalError` when the disk has failed for long; the record is kept, and written when that is possible.
        """
        if name.epoch == self._epoch:
            await self._syncer.synced(name.seq)
        else:
            await self._inherited.synced(name.epoch, name.seq)

    def use_keys(self, server_public: bytes, escrow_public: bytes) -> None:
        """Seal every chunk from now on to these keys (32 bytes each)."""
        self._chain.use_keys(server_public, escrow_public)
        self._syncer.stir()

    # Sending

    def set_wakeup(self, callback: Callable[[], None]) -> None:
        """`callback` is called whenever there may be something new to send."""
        self._syncer.wakeup = callback

    def next_slice(self, lane: Lane, max_bytes: int) -> Slice | None:
        """The oldest synced frames of a lane that are neither acknowledged nor set aside. The same until they are.

        Raises `JournalError` where a chunk cannot be read and no other has anything to send.
        """
        return self._shelf.next_slice(lane, max_bytes)

    def next_header(self) -> Slice | None:
        """The header of an earlier run that captured nothing, as a slice without frames; the same until it is told."""
        return self._shelf.next_header()

    def told(self, epoch: bytes) -> None:
        """The server knows of a run that captured nothing."""
        self._shelf.told(epoch)

    def lane_of(self, epoch: bytes, seq: int) -> Lane | None:
        """The lane in which a record that is here would be sent; nothing is read for it."""
        return self._shelf.lane_of(epoch, seq)

    def slice_of(self, epoch: bytes, seq: int) -> Slice | None:
        """One record as it travels; None if it is not here, not synced, or acknowledged. Raises `JournalError`."""
        return self._shelf.slice_of(epoch, seq)

    def acknowledge(self, epoch: bytes, ranges: Iterable[Range]) -> None:
        """The server holds these seqs of an epoch durably."""
        self._shelf.acknowledge(epoch, ranges)

    def unacknowledge(self, epoch: bytes, ranges: Iterable[Range]) -> int:
        """The server holds these no longer: what of them is still here is queued again. Returns how many records."""
        return self._send_again(self._shelf.unacknowledge(epoch, ranges))

    def acked(self) -> Mapping[bytes, tuple[Range, ...]]:
        """What was acknowledged, of the epochs that still have chunks here; the oldest epoch comes first."""
        return self._shelf.acked()

    def kept(self, acked: Ranges) -> None:
        """These acknowledgements were written where the next run finds them."""
        self._shelf.keep(acked)

    def set_aside(self, epoch: bytes, seq: int) -> None:
        """Pass over a record that the server refuses. Its chunk stays until it is acknowledged."""
        self._shelf.set_aside(epoch, seq)

    def take_up(self, epoch: bytes, ranges: Iterable[Range]) -> int:
        """Send again what was set aside. Returns how many records."""
        return self._send_again(self._shelf.take_up(epoch, ranges))

    def set_aside_names(self) -> Mapping[bytes, tuple[Range, ...]]:
        """What was set aside, by epoch."""
        return self._shelf.aside()

    def roll(self) -> None:
        """Start a fresh chunk that goes ahead of everything queued so far. Raises `JournalError`."""
        self._chain.roll()
        self._syncer.stir()

    def backlog_exists(self) -> bool:
        """Whether anything is queued behind the live lane."""
        return self._shelf.backlog_exists()

    def queue(self) -> Queue:
        """What is still to be sent."""
        return self._shelf.queue()

    # What was found

    @property
    def parent(self) -> Name:
        """The epoch that this one follows, and how many records it had; `NO_EPOCH` and 0 for a till's first."""
        return Name(self._lineage.parent, self._lineage.parent_position)

    @property
    def clean_end(self) -> bool:
        """Whether the newest chunk found had been closed, or there was none."""
        return self._found.clean_end

    @property
    def ends(self) -> Mapping[bytes, tuple[int, int]]:
        """Of each epoch found: the number of its last chunk, and the position after its last record on disk."""
        return self._found.ends

    @property
    def damage(self) -> tuple[Damage, ...]:
        """Losses that nobody has taken up yet: found at start, or later when a damaged frame was to be sent."""
        return tuple(self._shelf.damage)

    def reported(self, damage: Damage) -> None:
        """A loss was captured as a record of its own: what is damaged is put away, and not looked at again."""
        if damage not in self._shelf.damage:
            return
        self._shelf.damage.remove(damage)
        chunk = self._shelf.get(damage.chunk)
        if chunk is not None and damage.reason != "missing_chunk":
            chunk.unreported -= 1
        try:
            if chunk is not None and damage.reason == "torn_tail":
                self._inherited.put_away_tail(chunk)
                self._syncer.stir()
            elif damage.reason == "damaged_header" and not any(d.file == damage.file for d in self._shelf.damage):
                quarantine(self._disk, damage.file)
        except OSError as error:
            self._observer.set_aside(damage.file, f"it could not be put away: {error.strerror or error}")

    @property
    def unreadable(self) -> tuple[str, ...]:
        """Files that could not be read at start. They are tried again at the next."""
        return tuple(self._found.unreadable)

    @property
    def inherited_safe(self) -> bool:
        """Whether a power cut would take nothing of what earlier runs wrote."""
        return self._inherited.safe

    @property
    def safe(self) -> bool:
        """Whether a power cut would take nothing at all."""
        return self._syncer.safe

    def devices(self) -> frozenset[bytes]:
        """The ids of the device keys that signed what is here."""
        return frozenset(chunk.header.device_key_id for chunk in self._shelf)

    def former_epochs(self) -> frozenset[bytes]:
        """The epochs here that an earlier enrolment's till wrote."""
        return frozenset(chunk.epoch for chunk in self._shelf if self._shelf.lane(chunk) == "former")

    # Keeping house

    def sweep(self) -> Sweep:
        """Which acknowledged chunks are over their time, over the room kept for them, or in the way of new records.

        The spends in them must be kept durably before `discard` is called. The newest chunk always stays, since the
        next epoch names it.
        """
        return self._shelf.sweep(self._room) if not self._syncer.homeless else Sweep((), {})

    def discard(self, sweep: Sweep) -> None:
        """Unlink swept chunks; damaged ones are kept under another name.

        Raises `JournalError`; what was not unlinked is swept again.
        """
        for number in sweep.chunks:
            chunk = self._shelf.get(number)
            if chunk is not None and chunk.done:
                self._shelf.discard(chunk)
                self._tags.forget(number)
        self._room.refresh()

    async def close(self) -> None:
        """Close the open chunk, sync everything, and stop. Who still waits for the disk is cancelled."""
        self._chain.close()
        await self._syncer.stop()

    def _send_again(self, records: int) -> int:
        if records:
            self._inherited.resume()
            self._syncer.stir()
        return records

    def _refuse_if_full(self) -> None:
        try:
            self._room.claim()
        except JournalFull:
            self._syncer.stir()
            raise
        if self._syncer.burden > MAX_BURDEN:
            raise JournalError("the disk takes nothing", field="journal", hint="see tillstream-agent doctor")


def _sum_spent(shelf: Shelf, settled: Settled) -> dict[bytes, int]:
    """Units drawn by lease: in the chunks that are here, and in those that were unlinked."""
    spent: dict[bytes, int] = {}
    for chunk in shelf:
        for lease, units in chunk.spends.items():
            spent[lease] = spent.get(lease, 0) + units
    for (number, lease), units in settled.items():
        if shelf.get(number) is None:
            spent[lease] = spent.get(lease, 0) + units
    return spent
