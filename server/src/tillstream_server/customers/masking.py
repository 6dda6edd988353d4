"""Removes a record's identifiers from the texts that stay in its ledger row.

A cashier types a telephone number into a reason, a POS prints the loyalty number into a line: the identifier is
known from the same record, so it is found, also with other separators or, if it is a telephone number, with another
prefix, and replaced by asterisks. Short identifiers (below `LONG` characters) would hit SKUs and receipt numbers by
chance: they are masked in free text only, where they stand alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple, TypeVar

import msgspec

from tillstream_protocol.codec import encode
from tillstream_protocol.transaction import Identifier

SHORTEST: Final = 4
LONG: Final = 7
CORE: Final = 8
"""The last digits of a telephone number, which are the same with a country's prefix and without."""
MASK: Final = "****"

_SEPARATORS: Final = b" \t\r\n-.()/+"
_LOWER: Final = bytes(range(256)).lower()
_BETWEEN: Final = r"[\s().+/\-]*"
_PREFIX: Final = rf"(?:\+?[0-9]{_BETWEEN}){{0,7}}"

_FIXED: Final = frozenset(
    {
        "kind",
        "business_date",
        "currency",
        "source.system",
        "scope",
        "end.offset_from",
        "begin.offset_from",
        "links.relation",
        "links.business_date",
        "lines.type",
        "lines.quantity",
        "lines.price",
        "lines.regular_price",
        "lines.discounts.rate",
        "lines.taxes.rate",
        "discounts.rate",
        "taxes.rate",
        "tenders.foreign_currency",
        "tenders.foreign_rate",
        "customer.consents.source",
        "customer.points.earned",
        "customer.points.used",
        "customer.points.balance",
        "type",
    }
)
"""Fields whose form is fixed: numbers, dates and words of ours."""

_CODES: Final = frozenset(
    {
        "pos_id",
        "retailer",
        "store",
        "till",
        "session",
        "z_number",
        "sequence",
        "receipt",
        "links.pos_id",
        "links.store",
        "links.till",
        "links.receipt",
        "lines.sku",
        "lines.gtin",
        "lines.hierarchy",
        "lines.unit",
        "tenders.type",
        "event_id",
        "basket",
    }
)
"""Names of things, in which a short identifier stands by chance."""

T = TypeVar("T", bound=msgspec.Struct)


def mask(body: T, encoded: bytes, identifiers: Iterable[tuple[Identifier, str]]) -> tuple[T, bytes]:
    """A body and its encoding without these identifiers, each given with its normal text.

    Mostly they do not occur, and both come back as they are.
    """
    needles = {needle for identifier, normal in identifiers for needle in _needles(identifier, normal)}
    if not needles:
        return body, encoded
    haystack = encoded.translate(_LOWER, _SEPARATORS)
    found = [needle for needle in needles if needle.text in haystack]
    if not found:
        return body, encoded
    plain = _Masker(found).walk(msgspec.to_builtins(body, builtin_types=(bytes,)), "")
    masked = msgspec.convert(plain, type(body), builtin_types=(bytes,))
    return masked, encode(masked)


class _Needle(NamedTuple):
    """What to look for, in lower case and without separators."""

    text: bytes
    phone: bool


def _needles(identifier: Identifier, normal: str) -> Iterator[_Needle]:
    value = identifier.value
    for text in (value,) if value == normal else (value, normal):
        squeezed = text.encode().translate(_LOWER, _SEPARATORS)
        if identifier.scheme == "phone" and len(squeezed) >= CORE and squeezed.isdigit():
            yield _Needle(squeezed[-CORE:], phone=True)
        elif len(squeezed) >= SHORTEST:
            yield _Needle(squeezed, phone=False)


class _Masker:
    def __init__(self, needles: Iterable[_Needle]) -> None:
        ordered = sorted(needles, key=lambda needle: len(needle.text), reverse=True)
        patterns = {needle: _spaced(needle) for needle in ordered}
        self._long = _any([pattern for needle, pattern in patterns.items() if len(needle.text) >= LONG])
        self._alone = _any([rf"(?<![^\W_]){pattern}(?![^\W_])" for pattern in patterns.values()])

    def walk(self, value: object, path: str) -> object:
        if isinstance(value, str):
            return value if path in _FIXED else self._mask(value, path)
        if isinstance(value, dict):
            prefix = f"{path}." if path else ""
            return {key: self.walk(item, f"{prefix}{key}") for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.walk(item, path) for item in value]
        return value

    def _mask(self, text: str, path: str) -> str:
        text = self._long.sub(MASK, text)
        return text if path in _CODES else self._alone.sub(MASK, text)


def _spaced(needle: _Needle) -> str:
    pattern = _BETWEEN.join(map(re.escape, needle.text.decode()))
    return _PREFIX + pattern if needle.phone else pattern


def _any(patterns: list[str]) -> re.Pattern[str]:
    return re.compile("|".join(patterns) or r"(?!)", re.IGNORECASE)
