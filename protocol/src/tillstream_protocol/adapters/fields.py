"""Objects of a JSON payload read field by field, so that what nobody asked for is left over and goes into `ext`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

import msgspec

from ..errors import InvalidInput
from ..limits import MAX_EXT_FIELDS, MAX_TEXT
from ..transaction import Moment
from .base import Notes, Setting, decimal, list_at, object_at, plain

_EXT_LEVELS: Final = 3
"""Lists and maps inside each other that a field of `ext` may hold."""
_ITEMS: Final = list[msgspec.Raw]
_FIELDS: Final = dict[str, msgspec.Raw]
_ROOM: Final = 40
"""Fields of `ext` that are left for what an adapter adds."""
_INTEGERS: Final = range(-(2**63), 2**63)
_PLAIN_ADJUSTED: Final = 18
Path = list[str | int]
"""Steps from the outside of a JSON value to a place inside: names of fields, numbers of items."""


class Fields:
    """One object of a payload. A field is read once; `rest` gives those that were not.

    Null and empty text are no value; with `false_is_empty`, as Odoo writes it, `false` is none either. `where` is the
    object's place in the input, as errors name it. Raises `InvalidInput` for what is no object.
    """

    def __init__(self, value: object, where: str, *, false_is_empty: bool = False) -> None:
        self._values = object_at(value, where or "body")
        self._empty: tuple[object, ...] = (None, False) if false_is_empty else (None,)
        self._read: set[str] = set()
        self._whole: dict[str, str] = {}
        self.where = where

    def place(self, name: str) -> str:
        """Where a field stands in the input."""
        return f"{self.where}.{name}" if self.where else name

    def __contains__(self, name: str) -> bool:
        value = self._values.get(name)
        return value != "" and not any(value is empty for empty in self._empty)

    def look(self, name: str) -> Any:
        """A field's value, or None; it stays unread, so that `ext` tells it too."""
        return self._values[name] if name in self else None

    def get(self, name: str) -> Any:
        """A field's value, or None; it counts as read."""
        self._read.add(name)
        return self.look(name)

    def text(self, name: str, most: int = MAX_TEXT) -> str | None:
        """A field's text; a number is one too. What is longer is cut, and stands whole in `rest`.

        Raises `InvalidInput`, which does not quote the value: it may name a person.
        """
        value = self.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (str, int, Decimal)):
            raise InvalidInput(f"a {_kind(value)} is no text", field=self.place(name))
        text = value if isinstance(value, str) else str(_scalar(value))
        if len(text) > most:
            self._whole[name] = text
        return text[:most] or None

    def required(self, name: str, most: int = MAX_TEXT) -> str:
        """A field's text. Raises `InvalidInput` where there is none, or more than `most` characters."""
        text = self.text(name, most)
        if text is None or name in self._whole:
            problem = "is missing" if text is None else "is too long"
            raise InvalidInput(problem, field=self.place(name), limit=f"{most} characters")
        return text

    def number(self, name: str) -> Decimal | None:
        """A field's number, exactly. Raises `InvalidInput`."""
        value = self.get(name)
        return None if value is None else decimal(value, self.place(name))

    def plain(self, name: str) -> str | None:
        """A field's number as the canonical transaction writes decimals. Raises `InvalidInput`."""
        number = self.number(name)
        return None if number is None else plain(number)

    def minor(self, name: str, notes: Notes, exponent: int) -> int | None:
        """A field's amount in minor units. Raises `InvalidInput`."""
        value = self.get(name)
        return None if value is None else notes.minor(value, exponent, self.place(name))

    def amount(self, name: str, notes: Notes, exponent: int) -> int:
        """A field's amount in minor units. Raises `InvalidInput` where there is none."""
        found = self.minor(name, notes, exponent)
        if found is None:
            raise InvalidInput("is missing", field=self.place(name))
        return found

    def items(self, name: str) -> list[Any]:
        """A field's list. Raises `InvalidInput`."""
        return list_at(self.get(name), self.place(name))

    def rest(self, /, **more: Any) -> dict[str, Any]:
        """What was not read, was cut, or is `more`, as `ext` takes it."""
        left = {name: value for name, value in self._values.items() if name not in self._read and name in self}
        told = {**left, **self._whole, **more}
        if len(told) > MAX_EXT_FIELDS - _ROOM:
            told = {"rest": told}
        return {name: extra(value) for name, value in told.items() if value not in (None, "", [], {}, ())}


def extra(value: object, levels: int = _EXT_LEVELS) -> Any:
    """A value as `ext` takes it: numbers that are no integers as text, and what lies too deep as JSON text."""
    if not isinstance(value, (dict, list, tuple)):
        return _scalar(value)
    if levels == 0:
        return json.dumps(value, default=str, ensure_ascii=False)
    if isinstance(value, dict):
        return {name: extra(one, levels - 1) for name, one in value.items()}
    return [extra(one, levels - 1) for one in value]


def _scalar(value: object) -> Any:
    if isinstance(value, Decimal):
        return plain(value) if abs(value.adjusted()) < _PLAIN_ADJUSTED else str(value)
    if isinstance(value, int) and value not in _INTEGERS:
        return str(value)
    return value


def _kind(value: object) -> str:
    return {bool: "truth", list: "list", dict: "map"}.get(type(value), "number")


def local_date(when: Moment, setting: Setting, notes: Notes, where: str) -> str:
    """The date of a moment in the setting's zone, noted as assumed: for formats that have no business date.

    Raises `InvalidInput` at the ends of time.
    """
    notes.assumed.append("business_date")
    try:
        return datetime.fromtimestamp(when.at / 1000, setting.zone).date().isoformat()
    except (OverflowError, ValueError, OSError):
        raise InvalidInput("is no date of a sale", field=where, limit="years 1 to 9999") from None


def option(setting: Setting, name: str) -> Mapping[str, str]:
    """A map of texts among the setting's options; none is an empty one. Raises `InvalidInput` naming the option."""
    value = setting.options.get(name, {})
    if not isinstance(value, Mapping) or not all(isinstance(x, str) for pair in value.items() for x in pair):
        raise InvalidInput("is no map from text to text", field=f"options.{name}")
    return value


def originals(data: bytes, path: Path, count: int) -> list[bytes]:
    """The bytes of each item of the list at a path, as they stand in the payload; a lone one has the whole payload.

    Raises `InvalidInput` where the payload is no JSON of UTF-8.
    """
    if count < 2:
        return [data] * count
    raw = msgspec.Raw(data.removeprefix(b"\xef\xbb\xbf"))
    try:
        for step in path:
            parts: Any = msgspec.json.decode(raw, type=_ITEMS if isinstance(step, int) else _FIELDS)
            raw = parts[step]
        return [bytes(part) for part in msgspec.json.decode(raw, type=_ITEMS)]
    except msgspec.DecodeError as error:
        raise InvalidInput("this is no valid JSON", field="body") from error
