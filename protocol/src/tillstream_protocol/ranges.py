"""Sets of seqs as sorted, disjoint, non-adjacent ranges."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence

from .messages import Range


def merge(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """The smallest sorted set of ranges that covers the same seqs."""
    merged: list[Range] = []
    for given in sorted(ranges, key=lambda r: r.first):
        if merged and given.first <= merged[-1].last + 1:
            if given.last > merged[-1].last:
                merged[-1] = Range(merged[-1].first, given.last)
        else:
            merged.append(given)
    return tuple(merged)


def covers(ranges: Sequence[Range], wanted: Range) -> bool:
    """Whether merged ranges hold every seq of `wanted`."""
    index = bisect_right(ranges, wanted.first, key=lambda r: r.first) - 1
    return index >= 0 and ranges[index].last >= wanted.last


def contains(ranges: Sequence[Range], seq: int) -> bool:
    """Whether merged ranges hold `seq`."""
    return covers(ranges, Range(seq, seq))


def count(ranges: Iterable[Range]) -> int:
    """How many seqs disjoint ranges hold."""
    return sum(r.last - r.first + 1 for r in ranges)


def collect(seqs: Iterable[int]) -> tuple[Range, ...]:
    """Ranges of ascending seqs."""
    bounds: list[list[int]] = []
    following = None
    for seq in seqs:
        if seq == following:
            bounds[-1][1] = seq
        else:
            bounds.append([seq, seq])
        following = seq + 1
    return tuple(Range(first, last) for first, last in bounds)
