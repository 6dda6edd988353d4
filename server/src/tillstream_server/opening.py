"""When stores are open: week days and hours in one time zone, such as `Mo-Fr 08:00-20:00, Sa 09:00-14:00`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Final, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

OpeningState = Literal["open", "closed", "unset"]
STATES: Final[tuple[OpeningState, ...]] = ("open", "closed", "unset")

_DAYS: Final = ("Mo", "Tu", "We", "Th", "Fr", "Sa", "Su")
_DAY: Final = "|".join(_DAYS)
_SPAN: Final = re.compile(rf"({_DAY})(?:-({_DAY}))? (\d\d):(\d\d)-(\d\d):(\d\d)")
_DAY_MINUTES: Final = 24 * 60


@dataclass(frozen=True, slots=True)
class Span:
    """One day of the week, 0 is Monday, from one minute of the day to before another."""

    day: int
    first: int
    end: int


@dataclass(frozen=True, slots=True)
class OpeningHours:
    """The hours in which some store is certain to sell; without spans nobody has said."""

    spans: tuple[Span, ...]
    zone: tzinfo

    def state(self, now_ms: int) -> OpeningState:
        """How it is at a millisecond since 1970."""
        if not self.spans:
            return "unset"
        local = datetime.fromtimestamp(now_ms / 1000, UTC).astimezone(self.zone)
        minute = local.hour * 60 + local.minute
        here = any(span.day == local.weekday() and span.first <= minute < span.end for span in self.spans)
        return "open" if here else "closed"


def parse(hours: str, zone: str) -> OpeningHours:
    """Read both settings; the hours may be empty. Raises `ValueError`, which says what cannot be read."""
    try:
        known: tzinfo = UTC if zone == "UTC" else ZoneInfo(zone)  # a small image may have no database of zones
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"there is no time zone {zone!r}; one is Europe/Berlin") from error
    parts = [part for part in (part.strip() for part in hours.split(",")) if part]
    return OpeningHours(tuple(span for part in parts for span in _spans(part)), known)


def _spans(part: str) -> list[Span]:
    found = _SPAN.fullmatch(part)
    if found is None:
        raise ValueError(f"{part!r} is not like 'Mo-Fr 08:00-20:00'; days are {', '.join(_DAYS)}")
    first_day = _DAYS.index(found[1])
    last_day = _DAYS.index(found[2] or found[1])
    first, end = _minute(part, found[3], found[4]), _minute(part, found[5], found[6])
    if last_day < first_day or end <= first:
        raise ValueError(f"{part!r} ends before it begins; give what crosses midnight or a week's end as two")
    return [Span(day, first, end) for day in range(first_day, last_day + 1)]


def _minute(part: str, hour: str, minute: str) -> int:
    value = int(hour) * 60 + int(minute)
    if int(minute) >= 60 or value > _DAY_MINUTES:
        raise ValueError(f"{part!r} has no such time as {hour}:{minute}")
    return value
