"""Every chunk that is on disk: what of it is still to be sent, what was acknowledged, and what may go."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tillstream_protocol.limits import Limits
from tillstream_protocol.messages import Range
from tillstream_protocol.ranges import covers, merge

from ..clock import Clock
from .chunks import Chunk
from .disk import Disk
from .errors import translate
from .observer import JournalObserver
from .reader import Lane, Slice, cut_slice

Acked = Mapping[bytes, Sequence[Range]]


@dataclass(frozen=True, slots=True)
class Queue:
    """What is not acknowledged yet: how many records, in how many bytes, and the age of the oldest in ms."""

    records: int
    bytes: int
    oldest_ms: int


@dataclass(frozen=True, slots=True)
class Sweep:
    """Acknowledged chunks whose time is over, and what was spent in them, by chunk and lease."""

    chunks: tuple[int, ...]
    spends: Mapping[tuple[int, bytes], int]


class Shelf:
    """The chunks in the order of their numbers. Those from `live_from` on are the live lane, the others the backlog."""

    def __init__(
        self, disk: Disk, chunks: list[Chunk], live_from: int, clock: Clock, limits: Limits, observer: JournalObserver
    ) -> None:
        self._disk = disk
        self._clock = clock
        self._limits = limits
        self._observer = observer
        self._acked: dict[bytes, tuple[Range, ...]] = {}
        self._cut: dict[int, Slice] = {}
        self._synced_at: deque[tuple[bytes, int, int]] = deque()
        self.chunks = chunks
        self.live_from = live_from

    def next_slice(self, lane: Lane, max_bytes: int) -> Slice | None:
        """The oldest synced and unacknowledged frames of a lane. Raises `JournalError`."""
        for chunk in self.chunks:
            if chunk.done or (chunk.number >= self.live_from) is not (lane == "live"):
                continue
            acked = self._acked.get(chunk.epoch, ())
            upto = min(chunk.synced_end, chunk.frames_end)
            try:
                found = cut_slice(self._disk, chunk, acked, lane, max_bytes, upto)
            except OSError as error:
                raise translate(error, f"{chunk.name} cannot be read") from error
            if found is not None:
                self._cut[chunk.number] = found
                return found
        return None

    def acknowledge(self, epoch: bytes, ranges: Iterable[Range]) -> None:
        """The server holds these seqs of an epoch durably."""
        acked = merge([*self._acked.get(epoch, ()), *ranges])
        self._acked[epoch] = acked
        for chunk in self.chunks:
            if chunk.epoch == epoch:
                self._advance(chunk, acked)
                self.settle(chunk)
        while self._synced_at and self._synced_at[0][0] == epoch and acked[0].last >= self._synced_at[0][1]:
            self._synced_at.popleft()

    def _advance(self, chunk: Chunk, acked: Sequence[Range]) -> None:
        """Move the cursor past the slice that was cut last, if that is acknowledged whole."""
        cut = self._cut.get(chunk.number)
        if cut is not None and covers(acked, Range(cut.first, cut.last)):
            chunk.cursor = max(chunk.cursor, cut.end)
            del self._cut[chunk.number]

    def settle(self, chunk: Chunk) -> None:
        """A chunk is done when it is closed and everything in it was acknowledged."""
        chunk.done = chunk.closed and chunk.acknowledged_by(self._acked.get(chunk.epoch, ()))

    def acked(self) -> Mapping[bytes, tuple[Range, ...]]:
        """What was acknowledged, of the epochs that still have chunks here."""
        here = {chunk.epoch for chunk in self.chunks}
        return {epoch: ranges for epoch, ranges in self._acked.items() if epoch in here}

    def note_synced(self, epoch: bytes, last_seq: int) -> None:
        """Remember when records became ready to send, so that their age can be told."""
        self._synced_at.append((epoch, last_seq, self._clock.now_ms()))

    def backlog_exists(self) -> bool:
        """Whether anything is queued behind the live lane."""
        return any(not c.done and c.number < self.live_from and self._left(c) for c in self.chunks)

    def queue(self) -> Queue:
        """What is not acknowledged yet."""
        now = self._clock.now_ms()
        waiting = [(chunk, left) for chunk in self.chunks if not chunk.done and (left := self._left(chunk))]
        if not waiting:
            return Queue(0, 0, 0)
        oldest = min(self._oldest(chunk) for chunk, _ in waiting)
        size = sum(chunk.frames_end - chunk.cursor for chunk, _ in waiting)
        return Queue(sum(left for _, left in waiting), size, max(0, now - oldest))

    def sweep(self) -> Sweep:
        """Which chunks are empty, over their time, or over the room that is kept for acknowledged ones."""
        now = self._clock.now_ms()
        done = [chunk for chunk in self.chunks[:-1] if chunk.done]
        excess = sum(chunk.size for chunk in done) - self._limits.retain_bytes
        over: list[Chunk] = []
        for chunk in done:
            old = now - chunk.header.created > self._limits.retain_age * 1000
            if excess > 0 or old or not chunk.present:
                over.append(chunk)
                excess -= chunk.size
        spends: dict[tuple[int, bytes], int] = {}
        for chunk in over:
            for entry in chunk.entries:
                for spend in entry.spends:
                    key = (chunk.number, spend.lease)
                    spends[key] = spends.get(key, 0) + spend.amount
        return Sweep(tuple(chunk.number for chunk in over), spends)

    def discard(self, chunk: Chunk) -> None:
        """Unlink a chunk. Raises `JournalError`."""
        try:
            self._disk.unlink(chunk.name)
        except OSError as error:
            raise translate(error, f"{chunk.name} cannot be removed") from error
        self.chunks.remove(chunk)
        self._cut.pop(chunk.number, None)
        self._observer.discarded(chunk.number)

    def _left(self, chunk: Chunk) -> int:
        return chunk.unacknowledged(self._acked.get(chunk.epoch, ()))

    def _oldest(self, chunk: Chunk) -> int:
        """When the oldest record of a chunk that is not acknowledged was synced, as far as is known; ms since 1970."""
        if self._synced_at and self._synced_at[0][0] == chunk.epoch:
            return max(self._synced_at[0][2], chunk.header.created)
        return chunk.header.created
