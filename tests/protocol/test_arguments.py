"""Numbers on a command line: the bounds are taken, and nothing beyond them is."""

from __future__ import annotations

from argparse import ArgumentTypeError

import pytest

from tillstream_protocol.arguments import MAX_WHOLE, seconds, whole


@pytest.mark.parametrize("text", ["2", "3", "7", "007"])
def test_whole_numbers_within_their_bounds_are_taken(text: str) -> None:
    assert whole(2, 7)(text) == int(text)


@pytest.mark.parametrize(
    "text", ["1", "8", "2.0", "-2", "+3", "", " 3", "3_0", "\N{ARABIC-INDIC DIGIT THREE}", "9" * 20]
)
def test_other_whole_numbers_are_not(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match=r"give a whole number from 2 to 7$"):
        whole(2, 7)(text)


def test_a_whole_number_may_be_as_large_as_a_database_can_hold() -> None:
    assert whole(-1)("-1") == -1
    assert whole(0)(str(MAX_WHOLE)) == MAX_WHOLE
    with pytest.raises(ArgumentTypeError, match=r"give a whole number, at least 0$"):
        whole(0)(str(MAX_WHOLE + 1))


@pytest.mark.parametrize("text", ["0.5", "1", "60"])
def test_seconds_within_their_bounds_are_taken(text: str) -> None:
    assert seconds(0.5, 60)(text) == float(text)


@pytest.mark.parametrize("text", ["0.49", "60.1", "nan", "inf", "-inf", "-1", "soon", ""])
def test_other_seconds_are_not(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match=r"give seconds from 0\.5 to 60$"):
        seconds(0.5, 60)(text)
