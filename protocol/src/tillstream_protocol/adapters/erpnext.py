"""ERPNext's POS Invoice, as Frappe sends the document: by a webhook, from its REST interface, or as a form's answer.

The document stands alone, or in `data`, `message` or `docs`; there may be a list of them. A Sales Invoice that was made
at the till (`is_pos`) has the same fields. Not yet tried on genuine data.

`docstatus` 0 is a draft (`suspend`), 1 submitted, 2 cancelled (`cancel`): it is the revision too, as a document goes
through them in this order and keeps its name. `posting_date` is the business date; it and `posting_time` are the
site's own time. The total is `rounded_total`, or `grand_total` where the site does not round. A line's
`discount_amount` is for one unit: that of the line is noted as assumed.

Source: frappe/erpnext (GPL-3), the doctypes POS Invoice, POS Invoice Item, Sales Taxes and Charges and Sales Invoice
Payment, and its documentation of the Point of Sale, read for facts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final, Literal

from msgspec.structs import replace

from ..errors import InvalidInput
from ..limits import MAX_LONG_TEXT, MAX_SHORT
from ..transaction import (
    Customer,
    Discount,
    Identifier,
    Kind,
    Line,
    Link,
    Moment,
    PointsSaid,
    Tax,
    Tender,
    Totals,
    Transaction,
)
from .base import Adapter, Notes, Reading, Setting, checked, decimal, exponent_of, load_json, moment
from .fields import Fields, Path, originals

_DOCTYPES: Final = ("POS Invoice", "Sales Invoice")
_WRAPPERS: Final = ("docs", "data", "message")
_DRAFT, _SUBMITTED, _CANCELLED = range(3)
_NAME: Final = 128
_GTIN: Final = (8, 12, 13, 14)
_SCHEMES: Final[tuple[tuple[Literal["account", "phone", "email"], str], ...]] = (
    ("account", "customer"),
    ("phone", "contact_mobile"),
    ("email", "contact_email"),
)
_PERSONAL: Final = (
    *("tax_id", "customer_address", "address_display", "contact_person", "contact_display"),
    *("shipping_address_name", "shipping_address"),
)


@dataclass(slots=True)
class _Invoice:
    """One document on its way."""

    fields: Fields
    exponent: int = 2
    notes: Notes = field(default_factory=Notes)
    tax_rows: list[dict[str, Any]] = field(default_factory=list)
    """What the rows of taxes say beside what a tax has fields for."""

    def minor(self, name: str) -> int | None:
        """An amount of the header, if it is there."""
        return self.fields.minor(name, self.notes, self.exponent)


def read(data: bytes, setting: Setting) -> list[Reading]:
    """The invoices of a payload, in its order. Raises `InvalidInput`."""
    payload = load_json(data, what="a POS Invoice")
    name = next((name for name in _WRAPPERS if isinstance(payload, dict) and name in payload), "")
    inside = payload[name] if name else payload
    if not isinstance(inside, list):
        return [Reading(_transaction(Fields(inside, name), setting), data)]
    path: Path = [name] if name else []
    return [
        Reading(_transaction(Fields(value, f"{name or 'invoices'}[{index}]"), setting), original)
        for index, (value, original) in enumerate(zip(inside, originals(data, path, len(inside)), strict=True))
    ]


def _transaction(fields: Fields, setting: Setting) -> Transaction:
    status = _require_invoice(fields)
    notes = Notes()
    currency = notes.currency(fields.text("currency"), setting, fields.place("currency"))
    invoice = _Invoice(fields, exponent_of(currency), notes)
    business_date, end = _when(invoice, setting)
    total, rounding = _total(invoice)
    return checked(
        Transaction(
            source=ADAPTER.source("erpnext"),
            kind=_kind(fields, status),
            pos_id=fields.required("name", _NAME),
            business_date=business_date,
            end=end,
            currency=currency,
            exponent=invoice.exponent,
            total=total,
            totals=_totals(invoice, rounding),
            revision=status,
            receipt=fields.text("name"),
            operator=fields.text("owner"),
            links=_links(fields),
            lines=tuple(_line(invoice, one, seq) for seq, one in enumerate(_rows(fields, "items"), 1)),
            discounts=_discounts(invoice),
            taxes=tuple(_tax(invoice, one) for one in _rows(fields, "taxes")),
            tenders=_tenders(invoice),
            customer=_customer(fields),
            note=fields.text("remarks", MAX_LONG_TEXT),
            ext=notes.ext(**fields.rest(tax_rows=invoice.tax_rows)),
        )
    )


def _require_invoice(fields: Fields) -> int:
    """The `docstatus` of what is an invoice of the till with a name of its own. Raises `InvalidInput`."""
    doctype = fields.text("doctype")
    if doctype not in (None, *_DOCTYPES) or (doctype == "Sales Invoice" and not _checked_box(fields, "is_pos")):
        raise InvalidInput("is no invoice of the till", field=fields.place("doctype"), limit=" or ".join(_DOCTYPES))
    if _checked_box(fields, "__islocal"):
        hint = "send the document as Frappe answers it"
        raise InvalidInput("the document has no name yet", field=fields.place("name"), hint=hint)
    status = fields.number("docstatus") or Decimal()
    if status not in (_DRAFT, _SUBMITTED, _CANCELLED):
        raise InvalidInput("is no document status", field=fields.place("docstatus"), limit="0, 1 or 2")
    return int(status)


def _checked_box(fields: Fields, name: str) -> bool:
    """A field of the type Check: 0 or 1, and now and then a truth or text."""
    return fields.look(name) in (1, True, "1")


def _kind(fields: Fields, status: int) -> Kind:
    if status == _SUBMITTED:
        return "return" if _checked_box(fields, "is_return") else "sale"
    return "suspend" if status == _DRAFT else "cancel"


def _when(invoice: _Invoice, setting: Setting) -> tuple[str, Moment]:
    """The business date as posted, and the moment. Frappe writes an hour below ten with one digit."""
    fields = invoice.fields
    date = fields.required("posting_date")
    time = fields.text("posting_time")
    if time is None:
        invoice.notes.assumed.append("end")
        time = "00:00:00"
    hour, colon, rest = time.partition(":")
    end = moment(f"{date} {hour:0>2}{colon}{rest}", setting, fields.place("posting_time"))
    return date, replace(end, text=f"{date} {time}")


def _total(invoice: _Invoice) -> tuple[int, int | None]:
    """What is to be paid, and what rounding added to get there."""
    rounded = invoice.minor("rounded_total")
    if rounded:
        return rounded, invoice.minor("rounding_adjustment")
    return invoice.fields.amount("grand_total", invoice.notes, invoice.exponent), None


def _totals(invoice: _Invoice, rounding: int | None) -> Totals:
    return Totals(
        gross=invoice.minor("total"),
        net=invoice.minor("net_total"),
        discount=invoice.minor("discount_amount"),
        tax=invoice.minor("total_taxes_and_charges"),
        rounding=rounding,
        paid=invoice.minor("paid_amount"),
        change=invoice.minor("change_amount"),
    )


def _links(fields: Fields) -> tuple[Link, ...]:
    """The sale that goods came back from, and the cancelled document that this one is put in the place of."""
    links = []
    if "return_against" in fields:
        links.append(Link("original", fields.required("return_against", _NAME)))
    if "amended_from" in fields:
        links.append(Link("previous_receipt", fields.required("amended_from", _NAME)))
    return tuple(links)


def _rows(fields: Fields, name: str) -> list[Fields]:
    return [Fields(value, f"{fields.place(name)}[{index}]") for index, value in enumerate(fields.items(name))]


def _line(invoice: _Invoice, fields: Fields, seq: int) -> Line:
    scan, group = fields.text("barcode"), fields.text("item_group")
    quantity = fields.plain("qty")
    if quantity is None:
        raise InvalidInput("is missing", field=fields.place("qty"))
    return Line(
        seq=seq,
        amount=fields.amount("amount", invoice.notes, invoice.exponent),
        quantity=quantity,
        sku=fields.text("item_code", MAX_SHORT),
        gtin=scan if scan and scan.isascii() and scan.isdigit() and len(scan) in _GTIN else None,
        scan=scan,
        name=fields.text("item_name"),
        hierarchy=(group,) if group else (),
        unit=fields.text("uom"),
        regular_price=fields.plain("price_list_rate"),
        price=fields.plain("rate"),
        discounts=_line_discounts(invoice, fields, Decimal(quantity)),
        ext=fields.rest() or None,
    )


def _line_discounts(invoice: _Invoice, fields: Fields, quantity: Decimal) -> tuple[Discount, ...]:
    """What a pricing rule or the cashier took off: `discount_amount` is for one unit, and stays in `ext` too."""
    off = fields.look("discount_amount")
    where = fields.place("discount_amount")
    amount = 0 if off is None else invoice.notes.minor(decimal(off, where) * quantity, invoice.exponent, where)
    if amount == 0:
        return ()
    invoice.notes.assumed.append("lines.discounts.amount")
    rate, rules = fields.plain("discount_percentage"), fields.text("pricing_rules")
    return (Discount(amount=amount, kind="line", promotion=rules, rate=rate),)


def _discounts(invoice: _Invoice) -> tuple[Discount, ...]:
    """The discount on the whole, as the totals have it."""
    amount = invoice.minor("discount_amount")
    if not amount:
        return ()
    fields = invoice.fields
    return (
        Discount(
            amount=amount,
            kind=fields.text("apply_discount_on") or "",
            coupon=fields.text("coupon_code"),
            rate=fields.plain("additional_discount_percentage"),
        ),
    )


def _tax(invoice: _Invoice, fields: Fields) -> Tax:
    """A row of taxes and charges: `tax_amount` is the one that adds up with the lines before the discount."""
    included = _checked_box(fields, "included_in_print_rate")
    tax = Tax(
        code=fields.required("account_head", MAX_SHORT),
        amount=fields.amount("tax_amount", invoice.notes, invoice.exponent),
        rate=fields.plain("rate"),
        included=included,
    )
    invoice.tax_rows.append(fields.rest())
    return tax


def _tenders(invoice: _Invoice) -> tuple[Tender, ...]:
    tenders = [_tender(invoice, one) for one in _rows(invoice.fields, "payments")]
    fields = invoice.fields
    if _checked_box(fields, "redeem_loyalty_points") and fields.look("conversion_rate") in (None, 1):
        where = fields.place("loyalty_amount")
        paid = invoice.notes.minor(fields.look("loyalty_amount") or 0, invoice.exponent, where)
        tenders.append(Tender("loyalty_points", paid, refund=paid < 0))
    return tuple(tenders)


def _tender(invoice: _Invoice, fields: Fields) -> Tender:
    amount = fields.amount("amount", invoice.notes, invoice.exponent)
    return Tender(
        type=fields.required("mode_of_payment", MAX_SHORT),
        amount=amount,
        reference=fields.text("reference_no"),
        refund=amount < 0,
        ext=fields.rest() or None,
    )


def _customer(fields: Fields) -> Customer | None:
    told = [(scheme, fields.text(name)) for scheme, name in _SCHEMES]
    personal = {name: fields.text(name, MAX_LONG_TEXT) for name in _PERSONAL}
    used = fields.plain("loyalty_points") if _checked_box(fields, "redeem_loyalty_points") else None
    customer = Customer(
        identifiers=tuple(Identifier(scheme, value) for scheme, value in told if value),
        name=fields.text("customer_name"),
        personal={name: value for name, value in personal.items() if value} or None,
        points=PointsSaid(used=used) if used else None,
    )
    return customer if customer != Customer() else None


ADAPTER: Final = Adapter("erpnext", "1", "application/json", read)
