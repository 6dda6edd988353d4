"""A business date follows from a moment; a moment that the canonical form does not take is refused."""

from __future__ import annotations

from datetime import timedelta, timezone

import pytest

from tillstream_protocol.adapters.base import Notes, Setting
from tillstream_protocol.adapters.times import date_of, local_date, possible
from tillstream_protocol.errors import InvalidInput
from tillstream_protocol.transaction import Moment


def test_the_local_date_is_the_one_on_the_shops_calendar() -> None:
    notes = Notes()
    late = Moment(1_774_999_800_000, 120)  # 2026-03-31T23:30Z
    assert local_date(late, notes) == "2026-04-01"
    assert local_date(late, notes, Setting(zone=timezone(timedelta(hours=-5)))) == "2026-03-31"
    assert local_date(Moment(-62_135_596_800_000, -60), notes) == "0001-01-01"
    assert local_date(Moment(-62_135_596_800_000), notes, Setting(zone=timezone(timedelta(hours=-5)))) == "0001-01-01"
    assert set(notes.assumed) == {"business_date"}


def test_impossible_times_are_refused_by_place() -> None:
    for bad in (Moment(253_402_300_800_000), Moment(0, 1_081)):
        with pytest.raises(InvalidInput) as caught:
            possible(bad, "order.created_at")
        assert caught.value.field == "order.created_at"


def test_a_date_is_what_a_date_or_time_begins_with() -> None:
    assert [date_of(text) for text in ("2021-07-03", "2021-07-03T00:00:00-07:00", "2021-07-03Z", "", "soon")] == [
        *("2021-07-03", "2021-07-03", "2021-07-03", None, "soon")
    ]
