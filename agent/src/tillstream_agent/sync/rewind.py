"""Rewinding: a server restored from a backup says what it does not hold of what it had acknowledged.

When the till presents itself it says what it believes the server to hold. What of exactly that the server names as
missing is queued again, as long as its chunks are kept.

A message holds so many ranges and no more. Where the till believes in more of them, it says too much rather than too
little: neighbours with the smallest gaps between them are told as one. That is safe, since a server only compares what
it is told with what it has, and what it then names beyond the till's belief, in those gaps, is not touched: it is
queued already, or was never captured.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from heapq import nlargest
from typing import Final, Protocol

from tillstream_protocol.limits import DEFAULT
from tillstream_protocol.messages import MAX_EPOCH_RANGES, MAX_EPOCHS, EpochRanges, Range
from tillstream_protocol.ranges import count, merge

from ..events import Events
from ..journal import JournalError

ROOM: Final = DEFAULT.push_message - 4096
"""Bytes that what the till believes may take of the message that it presents itself with."""
_EPOCH_SIZE: Final = 24
_RANGE_SIZE: Final = 19
"""Bytes that an epoch and a range take of it at most."""


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
        """Exactly what this till believes the server to hold of its own records, of the newest epochs, newest first."""
        former = self._journal.former_epochs()
        own = ((epoch, ranges) for epoch, ranges in self._journal.acked().items() if ranges and epoch not in former)
        return tuple(EpochRanges(epoch, ranges) for epoch, ranges in reversed(list(own)[-MAX_EPOCHS:]))

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


def told(claimed: Sequence[EpochRanges]) -> tuple[EpochRanges, ...]:
    """The same as one message can hold it: in as many ranges as there is room for, gaps included where need be."""
    most = MAX_EPOCH_RANGES
    while most > 1 and sum(_EPOCH_SIZE + _RANGE_SIZE * min(most, len(one.ranges)) for one in claimed) > ROOM:
        most //= 2
    return tuple(EpochRanges(one.epoch, _hulls(one.ranges, most)) for one in claimed)


def _hulls(ranges: Sequence[Range], most: int) -> tuple[Range, ...]:
    """At most so many ranges that hold all of these merged ones: the widest gaps stay."""
    if len(ranges) <= most:
        return tuple(ranges)
    widest = nlargest(most - 1, range(1, len(ranges)), key=lambda n: ranges[n].first - ranges[n - 1].last)
    starts = [0, *sorted(widest)]
    ends = [*(start - 1 for start in starts[1:]), len(ranges) - 1]
    return tuple(Range(ranges[start].first, ranges[end].last) for start, end in zip(starts, ends, strict=True))


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
