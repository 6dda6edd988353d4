"""Removes a record's identifiers from the texts that stay in its ledger row.

A cashier types a telephone number into a reason, a POS prints the loyalty number into a line: the identifier is
known from the same record, so it is found, also with other separators, and replaced by asterisks. Short identifiers
(below `LONG` characters) would hit SKUs and receipt numbers by chance: they are masked in free text only, where they
stand alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, TypeVar

import msgspec

from tillstream_protocol.codec import encode
from tillstream_protocol.transaction import Identifier

from .identity import normalise

SHORTEST: Final = 4
LONG: Final = 7
MASK: Final = "****"

_SEPARATORS: Final = b" \t\r\n-.()/+"
_BETWEEN: Final = r"[\s().+/\-]*"

_FIXED: Final = frozenset(
    {
        "kind",
        "business_date",
        "currency",
        "source.system",
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


def mask(body: T, encoded: bytes, identifiers: Iterable[Identifier]) -> tuple[T, bytes]:
    """A body and its encoding without these identifiers; mostly they do not occur, and both come back as they are."""
    squeezed = {_squeeze(text) for text in _texts(identifiers)}
    needles = [needle for needle in squeezed if len(needle) >= SHORTEST]
    haystack = encoded.lower().translate(None, _SEPARATORS)
    found = [needle for needle in needles if needle in haystack]
    if not found:
        return body, encoded
    plain = _Masker(found).walk(msgspec.to_builtins(body, builtin_types=(bytes,)), "")
    masked = msgspec.convert(plain, type(body), builtin_types=(bytes,))
    return masked, encode(masked)


def _texts(identifiers: Iterable[Identifier]) -> Iterable[str]:
    for identifier in identifiers:
        yield identifier.value
        yield normalise(identifier.scheme, identifier.value)


def _squeeze(text: str) -> bytes:
    return text.encode().lower().translate(None, _SEPARATORS)


class _Masker:
    def __init__(self, needles: Iterable[bytes]) -> None:
        texts = sorted((needle.decode() for needle in needles), key=len, reverse=True)
        self._long = _pattern([text for text in texts if len(text) >= LONG], "", "")
        self._alone = _pattern(texts, r"(?<![^\W_])", r"(?![^\W_])")

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


def _pattern(texts: list[str], before: str, after: str) -> re.Pattern[str]:
    spaced = (_BETWEEN.join(map(re.escape, text)) for text in texts)
    return re.compile(f"{before}(?:{'|'.join(spaced) or r'(?!)'}){after}", re.IGNORECASE)
