"""Every chunk that is on disk: what of it is still to be sent, what was acknowledged, and what may go."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tillstream_protocol.limits import Limits
from tillstream_protocol.messages import Range
from tillstream_protocol.ranges import contains, count, covers, merge

from ..clock import Clock
from .chunks import Chunk
from .damage import Damage
from .disk import Disk
from .errors import JournalError, translate
from .mending import quarantine
from .observer import JournalObserver
from .reader import Lane, Slice, cut_slice, find_frame
from .retention import Sweep, choose, lived, oldest_ms
from .room import Room
from .seqs import common, without

Ranges = Mapping[bytes, Sequence[Range]]
Acked = Ranges

RETRY_S: Final = 1.0
"""How long a chunk that could not be read is passed over while there is another."""
GIVEN_UP_A_PASS: Final = 4
AGE_MARKS: Final = 1024


@dataclass(frozen=True, slots=True)
class Queue:
    """What is still to be sent: how many records, in how many bytes, and the age of the oldest in ms.

    `aside` are the records that the server refused, and that wait until they are taken up again.
    """

    records: int
    bytes: int
    oldest_ms: int
    aside: int = 0


class Shelf:
    """The chunks in the order of their numbers.

    Those of another till than `till` are the lane "former"; of the others those from `live_from` on are the live
    lane, and what is before them the backlog.
    """

    def __init__(
        self,
        disk: Disk,
        chunks: Iterable[Chunk],
        till: bytes,
        live_from: int,
        clock: Clock,
        limits: Limits,
        observer: JournalObserver,
    ) -> None:
        self._disk = disk
        self._till = till
        self._clock = clock
        self._limits = limits
        self._observer = observer
        self._started = clock.monotonic()
        self._chunks: dict[int, Chunk] = {}
        self._epochs: dict[bytes, dict[int, Chunk]] = {}
        self._undone: dict[int, Chunk] = {}
        self._acked: dict[bytes, tuple[Range, ...]] = {}
        self._kept: Ranges = {}
        self._aside: dict[bytes, tuple[Range, ...]] = {}
        self._together: dict[bytes, tuple[tuple[Range, ...], tuple[Range, ...], tuple[Range, ...]]] = {}
        self._cut: dict[int, Slice] = {}
        self._synced_at: list[tuple[int, float]] = []
        self.live_from = live_from
        self.damage: list[Damage] = []
        for chunk in chunks:
            self.add(chunk)

    def add(self, chunk: Chunk) -> None:
        """A chunk was opened, or found."""
        self._chunks[chunk.number] = chunk
        self._epochs.setdefault(chunk.epoch, {})[chunk.number] = chunk
        self._undone[chunk.number] = chunk

    def begin(self, acked: Ranges, aside: Ranges) -> None:
        """Take up what earlier runs kept of acknowledgements and of what was set aside."""
        for epoch, ranges in acked.items():
            self._acked[epoch] = merge(ranges)
        self.keep(dict(self._acked))
        for epoch, ranges in aside.items():
            here = merge(part for chunk in self._family(epoch) for part in chunk.present)
            self._put_aside(epoch, without(common(merge(ranges), here), self._acked.get(epoch, ())))
        for chunk in list(self._chunks.values()):
            self.settle(chunk)
            chunk.done_at = None
            chunk.untold = self._is_empty_epoch(chunk)

    def __iter__(self) -> Iterator[Chunk]:
        return iter(self._chunks.values())

    def get(self, number: int) -> Chunk | None:
        """A chunk that is here."""
        return self._chunks.get(number)

    def holding(self, epoch: bytes, seq: int) -> Chunk | None:
        """The chunk that holds a record."""
        return next((chunk for chunk in self._family(epoch) if contains(chunk.present, seq)), None)

    # Sending

    def lane(self, chunk: Chunk) -> Lane:
        """The lane in which a chunk is sent."""
        if chunk.header.till != self._till:
            return "former"
        return "live" if chunk.number >= self.live_from else "backlog"

    def next_slice(self, lane: Lane, max_bytes: int) -> Slice | None:
        """The oldest synced frames of a lane that are to be sent.

        Raises `JournalError` where a chunk cannot be read and no other has anything.
        """
        now = self._clock.monotonic()
        ours = [chunk for chunk in self._undone.values() if self.lane(chunk) == lane]
        trouble: JournalError | None = None
        for chunk in sorted(ours, key=lambda chunk: chunk.unreadable_until > now):
            try:
                found = self._cut_from(chunk, lane, max_bytes)
            except OSError as error:
                chunk.unreadable_until = now + RETRY_S
                trouble = trouble or translate(error, f"{chunk.name} cannot be read")
                continue
            if found is not None:
                return found
        if trouble is not None:
            raise trouble
        return None

    def next_header(self) -> Slice | None:
        """An earlier run that captured nothing: the header of its chunk, with no frames. The same until it is told."""
        chunk = next((chunk for chunk in self if chunk.untold), None)
        if chunk is None:
            return None
        return Slice(chunk.encoded_header, b"", chunk.epoch, 0, -1, "backlog", chunk.number, chunk.frames_end)

    def told(self, epoch: bytes) -> None:
        """The server knows what this epoch followed."""
        for chunk in self._family(epoch):
            chunk.untold = False

    def lane_of(self, epoch: bytes, seq: int) -> Lane | None:
        """The lane in which a record that is here would be sent; nothing is read for it."""
        chunk = self.holding(epoch, seq)
        return self.lane(chunk) if chunk is not None else None

    def slice_of(self, epoch: bytes, seq: int) -> Slice | None:
        """One record that is here, synced, and not acknowledged. Raises `JournalError`."""
        if contains(self._acked.get(epoch, ()), seq):
            return None
        chunk = self.holding(epoch, seq)
        if chunk is None:
            return None
        upto = min(chunk.synced_end, chunk.frames_end)
        try:
            return find_frame(self._disk, chunk, seq, self.lane(chunk), upto)
        except OSError as error:
            raise translate(error, f"{chunk.name} cannot be read") from error

    def acknowledge(self, epoch: bytes, ranges: Iterable[Range]) -> None:
        """The server holds these seqs of an epoch durably."""
        given = merge(ranges)
        acked = self._acked[epoch] = merge([*self._acked.get(epoch, ()), *given])
        if epoch in self._aside:
            self._put_aside(epoch, without(self._aside[epoch], given))
        for chunk in self._family(epoch):
            if not chunk.done and common(chunk.present, given):
                self._advance(chunk, acked)
                self.settle(chunk)

    def unacknowledge(self, epoch: bytes, ranges: Iterable[Range]) -> int:
        """The server holds these no longer; how many of them are queued again."""
        given = merge(ranges)
        before = self._acked.get(epoch, ())
        self._acked[epoch] = without(before, given)
        again = common(before, given)
        return self._queue_again(epoch, again)

    def set_aside(self, epoch: bytes, seq: int) -> None:
        """Pass a record over until it is taken up again: the server refuses it."""
        here = any(contains(chunk.present, seq) for chunk in self._family(epoch))
        if here and not contains(self._acked.get(epoch, ()), seq):
            self._put_aside(epoch, merge([*self._aside.get(epoch, ()), Range(seq, seq)]))

    def take_up(self, epoch: bytes, ranges: Iterable[Range]) -> int:
        """Send again what was set aside; how many records that are."""
        again = common(self._aside.get(epoch, ()), merge(ranges))
        self._put_aside(epoch, without(self._aside.get(epoch, ()), again))
        return self._queue_again(epoch, again)

    def settle(self, chunk: Chunk) -> None:
        """A chunk is done when it is closed and everything in it was acknowledged."""
        acked = self._acked.get(chunk.epoch, ())
        done = chunk.closed and all(covers(acked, part) for part in chunk.present)
        if done and not chunk.done:
            chunk.done_at = self._clock.monotonic()
            del self._undone[chunk.number]
        chunk.done = done

    def lose(self, chunk: Chunk, gone: Sequence[Range]) -> None:
        """Frames that a chunk should have are not there, or not whole: their records may be lost."""
        for part in gone:
            damage = Damage(chunk.name, chunk.number, chunk.epoch, part.first, part.last, "damaged_frame")
            self.damage.append(damage)
            chunk.unreported += 1
            self._observer.lost(chunk.number, part.first, part.last, damage.reason)
        chunk.damaged = True
        chunk.present = without(chunk.present, gone)
        self.settle(chunk)

    def acked(self) -> Mapping[bytes, tuple[Range, ...]]:
        """What was acknowledged, of the epochs that still have chunks here; the oldest epoch comes first."""
        epochs = dict.fromkeys(chunk.epoch for chunk in self)
        return {epoch: self._acked[epoch] for epoch in epochs if self._acked.get(epoch)}

    def keep(self, acked: Ranges) -> None:
        """These acknowledgements survive the process: the next run will not miss what they speak of."""
        self._kept = acked

    def aside(self) -> Mapping[bytes, tuple[Range, ...]]:
        """What was set aside."""
        return dict(self._aside)

    # Telling

    def note_synced(self, last_seq: int) -> None:
        """Remember when records of this run became ready to send, so that their age can be told; roughly, if many."""
        self._synced_at.append((last_seq, self._clock.monotonic()))
        if len(self._synced_at) > AGE_MARKS:
            del self._synced_at[1::2]

    def backlog_exists(self) -> bool:
        """Whether anything is queued behind the live lane."""
        return any(self.lane(chunk) == "backlog" and self._left(chunk) for chunk in self._undone.values())

    def queue(self) -> Queue:
        """What is still to be sent."""
        aside = sum(
            count(common(chunk.present, ranges))
            for epoch, ranges in self._aside.items()
            for chunk in self._family(epoch)
        )
        waiting = [(chunk, left) for chunk in self._undone.values() if (left := self._left(chunk))]
        size = sum(chunk.frames_end - chunk.cursor for chunk, _ in waiting)
        return Queue(sum(left for _, left in waiting), size, self._oldest([chunk for chunk, _ in waiting]), aside)

    # Keeping house

    def sweep(self, room: Room) -> Sweep:
        """Which acknowledged chunks are empty, over their time, or over the room that is kept for them."""
        return choose(list(self), self._clock.monotonic(), self._started, self._limits, room.wanted)

    def discard(self, chunk: Chunk) -> None:
        """Unlink a chunk, or keep it under another name if it is damaged. Raises `JournalError`."""
        try:
            if chunk.damaged:
                quarantine(self._disk, chunk.name)
            else:
                self._disk.unlink(chunk.name)
        except OSError as error:
            raise translate(error, f"{chunk.name} cannot be removed") from error
        self._drop(chunk)
        self._observer.discarded(chunk.number)

    def give_room(self, room: Room) -> list[int]:
        """Unlink acknowledged chunks before their time while the disk is short of room; the numbers of those gone.

        Chunks with spends are left to `sweep`, since those must be kept first; chunks whose acknowledgements were not
        kept yet go only while captures are refused, since the next run would call them missing.
        """
        wanted = room.wanted
        gone: list[int] = []
        for chunk in list(self)[:-1] if wanted else []:
            if wanted <= 0 or len(gone) == GIVEN_UP_A_PASS:
                break
            if self._may_go(chunk, room) and self._remove(chunk):
                self._observer.given_up(chunk.number, chunk.size)
                gone.append(chunk.number)
                wanted -= chunk.size
        if gone:
            room.refresh()
        return gone

    def _may_go(self, chunk: Chunk, room: Room) -> bool:
        if not chunk.done or chunk.spends or chunk.damaged or chunk.unreported or chunk.untold:
            return False
        kept = self._kept.get(chunk.epoch, ())
        return room.short or all(covers(kept, part) for part in chunk.present)

    def remove_copy(self, chunk: Chunk) -> bool:
        """Unlink a file of which every record was written again elsewhere. False where that failed."""
        return self._remove(chunk)

    def _remove(self, chunk: Chunk) -> bool:
        try:
            self._disk.unlink(chunk.name)
        except OSError:
            return False  # it stays on the shelf, and is swept later
        self._drop(chunk)
        return True

    def _drop(self, chunk: Chunk) -> None:
        del self._chunks[chunk.number]
        family = self._epochs[chunk.epoch]
        del family[chunk.number]
        if not family:
            del self._epochs[chunk.epoch]
            self._acked.pop(chunk.epoch, None)

    # Inside

    def _family(self, epoch: bytes) -> Iterable[Chunk]:
        return self._epochs.get(epoch, {}).values()

    def _passed(self, epoch: bytes) -> tuple[Range, ...]:
        """What is not to be sent now. Asked for every chunk, so it is put together once."""
        acked, aside = self._acked.get(epoch, ()), self._aside.get(epoch)
        if aside is None:
            return acked
        known = self._together.get(epoch)
        if known is None or known[0] is not acked or known[1] is not aside:
            known = self._together[epoch] = (acked, aside, merge([*acked, *aside]))
        return known[2]

    def _is_empty_epoch(self, chunk: Chunk) -> bool:
        """Whether a chunk is the first of an epoch of this till in which there is no record."""
        empty = chunk.header.first_seq == 0 and not self._acked.get(chunk.epoch)
        return empty and self.lane(chunk) != "former" and not any(one.present for one in self._family(chunk.epoch))

    def _left(self, chunk: Chunk) -> int:
        return chunk.unacknowledged(self._passed(chunk.epoch))

    def _put_aside(self, epoch: bytes, ranges: Sequence[Range]) -> None:
        if ranges:
            self._aside[epoch] = tuple(ranges)
        else:
            self._aside.pop(epoch, None)

    def _cut_from(self, chunk: Chunk, lane: Lane, max_bytes: int) -> Slice | None:
        upto = min(chunk.synced_end, chunk.frames_end)
        found = cut_slice(self._disk, chunk, self._passed(chunk.epoch), lane, max_bytes, upto)
        gone = without(common(found.lost, chunk.present), self._acked.get(chunk.epoch, ()))
        if gone:
            self.lose(chunk, gone)
        if found.slice is not None:
            self._cut[chunk.number] = found.slice
        return found.slice

    def _advance(self, chunk: Chunk, acked: Sequence[Range]) -> None:
        """Move the cursor past the slice that was cut last, if that is acknowledged whole."""
        cut = self._cut.get(chunk.number)
        if cut is not None and covers(acked, Range(cut.first, cut.last)):
            if cut.end > chunk.cursor:
                chunk.cursor, chunk.next_seq = cut.end, cut.last + 1
            del self._cut[chunk.number]

    def _queue_again(self, epoch: bytes, ranges: Sequence[Range]) -> int:
        queued = 0
        for chunk in self._family(epoch):
            again = count(common(chunk.present, ranges))
            if again:
                queued += again
                chunk.rewind()
                chunk.done, chunk.done_at = False, None
                self._cut.pop(chunk.number, None)
                self._undone[chunk.number] = chunk
        if queued:
            self._undone = dict(sorted(self._undone.items()))
        return queued

    def _oldest(self, waiting: Sequence[Chunk]) -> int:
        """The age in ms of what has waited longest, as far as it is known."""
        if not waiting:
            return 0
        chunk, now = waiting[0], self._clock.monotonic()
        if chunk.opened_at is None:
            age = lived(list(self), now, self._started)[chunk.number]
            return oldest_ms(chunk, age, self._clock.now_ms())
        first = without(chunk.present, self._passed(chunk.epoch))[0].first
        at = bisect_left(self._synced_at, first, key=lambda mark: mark[0])
        since = self._synced_at[at][1] if at < len(self._synced_at) else now
        return round((now - max(since, chunk.opened_at)) * 1000)
