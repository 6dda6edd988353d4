"""Set arithmetic on seqs agrees with Python's sets."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tillstream_agent.journal.seqs import common, without
from tillstream_protocol.messages import Range
from tillstream_protocol.ranges import collect

seqs = st.sets(st.integers(0, 40))


def as_set(ranges: tuple[Range, ...]) -> set[int]:
    return {seq for part in ranges for seq in range(part.first, part.last + 1)}


@given(seqs, seqs)
def test_what_both_hold(a: set[int], b: set[int]) -> None:
    assert as_set(common(collect(sorted(a)), collect(sorted(b)))) == a & b


@given(seqs, seqs)
def test_what_one_holds_alone(a: set[int], b: set[int]) -> None:
    found = without(collect(sorted(a)), collect(sorted(b)))
    assert as_set(found) == a - b
    assert found == collect(sorted(a - b)), "as few ranges as can be"
