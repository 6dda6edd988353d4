"""Cutting card numbers before the first write.

A card number is 13 to 19 digits, perhaps parted by spaces or dashes, with an issuer's prefix and a valid Luhn digit.
It is cut to its first six and last four. Card verification values and track data are dropped altogether. Fields that
hold numbers of other things (SKU, GTIN, the POS's own ids) are never touched. Prefixes: ISO/IEC 7812 and the card
schemes' published ranges.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, TypeVar, cast

import msgspec
from msgspec import Struct

from tillstream_protocol.transaction import Identifier, Transaction

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
        "type",
        "source",
    }
)
"""Fields whose digits name something else."""

_SECRET_KEY = re.compile(r"(?:cvv|cvc|cav|csc|cvn|track)[\s_-]?\d?(?:[\s_-]?data)?|pin[\s_-]?block", re.IGNORECASE)
_RUN = re.compile(r"(?<![0-9])[3-6](?:[ -]?[0-9]){12,18}(?![0-9])|(?<![0-9])2[2-7](?:[ -]?[0-9]){14}(?![0-9])")
_RUN_BYTES = re.compile(_RUN.pattern.encode())
_TRACK = re.compile(r"%[A-Z]\d{12,19}\^[^?]{2,80}\??|;?\d{12,19}[=D]\d{4,40}\??")
_TRACK_BYTES = re.compile(_TRACK.pattern.encode())
_ISSUER = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|(?:5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}|3[47]\d{13}"
    r"|(?:6011|64[4-9]\d|65\d\d)\d{12,15}|35(?:2[89]|[3-8]\d)\d{12,15}|3(?:0[0-5]|[68]\d)\d{11,16}|62\d{14,17}"
    r"|(?:5018|5020|5038|5893|6304|6759|676[1-3])\d{9,15}|60\d{14}|220[0-4]\d{12,15}"
)
_DOUBLED = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)


def cut_cards(transaction: Transaction, encoded: bytes) -> tuple[Transaction, int]:
    """The transaction without card numbers, verification values and track data, and how many were cut.

    `encoded` is the transaction as msgpack.
    """
    if not _suspicious(encoded):
        return transaction, 0
    cutter = _Cutter()
    return cutter.struct(transaction), cutter.count


def cut_identifiers(identifiers: tuple[Identifier, ...]) -> tuple[tuple[Identifier, ...], int]:
    """Identifiers without card numbers: cut, one would name many people, so it is left out."""
    kept = tuple(i for i in identifiers if i.scheme not in ("card", "other") or not _holds_card(i.value))
    return kept, len(identifiers) - len(kept)


def cut_bytes(data: bytes) -> tuple[bytes, int]:
    """A POS's own bytes with card numbers overwritten in place, so that every other byte stays where it was."""
    count = 0

    def track(match: re.Match[bytes]) -> bytes:
        nonlocal count
        count += 1
        return b"*" * len(match[0])

    def run(match: re.Match[bytes]) -> bytes:
        nonlocal count
        masked = _mask(match[0].decode())
        count += masked is not None
        return match[0] if masked is None else masked.encode()

    data = _TRACK_BYTES.sub(track, data)
    return _RUN_BYTES.sub(run, data), count


def is_card_number(digits: str) -> bool:
    """Whether digits alone have an issuer's prefix and a valid Luhn digit (ISO/IEC 7812-1, annex B)."""
    if _ISSUER.fullmatch(digits) is None:
        return False
    total = sum(_DOUBLED[int(digit)] if place % 2 else int(digit) for place, digit in enumerate(reversed(digits)))
    return total % 10 == 0


def _suspicious(encoded: bytes) -> bool:
    """Whether an encoded transaction may hold anything to cut: a cheap look, before the careful walk.

    It errs on the safe side: bytes that only look like digits cost a walk, never a card number.
    """
    if any(name in encoded for name in _OPEN_MAPS):
        lowered = encoded.lower()
        if any(word in lowered for word in _SECRET_WORDS):
            return True
    if _DIGITS in encoded.translate(_SHAPE, b" -") and any(map(_may_be_card, _RUNS.findall(encoded))):
        return True
    return any(is_card_number(str(int.from_bytes(number))) for number in _WIDE_NUMBERS.findall(encoded))


_OPEN_MAPS = (b"\xa3ext", b"\xa8personal")
"""The names, in msgpack, of the fields whose keys a POS chooses."""
_SECRET_WORDS = (b"cvv", b"cvc", b"cav", b"csc", b"cvn", b"track", b"pin_block", b"pin block", b"pinblock")
_DIGITS = b"0" * 12
_SHAPE = bytes(ord("0") if chr(value).isdecimal() and value < 128 else ord(".") for value in range(256))
_RUNS = re.compile(rb"[0-9][0-9 -]{10,}[0-9][=D^]?")
_WIDE_NUMBERS = re.compile(rb"\xcf(.{8})", re.DOTALL)


def _may_be_card(run: bytes) -> bool:
    """Whether some 13 to 19 digits of a run are a card number, or the run goes on as track data does."""
    if run[-1] in b"=D^":
        return True
    digits = run.translate(None, b" -").decode()
    return any(
        is_card_number(digits[start : start + size])
        for size in range(13, min(19, len(digits)) + 1)
        for start in range(len(digits) - size + 1)
    )


def _mask(run: str) -> str | None:
    """A run of digits and separators with all but the first six and last four digits starred; None if no card."""
    digits = run.replace(" ", "").replace("-", "")
    if not is_card_number(digits):
        return None
    place = 0
    masked = []
    for character in run:
        if character in " -":
            masked.append(character)
            continue
        masked.append(character if place < 6 or place >= len(digits) - 4 else "*")
        place += 1
    return "".join(masked)


def _holds_card(text: str) -> bool:
    return _TRACK.search(text) is not None or any(_mask(run[0]) for run in _RUN.finditer(text))


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
        text = cast("str", value)
        if len(text) < 12:
            return value
        text, tracks = _TRACK.subn("", text)
        self.count += tracks
        return _RUN.sub(self._cut_run, text)

    def _cut_run(self, match: re.Match[str]) -> str:
        masked = _mask(match[0])
        if masked is None:
            return match[0]
        self.count += 1
        return masked

    def _number(self, value: object) -> object:
        digits = str(value)
        if not is_card_number(digits):
            return value
        self.count += 1
        return _mask(digits)

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
            after[cast("str", self._text(key))] = self._ext_value(item)
        return after if after != before else value

    def _ext_value(self, item: object) -> object:
        return self._number(item) if type(item) is int else self._value(item)

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
