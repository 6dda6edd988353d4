"""What two sets of seqs have in common, and what one has alone.

Sets are merged ranges: sorted, disjoint. A range that ends before it begins holds nothing.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence

from tillstream_protocol.messages import Range


def common(ranges: Iterable[Range], others: Sequence[Range]) -> tuple[Range, ...]:
    """The seqs in both; `others` may be long."""
    found: list[Range] = []
    for part in ranges:
        at = max(0, bisect_right(others, part.first, key=lambda r: r.first) - 1)
        while at < len(others) and others[at].first <= part.last:
            first, last = max(part.first, others[at].first), min(part.last, others[at].last)
            if first <= last:
                found.append(Range(first, last))
            at += 1
    return tuple(found)


def without(ranges: Iterable[Range], taken: Sequence[Range]) -> tuple[Range, ...]:
    """The seqs of `ranges` that are not in `taken`."""
    left: list[Range] = []
    for part in ranges:
        first = part.first
        for hit in common((part,), taken):
            if hit.first > first:
                left.append(Range(first, hit.first - 1))
            first = hit.last + 1
        if first <= part.last:
            left.append(Range(first, part.last))
    return tuple(left)
