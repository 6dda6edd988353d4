"""Rewinding: a server restored from a backup says what it does not hold of what it had acknowledged.

When the till presents itself it says what it believes the server to hold. What of exactly that the server names as
missing is queued again, as long as its chunks are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, Protocol

from tillstream_protocol.codec import encode
from tillstream_protocol.limits import DEFAULT
from tillstream_protocol.messages import MAX_EPOCH_RANGES, MAX_EPOCHS, EpochRanges, Range
from tillstream_protocol.ranges import count, merge

from ..events import Events
from ..journal import JournalError

ROOM: Final = DEFAULT.push_message - 4096
"""Bytes that what the till believes may take of the message that it presents itself with."""


class Acknowledged(Protocol):
    """What rewinding needs of the journal."""

    def acked(self) -> Mapping[bytes, tuple[Range, ...]]:
        """What the server acknowledged, of the epochs that still have chunks here, the oldest first."""
        ...

    def former_epochs(self) -> Collection[bytes]:
        """Those of them that were another till's."""
        ...

    def unacknowledge(self, epoch: bytes, ranges: Sequence[Range]) -> int:
        """The server does not hold these after all; returns how many are queued again."""
        ...

    def roll(self) -> None:
        """Begin a fresh chunk that goes ahead of what is queued."""
        ...


class Rewind:
    """Queues again what the server lost. `changed` is called when acknowledgements were taken back."""

    def __init__(self, journal: Acknowledged, events: Events, changed: Callable[[], None]) -> None:
        self._journal = journal
        self._events = events
        self._changed = changed

    def claim(self) -> tuple[EpochRanges, ...]:
        """What this till believes the server to hold of its own records: as much as a message takes, newest first."""
        former = self._journal.former_epochs()
        claimed: list[EpochRanges] = []
        room = ROOM
        for epoch, ranges in reversed(list(self._journal.acked().items())):
            if epoch in former or not ranges:
                continue
            one = EpochRanges(epoch, tuple(ranges[-MAX_EPOCH_RANGES:]))
            room -= len(encode(one))
            if room < 0 or len(claimed) == MAX_EPOCHS:
                break
            claimed.append(one)
        return tuple(claimed)

    def back(self, missing: Sequence[EpochRanges]) -> None:
        """Queue again what of the missing is still here, and tell of what is not."""
        lost = sum(count(part.ranges) for part in missing)
        queued = sum(self._journal.unacknowledge(part.epoch, part.ranges) for part in missing)
        if queued:
            self._events.rewound(queued)
            self._let_live_records_overtake()
        if lost > queued:
            self._events.beyond_retention(lost - queued)
        if lost:
            self._changed()

    def _let_live_records_overtake(self) -> None:
        try:
            self._journal.roll()
        except JournalError as error:
            self._events.housekeeping_failed("fresh chunk", error)


def overlap(claimed: Sequence[EpochRanges], missing: Sequence[EpochRanges]) -> tuple[EpochRanges, ...]:
    """What of `missing` was claimed: a server cannot make a till take back more than it said."""
    by_epoch = {one.epoch: one.ranges for one in claimed}
    wanted: dict[bytes, list[Range]] = {}
    for one in missing:
        wanted.setdefault(one.epoch, []).extend(one.ranges)
    parts = ((epoch, _intersect(by_epoch.get(epoch, ()), merge(ranges))) for epoch, ranges in wanted.items())
    return tuple(EpochRanges(epoch, ranges) for epoch, ranges in parts if ranges)


def _intersect(one: Sequence[Range], other: Sequence[Range]) -> tuple[Range, ...]:
    """What two merged sets of ranges have in common."""
    common: list[Range] = []
    i = j = 0
    while i < len(one) and j < len(other):
        first, last = max(one[i].first, other[j].first), min(one[i].last, other[j].last)
        if first <= last:
            common.append(Range(first, last))
        if one[i].last < other[j].last:
            i += 1
        else:
            j += 1
    return tuple(common)
