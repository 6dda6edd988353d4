"""Reading a JSON payload object by object, so that nothing of it is lost: what nobody asked for is left for `ext`."""

from __future__ import annotations

import json
from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final, Literal, TypeVar

import msgspec
from msgspec.structs import replace

from ..errors import InvalidInput
from ..limits import MAX_EXT_FIELDS, MAX_LONG_TEXT, MAX_MINOR, MAX_SHORT, MAX_TEXT
from ..transaction import Identifier, Moment, Tender
from .base import Notes, Setting, decimal, load_json, moment, plain
from .times import possible

T = TypeVar("T")
Scheme = Literal["loyalty", "phone", "email", "card", "device", "cookie", "account", "other"]

MAX_POS_ID: Final = 128
_EXT_LEVELS: Final = 3
"""Lists and maps inside each other in one field of `ext`."""
_EXT_ROOM: Final = MAX_EXT_FIELDS - 20
_OURS: Final = frozenset({"assumed", "rounded", "more"})
"""What `ext` tells of itself: a payload's field of the same name is told with `_said` behind it."""
_MOST_PERSONAL: Final = 50
_MOST_INTEGER: Final = 2**63 - 1
_MOST_PLAIN: Final = 18
"""Digits before or behind the point, from which on a number is told as it was sent."""
_GTIN: Final = (8, 12, 13, 14)
_ITEMS: Final = list[msgspec.Raw]


Steps = Sequence[str | int]
"""From the outside of a JSON value to a place inside: names of fields, numbers of items."""


@dataclass(slots=True)
class Part:
    """One object of a payload, at a place such as `order.line_items[2]`; every error names the place.

    What a method has read is known; `rest` is what is left, the rests of inner parts included. Null and empty text are
    no value; with `false_is_nothing`, as Odoo writes it, `false` is none either. A text that the canonical form has not
    the room for is read cut, and whole in the rest.
    """

    fields: dict[str, Any]
    where: str = ""
    notes: Notes = field(default_factory=Notes)
    exponent: int = 2
    false_is_nothing: bool = False
    _known: set[str] = field(default_factory=set)
    _inner: dict[str, Part] = field(default_factory=dict)
    _lists: dict[str, list[Part]] = field(default_factory=dict)

    def at(self, name: str) -> str:
        """The place of a field."""
        return f"{self.where}.{name}" if self.where else name

    def look(self, name: str) -> Any:
        """A field's value, None where it has none; it stays in the rest."""
        value = self.fields.get(name)
        return None if value == "" or (value is False and self.false_is_nothing) else value

    def take(self, name: str) -> Any:
        """A field's value, None where it has none."""
        self._known.add(name)
        return self.look(name)

    def text(self, name: str, most: int = MAX_TEXT) -> str | None:
        """Text or a number as text; None where it is missing or empty."""
        value = self.take(name)
        if value is None:
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
        return None if value is None else decimal(value, self.at(name))

    def need_number(self, name: str) -> Decimal:
        """A number that has to be there."""
        return _there(self.number(name), self.at(name))

    def plain(self, name: str) -> str | None:
        """A number as the canonical transaction writes decimals."""
        number = self.number(name)
        return None if number is None else plain(number)

    def amount(self, name: str) -> int | None:
        """Money written as a number, in minor units."""
        value = self.take(name)
        return None if value is None else self.minor(value, name)

    def need_amount(self, name: str) -> int:
        """Money that has to be there."""
        return _there(self.amount(name), self.at(name))

    def minor(self, value: object, name: str) -> int:
        """A value that belongs to a field, in minor units."""
        made = self.notes.minor(value, self.exponent, self.at(name))
        return within(made, self.at(name))

    def moment(self, name: str, setting: Setting, *, utc: bool = False) -> Moment | None:
        """A time, None where it is missing; one without an offset is in the setting's zone, or in UTC."""
        value = self.take(name)
        return None if value is None else possible(moment(value, setting, self.at(name), utc=utc), self.at(name))

    def need_moment(self, name: str, setting: Setting, *, utc: bool = False) -> Moment:
        """A time that has to be there."""
        return _there(self.moment(name, setting, utc=utc), self.at(name))

    def inner(self, value: object, where: str) -> Part:
        """An object inside this one, read as this one is."""
        return Part(inner_object(value, where), where, self.notes, self.exponent, self.false_is_nothing)

    def again(self) -> Part:
        """The same object with nothing read: what is read of it here stays in this one's rest."""
        return Part(self.fields, self.where, self.notes, self.exponent, self.false_is_nothing)

    def part(self, name: str) -> Part:
        """An inner object; an empty one where it is missing."""
        value = self.take(name)
        if name not in self._inner:
            self._inner[name] = self.inner({} if value is None else value, self.at(name))
        return self._inner[name]

    def items(self, name: str, most: int) -> list[Any]:
        """A list of whatever, at most so many; empty where it is missing."""
        values = self.take(name)
        if not isinstance(values, list | None):
            raise InvalidInput("is not a list", field=self.at(name))
        if len(values or ()) > most:
            raise InvalidInput(f"{len(values or ())} of them", field=self.at(name), limit=f"{most}")
        return values or []

    def parts(self, name: str, most: int, *, kept: bool = True) -> list[Part]:
        """A list of objects, at most so many; where their rests are not `kept` here, they are the caller's to keep."""
        values = self.items(name, most)
        found = [self.inner(value, f"{self.at(name)}[{index}]") for index, value in enumerate(values)]
        if kept:
            self._lists[name] = found
        return found

    def rest(self, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """What was not read, and more, as `ext` can hold it. What says nothing (null, "", [], {}) is left out."""
        left = {name: self.look(name) for name in self.fields if name not in self._known}
        left.update({name: inner.rest() for name, inner in self._inner.items()})
        for name, parts in self._lists.items():
            rests = [part.rest() for part in parts]
            left[name] = rests if any(rests) else []
        return bounded({**left, **(more or {})})


def _there(value: T | None, where: str) -> T:
    if value is None:
        raise InvalidInput("is missing", field=where)
    return value


def said(value: object, where: str) -> str:
    """What has to be text or a number, as text. The error does not quote it: it may name a person."""
    if isinstance(value, bool) or not isinstance(value, (str, int, Decimal)) or value == "":
        raise InvalidInput("is missing" if value in (None, "") else "is no text", field=where)
    return str(_scalar(value))


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
    return _scalar(value)


def _scalar(value: Any) -> Any:
    """Numbers that are no integers of 64 bits as text."""
    if isinstance(value, Decimal):
        return plain(value) if abs(value.adjusted()) < _MOST_PLAIN else str(value)
    return str(value) if type(value) is int and abs(value) > _MOST_INTEGER else value


def _as_text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def less_change(tenders: Sequence[Tender], change: int, notes: Notes) -> tuple[Tender, ...]:
    """Tenders of a payload that tells what was handed over, and the change once for all of them.

    It is taken to be given on the last cash that has so much, and noted as assumed. Where there is none, they are left
    as they were sent: somebody who pays more by card gets cash back.
    """
    found = list(tenders)
    for index, one in reversed(list(enumerate(tenders))):
        if "cash" in one.type.lower() and 0 < change <= one.amount:
            notes.assumed.append("tenders.change")
            found[index] = replace(one, amount=one.amount - change, tendered=one.amount, change=change)
            break
    return tuple(found)


def gtin_of(scan: str | None) -> str | None:
    """What was scanned, if it has a GTIN's form."""
    return scan if scan and scan.isascii() and scan.isdigit() and len(scan) in _GTIN else None


def within(amount: int, where: str) -> int:
    """An amount that the canonical form takes. Raises `InvalidInput`."""
    if abs(amount) > MAX_MINOR:
        raise InvalidInput("the amount is impossible", field=where, limit=f"{MAX_MINOR} minor units")
    return amount


def documents(data: bytes, *wrappers: str, what: str) -> Iterator[tuple[Part, bytes]]:
    """The objects of a payload and the bytes of each: one, or a list, bare or under the first of the wrappers there is.

    Raises `InvalidInput` for anything else.
    """
    value = load_json(data, what=what)
    place = next((name for name in wrappers if isinstance(value, dict) and name in value), "")
    inside = value[place] if place else value
    if not isinstance(inside, list):
        yield Part(inner_object(inside, place or "body"), place), data
        return
    for index, (item, original) in enumerate(zip(inside, originals(data, [place] if place else []), strict=True)):
        where = f"{place}[{index}]"
        yield Part(inner_object(item, where), where), original


def originals(data: bytes, path: Steps) -> list[bytes]:
    """The items of the JSON list at a path, as they were written; a lone one has the whole payload.

    Raises `InvalidInput`.
    """
    raw = msgspec.Raw(data.removeprefix(BOM_UTF8))
    try:
        for step in path:
            raw = msgspec.json.decode(raw, type=_ITEMS)[step] if isinstance(step, int) else _member(raw, step)
        found = msgspec.json.decode(raw, type=_ITEMS)
    except (msgspec.DecodeError, ValueError) as error:
        where = ".".join(map(str, path)) or "body"
        raise InvalidInput("the JSON's list cannot be taken apart", field=where, limit="UTF-8") from error
    return [data] if len(found) == 1 else [bytes(one) for one in found]


def pieces(part: Part, document: bytes, name: str) -> list[bytes]:
    """The items of one of a part's lists as they were written, where `documents` gave part and document.

    Where the JSON cannot be taken apart, each is the whole document.
    """
    count = len(part.fields.get(name) or ())
    if not count:
        return []
    try:
        inside = _inside(msgspec.Raw(document.removeprefix(BOM_UTF8)), *part.where.partition("[")[:2])
        found = [bytes(one) for one in msgspec.json.decode(_member(inside, name), type=_ITEMS)]
    except (msgspec.DecodeError, ValueError, KeyError, IndexError):
        found = []
    return found if len(found) == count else [document] * count


def _inside(raw: msgspec.Raw, wrapper: str, listed: str) -> msgspec.Raw:
    """The object that a document is or holds. One of a list is a document of its own, unless it is the only one."""
    if not listed:
        return _member(raw, wrapper) if wrapper else raw
    if wrapper:
        members = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
        return msgspec.json.decode(members[wrapper], type=_ITEMS)[0] if wrapper in members else raw
    return msgspec.json.decode(raw, type=_ITEMS)[0] if bytes(raw).lstrip().startswith(b"[") else raw


def _member(raw: msgspec.Raw, name: str) -> msgspec.Raw:
    return msgspec.json.decode(raw, type=dict[str, msgspec.Raw])[name]
