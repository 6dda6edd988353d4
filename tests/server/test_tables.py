"""Rows as people read them."""

from __future__ import annotations

import pytest

from tillstream_server.tables import MOST, Column, age, moment, size, table, text

NOW = 1_790_000_000_000


def test_columns_are_as_wide_as_what_stands_in_them() -> None:
    columns = (Column("till", text("till")), Column("queued", text("queued"), right=True))
    shown = table([{"till": "checkout-10", "queued": 7}, {"till": "2", "queued": None}], columns)
    assert shown.splitlines() == ["till         queued", "checkout-10       7", "2"]


def test_what_a_till_said_cannot_steer_the_terminal() -> None:
    shown = table([{"error": "\x1b[2Jgone\n" + "x" * 100}], (Column("error", text("error")),))
    _, line = shown.splitlines()
    assert "\x1b" not in line
    assert len(line) == MOST
    assert line.endswith("…")


@pytest.mark.parametrize(
    ("passed", "shown"),
    [(None, "never"), (0, "now"), (999, "now"), (1000, "1 s"), (3_599_999, "59 min"), (90_000_000, "1 d")],
)
def test_ages_are_told_in_their_largest_unit(passed: int | None, shown: str) -> None:
    assert age(None if passed is None else NOW - passed, NOW) == shown


def test_moments_and_sizes_that_are_none_or_beyond_any_calendar_stay_empty() -> None:
    assert (moment(None), moment(2**62), size(None)) == ("", "", "")
    assert moment(0) == "1970-01-01 00:00:00Z"
    assert [size(count) for count in (0, 1023, 1536, 3 << 30)] == ["0 B", "1023 B", "1.5 KiB", "3.0 GiB"]
