"""WooCommerce: an order of the REST API, version 3, as its webhooks order.created, order.updated … send it.

Documentation: WooCommerce's REST API documentation, "Orders". The order may stand bare or in a list. The ping that
WooCommerce sends when a webhook is saved (`webhook_id=…`) gives no reading.

Kinds follow WooCommerce's own reports: `pending` and drafts are `suspend`, `cancelled`, `failed` and `trash` are
`cancel`, every other status, a plugin's own too, is a sale. An order that has refunds stays a sale, and each refund
becomes a return that links to it: the payload gives its id, total and reason, but neither lines nor time, so it bears
the order's date (noted as assumed).

The key is the order's id within the shop, so a source of webhooks (or a till) is for one shop. The date of an order can
be edited afterwards, and is no part of it. WooCommerce counts no versions: `changed_at`, the time of the order's last
change, ranks what is said of it and of its refunds. An order lists every refund that it has: one that it lists no more
was deleted.

Local times come beside GMT times without an offset: the offset is their difference. Line totals are after discounts
and without taxes, also where prices are shown with taxes; what a line's subtotal has more was taken off by coupons.
"""

from __future__ import annotations

import re
from typing import Final

from ..errors import InvalidInput
from ..limits import MAX_LINES, MAX_LONG_TEXT, MAX_SHORT
from ..transaction import Customer, Discount, Kind, Line, Link, Moment, Tax, Tender, Totals, Transaction
from .base import Adapter, Notes, Reading, Setting, checked, exponent_of
from .parts import Part, documents, ext_of, identifiers, personal, pieces
from .times import local_date, possible

_MOST_TAXES: Final = 50
_MOST_REFUNDS: Final = 1_000
_MOST_ID: Final = 50
_PING: Final = re.compile(rb"webhook_id=[0-9]{1,20}\s*")
_KINDS: Final[dict[str, Kind]] = {
    **dict.fromkeys(("pending", "draft", "auto-draft", "checkout-draft"), "suspend"),
    **dict.fromkeys(("cancelled", "failed", "trash"), "cancel"),
}


def read(data: bytes, setting: Setting) -> list[Reading]:
    """The orders of a payload, each with its refunds after it; none for a ping. Raises `InvalidInput`."""
    if _PING.fullmatch(data):
        return []
    found = []
    for part, original in documents(data, "orders", "order", what="an order of WooCommerce"):
        sale, *refunds = _transactions(part, setting)
        listed = None if part.look("refunds") is None else frozenset(one.pos_id for one in refunds)
        found += [Reading(sale, original, returns=listed), *map(Reading, refunds, pieces(part, original, "refunds"))]
    return found


ADAPTER: Final = Adapter(
    "woocommerce",
    "2",
    "application/json",
    read,
    tried="the order in WooCommerce's own REST API documentation",
)


def _transactions(part: Part, setting: Setting) -> list[Transaction]:
    refunds = part.parts("refunds", _MOST_REFUNDS, kept=False)
    sale = _sale(part, setting, refunded=bool(refunds))
    return [sale, *(_refund(one, sale) for one in refunds)]


def _sale(part: Part, setting: Setting, *, refunded: bool) -> Transaction:
    number = part.need("id", _MOST_ID)
    currency = part.notes.currency(part.text("currency"), setting, part.at("currency"))
    part.exponent = exponent_of(currency)
    made = _moment(part, "date_created", setting)
    if made is None:
        raise InvalidInput("is missing", field=part.at("date_created"))
    changed = _moment(part.again(), "date_modified", setting)
    rates = part.parts("tax_lines", _MOST_TAXES)
    total = part.need_amount("total")
    return checked(
        Transaction(
            source=ADAPTER.source("woocommerce", part.text("version") or ""),
            kind="sale" if refunded else _KINDS.get(str(part.fields.get("status")), "sale"),
            pos_id=number,
            business_date=local_date(made, part.notes),
            end=made,
            currency=currency,
            exponent=part.exponent,
            total=total,
            totals=Totals(discount=part.amount("discount_total"), tax=part.amount("total_tax")),
            receipt=part.text("number"),
            lines=_lines(part, {str(one.fields.get("rate_id")): one for one in rates}),
            taxes=tuple(tax for one in rates for tax in _header_taxes(one)),
            tenders=_tenders(part, total),
            customer=_customer(part),
            note=part.text("customer_note", MAX_LONG_TEXT),
            ext=ext_of(part.rest(), part.notes),
            scope="till",
            changed_at=(changed or made).at,
        )
    )


def _moment(part: Part, name: str, setting: Setting) -> Moment | None:
    """A local time whose offset is told by the GMT time beside it, or else by the setting's zone."""
    local, there = part.moment(name, setting), part.moment(f"{name}_gmt", setting, utc=True)
    if there is None:
        return local
    on_the_wall = local.at + local.offset_minutes * 60_000 if local else there.at
    text = local.text if local else there.text
    offset = round((on_the_wall - there.at) / 60_000)
    return possible(Moment(there.at, offset, "explicit", text), part.at(f"{name}_gmt"))


# lines


def _lines(part: Part, rates: dict[str, Part]) -> tuple[Line, ...]:
    coupons = part.parts("coupon_lines", MAX_LINES)
    coupon = coupons[0].again().text("code") if len(coupons) == 1 else None
    lines: list[Line] = []
    for one in part.parts("line_items", MAX_LINES, kept=False):
        lines.append(_item(one, rates, coupon, len(lines) + 1))
    for name, label in (("shipping_lines", "method_title"), ("fee_lines", "name")):
        for one in part.parts(name, MAX_LINES, kept=False):
            lines.append(_fee(one, rates, label, len(lines) + 1))
    return tuple(lines)


def _item(part: Part, rates: dict[str, Part], coupon: str | None, seq: int) -> Line:
    amount = part.need_amount("total")
    before = part.amount("subtotal")
    off = 0 if before is None else before - amount
    return Line(
        seq,
        amount,
        part.plain("quantity") or "1",
        sku=part.code("sku"),
        gtin=part.code("global_unique_id"),
        name=part.text("name"),
        price=part.plain("price"),
        discounts=(Discount(off, coupon=coupon),) if off else (),
        taxes=_taxes(part, rates),
        ext=ext_of(part.rest({"subtotal": part.fields.get("subtotal")} if off else None)),
    )


def _fee(part: Part, rates: dict[str, Part], label: str, seq: int) -> Line:
    return Line(
        seq,
        part.need_amount("total"),
        type="fee",
        name=part.text(label),
        taxes=_taxes(part, rates),
        ext=ext_of(part.rest()),
    )


def _taxes(part: Part, rates: dict[str, Part]) -> tuple[Tax, ...]:
    """A line's taxes name their rate by its id; the order's tax lines tell its code."""
    found = []
    for one in part.parts("taxes", _MOST_TAXES):
        amount = one.amount("total")
        if amount is not None:
            found.append(_tax(rates.get(str(one.fields.get("id"))) or one, amount))
    return tuple(found)


def _header_taxes(part: Part) -> list[Tax]:
    """The tax of the goods, and that of shipping beside it where there is one."""
    goods, shipping = part.amount("tax_total") or 0, part.amount("shipping_tax_total")
    return [_tax(part, amount) for amount in ((goods, shipping) if shipping else (goods,))]


def _tax(named: Part, amount: int) -> Tax:
    code = named.text("rate_code", MAX_SHORT) or named.text("label", MAX_SHORT)
    return Tax(code or "tax", amount, named.plain("rate_percent"))


# tenders, customer and refunds


def _tenders(part: Part, total: int) -> tuple[Tender, ...]:
    """The one way of payment, for the whole total, once it is paid."""
    method = part.fields.get("payment_method")
    if not (part.fields.get("date_paid") or part.fields.get("date_paid_gmt")):
        return ()
    if not isinstance(method, str) or not 0 < len(method) <= MAX_SHORT:
        return ()
    part.take("payment_method")
    part.notes.assumed.append("tenders.amount")
    title = part.text("payment_method_title")
    return (Tender(method, total, reference=part.text("transaction_id"), ext={"title": title} if title else None),)


def _customer(part: Part) -> Customer | None:
    billing, shipping = part.part("billing"), part.part("shipping")
    account = part.text("customer_id")
    names = [billing.again().text(name) for name in ("first_name", "last_name")]
    named = identifiers(
        ("account", None if account == "0" else account),
        ("email", billing.text("email")),
        ("phone", billing.text("phone")),
    )
    customer = Customer(
        identifiers=named, name=" ".join(filter(None, names))[:256] or None, personal=personal(billing, shipping)
    )
    return None if customer == Customer() else customer


def _refund(part: Part, sale: Transaction) -> Transaction:
    """A refund, of which the order tells id, total (negative) and reason."""
    part.notes, part.exponent = Notes(["business_date", "end"]), sale.exponent
    return checked(
        Transaction(
            source=sale.source,
            kind="return",
            pos_id=f"{sale.pos_id}/refunds/{part.need('id', _MOST_ID)}",
            business_date=sale.business_date,
            end=sale.end,
            currency=sale.currency,
            exponent=sale.exponent,
            total=part.need_amount("total"),
            links=(Link("original", sale.pos_id, sale.business_date, receipt=sale.receipt),),
            customer=sale.customer,
            reason=part.text("reason") or part.text("refund"),
            ext=ext_of(part.rest(), part.notes),
            scope=sale.scope,
            changed_at=sale.changed_at,
        )
    )
