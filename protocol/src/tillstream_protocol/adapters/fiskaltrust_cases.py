"""The case numbers of fiskaltrust's interface: what a receipt, a charge item and a pay item is.

A case is a 64-bit number: two letters of the country in the upper 16 bits, flags in the middle, and in the lowest 16
bits what it is, by a table of each country. Germany's and Austria's tables are here; of other countries, what is the
same in all. Source: fiskaltrust/interface-doc, the reference tables of the general part and of both countries.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

from ..transaction import Kind

LineType = Literal["item", "gift_card", "deposit", "fee", "tip", "coupon", "discount", "other"]

FAILED: Final = 0x0001_0000
TRAINING: Final = 0x0002_0000
VOID: Final = 0x0004_0000
POSITION_CANCELLED: Final = 0x0020_0000
"""Of a charge item: it takes back another position."""
RECEIPT_REQUEST: Final = 0x8000_0000_0000
"""Asks for a receipt that was signed before: no transaction."""


class Case(NamedTuple):
    """One case number, taken apart."""

    country: str
    """`DE`, `AT`, …; empty where the number has none."""
    flags: int
    base: int


class Meaning(NamedTuple):
    """What a receipt is. `stage` is how far its action has come, 0 to 2; `part` that it tells a part of it only."""

    kind: Kind
    name: str
    stage: int = 2
    part: bool = False


def case_of(number: int) -> Case:
    """A case number's parts."""
    letters = (number >> 48).to_bytes(2, "big")
    return Case(letters.decode("latin-1") if letters.isalpha() else "", number & 0xFFFF_FFFF_0000, number & 0xFFFF)


_SALE: Final = Meaning("sale", "pos receipt")
_ZERO: Final = Meaning("no_sale", "zero receipt")
_EVERYWHERE: Final[Mapping[int, Meaning]] = {0: _SALE, 1: _SALE, 2: _ZERO}
_START_STOP: Final[Mapping[int, Meaning]] = {
    3: Meaning("no_sale", "initial operation receipt"),
    4: Meaning("no_sale", "out of operation receipt"),
    5: Meaning("close", "monthly closing"),
    6: Meaning("close", "yearly closing"),
}
_RECEIPTS: Final[Mapping[str, Mapping[int, Meaning]]] = {
    "DE": {
        **_EVERYWHERE,
        **_START_STOP,
        0x07: Meaning("close", "daily closing"),
        0x08: Meaning("suspend", "start transaction", 0),
        0x09: Meaning("suspend", "update transaction", 1),
        0x0A: Meaning("suspend", "delta transaction", 1, part=True),
        0x0B: Meaning("cancel", "fail transaction"),
        0x0C: Meaning("sale", "B2B invoice"),
        0x0D: Meaning("sale", "B2C invoice"),
        0x0E: Meaning("no_sale", "info invoice"),
        0x0F: Meaning("no_sale", "info delivery note"),
        0x10: Meaning("suspend", "info order", 0, part=True),
        0x11: Meaning("paid_in", "cash deposit, pay-in, pay-out or exchange"),
        0x12: Meaning("no_sale", "material consumption"),
        0x13: Meaning("no_sale", "info internal"),
        0x14: Meaning("no_sale", "protocol"),
        0x15: Meaning("sale", "foreign sale"),
        0x16: Meaning("void", "cancel or void a receipt"),
        0x17: Meaning("no_sale", "initiate SCU switch"),
        0x18: Meaning("no_sale", "finish SCU switch"),
        0x19: Meaning("no_sale", "prepare queue for migration"),
    },
    "AT": {
        **_EVERYWHERE,
        **_START_STOP,
        0x07: Meaning("sale", "cash transaction with relief"),
        0x08: Meaning("sale", "target business"),
        0x09: Meaning("no_sale", "delivery note"),
        0x0A: Meaning("paid_in", "cash deposit"),
        0x0B: Meaning("paid_out", "cash pay-out"),
        0x0C: Meaning("no_sale", "means of payment transfer"),
        0x0D: Meaning("no_sale", "protocol"),
        0x0E: Meaning("no_sale", "internal or material consumption"),
        0x0F: Meaning("sale", "online shop or telephone order"),
        0x10: Meaning("sale", "foreign sale"),
    },
}
_PAYMENTS: Final[Mapping[str, str]] = {
    "DE": "cash cash foreign_cash cheque debit_card credit_card online customer_card sepa transfer internal change "
    "foreign_change voucher receivable down_payment tip grant " + "cash_transfer " * 6,
    "AT": "cash cash foreign_cash cheque debit_card credit_card voucher online customer_card debit_card credit_card "
    "receivable sepa transfer cash_book cash_book down_payment internal change",
    "": "cash cash",
}
_TAXES: Final = ("unknown", "normal", "discounted-1", "special-1", "special-2", "not taxable", "zero", "unknown")
_NOT_TAXED: Final = frozenset({0x49, 0x59, 0x60, 0x68, *range(0x90, 0xA3)})
"""Germany's cases without tax whose lowest bits do not say so."""
_GERMAN_LINES: Final[tuple[tuple[int, LineType], ...]] = (
    (0x1F, "item"),
    (0x2F, "deposit"),
    (0x37, "discount"),
    (0x3F, "fee"),
    (0x4F, "other"),
    (0x5F, "tip"),
    (0x67, "gift_card"),
    (0x6F, "coupon"),
    (0x9F, "other"),
)
"""The highest case of each range, and what the range is."""


def receipt(case: Case) -> Meaning | None:
    """What a receipt of this case is; None for one that its country's table does not have."""
    return _RECEIPTS.get(case.country, _EVERYWHERE).get(case.base)


def payment(case: Case) -> str:
    """The tender's type of a pay item's case; `other` for one that is not in the table."""
    names = _PAYMENTS.get(case.country, _PAYMENTS[""]).split()
    return names[case.base] if case.base < len(names) else "other"


def line(case: Case) -> LineType:
    """What a charge item of this case is."""
    if case.country != "DE":
        return "item"
    return next((kind for last, kind in _GERMAN_LINES if case.base <= last), "item")


def tax(case: Case) -> str:
    """The name of a charge item's tax, as Germany's table has it; `vat` in other countries."""
    if case.country != "DE":
        return "vat"
    return "not taxable" if case.base in _NOT_TAXED else _TAXES[case.base & 7]
