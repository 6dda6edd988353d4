"""Waiting grows to its cap, and the jitter reaches all of it."""

from __future__ import annotations

from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from tillstream_protocol.backoff import full_jitter


def test_the_bound_doubles_up_to_the_cap() -> None:
    waits = full_jitter(lambda: 1.0, first=0.5, cap=5.0)
    assert list(islice(waits, 6)) == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0]


def test_the_jitter_is_applied_after_the_cap() -> None:
    """Tills that have all reached the cap still spread over the whole of it."""
    draws = iter([1.0] * 10 + [0.0, 0.25, 0.999])
    late = list(islice(full_jitter(lambda: next(draws), first=1.0, cap=8.0), 13))[10:]
    assert late == [0.0, 2.0, 7.992]


@given(first=st.floats(0.001, 1000), cap=st.floats(0.001, 1000), draws=st.lists(st.floats(0, 0.999), min_size=1))
def test_no_wait_is_longer_than_the_cap(first: float, cap: float, draws: list[float]) -> None:
    source = iter(draws)
    for wait in islice(full_jitter(lambda: next(source), first=first, cap=cap), len(draws)):
        assert 0 <= wait <= cap
