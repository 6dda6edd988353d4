"""Square: an order of the Orders API, as CreateOrder, RetrieveOrder or SearchOrders answer it, or bare.

Documentation: Square's API reference, objects Order, OrderLineItem, OrderReturn and Tender (Square-Version 2020-01-22
and later). Money is in integer minor units with a currency; quantities are text; times are UTC.

Webhooks of Square carry ids only (`order.updated`) or the payment without its lines (`payment.updated`): they are a
hint to fetch the order, and give no reading; an event that holds the whole order does.

Kinds: a completed order is a sale, and so is an open one that is paid in full; any other open one or a draft is
`suspend`, a cancelled one `cancel`. With `returns` it is a return, or an exchange if it also sells. Square counts
versions, and the order's id stays: later versions replace earlier ones. The id is Square's own for every seller's
orders, and so the whole key. The business date is the local date of the order's creation.

Amounts: a line's is its `total_money` less taxes on top and apportioned service charges, which are lines of their own.
(`gross_sales_money` is not the base: whether it holds included taxes depends on the country.) Order discounts are
apportioned to the lines by Square, so they stand there. A tender that was voided, or a refund that was rejected,
moved nothing, and is told in `ext` alone. `sku` is the catalogue's id of the variation: orders hold no
other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from ..errors import InvalidInput
from ..limits import MAX_LINES, MAX_SHORT, MAX_TENDERS
from ..transaction import Customer, Discount, Identifier, Kind, Line, Link, Moment, Tax, Tender, Totals, Transaction
from .base import Adapter, Reading, Setting, checked, exponent_of, load_json, plain
from .parts import Part, documents, ext_of, within
from .times import local_date

_WHAT: Final = "an order of Square"
_NOTHING_MOVED: Final = ("VOIDED", "FAILED", "REJECTED")
"""States of a card's payment and of a refund."""
_MOST_APPLIED: Final = 50
_MOST_RETURNS: Final = 50
_MOST_VERSION: Final = 1_000_000


def read(data: bytes, setting: Setting) -> list[Reading]:
    """The orders of a payload; none for an event that holds no order. Raises `InvalidInput`."""
    value = load_json(data, what=_WHAT)
    if isinstance(value, dict) and isinstance(value.get("type"), str) and isinstance(value.get("data"), dict):
        held = value["data"].get("object")
        if not isinstance(held, dict) or not isinstance(held.get("order"), dict):
            return []
        found = iter([(Part(held["order"], "data.object.order"), data)])
    else:
        found = documents(data, "orders", "order", what=_WHAT)
    return [Reading(_transaction(part, setting), original) for part, original in found]


ADAPTER: Final = Adapter(
    "square",
    "2",
    "application/json",
    read,
    tried="the examples of CreateOrder, order.updated and payment.updated in Square's own API specification",
)


@dataclass(frozen=True, slots=True)
class _Order:
    """An order, or one of its returns: what its lines refer to, and the sign of what they move."""

    part: Part
    currency: str
    sign: int
    taxes: dict[str, Part]
    discounts: dict[str, Part]

    @classmethod
    def of(cls, part: Part, currency: str, sign: int, prefix: str = "") -> _Order:
        """Its taxes and discounts by uid. In a return their names have a prefix."""
        part.exponent = exponent_of(currency)
        taxes = part.parts(f"{prefix}taxes", _MOST_APPLIED)
        discounts = part.parts(f"{prefix}discounts", MAX_LINES)
        by_uid = [{str(one.fields.get("uid")): one for one in some} for some in (taxes, discounts)]
        return cls(part, currency, sign, *by_uid)

    def maybe(self, part: Part, name: str) -> int | None:
        """The amount of a money object with the order's sign; None where there is none."""
        money = part.part(name)
        if money.fields.get("amount") is None:
            return None
        if (money.text("currency") or self.currency) != self.currency:
            raise InvalidInput("another currency than the order's", field=money.at("currency"), limit=self.currency)
        amount = money.take("amount")
        if type(amount) is not int:
            raise InvalidInput("is not a whole number of minor units", field=money.at("amount"))
        return self.sign * within(amount, money.at("amount"))

    def money(self, part: Part, name: str) -> int:
        """An amount that has to be there."""
        amount = self.maybe(part, name)
        if amount is None:
            raise InvalidInput("is missing", field=f"{part.at(name)}.amount")
        return amount


def _transaction(part: Part, setting: Setting) -> Transaction:
    pos_id = part.need("id")
    currency = part.notes.currency(_currency(part), setting, part.part("total_money").at("currency"))
    order = _Order.of(part, currency, 1)
    returns = [_Order.of(one, currency, -1, "return_") for one in part.parts("returns", _MOST_RETURNS)]
    begin, end = _times(part, setting)
    changed = part.again().moment("updated_at", setting)
    lines = _lines(order, returns)
    header = part.part("net_amounts") if returns else part
    tenders, untold = _tenders(order, returned=bool(returns))
    return checked(
        Transaction(
            source=ADAPTER.source("square"),
            kind=_kind(order, returned=bool(returns)),
            pos_id=pos_id,
            business_date=local_date(begin, part.notes, setting),
            end=end,
            begin=begin,
            currency=currency,
            exponent=part.exponent,
            total=_total(order, header),
            totals=_totals(order, header, "" if returns else "total_"),
            revision=_revision(part),
            store=part.code("location_id") or "",
            links=tuple(link for one in returns for link in _links(one)),
            lines=lines,
            taxes=tuple(_header_tax(one, tax) for one in (order, *returns) for tax in one.taxes.values()),
            tenders=tenders,
            customer=_customer(part),
            ext=ext_of(part.rest(untold), part.notes),
            scope="system",
            changed_at=(changed or begin).at,
        )
    )


def _currency(part: Part) -> str | None:
    """An order that only returns may have no total of its own."""
    said = part.part("total_money").text("currency")
    if said is None and "returns" in part.fields:
        amounts = (part.part(name).part("total_money") for name in ("net_amounts", "return_amounts"))
        said = next((code for one in amounts if (code := one.again().text("currency"))), None)
    return said


def _total(order: _Order, header: Part) -> int:
    """What was to be paid, or with returns the net of what was sold and what came back."""
    back = order.part.part("return_amounts")
    if header is order.part or order.maybe(header.again(), "total_money") is not None or not back.fields:
        return order.money(header, "total_money")
    return (order.maybe(order.part, "total_money") or 0) - order.money(back, "total_money")


def _times(part: Part, setting: Setting) -> tuple[Moment, Moment]:
    """When it was created and when it was closed, or else last changed."""
    begin = part.need_moment("created_at", setting)
    return begin, part.moment("closed_at", setting) or part.moment("updated_at", setting) or begin


def _kind(order: _Order, *, returned: bool) -> Kind:
    """What the order's state makes of it; the state itself stays for `ext`."""
    fields = order.part.fields
    state = fields.get("state")
    if state not in ("OPEN", "COMPLETED", "CANCELED", "DRAFT"):
        raise InvalidInput("is no state of an order", field=order.part.at("state"))
    if state == "CANCELED":
        return "cancel"
    due = fields.get("net_amount_due_money")
    paid = bool(fields.get("tenders")) and isinstance(due, dict) and due.get("amount") == 0
    if state == "DRAFT" or (state == "OPEN" and not paid):
        return "suspend"
    if returned:
        return "exchange" if fields.get("line_items") else "return"
    return "sale"


def _totals(order: _Order, header: Part, prefix: str) -> Totals:
    return Totals(
        discount=order.maybe(header, f"{prefix}discount_money"),
        tax=order.maybe(header, f"{prefix}tax_money"),
        tip=order.maybe(header, f"{prefix}tip_money"),
        rounding=order.maybe(order.part.part("rounding_adjustment"), "amount_money"),
    )


def _revision(part: Part) -> int:
    version = part.take("version")
    if version is None:
        return 0
    if type(version) is not int or not 0 <= version <= _MOST_VERSION:
        raise InvalidInput("is no version", field=part.at("version"), limit=f"0 to {_MOST_VERSION}")
    return version


def _links(back: _Order) -> list[Link]:
    return [Link("original", back.part.need("source_order_id"))] if back.part.fields.get("source_order_id") else []


# lines


def _lines(order: _Order, returns: list[_Order]) -> tuple[Line, ...]:
    lines: list[Line] = []
    for one, prefix in ((order, ""), *((back, "return_") for back in returns)):
        for part in one.part.parts(f"{prefix}line_items", MAX_LINES, kept=False):
            lines.append(_item(one, part, len(lines) + 1))
        for part in one.part.parts(f"{prefix}service_charges", MAX_LINES, kept=False):
            lines.append(_charge(one, part, len(lines) + 1))
        rounding = one.maybe(one.part.part("rounding_adjustment"), "amount_money") if prefix else None
        if rounding is not None:
            lines.append(Line(len(lines) + 1, rounding, type="rounding"))
    return tuple(lines)


def _item(order: _Order, part: Part, seq: int) -> Line:
    taxes, discounts = _taxes(order, part), _discounts(order, part)
    charges = order.maybe(part, "total_service_charge_money") or 0
    price = _price(order, part)
    return Line(
        seq,
        order.money(part, "total_money") - _on_top(taxes) - charges,
        _quantity(order, part),
        type="gift_card" if part.fields.get("item_type") == "GIFT_CARD" else "item",
        sku=part.code("catalog_object_id"),
        name=part.text("name"),
        unit=_unit(part),
        regular_price=price,
        price=None if discounts else price,
        discounts=discounts,
        taxes=taxes,
        ext=_item_ext(part),
    )


def _item_ext(part: Part) -> dict[str, Any] | None:
    """What else a line says; its total is kept as it was sent, for the amount leaves out taxes on top."""
    total = part.part("total_money").fields.get("amount")
    return ext_of({**part.rest(), "total_money": total})


def _charge(order: _Order, part: Part, seq: int) -> Line:
    """A service charge. What is apportioned to lines is taxed there, and taken out of their amounts."""
    apportioned = str(part.fields.get("calculation_phase")).startswith("APPORTIONED")
    taxes = () if apportioned else _taxes(order, part)
    total = order.maybe(part, "applied_money" if apportioned else "total_money")
    if total is None:
        total = order.money(part, "amount_money" if apportioned else "applied_money") + _on_top(taxes)
    return Line(
        seq,
        total - _on_top(taxes),
        type="fee",
        sku=part.code("catalog_object_id"),
        name=part.text("name"),
        taxes=taxes,
        ext=ext_of(part.rest()),
    )


def _quantity(order: _Order, part: Part) -> str:
    number = part.need_number("quantity")
    return plain(number.copy_negate() if number and order.sign < 0 else number)


def _price(order: _Order, part: Part) -> str | None:
    """A unit's price, before discounts and without modifiers, in units of the currency."""
    amount = order.maybe(part, "base_price_money")
    return None if amount is None else plain(Decimal(order.sign * amount).scaleb(-part.exponent))


def _unit(part: Part) -> str | None:
    """`weight_unit: METRIC_KILOGRAM` and its like, or the name of a unit of the seller's own."""
    unit = part.part("quantity_unit").part("measurement_unit")
    if unit.fields.get("custom_unit") is not None:
        return unit.part("custom_unit").text("name")
    for name in ("weight_unit", "volume_unit", "length_unit", "area_unit", "time_unit", "generic_unit"):
        if unit.fields.get(name):
            return unit.text(name)
    return None


# taxes and discounts


def _on_top(taxes: tuple[Tax, ...]) -> int:
    return sum(tax.amount for tax in taxes if not tax.included)


def _taxes(order: _Order, part: Part) -> tuple[Tax, ...]:
    applied = part.parts("applied_taxes", _MOST_APPLIED)
    return tuple(
        _tax(order.taxes.get(str(one.fields.get("tax_uid"))) or one, order.money(one, "applied_money"))
        for one in applied
    )


def _header_tax(order: _Order, tax: Part) -> Tax:
    return _tax(tax, order.maybe(tax, "applied_money") or 0)


def _tax(named: Part, amount: int) -> Tax:
    code = named.text("name", MAX_SHORT) or named.code("tax_uid") or named.code("uid") or "tax"
    return Tax(code, amount, named.plain("percentage"), included=named.fields.get("type") == "INCLUSIVE")


def _discounts(order: _Order, part: Part) -> tuple[Discount, ...]:
    applied = part.parts("applied_discounts", _MOST_APPLIED)
    return tuple(
        _discount(order.discounts.get(str(one.fields.get("discount_uid"))) or one, order.money(one, "applied_money"))
        for one in applied
    )


def _discount(named: Part, amount: int) -> Discount:
    """As the order names it. It stays whole in `ext`, too, where its scope and its sum over the lines are told."""
    said = named.again()
    return Discount(
        amount,
        kind=said.text("type") or "",
        promotion=said.text("catalog_object_id"),
        name=said.text("name"),
        rate=said.plain("percentage"),
    )


# tenders and customer


def _tenders(order: _Order, *, returned: bool) -> tuple[tuple[Tender, ...], dict[str, Any]]:
    """How it was paid, and what of it came to nothing, which is told in `ext`.

    Refunds of a sale come as orders of their own, with returns: only there they are tenders.
    """
    paid, failed = _parted(order.part, "tenders", _card_state)
    tenders, untold = [_tender(order, one) for one in paid], {"tenders": failed}
    if returned:
        given, failed = _parted(order.part, "refunds", lambda one: one.fields.get("status"))
        tenders, untold = [*tenders, *(_refund(order, one) for one in given)], {**untold, "refunds": failed}
    return tuple(tenders), untold


def _parted(part: Part, name: str, state: Callable[[Part], object]) -> tuple[list[Part], list[dict[str, Any]]]:
    """The payments of a list that moved money, and the others as they stand."""
    found = part.parts(name, MAX_TENDERS, kept=False)
    moved = [one for one in found if state(one) not in _NOTHING_MOVED]
    return moved, [one.fields for one in found if state(one) in _NOTHING_MOVED]


def _card_state(tender: Part) -> object:
    details = tender.fields.get("card_details")
    return details.get("status") if isinstance(details, dict) else None


def _tender(order: _Order, part: Part) -> Tender:
    cash = part.part("cash_details")
    return Tender(
        part.need("type", MAX_SHORT).lower(),
        order.money(part, "amount_money"),
        tendered=order.maybe(cash, "buyer_tendered_money"),
        change=order.maybe(cash, "change_back_money"),
        tip=order.maybe(part, "tip_money"),
        card=_card(part.part("card_details").part("card")),
        reference=part.text("payment_id") or part.text("id"),
        ext=ext_of(part.rest()),
    )


def _card(card: Part) -> str | None:
    """First six and last four digits at the most: Square gives no more."""
    last = card.text("last_4", 4)
    return None if last is None else f"{card.text('bin', 6) or ''}******{last}"


def _refund(order: _Order, part: Part) -> Tender:
    amount = order.money(part, "amount_money")
    return Tender("refund", -amount, reference=part.text("tender_id"), refund=True, ext=ext_of(part.rest()))


def _customer(part: Part) -> Customer | None:
    number = part.text("customer_id")
    return None if number is None else Customer((Identifier("account", number),))
