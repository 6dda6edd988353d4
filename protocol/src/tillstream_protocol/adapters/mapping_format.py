"""The format of a mapping: which column or path of a CSV or JSON export becomes which canonical field.

Everywhere that says "source", a text names a column (CSV) or a path of names and list indexes with dots (JSON, such as
`payment.0.kind`); a text that begins with `=` is a constant: `=cash`. `docs/reference/mapping.md` has it all with
an example.
"""

from __future__ import annotations

import re
from collections.abc import Mapping as Map
from datetime import datetime
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from ..codec import invalid
from ..errors import InvalidInput
from ..transaction import Code, Currency, Kind, Text

Source = Annotated[str, Meta(min_length=1, max_length=200)]
Scheme = Literal["loyalty", "phone", "email", "card", "device", "cookie", "account", "other"]
LineType = Literal["item", "gift_card", "deposit", "fee", "tip", "rounding", "coupon", "discount", "text", "other"]
_Few = Meta(max_length=50)
NAMED_TIMES: Final = ("iso", "unix", "unix_ms")


class TaxFields(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One tax of a line or of the whole; absent where the amount is empty."""

    code: Source
    amount: Source
    rate: Source | None = None
    base: Source | None = None
    included: bool = False


class DiscountFields(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One discount of a line or of the whole; absent where the amount is empty or zero."""

    amount: Source
    kind: Source | None = None
    promotion: Source | None = None
    coupon: Source | None = None
    name: Source | None = None
    reason: Source | None = None


class TenderFields(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One means of payment; absent where the amount is empty or zero."""

    type: Source
    amount: Source
    tendered: Source | None = None
    change: Source | None = None
    tip: Source | None = None
    card: Source | None = None
    gift_card: Source | None = None
    reference: Source | None = None


class LineFields(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One line. Without `seq` lines are counted."""

    amount: Source
    seq: Source | None = None
    parent: Source | None = None
    quantity: Source | None = None
    type: Source | None = None
    sku: Source | None = None
    gtin: Source | None = None
    scan: Source | None = None
    name: Source | None = None
    hierarchy: Annotated[tuple[Source, ...], Meta(max_length=8)] = ()
    unit: Source | None = None
    regular_price: Source | None = None
    price: Source | None = None
    void: Source | None = None
    reason: Source | None = None
    discounts: Annotated[tuple[DiscountFields, ...], _Few] = ()
    taxes: Annotated[tuple[TaxFields, ...], _Few] = ()


class SaleFields(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is said once a sale. `end` and `begin` may be several sources, joined by a space: date and time."""

    pos_id: Source
    total: Source
    end: Annotated[tuple[Source, ...], Meta(min_length=1, max_length=3)]
    begin: Annotated[tuple[Source, ...], Meta(max_length=3)] = ()
    business_date: Source | None = None
    kind: Source | None = None
    currency: Source | None = None
    gross: Source | None = None
    net: Source | None = None
    discount: Source | None = None
    tax: Source | None = None
    tip: Source | None = None
    rounding: Source | None = None
    paid: Source | None = None
    change: Source | None = None
    revision: Source | None = None
    store: Source | None = None
    till: Source | None = None
    session: Source | None = None
    z_number: Source | None = None
    sequence: Source | None = None
    receipt: Source | None = None
    operator: Source | None = None
    training: Source | None = None
    test: Source | None = None
    offline: Source | None = None
    original: Source | None = None
    """`pos_id` of the sale that a return refers to."""
    voids: Source | None = None
    """`pos_id` of the transaction that this one takes back."""
    customer_name: Source | None = None
    reason: Source | None = None
    note: Source | None = None


class Mapping(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One mapping."""

    format: Literal["csv", "json"]
    sale: SaleFields
    line: LineFields | None = None
    tenders: Annotated[tuple[TenderFields, ...], _Few] = ()
    discounts: Annotated[tuple[DiscountFields, ...], _Few] = ()
    taxes: Annotated[tuple[TaxFields, ...], _Few] = ()
    identifiers: dict[Scheme, Source] = {}
    personal: Annotated[dict[str, Source], Meta(max_length=50)] = {}
    system: Code = "mapping"
    """`source.system`: the POS that wrote it."""
    version: Text = ""
    rows: Literal["lines", "sales"] = "lines"
    """CSV: whether a row is a line, and rows of one sale belong together, or a whole sale."""
    separator: Literal[",", ";", "\t", "|"] = ","
    encoding: Literal["utf-8", "cp1252", "latin-1", "cp850", "cp437"] = "utf-8"
    sales: str = ""
    """JSON: the path to the list of sales; empty where the payload is the list, or one sale."""
    lines: str = ""
    """JSON: the path from a sale to its lines; required if there are any."""
    decimal: Literal[".", ","] = "."
    grouping: Literal["", ".", ",", " ", "'"] = ""
    """What stands between thousands."""
    minor: bool = False
    """Whether amounts are in minor units already."""
    date: str = "iso"
    """Of `business_date`: `iso`, or as `datetime.strptime` has it: `%d.%m.%Y`."""
    time: str = "iso"
    """Of `end` and `begin`: `iso`, `unix`, `unix_ms`, or as `datetime.strptime` has it."""
    currency: Currency | None = None
    kinds: dict[str, Kind] = {}
    """What the values of `sale.kind` mean; a value that is not here is refused. Without `sale.kind` all are sales."""
    types: dict[str, LineType] = {}
    """What the values of `line.type` mean."""
    truths: tuple[str, ...] = ("1", "true", "yes", "y")
    """The values that mean yes, whatever their case; all others mean no."""


def mapping_of(options: Map[str, Any]) -> Mapping:
    """The mapping in an adapter's options. Raises `InvalidInput` that names the mapping's field."""
    given = options.get("mapping")
    if isinstance(given, Mapping):
        given = msgspec.to_builtins(given)
    if given is None:
        raise InvalidInput("no mapping is set", field="mapping", hint="see docs/reference/mapping.md")
    try:
        msgspec.json.encode(given)  # what cannot be written would fail late, inside a transaction
        mapping = msgspec.convert(given, Mapping)
    except (ValueError, TypeError, RecursionError) as error:
        if not isinstance(error, msgspec.ValidationError):
            raise InvalidInput("this cannot be written as JSON", field="mapping") from error
        found = invalid(error)
        place = "mapping" if found.field in (None, "body") else f"mapping.{found.field}"
        raise InvalidInput(found.message, field=place, limit=found.limit) from error
    _require_sense(mapping)
    return mapping


def _require_sense(mapping: Mapping) -> None:
    """Refuse what the types let through."""
    for name, form in (("date", mapping.date), ("time", mapping.time)):
        if form not in NAMED_TIMES:
            _require_form(form, f"mapping.{name}")
    if mapping.date in ("unix", "unix_ms"):
        raise InvalidInput("a date is no number of seconds", field="mapping.date")
    if mapping.grouping == mapping.decimal:
        raise InvalidInput("is the decimal mark, too", field="mapping.grouping")
    if mapping.sale.kind is not None and not mapping.kinds:
        raise InvalidInput("says what the values of sale.kind mean", field="mapping.kinds")
    if mapping.line is not None and mapping.line.type is not None and not mapping.types:
        raise InvalidInput("says what the values of line.type mean", field="mapping.types")
    csv = mapping.format == "csv"
    if csv and mapping.rows == "lines" and mapping.line is None:
        raise InvalidInput("is missing: each row is a line", field="mapping.line")
    if not csv and (mapping.line is None) is not (mapping.lines == ""):
        raise InvalidInput("goes together with `line`", field="mapping.lines")


def _require_form(form: str, where: str) -> None:
    day = datetime(2001, 2, 3, 4, 5, 6)  # noqa: DTZ001 -- only the form is tried
    try:
        datetime.strptime(day.strftime(form), form)  # noqa: DTZ007
    except (ValueError, re.error) as error:
        raise InvalidInput("is no form of a time", field=where, limit="iso, or as strptime has it") from error
