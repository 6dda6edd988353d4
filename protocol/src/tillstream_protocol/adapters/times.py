"""Times as the canonical form takes them, and what follows from one: a business date."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from ..errors import InvalidInput
from ..transaction import Moment
from .base import Notes, Setting

_FIRST: Final = -62_135_596_800_000
_LAST: Final = 253_402_300_799_999
_MOST_OFFSET: Final = 1080


def possible(read: Moment, where: str) -> Moment:
    """A time that the canonical form takes. Raises `InvalidInput`."""
    if abs(read.offset_minutes) > _MOST_OFFSET or not _FIRST <= read.at <= _LAST:
        raise InvalidInput("there is no such time", field=where, limit="years 1 to 9999, offsets up to 18 hours")
    return read


def local_date(at: Moment, notes: Notes, setting: Setting | None = None) -> str:
    """The date of a moment at its own offset, or in the setting's zone, as `YYYY-MM-DD`; noted as assumed.

    For formats that have no business date.
    """
    notes.assumed.append("business_date")
    there = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=at.at)
    try:
        here = there.astimezone(setting.zone) if setting else there + timedelta(minutes=at.offset_minutes)
    except OverflowError:  # in the first or the last hours of the calendar
        here = there
    return str(here.date())


def date_of(text: str) -> str | None:
    """The date that a date or time begins with, such as `2021-07-03T00:00:00-07:00`; None for none."""
    return text[:10] if text and (len(text) == 10 or text[10:11] in ("T", "Z", "+", "-")) else text or None
