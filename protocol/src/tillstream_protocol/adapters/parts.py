"""Reading a JSON payload object by object, so that nothing of it is lost: what nobody asked for is left for `ext`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, Literal

import msgspec

from ..errors import InvalidInput
from ..limits import MAX_EXT_FIELDS, MAX_LONG_TEXT, MAX_MINOR, MAX_SHORT, MAX_TEXT
from ..transaction import Identifier, Moment
from .base import Notes, Setting, decimal, list_at, load_json, moment

Scheme = Literal["loyalty", "phone", "email", "card", "device", "cookie", "account", "other"]

MAX_POS_ID: Final = 128
_EXT_LEVELS: Final = 3
"""Lists and maps inside each other in one field of `ext`."""
_EXT_ROOM: Final = MAX_EXT_FIELDS - 20
_OURS: Final = frozenset({"assumed", "rounded", "more"})
"""What `ext` tells of itself: a payload's field of the same name is told with `_said` behind it."""
_MOST_PERSONAL: Final = 50
_MOST_INTEGER: Final = 2**63 - 1
_MOST_OFFSET: Final = 1080
_FINE: Final = 5 * 24 * 3600
_MOST_REVISION: Final = 1_000_000


@dataclass(slots=True)
class Part:
    """One object of a payload, at a place such as `order.line_items[2]`; every error names the place.

    What a method has read is known; `rest` is what is left, the rests of inner parts included. A text that the
    canonical form has not the room for is read cut, and whole in the rest.
    """

    fields: dict[str, Any]
    where: str = ""
    notes: Notes = field(default_factory=Notes)
    exponent: int = 2
    _known: set[str] = field(default_factory=set)
    _inner: dict[str, Part] = field(default_factory=dict)
    _lists: dict[str, list[Part]] = field(default_factory=dict)

    def at(self, name: str) -> str:
        """The place of a field."""
        return f"{self.where}.{name}" if self.where else name

    def take(self, name: str) -> Any:
        """A field as it stands, None where it is missing."""
        self._known.add(name)
        return self.fields.get(name)

    def text(self, name: str, most: int = MAX_TEXT) -> str | None:
        """Text or a number as text; None where it is missing or empty."""
        value = self.take(name)
        if value is None or value == "":
            return None
        told = said(value, self.at(name))
        if len(told) > most:
            self._known.discard(name)
        return told[:most]

    def code(self, name: str) -> str | None:
        """A short name that must be whole: None, and left in the rest, where there is no room for it."""
        told = self.text(name, MAX_SHORT)
        return told if name in self._known else None

    def need(self, name: str, most: int = MAX_POS_ID) -> str:
        """Text or a number that has to be there, whole."""
        told = said(self.take(name), self.at(name))
        if len(told) > most:
            raise InvalidInput(f"{len(told)} characters", field=self.at(name), limit=f"{most} characters")
        return told

    def flag(self, name: str) -> bool:
        """A truth; missing is false."""
        value = self.take(name)
        if value is not None and not isinstance(value, bool):
            raise InvalidInput("is neither true nor false", field=self.at(name))
        return bool(value)

    def number(self, name: str) -> Decimal | None:
        """A number, exactly."""
        value = self.take(name)
        return None if value is None or value == "" else decimal(value, self.at(name))

    def amount(self, name: str) -> int | None:
        """Money written as a number, in minor units."""
        value = self.take(name)
        return None if value is None or value == "" else self.minor(value, name)

    def need_amount(self, name: str) -> int:
        """Money that has to be there."""
        return self.minor(self.take(name), name)

    def minor(self, value: object, name: str) -> int:
        """A value that belongs to a field, in minor units."""
        made = self.notes.minor(value, self.exponent, self.at(name))
        return within(made, self.at(name))

    def moment(self, name: str, setting: Setting) -> Moment | None:
        """A time, None where it is missing."""
        value = self.take(name)
        return None if value is None or value == "" else possible(moment(value, setting, self.at(name)), self.at(name))

    def need_moment(self, name: str, setting: Setting) -> Moment:
        """A time that has to be there."""
        read = self.moment(name, setting)
        if read is None:
            raise InvalidInput("is missing", field=self.at(name))
        return read

    def part(self, name: str) -> Part:
        """An inner object; an empty one where it is missing."""
        value = self.take(name)
        if name not in self._inner:
            fields = {} if value is None else inner_object(value, self.at(name))
            self._inner[name] = Part(fields, self.at(name), self.notes, self.exponent)
        return self._inner[name]

    def parts(self, name: str, most: int, *, kept: bool = True) -> list[Part]:
        """A list of objects, at most so many; where their rests are not `kept` here, they are the caller's to keep."""
        values = self.take(name)
        if not isinstance(values, list | None):
            raise InvalidInput("is not a list", field=self.at(name))
        values = values or []
        if len(values) > most:
            raise InvalidInput(f"{len(values)} of them", field=self.at(name), limit=f"{most}")
        found = []
        for index, value in enumerate(values):
            place = f"{self.at(name)}[{index}]"
            found.append(Part(inner_object(value, place), place, self.notes, self.exponent))
        if kept:
            self._lists[name] = found
        return found

    def rest(self, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """What was not read, and more, as `ext` can hold it. What says nothing (null, "", [], {}) is left out."""
        left = {name: value for name, value in self.fields.items() if name not in self._known}
        left.update({name: inner.rest() for name, inner in self._inner.items()})
        for name, parts in self._lists.items():
            rests = [part.rest() for part in parts]
            left[name] = rests if any(rests) else []
        return bounded({**left, **(more or {})})


def said(value: object, where: str) -> str:
    """What has to be text or a number, as text. The error does not quote it: it may name a person."""
    if isinstance(value, bool) or not isinstance(value, (str, int, Decimal)) or value == "":
        raise InvalidInput("is missing" if value in (None, "") else "is no text", field=where)
    return str(value)


def inner_object(value: object, where: str) -> dict[str, Any]:
    """What has to be an object. The error does not quote it: it may name a person."""
    if not isinstance(value, dict):
        raise InvalidInput("is not an object", field=where)
    return value


def personal(*parts: Part) -> dict[str, str] | None:
    """The texts and numbers of addresses and their like, each under its part's last name: `billing_address.city`."""
    told = {}
    for part in parts:
        label = part.where.rpartition(".")[2]
        for name, value in list(part.fields.items())[: _MOST_PERSONAL // len(parts)]:
            spelled = str(value) if isinstance(value, (str, int, Decimal)) and not isinstance(value, bool) else ""
            if 0 < len(spelled) <= MAX_LONG_TEXT:
                told[f"{label}.{name}"] = spelled
                part.take(name)
    return told or None


def identifiers(*named: tuple[Scheme, str | None]) -> tuple[Identifier, ...]:
    """The names of a customer that are said, each once."""
    said = dict.fromkeys((scheme, value) for scheme, value in named if value)
    return tuple(Identifier(scheme, value) for scheme, value in said)


def bounded(left: dict[str, Any]) -> dict[str, Any]:
    """A map as `ext` can hold it: what nests deeper is told as JSON text, and so is what there is no room for."""
    told = {
        f"{name}_said" if name in _OURS else name: _told(value, _EXT_LEVELS)
        for name, value in left.items()
        if value not in (None, "", [], {})
    }
    if len(told) > _EXT_ROOM:
        names = list(told)[_EXT_ROOM:]
        told["more"] = _as_text({name: told.pop(name) for name in names})
    return told


def ext_of(left: dict[str, Any], notes: Notes | None = None) -> dict[str, Any] | None:
    """A rest as a transaction's or line's `ext`, with what the notes have to say; None where there is nothing."""
    said = (notes.ext() if notes is not None else None) or {}
    return {**left, **said} or None


def _told(value: Any, levels: int) -> Any:
    if isinstance(value, (dict, list)):
        if levels == 0:
            return _as_text(value)
        if isinstance(value, dict):
            return {name: _told(one, levels - 1) for name, one in value.items()}
        return [_told(one, levels - 1) for one in value]
    if isinstance(value, Decimal) or (type(value) is int and abs(value) > _MOST_INTEGER):
        return str(value)
    return value


def _as_text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def within(amount: int, where: str) -> int:
    """An amount that the canonical form takes. Raises `InvalidInput`."""
    if abs(amount) > MAX_MINOR:
        raise InvalidInput("the amount is impossible", field=where, limit=f"{MAX_MINOR} minor units")
    return amount


def possible(read: Moment, where: str) -> Moment:
    """A time that the canonical form takes. Raises `InvalidInput`."""
    if abs(read.offset_minutes) > _MOST_OFFSET or not -62_135_596_800_000 <= read.at <= 253_402_300_799_999:
        raise InvalidInput("there is no such time", field=where, limit="years 1 to 9999, offsets up to 18 hours")
    return read


def revision_of(created: Moment, changed: Moment | None) -> int:
    """A revision that rises with the time of the last change, for formats that count none.

    Seconds after the order was made for five days, then hours: fine while webhooks overtake each other, and enough
    for sixty years.
    """
    seconds = max(0, ((changed or created).at - created.at) // 1000)
    return min(_MOST_REVISION, seconds if seconds < _FINE else _FINE + (seconds - _FINE) // 3600)


def local_date(at: Moment, setting: Setting | None = None) -> str:
    """The date of a moment at its own offset, or in the setting's zone, as `YYYY-MM-DD`."""
    there = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=at.at)
    try:
        here = there.astimezone(setting.zone) if setting else there + timedelta(minutes=at.offset_minutes)
    except OverflowError:  # in the first or the last hours of the calendar
        here = there
    return str(here.date())


def documents(data: bytes, *, what: str, one: str, many: str) -> Iterator[tuple[Part, bytes]]:
    """The objects of a payload and the bytes of each: one bare, one under `one`, a list, or a list under `many`.

    Raises `InvalidInput` for anything else.
    """
    value = load_json(data, what=what)
    if isinstance(value, dict) and many not in value:
        inner = one in value
        where = one if inner else ""
        yield Part(inner_object(value[one] if inner else value, where or "body"), where), data
        return
    place = many if isinstance(value, dict) else ""
    items = list_at(value[many] if isinstance(value, dict) else value, place or "body")
    for index, (item, original) in enumerate(zip(items, pieces(data, *([many] if place else [])), strict=True)):
        where = f"{place}[{index}]"
        yield Part(inner_object(item, where), where), original


def pieces(data: bytes, *path: str) -> list[bytes]:
    """The items of a JSON list, at a path into objects, as they were written. Raises `InvalidInput`."""
    try:
        for name in path:
            data = bytes(msgspec.json.decode(data, type=dict[str, msgspec.Raw])[name])
        return [bytes(raw) for raw in msgspec.json.decode(data, type=list[msgspec.Raw] | None) or []]
    except (msgspec.DecodeError, ValueError) as error:
        where = ".".join(path) or "body"
        raise InvalidInput("the JSON's list cannot be taken apart", field=where, limit="UTF-8") from error
