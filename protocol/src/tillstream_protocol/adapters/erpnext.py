"""ERPNext's POS Invoice, as Frappe sends the document: by a webhook, from its REST interface, or as a form's answer.

The document stands alone, or in `data`, `message` or `docs`; there may be a list of them. A Sales Invoice that was made
at the till (`is_pos`) has the same fields. Not yet tried on genuine data.

`docstatus` 0 is a draft (`suspend`), 1 submitted, 2 cancelled (`cancel`): it is the revision too, as a document goes
through them in this order and keeps its name. `posting_date` is the business date; it and `posting_time` are the
site's own time. The total is `rounded_total`, or `grand_total` where the site does not round. A line's
`discount_amount` is for one unit: that of the line is noted as assumed. Payments are what was handed over: the change
comes off the cash.

Source: frappe/erpnext (GPL-3), the doctypes POS Invoice, POS Invoice Item, Sales Taxes and Charges and Sales Invoice
Payment, and its documentation of the Point of Sale, read for facts.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Final

from msgspec.structs import replace

from ..errors import InvalidInput
from ..limits import MAX_LINES, MAX_LONG_TEXT, MAX_SHORT, MAX_TENDERS
from ..transaction import (
    Customer,
    Discount,
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
from .base import Adapter, Reading, Setting, checked, exponent_of, moment, plain
from .parts import Part, documents, ext_of, gtin_of, identifiers, less_change

_DOCTYPES: Final = ("POS Invoice", "Sales Invoice")
_WRAPPERS: Final = ("docs", "data", "message")
_DRAFT, _SUBMITTED, _CANCELLED = range(3)
_MOST_TAXES: Final = 50
_PERSONAL: Final = (
    *("tax_id", "customer_address", "address_display", "contact_person", "contact_display"),
    *("shipping_address_name", "shipping_address"),
)


def read(data: bytes, setting: Setting) -> list[Reading]:
    """The invoices of a payload, in its order. Raises `InvalidInput`."""
    found = documents(data, *_WRAPPERS, what="a POS Invoice")
    return [Reading(_transaction(part, setting), original) for part, original in found]


def _transaction(part: Part, setting: Setting) -> Transaction:
    status = _require_invoice(part)
    currency = part.notes.currency(part.text("currency"), setting, part.at("currency"))
    part.exponent = exponent_of(currency)
    business_date, end = _when(part, setting)
    total, rounding = _total(part)
    rows = part.parts("taxes", _MOST_TAXES, kept=False)
    taxes = tuple(map(_tax, rows))
    return checked(
        Transaction(
            source=ADAPTER.source("erpnext"),
            kind=_kind(part, status),
            pos_id=part.need("name"),
            business_date=business_date,
            end=end,
            currency=currency,
            exponent=part.exponent,
            total=total,
            totals=_totals(part, rounding),
            revision=status,
            receipt=part.text("name"),
            operator=part.text("owner"),
            links=_links(part),
            lines=tuple(_line(one, seq) for seq, one in enumerate(part.parts("items", MAX_LINES, kept=False), 1)),
            discounts=_discounts(part),
            taxes=taxes,
            tenders=_tenders(part),
            customer=_customer(part),
            note=part.text("remarks", MAX_LONG_TEXT),
            ext=ext_of(part.rest({"tax_rows": [row.rest() for row in rows]}), part.notes),
        )
    )


def _require_invoice(part: Part) -> int:
    """The `docstatus` of what is an invoice of the till with a name of its own. Raises `InvalidInput`."""
    doctype = part.text("doctype")
    if doctype not in (None, *_DOCTYPES) or (doctype == "Sales Invoice" and not _checked_box(part, "is_pos")):
        raise InvalidInput("is no invoice of the till", field=part.at("doctype"), limit=" or ".join(_DOCTYPES))
    if _checked_box(part, "__islocal"):
        hint = "send the document as Frappe answers it"
        raise InvalidInput("the document has no name yet", field=part.at("name"), hint=hint)
    status = part.number("docstatus") or Decimal()
    if status not in (_DRAFT, _SUBMITTED, _CANCELLED):
        raise InvalidInput("is no document status", field=part.at("docstatus"), limit="0, 1 or 2")
    return int(status)


def _checked_box(part: Part, name: str) -> bool:
    """A field of the type Check: 0 or 1, and now and then a truth or text."""
    return part.look(name) in (1, True, "1")


def _kind(part: Part, status: int) -> Kind:
    if status == _SUBMITTED:
        return "return" if _checked_box(part, "is_return") else "sale"
    return "suspend" if status == _DRAFT else "cancel"


def _when(part: Part, setting: Setting) -> tuple[str, Moment]:
    """The business date as posted, and the moment. Frappe writes an hour below ten with one digit."""
    date = part.need("posting_date")
    time = part.text("posting_time")
    if time is None:
        part.notes.assumed.append("end")
        time = "00:00:00"
    hour, colon, rest = time.partition(":")
    end = moment(f"{date} {hour:0>2}{colon}{rest}", setting, part.at("posting_time"))
    return date, replace(end, text=f"{date} {time}")


def _total(part: Part) -> tuple[int, int | None]:
    """What is to be paid, and what rounding added to get there."""
    rounded = part.amount("rounded_total")
    if rounded:
        return rounded, part.amount("rounding_adjustment")
    return part.need_amount("grand_total"), None


def _totals(part: Part, rounding: int | None) -> Totals:
    return Totals(
        gross=part.amount("total"),
        net=part.amount("net_total"),
        discount=part.amount("discount_amount"),
        tax=part.amount("total_taxes_and_charges"),
        rounding=rounding,
        paid=part.amount("paid_amount"),
        change=part.amount("change_amount"),
    )


def _links(part: Part) -> tuple[Link, ...]:
    """The sale that goods came back from, and the cancelled document that this one is put in the place of."""
    links = []
    if part.look("return_against") is not None:
        links.append(Link("original", part.need("return_against")))
    if part.look("amended_from") is not None:
        links.append(Link("previous_receipt", part.need("amended_from")))
    return tuple(links)


def _line(part: Part, seq: int) -> Line:
    scan, group = part.text("barcode"), part.text("item_group")
    quantity = part.need_number("qty")
    return Line(
        seq=seq,
        amount=part.need_amount("amount"),
        quantity=plain(quantity),
        sku=part.code("item_code"),
        gtin=gtin_of(scan),
        scan=scan,
        name=part.text("item_name"),
        hierarchy=(group,) if group else (),
        unit=part.text("uom"),
        regular_price=part.plain("price_list_rate"),
        price=part.plain("rate"),
        discounts=_line_discounts(part, quantity),
        ext=ext_of(part.rest()),
    )


def _line_discounts(part: Part, quantity: Decimal) -> tuple[Discount, ...]:
    """What a pricing rule or the cashier took off: `discount_amount` is for one unit, and stays in `ext` too."""
    off = part.again().number("discount_amount")
    amount = 0 if off is None else part.minor(off * quantity, "discount_amount")
    if amount == 0:
        return ()
    part.notes.assumed.append("lines.discounts.amount")
    rate, rules = part.plain("discount_percentage"), part.text("pricing_rules")
    return (Discount(amount=amount, kind="line", promotion=rules, rate=rate),)


def _discounts(part: Part) -> tuple[Discount, ...]:
    """The discount on the whole, as the totals have it."""
    amount = part.amount("discount_amount")
    if not amount:
        return ()
    return (
        Discount(
            amount=amount,
            kind=part.text("apply_discount_on") or "",
            coupon=part.text("coupon_code"),
            rate=part.plain("additional_discount_percentage"),
        ),
    )


def _tax(row: Part) -> Tax:
    """A row of taxes and charges: `tax_amount` is the one that adds up with the lines before the discount."""
    return Tax(
        code=row.need("account_head", MAX_SHORT),
        amount=row.need_amount("tax_amount"),
        rate=row.plain("rate"),
        included=_checked_box(row, "included_in_print_rate"),
    )


def _tenders(part: Part) -> tuple[Tender, ...]:
    """How it was paid. The rows have what was handed over; the change is told once, in the header."""
    paid = [_tender(one) for one in part.parts("payments", MAX_TENDERS, kept=False)]
    tenders = list(less_change(paid, part.amount("change_amount") or 0, part.notes))
    if _checked_box(part, "redeem_loyalty_points") and part.look("conversion_rate") in (None, 1):
        points = part.again().amount("loyalty_amount") or 0
        tenders.append(Tender("loyalty_points", points, refund=points < 0))
    return tuple(tenders)


def _tender(part: Part) -> Tender:
    amount = part.need_amount("amount")
    return Tender(
        type=part.need("mode_of_payment", MAX_SHORT),
        amount=amount,
        reference=part.text("reference_no"),
        refund=amount < 0,
        ext=ext_of(part.rest()),
    )


def _customer(part: Part) -> Customer | None:
    named = identifiers(
        ("account", part.text("customer")),
        ("phone", part.text("contact_mobile")),
        ("email", part.text("contact_email")),
    )
    personal = {name: part.text(name, MAX_LONG_TEXT) for name in _PERSONAL}
    used = part.plain("loyalty_points") if _checked_box(part, "redeem_loyalty_points") else None
    customer = Customer(
        identifiers=named,
        name=part.text("customer_name"),
        personal={name: value for name, value in personal.items() if value} or None,
        points=PointsSaid(used=used) if used else None,
    )
    return customer if customer != Customer() else None


ADAPTER: Final = Adapter("erpnext", "1", "application/json", read)
