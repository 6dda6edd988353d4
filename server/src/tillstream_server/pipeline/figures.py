"""What one transaction adds to the projections: a pure function of its pseudonymous body."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from msgspec import Struct

from tillstream_protocol.errors import InvalidInput
from tillstream_protocol.facts import local_hour_ms
from tillstream_protocol.transaction import SELLING_KINDS, Transaction

MICRO_DIGITS: Final = 6
_PARTS: Final = re.compile(r"([+-]?)(\d+)(?:\.(\d+))?")


Products = dict[str, list[int]]
"""SKU → quantity in millionths, amount, lines."""


class Figures(Struct, frozen=True, gc=False):
    """One transaction in figures. Categories are (name, lines, amount); amounts in minor units of `currency`."""

    hour_ms: int
    currency: str
    amount: int
    lines: int
    visit: bool
    at_ms: int
    categories: Sequence[tuple[str, int, int]]


def sells(t: Transaction) -> bool:
    """Whether a transaction counts in sales figures, unless it is voided."""
    return t.kind in SELLING_KINDS and not t.training and not t.test


def is_visit(t: Transaction) -> bool:
    """Whether a transaction that counts is a visit: whoever only brings something back has not come to buy."""
    return t.kind != "return"


def figures(t: Transaction, products: Products, sign: int) -> Figures:
    """The figures of a transaction that sells. A return counts with its signed amounts, but is no visit.

    What it sold is added to `products`, or taken away where `sign` is -1: the one thing that each line has its own of.
    """
    categories: dict[str, list[int]] = {}
    lines = 0
    for line in t.lines:
        if line.void:
            continue
        lines += 1
        amount = line.amount
        if line.hierarchy:
            sums = categories.get(line.hierarchy[0])
            if sums is None:
                categories[line.hierarchy[0]] = [1, amount]
            else:
                sums[0] += 1
                sums[1] += amount
        sku = line.sku or line.gtin
        if sku is not None and line.type == "item":
            delta = products.get(sku)
            if delta is None:
                products[sku] = [sign * quantity_micro(line.quantity), sign * amount, sign]
            else:
                delta[0] += sign * quantity_micro(line.quantity)
                delta[1] += sign * amount
                delta[2] += sign
    return Figures(
        hour_ms=local_hour_ms(t.end),
        currency=t.currency,
        amount=t.total,
        lines=lines,
        visit=is_visit(t),
        at_ms=t.end.at,
        categories=[(name, count, total) for name, (count, total) in categories.items()],
    )


@lru_cache(maxsize=4_096)
def quantity_micro(text: str) -> int:
    """A decimal text in millionths, cut after the sixth digit. Raises `InvalidInput` for what is none."""
    match = _PARTS.fullmatch(text)
    if match is None:
        raise InvalidInput("not a decimal number", limit="digits with an optional sign and fraction")
    sign, whole, fraction = match.groups(default="")
    micro = int(whole) * 10**MICRO_DIGITS + int(fraction[:MICRO_DIGITS].ljust(MICRO_DIGITS, "0"))
    return -micro if sign == "-" else micro
