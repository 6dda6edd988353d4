"""Opening hours are local, end before their last minute, and are refused by name where they cannot be meant."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from tillstream_server import config, opening

BERLIN = ZoneInfo("Europe/Berlin")


def state(hours: str, when: str, zone: str = "Europe/Berlin") -> str:
    """How it is at a local time in Berlin."""
    at = datetime.fromisoformat(when).replace(tzinfo=BERLIN)
    return opening.parse(hours, zone).state(round(at.timestamp() * 1000))


HOURS = "Mo-Fr 08:00-20:00, Sa 09:00-14:00"


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        ("2026-11-23T08:00", "open"),  # a Monday
        ("2026-11-23T07:59", "closed"),
        ("2026-11-27T19:59", "open"),
        ("2026-11-27T20:00", "closed"),
        ("2026-11-28T13:59", "open"),
        ("2026-11-28T14:00", "closed"),
        ("2026-11-29T10:00", "closed"),
        ("2026-07-06T08:00", "open"),  # in summer time, too
        ("2026-07-06T07:59", "closed"),
    ],
)
def test_it_is_open_by_the_zones_own_clock(when: str, expected: str) -> None:
    assert state(HOURS, when) == expected


def test_the_zone_decides_and_a_day_may_be_whole() -> None:
    assert state(HOURS, "2026-11-23T08:30", "UTC") == "closed"
    assert state("Mo-Su 00:00-24:00", "2026-11-29T23:59") == "open"


def test_utc_needs_no_database_of_zones() -> None:
    assert opening.parse("", "UTC").zone is UTC


def test_where_nobody_has_said_so_it_is_neither_open_nor_closed() -> None:
    assert state("", "2026-11-23T08:00") == "unset"
    assert state(" , ", "2026-11-23T08:00") == "unset"


@pytest.mark.parametrize(
    "hours",
    [
        "8-20",
        "Mo 8:00-20:00",
        "Mo-Fr 20:00-08:00",
        "Fr-Mo 08:00-20:00",
        "Mo 08:60-20:00",
        "Mo 08:00-24:01",
        "Mo 08:00-08:00",
        "Mo-Fr 08:00-20:00; Sa 09:00-14:00",
    ],
)
def test_what_cannot_be_meant_is_named(hours: str, tmp_path: Path) -> None:
    with pytest.raises(config.ConfigError, match="opening_hours") as caught:
        config.load(tmp_path / "server.toml", {}, {"opening_hours": hours})
    assert hours.partition(",")[0] in caught.value.message


@pytest.mark.parametrize("zone", ["Mars/Olympus", "", "../etc/passwd", "a\0b"])
def test_a_zone_that_is_not_known_is_named(zone: str, tmp_path: Path) -> None:
    with pytest.raises(config.ConfigError, match="time_zone"):
        config.load(tmp_path / "server.toml", {}, {"time_zone": zone})
