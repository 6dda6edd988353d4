"""The short form of `make fuzz`: every reader of foreign bytes, on genuine bytes that were tampered with."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz import corpus
from fuzz.targets import TARGETS, Target


def tampered(genuine: list[bytes]) -> st.SearchStrategy[bytes]:
    """Genuine bytes with parts cut out, put in twice, overwritten or set from another input."""

    @st.composite
    def one(draw: st.DrawFn) -> bytes:
        data = bytearray(draw(st.sampled_from(genuine)))
        for _ in range(draw(st.integers(1, 4))):
            start = draw(st.integers(0, len(data)))
            end = draw(st.integers(start, min(len(data), start + 64)))
            donor = draw(st.sampled_from(genuine))
            at = draw(st.integers(0, max(0, len(donor) - 1)))
            data[start:end] = draw(
                st.sampled_from([b"", bytes(data[start:end]) * 2, donor[at : at + 32]]) | st.binary()
            )
        return bytes(data)

    return one() | st.binary(max_size=200)


@pytest.mark.parametrize("name", TARGETS)
def test_what_was_found_before_stays_harmless(name: str) -> None:
    inputs = corpus.inputs(name)
    assert inputs
    for data in inputs:
        TARGETS[name](data)


@pytest.mark.parametrize("name", TARGETS)
def test_tampered_bytes_are_refused_by_name_or_answered_for(name: str) -> None:
    target: Target = TARGETS[name]

    @settings(max_examples=200, deadline=1000)
    @given(tampered(corpus.inputs(name)))
    def reads(data: bytes) -> None:
        target(data)

    reads()
