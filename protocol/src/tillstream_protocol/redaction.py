"""Cutting card numbers before the first write.

Card numbers are cut to their first six and last four digits, card verification values and track data are dropped
altogether, wherever text is free. Fields that hold numbers of other things (SKU, GTIN, the POS's own ids) are never
touched.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import Final, TypeVar, cast

import msgspec
from msgspec import Struct

from .cards import NEVER_KEPT, NEVER_KEPT_WORDS, NOT_A_CARD, cut_numbers, digits_of, drop_tracks, may_hold_card
from .events import Original
from .originals import cut_bytes, drop_values
from .transaction import Identifier

__all__ = ["cut_bytes", "cut_cards", "cut_identifiers", "cut_original"]

T = TypeVar("T", bound=Struct)

UNTOUCHED: Final = frozenset(
    {
        "sku",
        "gtin",
        "pos_id",
        "sequence",
        "z_number",
        "session",
        "operator",
        "business_date",
        "hierarchy",
        "currency",
        "kind",
        "source",
    }
)
"""Fields whose digits name something else."""

_SECRET_KEY: Final = re.compile(NEVER_KEPT)
_NOT_A_CARD: Final = re.compile(NOT_A_CARD)
_EXT: Final = b"\xa3ext"
_PERSONAL: Final = b"\xa8personal"
"""The names, in msgpack, of the fields whose keys a POS chooses."""
_SECRET_WORDS: Final = tuple(word.encode() for word in NEVER_KEPT_WORDS)
_OTHER_NUMBERS: Final = ("loyalty", "phone")
"""Schemes of identifiers whose numbers may look like a card's by chance, and are none."""


def cut_cards(fact: T, encoded: bytes) -> tuple[T, int]:
    """A fact without card numbers, verification values and track data, and how many were cut.

    `encoded` is the fact as msgpack.
    """
    if not _suspicious(encoded):
        return fact, 0
    cutter = _Cutter()
    return cutter.struct(fact), cutter.count


def cut_identifiers(identifiers: tuple[Identifier, ...]) -> tuple[tuple[Identifier, ...], int]:
    """Identifiers without card numbers: cut, one would name many people, so it is left out."""
    kept = tuple(i for i in identifiers if i.scheme in _OTHER_NUMBERS or not _holds_card(i.value))
    return kept, len(identifiers) - len(kept)


def cut_original(original: Original) -> tuple[Original, int]:
    """The POS's own bytes without card numbers. The digest is of what is kept: that of the uncut bytes would tell
    the missing digits to whoever tries them all.
    """
    data, cut = cut_bytes(original.data)
    return (Original(original.media_type, hashlib.sha256(data).digest(), data), cut) if cut else (original, 0)


def _suspicious(encoded: bytes) -> bool:
    """Whether an encoded transaction may hold anything to cut: a cheap look, before the careful walk."""
    if _EXT in encoded or _PERSONAL in encoded:
        lowered = encoded.lower()
        if any(word in lowered for word in _SECRET_WORDS):
            return True
    return may_hold_card(encoded)


def _holds_card(text: str) -> bool:
    return drop_tracks(text)[1] > 0 or cut_numbers(text)[1] > 0


class _Cutter:
    """Walks everything that may hold a card number, and counts what it cut."""

    def __init__(self) -> None:
        self.count = 0

    def struct(self, value: T) -> T:
        changes: dict[str, object] = {}
        for name in value.__struct_fields__:
            if name in UNTOUCHED:
                continue
            before: object = getattr(value, name)
            after = self._field(name, before)
            if after is not before:
                changes[name] = after
        return msgspec.structs.replace(value, **changes) if changes else value

    def _field(self, name: str, value: object) -> object:
        if name == "identifiers":
            kept, cut = cut_identifiers(cast("tuple[Identifier, ...]", value))
            self.count += cut
            return kept if cut else value
        if name == "scan" and isinstance(value, str) and _is_gtin(value):
            return value
        return self._value(value)

    def _value(self, value: object) -> object:
        walk = self._WALKS.get(type(value))
        if walk is not None:
            return walk(self, value)
        return self.struct(value) if isinstance(value, Struct) else value

    def _text(self, value: object) -> object:
        text, values = drop_values(cast("str", value))
        text, tracks = drop_tracks(text)
        text, numbers = cut_numbers(text)
        self.count += values + tracks + numbers
        return text if values or tracks or numbers else value

    def _number(self, value: object) -> object:
        text, count = cut_numbers(digits_of(cast("float", value)))
        self.count += count
        return text if count else value

    def _items(self, value: object) -> object:
        before = cast("tuple[object, ...] | list[object]", value)
        after = [self._ext_value(item) for item in before]
        if all(a is b for a, b in zip(after, before, strict=True)):
            return value
        return tuple(after) if isinstance(value, tuple) else after

    def _map(self, value: object) -> object:
        before = cast("dict[str, object]", value)
        after: dict[str, object] = {}
        for key, item in before.items():
            if _SECRET_KEY.fullmatch(key):
                self.count += 1
                continue
            name = cast("str", self._text(key))
            while name in after:  # two cards may be cut to the same text
                name += "*"
            number = type(item) is int and _NOT_A_CARD.fullmatch(key) is not None
            after[name] = item if number else self._ext_value(item)
        return after if after != before else value

    def _ext_value(self, item: object) -> object:
        return self._number(item) if type(item) in (int, float) else self._value(item)

    _WALKS: Final[dict[type, Callable[[_Cutter, object], object]]] = {
        str: _text,
        tuple: _items,
        list: _items,
        dict: _map,
    }


def _is_gtin(text: str) -> bool:
    """Whether a scan is a GTIN with a valid check digit (GS1 General Specifications, 7.9)."""
    if len(text) not in (8, 12, 13, 14) or not text.isdecimal():
        return False
    weights = (3 if place % 2 else 1 for place in range(len(text)))
    return sum(int(d) * w for d, w in zip(reversed(text), weights, strict=True)) % 10 == 0
