"""The canonical transaction: one thing that a POS did, loss-free over every format we have seen.

Money owed is in integer minor units of `currency` with `exponent` decimals. Unit prices, quantities and rates are
decimal strings, because POS systems disagree on their precision. Header totals are verbatim, and a transaction that
does not add up is kept: see `reconcile`. Unknown fields are refused by name; what has no field goes into `ext`.

These objects hold no cycles, so garbage collection leaves them out (`gc=False`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date
from functools import lru_cache
from typing import Annotated, Literal, cast

from msgspec import Meta, Struct

from .errors import InvalidInput
from .limits import (
    MAX_AMOUNT,
    MAX_EXT_FIELDS,
    MAX_LINES,
    MAX_LONG_TEXT,
    MAX_MINOR,
    MAX_QUANTITY,
    MAX_SHORT,
    MAX_TENDERS,
    MAX_TEXT,
)

Code = Annotated[str, Meta(min_length=1, max_length=MAX_SHORT)]
Text = Annotated[str, Meta(max_length=MAX_TEXT)]
PosId = Annotated[str, Meta(min_length=1, max_length=128)]
LongText = Annotated[str, Meta(max_length=MAX_LONG_TEXT)]
Minor = Annotated[int, Meta(ge=-MAX_MINOR, le=MAX_MINOR)]
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
"""What a signed 64-bit column holds; msgpack itself would let twice as much through."""
Currency = Annotated[str, Meta(min_length=3, max_length=3)]
Decimal = Annotated[str, Meta(min_length=1, max_length=32)]
"""A number as decimal digits with an optional sign and fraction; `check` refuses anything else."""
Scope = Literal["day", "till", "system"]
InstantMs = Annotated[int, Meta(ge=-62_135_596_800_000, le=253_402_300_799_999)]
"""Milliseconds since 1970-01-01T00:00Z, years 1 to 9999."""
BusinessDate = Annotated[str, Meta(min_length=10, max_length=10)]

# `ext` is open, but not bottomless: the depth is bounded by the type itself.
Integer = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
_Scalar = str | Integer | float | bool | None
_Ext3 = _Scalar | list[_Scalar] | dict[str, _Scalar]
_Ext2 = _Scalar | list[_Ext3] | dict[str, _Ext3]
_Ext1 = _Scalar | list[_Ext2] | dict[str, _Ext2]
Ext = Annotated[dict[str, _Ext1], Meta(max_length=MAX_EXT_FIELDS)]
"""Whatever has no field: up to four levels of lists and maps."""

Kind = Literal[
    "sale",
    "return",
    "exchange",
    "void",
    "suspend",
    "resume",
    "cancel",
    "no_sale",
    "paid_in",
    "paid_out",
    "sign_on",
    "sign_off",
    "open",
    "close",
]

SELLING_KINDS: frozenset[str] = frozenset({"sale", "return", "exchange"})
"""The kinds that move goods against money, and so count in sales figures."""


class Source(Struct, frozen=True, gc=False, forbid_unknown_fields=True, omit_defaults=True):
    """The POS that spoke, and what translated it."""

    system: Code
    version: Text = ""
    adapter: Text = "canonical"
    adapter_version: Text = "1"


class Moment(Struct, frozen=True, gc=False, forbid_unknown_fields=True, omit_defaults=True):
    """An instant, the local offset it was read in, and where that offset came from."""

    at: InstantMs
    offset_minutes: Annotated[int, Meta(ge=-1080, le=1080)] = 0
    offset_from: Literal["explicit", "store", "assumed"] = "assumed"
    text: Text = ""
    """The time as the POS wrote it."""


class Link(Struct, frozen=True, gc=False, forbid_unknown_fields=True, omit_defaults=True):
    """Another transaction that this one refers to. What is left out is the same as here."""

    relation: Literal["original", "voids", "resumes", "previous_receipt"]
    pos_id: PosId
    business_date: BusinessDate | None = None
    store: Code | None = None
    till: Code | None = None
    receipt: Text | None = None


class Tax(Struct, frozen=True, gc=False, forbid_unknown_fields=True, omit_defaults=True):
    """One tax, on a line or on the whole. `rate` is in per cent."""

    code: Code
    amount: Minor
    rate: Decimal | None = None
    base: Minor | None = None
    included: bool = False


class Discount(Struct, frozen=True, gc=False, forbid_unknown_fields=True, omit_defaults=True):
    """Money taken off; `amount` is positive when the customer pays less."""

    amount: Minor
    kind: Text = ""
    promotion: Text | None = None
    coupon: Text | None = None
    name: Text | None = None
    rate: Decimal | None = None
    reason: Text | None = None


class Line(Struct, frozen=True, gc=False, forbid_unknown_fields=True, omit_defaults=True):
    """One line. `amount` is the extended amount after line discounts, as the POS counts it into its total."""

    seq: Annotated[int, Meta(ge=0, le=1_000_000)]
    amount: Minor
    quantity: Decimal = "1"
    type: Literal["item", "gift_card", "deposit", "fee", "tip", "rounding", "coupon", "discount", "text", "other"] = (
        "item"
    )
    parent: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    sku: Code | None = None
    gtin: Code | None = None
    scan: Text | None = None
    name: Text | None = None
    hierarchy: Annotated[tuple[Text, ...], Meta(max_length=8)] = ()
    """From the broadest group to the narrowest."""
    unit: Text | None = None
    regular_price: Decimal | None = None
    price: Decimal | None = None
    void: bool = False
    reason: Text | None = None
    discounts: Annotated[tuple[Discount, ...], Meta(max_length=100)] = ()
    taxes: Annotated[tuple[Tax, ...], Meta(max_length=50)] = ()
    ext: Ext | None = None


class Tender(Struct, frozen=True, gc=False, forbid_unknown_fields=True, omit_defaults=True):
    """One means of payment. `amount` is what it settled; `tendered` less `change` when cash was counted."""

    type: Code
    amount: Minor
    tendered: Minor | None = None
    change: Minor | None = None
    tip: Minor | None = None
    foreign_currency: Currency | None = None
    foreign_amount: Minor | None = None
    foreign_rate: Decimal | None = None
    gift_card: Text | None = None
    card: Text | None = None
    """First six and last four digits at the most; anything longer is cut before the first write."""
    reference: Text | None = None
    refund: bool = False
    ext: Ext | None = None


class Totals(Struct, frozen=True, gc=False, forbid_unknown_fields=True, omit_defaults=True):
    """The header's other totals, verbatim, each where the POS gives it."""

    gross: Minor | None = None
    net: Minor | None = None
    discount: Minor | None = None
    tax: Minor | None = None
    tip: Minor | None = None
    rounding: Minor | None = None
    paid: Minor | None = None
    change: Minor | None = None


class Identifier(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """One name of a customer, as given."""

    scheme: Literal["loyalty", "phone", "email", "card", "device", "cookie", "account", "other"]
    value: Annotated[str, Meta(min_length=1, max_length=MAX_TEXT)]


class ConsentGiven(Struct, frozen=True, gc=False, forbid_unknown_fields=True, omit_defaults=True):
    """A permission given with this sale. Level 0 is none, 4 is marketing."""

    purpose: Code
    level: Annotated[int, Meta(ge=0, le=4)]
    notice: Text = ""
    source: Literal["member", "cashier"] = "cashier"


class PointsSaid(Struct, frozen=True, gc=False, forbid_unknown_fields=True, omit_defaults=True):
    """What the POS itself says of points."""

    earned: Decimal | None = None
    used: Decimal | None = None
    balance: Decimal | None = None


class Customer(Struct, frozen=True, gc=False, forbid_unknown_fields=True, omit_defaults=True):
    """The person, as the POS knows them. All of it but consents and points goes to the vault."""

    identifiers: Annotated[tuple[Identifier, ...], Meta(max_length=16)] = ()
    name: Text | None = None
    personal: Annotated[dict[str, LongText], Meta(max_length=50)] | None = None
    """Address, birthday, tax number …: whatever else names a person."""
    consents: Annotated[tuple[ConsentGiven, ...], Meta(max_length=16)] = ()
    points: PointsSaid | None = None


class Fiscal(Struct, frozen=True, gc=False, forbid_unknown_fields=True, omit_defaults=True):
    """What the law of the place adds: signatures, counters, device numbers."""

    system: Code
    device: Text = ""
    counter: Text = ""
    signature: LongText = ""
    ext: Ext | None = None


class Transaction(Struct, frozen=True, gc=False, forbid_unknown_fields=True, omit_defaults=True, tag="transaction"):
    """One transaction. What its idempotency key is, `idempotency_key` says."""

    source: Source
    kind: Kind
    pos_id: PosId
    """The POS's own id, or its sequence number where it has none."""
    business_date: BusinessDate
    """`YYYY-MM-DD`; stored, never derived."""
    end: Moment
    begin: Moment | None = None
    currency: Currency = ""
    """ISO 4217; empty means the till's own."""
    exponent: Annotated[int, Meta(ge=0, le=4)] = 2
    total: Minor = 0
    """The header total, verbatim: positive when the customer pays."""
    totals: Totals | None = None
    revision: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    """Higher replaces lower; of equal ones, another content replaces by `changed_at`, or in the order of capture."""
    retailer: Annotated[str, Meta(max_length=MAX_SHORT)] = ""
    store: Annotated[str, Meta(max_length=MAX_SHORT)] = ""
    till: Annotated[str, Meta(max_length=MAX_SHORT)] = ""
    """Retailer, store and till: empty means where the agent is enrolled."""
    session: Text | None = None
    z_number: Text | None = None
    sequence: Text | None = None
    receipt: Text | None = None
    operator: Text | None = None
    """The cashier's number in the POS, not a name."""
    training: bool = False
    test: bool = False
    offline: bool = False
    links: Annotated[tuple[Link, ...], Meta(max_length=50)] = ()
    lines: Annotated[tuple[Line, ...], Meta(max_length=MAX_LINES)] = ()
    discounts: Annotated[tuple[Discount, ...], Meta(max_length=100)] = ()
    taxes: Annotated[tuple[Tax, ...], Meta(max_length=50)] = ()
    tenders: Annotated[tuple[Tender, ...], Meta(max_length=MAX_TENDERS)] = ()
    customer: Customer | None = None
    reason: Text | None = None
    note: LongText | None = None
    fiscal: Fiscal | None = None
    ext: Ext | None = None
    scope: Scope = "day"
    """Within what the POS gives `pos_id` once: a business day of a till, a till for ever, or the whole system for ever.
    What may be edited afterwards, a date or a place, is no part of a key of the latter two."""
    changed_at: InstantMs | None = None
    """When the POS itself says that it last changed this, in milliseconds since 1970. Of equal revisions the later
    holds; of those changed at the same time, the one that was captured last for the first time."""


IdempotencyKey = tuple[str, str, str, str, str]

_DECIMAL = r"[+-]?[0-9]{1,18}(?:\.[0-9]{1,12})?"
_DECIMALS = re.compile(rf"{_DECIMAL}(?:\x00{_DECIMAL})*")
_ONE_DECIMAL = re.compile(_DECIMAL)
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_SMALL_QUANTITY = 5
"""Characters of a quantity that even `MAX_LINES` of do not come to `MAX_QUANTITY`."""
_CURRENCY = re.compile(r"[A-Z]{3}")
_FINE: set[str | None] = {None}
"""Decimals that were looked at before."""
_MOST_REMEMBERED = 4_096


def idempotency_key(transaction: Transaction) -> IdempotencyKey:
    """What makes two deliveries the same sale; a change of content under one key is a revision."""
    return key_of(transaction, transaction.store, transaction.till, transaction.business_date, transaction.pos_id)


def key_of(t: Transaction, store: str, till: str, business_date: str, pos_id: str) -> IdempotencyKey:
    """The idempotency key that another transaction of the same system and scope has; empty is what does not matter."""
    if t.scope == "system":
        return (t.source.system, "", "", "", pos_id)
    return (t.source.system, store, till, business_date if t.scope == "day" else "", pos_id)


class ImpossibleAmount(InvalidInput):
    """A quantity or an amount that no basket holds."""

    code = "impossible_amount"


def check(transaction: Transaction) -> None:
    """Refuse what the types let through: malformed decimals, dates and currencies.

    Raises `InvalidInput` naming the field, or `ImpossibleAmount`.
    """
    _check_numbers(transaction)
    _require_date(transaction.business_date, "business_date")
    if not _is_currency(transaction.currency):
        raise InvalidInput(
            f"{transaction.currency!r} is not a currency", field="currency", limit="three letters A to Z"
        )
    for index, link in enumerate(transaction.links):
        if link.business_date is not None:
            _require_date(link.business_date, f"links[{index}].business_date")


def _check_numbers(t: Transaction) -> None:
    """Refuse what is no decimal, and what no basket holds: it could drive a sum beyond 64 bits, and so stop every later
    sale. All in one walk, since a till's caches are cold when a sale comes.
    """
    fine, most, small = _FINE, abs(t.total), True
    doubtful: list[str | None] = [value for _, value in _header_decimals(t)]
    for line in t.lines:
        quantity = line.quantity
        most += abs(line.amount)
        if quantity not in fine:
            doubtful.append(quantity)
        if len(quantity) > _SMALL_QUANTITY:
            small = False
        if line.price not in fine:
            doubtful.append(line.price)
        if line.regular_price not in fine:
            doubtful.append(line.regular_price)
        if line.discounts:
            doubtful += [discount.rate for discount in line.discounts if discount.rate not in fine]
        if line.taxes:
            doubtful += [tax.rate for tax in line.taxes if tax.rate not in fine]
    if doubtful and not _are_decimals(cast("list[str]", doubtful)):
        _refuse_decimal(t)
    if most > MAX_AMOUNT or not small:
        _refuse_impossible(t)


def _are_decimals(texts: list[str]) -> bool:
    """Whether all of these are decimals. They are remembered, since prices and quantities come again and again."""
    joined = "\x00".join(texts)
    if joined.count("\x00") >= len(texts) or _DECIMALS.fullmatch(joined) is None:
        return False
    if len(_FINE) + len(texts) <= _MOST_REMEMBERED:
        _FINE.update(texts)
    return True


def _refuse_impossible(t: Transaction) -> None:
    """Add up exactly, and say where it becomes too much, if it does."""
    amount, units = abs(t.total), 0
    if amount > MAX_AMOUNT:
        raise ImpossibleAmount("the amount is impossible", field="total", limit=f"{MAX_AMOUNT} minor units")
    for index, line in enumerate(t.lines):
        amount += abs(line.amount)
        if amount > MAX_AMOUNT:
            limit = f"{MAX_AMOUNT} minor units, total and lines together"
            raise ImpossibleAmount("the amount is impossible", field=f"lines[{index}].amount", limit=limit)
        if len(line.quantity) > _SMALL_QUANTITY:
            units += int(line.quantity.lstrip("+-").partition(".")[0]) + 1
            if units > MAX_QUANTITY:
                limit = f"{MAX_QUANTITY} in all lines together"
                raise ImpossibleAmount("the quantity is impossible", field=f"lines[{index}].quantity", limit=limit)


def reconcile(transaction: Transaction) -> bool | None:
    """Whether lines, order discounts, taxes on top and rounding add up to the header total.

    None where there is nothing to add up. Never a reason to refuse: header totals are kept verbatim.
    """
    t = transaction
    if t.kind not in SELLING_KINDS or not t.lines:
        return None
    total = line_taxes = 0
    for line in t.lines:
        if not line.void:
            total += line.amount
            if line.taxes:
                line_taxes += sum([tax.amount for tax in line.taxes if not tax.included])
    total -= sum([discount.amount for discount in t.discounts])
    total += line_taxes or sum([tax.amount for tax in t.taxes if not tax.included])
    extra = t.totals
    if extra is not None:
        total += (extra.rounding or 0) + (extra.tip or 0)
    return total == t.total


def _header_decimals(t: Transaction) -> Iterator[tuple[str, str]]:
    for i, discount in enumerate(t.discounts):
        if discount.rate is not None:
            yield f"discounts[{i}].rate", discount.rate
    for i, tax in enumerate(t.taxes):
        if tax.rate is not None:
            yield f"taxes[{i}].rate", tax.rate
    for i, tender in enumerate(t.tenders):
        if tender.foreign_rate is not None:
            yield f"tenders[{i}].foreign_rate", tender.foreign_rate
    points = t.customer.points if t.customer is not None else None
    if points is not None:
        for name in ("earned", "used", "balance"):
            value: str | None = getattr(points, name)
            if value is not None:
                yield f"customer.points.{name}", value


def _named_decimals(t: Transaction) -> Iterator[tuple[str, str]]:
    for i, line in enumerate(t.lines):
        for name in ("quantity", "price", "regular_price"):
            value: str | None = getattr(line, name)
            if value is not None:
                yield f"lines[{i}].{name}", value
        for j, discount in enumerate(line.discounts):
            if discount.rate is not None:
                yield f"lines[{i}].discounts[{j}].rate", discount.rate
        for j, tax in enumerate(line.taxes):
            if tax.rate is not None:
                yield f"lines[{i}].taxes[{j}].rate", tax.rate
    yield from _header_decimals(t)


def _require_date(text: str, field: str) -> None:
    if not _is_date(text):
        raise InvalidInput(f"{text!r} is not a date", field=field, limit="YYYY-MM-DD")


@lru_cache(maxsize=256)
def _is_currency(text: str) -> bool:
    return _CURRENCY.fullmatch(text) is not None


@lru_cache(maxsize=1_024)
def _is_date(text: str) -> bool:
    try:
        return _DATE.fullmatch(text) is not None and bool(date.fromisoformat(text))
    except ValueError:
        return False


def _refuse_decimal(t: Transaction) -> None:
    for field, value in _named_decimals(t):
        if _ONE_DECIMAL.fullmatch(value) is None:
            limit = "digits with an optional sign and fraction, as text"
            raise InvalidInput(f"{value!r} is not a decimal number", field=field, limit=limit)
