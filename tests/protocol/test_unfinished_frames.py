"""What a tail without a valid frame tells of the records it held, to the byte."""

from __future__ import annotations

import pytest

from tillstream_protocol.framing import MAX_FRAME, MIN_FRAME, last_claimed

FIRST = 8


def beginning(seq: int, length: int = 20, size: int = 24) -> bytes:
    """The first `size` bytes of a frame that says it has so many bytes."""
    return (b"TSFR" + length.to_bytes(4, "big") + seq.to_bytes(8, "big")).ljust(size, b"\0")[:size]


def test_an_unfinished_frame_is_the_next_record_however_much_of_it_is_missing() -> None:
    assert last_claimed(beginning(9999, MAX_FRAME), FIRST) == FIRST
    assert last_claimed(beginning(9999, 24), FIRST) == FIRST
    assert last_claimed(beginning(9999)[:7], FIRST) == FIRST


def test_a_length_that_no_frame_can_have_says_nothing() -> None:
    assert last_claimed(beginning(9999, MAX_FRAME + 1), FIRST) is None
    assert last_claimed(beginning(9999, (1 << 24) + 25), FIRST) is None
    assert last_claimed(beginning(9999, 0, 8), FIRST) is None


@pytest.mark.parametrize("seq", [FIRST, FIRST + 1])
def test_a_frame_that_ends_before_the_tail_does_tells_its_seq_if_that_is_possible(seq: int) -> None:
    assert last_claimed(beginning(seq, size=MIN_FRAME), FIRST) == seq


@pytest.mark.parametrize("seq", [FIRST - 1, FIRST + 2, (1 << 56) + FIRST])
def test_a_seq_that_is_not_possible_tells_nothing(seq: int) -> None:
    assert last_claimed(beginning(seq, size=MIN_FRAME), FIRST) is None


def test_of_several_beginnings_the_last_whose_seq_is_whole_tells() -> None:
    first = beginning(FIRST, size=MIN_FRAME)
    assert last_claimed(first + beginning(FIRST + 1, size=16), FIRST) == FIRST + 1
    assert last_claimed(first + beginning(FIRST + 1, size=15), FIRST) == FIRST
    assert last_claimed(first + b"TSFR" + bytes(4) + bytes([FIRST + 1]), FIRST) == FIRST
