"""Shopify: an order of the REST Admin API, as the webhooks orders/create, orders/updated and orders/paid send it.

Documentation: Shopify's REST Admin API reference, resources Order, Refund and Transaction. The order may stand bare (as
in webhooks), under `order`, or in a list under `orders`. Shapes from 2014 to 2025 are read: without and with
`discount_applications`, `*_set` amounts, taxes by line.

An order is a sale, with the header totals it was made with (`total_price`, not `current_total_price`). Each refund in
it becomes a return of its own, which links to the order; its total is what was paid back. A cancelled order is
`cancel`, unless money had been taken and was given back: then sale and returns stand, and cancel each other out.

The same order comes again whenever it changes, in place and date, too; its key is its id alone, which Shopify gives to
no other shop's. Shopify counts no versions: `changed_at`, the time of the order's last change, ranks them. Amounts are
in the shop's currency. Lines have no amount of their own, so it is price times quantity less the line's discounts
(noted as assumed, as are the business date and what a tender settled). Change that was given is a negative tender of
its own, where more was paid than the order comes to.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from ..errors import InvalidInput
from ..limits import MAX_LINES, MAX_LONG_TEXT, MAX_SHORT, MAX_TENDERS
from ..transaction import ConsentGiven, Customer, Discount, Line, Link, Moment, Tax, Tender, Totals, Transaction
from .base import Adapter, Notes, Reading, Setting, checked, exponent_of, plain
from .parts import Part, documents, ext_of, identifiers, personal, pieces, within
from .times import local_date

_MOST_TAXES: Final = 50
_MOST_DISCOUNTS: Final = 100
_MOST_REFUNDS: Final = 1_000
_MOST_ID: Final = 50
"""Characters: the ids of an order and of a refund make one `pos_id`."""
_PAID: Final = frozenset({"authorized", "paid", "partially_refunded", "refunded"})
"""The states in which the order's only gateway has the whole total."""


def read(data: bytes, setting: Setting) -> list[Reading]:
    """The orders of a payload, each with its refunds after it. Raises `InvalidInput`."""
    found = []
    for part, original in documents(data, "orders", "order", what="an order of Shopify"):
        part.fields = _without_repeats(part.fields)
        sale, *refunds = _transactions(part, setting)
        listed = None if part.look("refunds") is None else frozenset(one.pos_id for one in refunds)
        found += [Reading(sale, original, returns=listed), *map(Reading, refunds, pieces(part, original, "refunds"))]
    return found


ADAPTER: Final = Adapter(
    "shopify", "2", "application/json", read, tried="an older order from the tests of Shopify's own Python client"
)


@dataclass(frozen=True, slots=True)
class _Order:
    """What an order says that its lines and refunds refer to."""

    id: str
    currency: str
    exponent: int
    business_date: str
    changed_at: int
    taxes_included: bool
    applications: list[Part]
    customer: Customer | None
    store: str
    till: str
    receipt: str | None


def _without_repeats(value: Any) -> Any:
    """The payload without the sets that only repeat an amount: `price_set` beside the same `price`."""
    if isinstance(value, list):
        return [_without_repeats(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {
        name: _without_repeats(one)
        for name, one in value.items()
        if not (name.endswith("_set") and _repeats(one, value.get(name.removesuffix("_set"))))
    }


def _repeats(amounts: object, amount: object) -> bool:
    if not isinstance(amounts, dict) or amounts.keys() != {"shop_money", "presentment_money"}:
        return False
    money = amounts["shop_money"]
    return money == amounts["presentment_money"] and isinstance(money, dict) and money.get("amount") == amount


def _transactions(part: Part, setting: Setting) -> list[Transaction]:
    order, begin = _order(part, setting)
    refunds = part.parts("refunds", _MOST_REFUNDS, kept=False)
    cancelled = bool(part.fields.get("cancelled_at")) and not any(map(_paid_back, refunds))
    sale = _sale(part, order, setting, begin, cancelled=cancelled)
    return [sale] if cancelled else [sale, *(_refund(one, order, setting) for one in refunds)]


def _order(part: Part, setting: Setting) -> tuple[_Order, Moment]:
    number = part.need("id", _MOST_ID)
    currency = part.notes.currency(part.text("currency"), setting, part.at("currency"))
    part.exponent = exponent_of(currency)
    begin = part.need_moment("created_at", setting)
    order = _Order(
        id=number,
        currency=currency,
        exponent=part.exponent,
        business_date=local_date(part.moment("processed_at", setting) or begin, part.notes),
        changed_at=(part.again().moment("updated_at", setting) or begin).at,
        taxes_included=part.flag("taxes_included"),
        applications=part.parts("discount_applications", MAX_LINES),
        customer=_customer(part),
        store=part.code("location_id") or "",
        till=part.code("device_id") or "",
        receipt=part.text("name"),
    )
    return order, begin


def _sale(part: Part, order: _Order, setting: Setting, begin: Moment, *, cancelled: bool) -> Transaction:
    total = part.need_amount("total_price")
    lines = _lines(part, order)
    part.notes.assumed += ["lines.amount"] if lines else []
    kept = {"refunds": part.fields.get("refunds")} if cancelled else {}
    return checked(
        Transaction(
            source=ADAPTER.source("shopify"),
            kind="cancel" if cancelled else "sale",
            pos_id=order.id,
            business_date=order.business_date,
            end=part.moment("processed_at", setting) or begin,
            begin=begin,
            currency=order.currency,
            exponent=order.exponent,
            total=total,
            totals=_totals(part, tipped=any(line.type == "tip" for line in lines)),
            store=order.store,
            till=order.till,
            sequence=part.text("order_number"),
            receipt=order.receipt,
            operator=part.text("user_id"),
            test=part.flag("test"),
            lines=lines,
            discounts=_codes(part),
            taxes=_taxes(part, order),
            tenders=_tenders(part, order.currency, total),
            customer=order.customer,
            reason=part.text("cancel_reason"),
            note=part.text("note", MAX_LONG_TEXT),
            ext=ext_of(part.rest(kept), part.notes),
            scope="system",
            changed_at=order.changed_at,
        )
    )


def _totals(part: Part, *, tipped: bool) -> Totals:
    """A tip that is a line is not told again here: it would count twice."""
    return Totals(
        gross=part.amount("total_line_items_price"),
        discount=part.amount("total_discounts"),
        tax=part.amount("total_tax"),
        tip=None if tipped else part.amount("total_tip_received"),
    )


# lines


def _lines(part: Part, order: _Order) -> tuple[Line, ...]:
    items = part.parts("line_items", MAX_LINES, kept=False)
    shipping = part.parts("shipping_lines", MAX_LINES, kept=False)
    return (
        *(_item(one, order, seq) for seq, one in enumerate(items, 1)),
        *(_shipping(one, order, seq) for seq, one in enumerate(shipping, len(items) + 1)),
    )


def _item(part: Part, order: _Order, seq: int) -> Line:
    quantity, price = part.need_number("quantity"), part.need_number("price")
    discounts = _discounts(part, order)
    tip = any(part.fields.get(name) for name in ("tip", "tip_payment_gateway", "tip_payment_method"))
    return Line(
        seq,
        part.minor(price * quantity, "price") - sum(discount.amount for discount in discounts),
        plain(quantity),
        type="gift_card" if part.flag("gift_card") else "tip" if tip else "item",
        sku=part.code("sku"),
        name=part.text("name") or part.text("title"),
        regular_price=plain(price),
        price=None if discounts else plain(price),
        discounts=discounts,
        taxes=_taxes(part, order),
        ext=ext_of(part.rest()),
    )


def _shipping(part: Part, order: _Order, seq: int) -> Line:
    discounts = _discounts(part, order)
    return Line(
        seq,
        part.need_amount("price") - sum(discount.amount for discount in discounts),
        type="fee",
        name=part.text("title"),
        void=part.flag("is_removed"),
        discounts=discounts,
        taxes=_taxes(part, order),
        ext=ext_of(part.rest()),
    )


def _discounts(part: Part, order: _Order) -> tuple[Discount, ...]:
    """What the order's discounts take off a line; in shapes that do not tell, what the line says in one sum."""
    allocations = part.parts("discount_allocations", _MOST_DISCOUNTS)
    if allocations:
        return tuple(_allocated(one, order) for one in allocations)
    sum_of_all = part.amount("total_discount")
    return (Discount(sum_of_all),) if sum_of_all else ()


def _allocated(part: Part, order: _Order) -> Discount:
    amount = part.need_amount("amount")
    index = part.take("discount_application_index")
    if type(index) is not int or not 0 <= index < len(order.applications):
        if index is not None:
            raise InvalidInput("there is no such discount", field=part.at("discount_application_index"))
        return Discount(amount)
    said = order.applications[index].again()
    return Discount(
        amount,
        kind=said.text("type") or "",
        coupon=said.text("code"),
        name=said.text("title") or said.text("description"),
        rate=said.plain("value") if said.text("value_type") == "percentage" else None,
    )


def _codes(part: Part) -> tuple[Discount, ...]:
    """Codes as discounts of the whole, in shapes that do not allocate them to lines; otherwise they stay in `ext`."""
    if part.fields.get("discount_applications") is not None:
        return ()
    return tuple(
        Discount(one.need_amount("amount"), kind=one.text("type") or "", coupon=one.text("code"))
        for one in part.parts("discount_codes", _MOST_DISCOUNTS)
    )


def _taxes(part: Part, order: _Order) -> tuple[Tax, ...]:
    return tuple(_tax(one, order) for one in part.parts("tax_lines", _MOST_TAXES))


def _tax(part: Part, order: _Order) -> Tax:
    rate = part.number("rate")
    return Tax(
        part.text("title", MAX_SHORT) or "tax",
        part.need_amount("price"),
        None if rate is None else _per_cent(rate),
        included=order.taxes_included,
    )


def _per_cent(rate: Decimal) -> str:
    return plain((rate * 100).normalize())


# tenders and customer


def _tenders(part: Part, currency: str, total: int) -> tuple[Tender, ...]:
    """What the transactions say, where the payload has them; else the only gateway, for the whole total."""
    said = part.parts("transactions", MAX_TENDERS)
    if said:
        paid = [_tender(one, currency) for one in said if _settled(one, "sale", "capture")]
        over = sum(tender.amount for tender in paid) > total
        return (*paid, *(_tender(one, currency) for one in said if over and _settled(one, "change")))
    status, names = part.fields.get("financial_status"), part.fields.get("payment_gateway_names")
    gateways = names if isinstance(names, list) else [part.fields.get("gateway")]
    only = gateways[0] if len(gateways) == 1 else None
    if str(status) not in _PAID or not isinstance(only, str) or not 0 < len(only) <= MAX_SHORT:
        return ()
    part.notes.assumed.append("tenders.amount")
    card = part.part("payment_details").text("credit_card_number")
    return (Tender(only, total, card=card, ext={"financial_status": str(status)}),)


def _settled(part: Part, *kinds: str) -> bool:
    return part.fields.get("kind") in kinds and part.fields.get("status") == "success"


def _tender(part: Part, currency: str, sign: int = 1) -> Tender:
    """One transaction; kind, status and what else it says stay in the order's `ext`.

    What was paid in another currency settles an amount that the payload does not tell.
    """
    amount = part.need_amount("amount")
    change = part.fields.get("kind") == "change"
    sign = -1 if change else sign
    paid_in = part.text("currency") or currency
    foreign = paid_in != currency
    if foreign:
        amount = within(
            part.notes.minor(part.take("amount"), exponent_of(paid_in), part.at("amount")), part.at("amount")
        )
        if re.fullmatch("[A-Z]{3}", paid_in) is None:
            raise InvalidInput("is not a currency", field=part.at("currency"), limit="three letters A to Z")
    return Tender(
        part.text("gateway", MAX_SHORT) or "other",
        0 if foreign else sign * amount,
        foreign_currency=paid_in if foreign else None,
        foreign_amount=sign * amount if foreign else None,
        reference=part.text("authorization") or part.text("id"),
        change=amount if change and not foreign else None,
        refund=sign < 0 and not change,
    )


def _customer(part: Part) -> Customer | None:
    known = part.part("customer")
    names = [known.text("first_name"), known.text("last_name")]
    named = identifiers(
        ("account", known.text("id")),
        ("email", part.text("email")),
        ("email", known.text("email")),
        ("phone", part.text("phone")),
        ("phone", known.text("phone")),
    )
    agreed = part.flag("buyer_accepts_marketing")
    customer = Customer(
        identifiers=named,
        name=" ".join(filter(None, names))[:256] or None,
        personal=personal(part.part("billing_address"), part.part("shipping_address")),
        consents=(ConsentGiven("marketing", 4, source="member"),) if agreed else (),
    )
    return None if customer == Customer() else customer


# refunds


def _paid_back(refund: Part) -> bool:
    """Whether money went back with a refund."""
    transactions = refund.again().parts("transactions", MAX_TENDERS)
    return any(_settled(one, "refund") for one in transactions)


def _refund(part: Part, order: _Order, setting: Setting) -> Transaction:
    part.notes, part.exponent = Notes(), order.exponent
    number = part.need("id", _MOST_ID)
    created = part.need_moment("created_at", setting)
    end = part.moment("processed_at", setting) or created
    lines = _returned(part, order)
    tenders = _given_back(part, order.currency)
    total = _paid_total(part, tenders, lines)
    return checked(
        Transaction(
            source=ADAPTER.source("shopify"),
            kind="return",
            pos_id=f"{order.id}/refunds/{number}",
            business_date=local_date(end, part.notes),
            end=end,
            begin=created,
            currency=order.currency,
            exponent=order.exponent,
            total=total,
            store=order.store,
            till=order.till,
            operator=part.text("user_id"),
            links=(Link("original", order.id, order.business_date, receipt=order.receipt),),
            lines=lines,
            tenders=tenders,
            customer=order.customer,
            note=part.text("note", MAX_LONG_TEXT),
            ext=ext_of(part.rest(), part.notes),
            scope="system",
            changed_at=order.changed_at,
        )
    )


def _given_back(part: Part, currency: str) -> tuple[Tender, ...]:
    found = part.parts("transactions", MAX_TENDERS)
    return tuple(_tender(one, currency, -1) for one in found if _settled(one, "refund"))


def _paid_total(part: Part, tenders: tuple[Tender, ...], lines: tuple[Line, ...]) -> int:
    """A refund has no total of its own: it is what its only transaction paid back. Another sum is noted as assumed."""
    if len(tenders) != 1 or tenders[0].foreign_currency:
        part.notes.assumed.append("total")
    if any(tender.foreign_currency for tender in tenders):
        taxes = [tax.amount for line in lines for tax in line.taxes if not tax.included]
        return sum(line.amount for line in lines) + sum(taxes)
    return sum(tender.amount for tender in tenders)


def _returned(part: Part, order: _Order) -> tuple[Line, ...]:
    """The goods that came back, and shipping or other differences, whose amounts are signed in the payload."""
    goods = part.parts("refund_line_items", MAX_LINES, kept=False)
    others = part.parts("order_adjustments", MAX_LINES, kept=False)
    return (
        *(_goods(one, order, seq) for seq, one in enumerate(goods, 1)),
        *(_adjustment(one, order, seq) for seq, one in enumerate(others, len(goods) + 1)),
    )


def _goods(part: Part, order: _Order, seq: int) -> Line:
    item = part.part("line_item")
    quantity = part.need_number("quantity")
    return Line(
        seq,
        -part.need_amount("subtotal"),
        plain(quantity.copy_negate() if quantity else quantity),
        type="gift_card" if item.flag("gift_card") else "item",
        sku=item.code("sku"),
        name=item.text("name") or item.text("title"),
        regular_price=item.plain("price"),
        taxes=_tax_back(part, "total_tax", order, item),
        ext=ext_of(part.rest()),
    )


def _tax_back(part: Part, name: str, order: _Order, item: Part | None = None) -> tuple[Tax, ...]:
    """A refund's line has one sum of taxes; it bears the tax's name where the line sold had just one."""
    amount = part.amount(name)
    if not amount:
        return ()
    known = item.again().parts("tax_lines", _MOST_TAXES) if item else []
    code = known[0].text("title", MAX_SHORT) if len(known) == 1 else None
    sign = 1 if name == "tax_amount" else -1
    return (Tax(code or "tax", sign * amount, included=order.taxes_included),)


def _adjustment(part: Part, order: _Order, seq: int) -> Line:
    shipping = part.fields.get("kind") == "shipping_refund"
    return Line(
        seq,
        part.need_amount("amount"),
        type="fee" if shipping else "other",
        name=part.text("reason"),
        taxes=_tax_back(part, "tax_amount", order),
        ext=ext_of(part.rest()),
    )
