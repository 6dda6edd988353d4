"""Ranges of seqs say exactly what a set of seqs would say."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from tillstream_protocol.messages import Range
from tillstream_protocol.ranges import collect, contains, count, covers, merge

ranges = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 8)).map(lambda pair: Range(pair[0], sum(pair))), max_size=8
)


def seqs(given_ranges: tuple[Range, ...] | list[Range]) -> set[int]:
    return {seq for one in given_ranges for seq in range(one.first, one.last + 1)}


@given(ranges)
def test_merging_keeps_the_set_in_the_fewest_ranges(given_ranges: list[Range]) -> None:
    merged = merge(given_ranges)
    assert seqs(merged) == seqs(given_ranges)
    assert merged == collect(sorted(seqs(given_ranges)))
    assert all(a.last + 1 < b.first for a, b in itertools.pairwise(merged))
    assert count(merged) == len(seqs(given_ranges))


@given(ranges, st.integers(0, 50), st.integers(0, 5))
def test_a_range_is_covered_when_all_its_seqs_are_held(given_ranges: list[Range], first: int, more: int) -> None:
    merged, held = merge(given_ranges), seqs(given_ranges)
    assert covers(merged, Range(first, first + more)) is ({*range(first, first + more + 1)} <= held)
    assert contains(merged, first) is (first in held)
