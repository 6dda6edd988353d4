"""Odoo's Point of Sale: the orders that its browser sends to its server.

Two shapes, told apart by what is in them; both come as a bare list, or inside the JSON-RPC call (`call_kw`):

- Odoo 12 to 17, `pos.order.create_from_ui`: `[{"id", "data": {…}, "to_invoice"}]`, payments in `statement_ids`, the
  time in `creation_date` (17: `date_order`), and an argument that says whether these are drafts. Not yet tried on
  genuine data.
- Odoo 18 and later, `pos.order.sync_from_ui`: `[{"uuid", "session_id", "payment_ids", "state", …}]`, no wrapper.

Lines and payments are Odoo's x2many commands, `[0, 0, {…}]`. `false` stands for nothing. Times without an offset are
UTC. Payments are what was handed over; change is told once, and comes off the cash, if `payment_methods` names one so.
The payload has neither currency nor SKU, store or rates of tax: `options["products"]` maps a product's id to the
SKU, `options["payment_methods"]` a payment method's id (Odoo 12: a journal's) to the tender's type. What they do not
map keeps its id in `ext`, and `ext.unmapped` says so.

A draft is a `suspend`, a cancelled order a `cancel`. A paid order may come again, changed: it keeps its name, which is
the `uuid` (before 18: the `uid`), and its revision never falls: draft 0, paid 1, invoiced or done 2.

Source: odoo/odoo, `addons/point_of_sale` (LGPL-3): `models/pos_order.py`, its tests, and the order models in
`static/src`, read for facts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, Final

from ..errors import InvalidInput
from ..limits import MAX_LINES, MAX_LONG_TEXT, MAX_SHORT, MAX_TENDERS
from ..transaction import Customer, Discount, Identifier, Kind, Line, Moment, Tender, Totals, Transaction
from .base import Adapter, Reading, Setting, checked, decimal, exponent_of, list_at, load_json, object_at, plain
from .parts import Part, Steps, ext_of, inner_object, less_change, originals
from .times import local_date

_METHODS: Final = ("create_from_ui", "sync_from_ui")
_CREATE, _UPDATE, _DELETE, _UNLINK, _LINK, _CLEAR, _SET = range(7)
"""Odoo's commands of x2many fields."""
_REVISIONS: Final[Mapping[str, int]] = {"draft": 0, "paid": 1, "cancel": 1, "done": 2, "invoiced": 2}
_ALL: Final = 100


@dataclass(slots=True)
class _Order:
    """One order on its way, what the payload says around it, and which ids no option maps."""

    part: Part
    shape: str
    draft: bool
    around: dict[str, Any]
    setting: Setting
    unmapped: set[str] = field(default_factory=set)


def read(data: bytes, setting: Setting) -> list[Reading]:
    """The orders of one call, in its order. Raises `InvalidInput`."""
    payload = load_json(data, what="a call of Odoo's Point of Sale")
    path, orders, draft = _orders(payload)
    parts = originals(data, path)
    where = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).lstrip(".") or "orders"
    return [
        Reading(_transaction(_order(value, f"{where}[{index}]", draft, setting)), original)
        for index, (value, original) in enumerate(zip(orders, parts, strict=True))
    ]


def _orders(payload: object) -> tuple[Steps, list[Any], bool]:
    """Where in the payload the list of orders is, the list, and whether they are drafts."""
    if isinstance(payload, list):
        return [], payload, False
    call = object_at(object_at(payload, "body").get("params"), "params")
    method = call.get("method")
    if method not in _METHODS:
        raise InvalidInput("is no call that brings orders", field="params.method", limit=" or ".join(_METHODS))
    named = object_at(call.get("kwargs") or {}, "params.kwargs")
    args = list_at(call.get("args"), "params.args")
    draft = args[1] if len(args) > 1 else named.get("draft")
    if args:
        return ["params", "args", 0], list_at(args[0], "params.args[0]"), bool(draft)
    if "orders" not in named:
        raise InvalidInput("is missing", field="params.args")
    return ["params", "kwargs", "orders"], list_at(named["orders"], "params.kwargs.orders"), bool(draft)


def _order(value: object, where: str, draft: bool, setting: Setting) -> _Order:
    """An order out of its wrapper, if it has one."""
    outer = Part(inner_object(value, where), where, false_is_nothing=True)
    data = outer.look("data")
    if data is None:
        shape = "create_from_ui" if outer.look("statement_ids") is not None else "sync_from_ui"
        return _Order(outer, shape, draft, {}, setting)
    outer.take("data")
    return _Order(outer.inner(data, outer.at("data")), "create_from_ui", draft, outer.rest(), setting)


def _transaction(order: _Order) -> Transaction:
    part = order.part
    currency = part.notes.currency(None, order.setting, part.where)
    part.exponent = exponent_of(currency)
    end = _end(order)
    lines = _lines(order)
    total = part.need_amount("amount_total")
    state = "draft" if order.draft else "paid"
    if part.look("state") is not None:
        state = part.need("state", MAX_SHORT)
    return checked(
        Transaction(
            source=ADAPTER.source("odoo"),
            kind=_kind(state, lines, total),
            pos_id=_name(part),
            business_date=local_date(end, part.notes, order.setting),
            end=end,
            currency=currency,
            exponent=part.exponent,
            total=total,
            totals=_totals(part),
            revision=_REVISIONS.get(state, 1),
            session=part.text("session_id") or part.text("pos_session_id"),
            sequence=part.text("sequence_number"),
            receipt=part.text("pos_reference") or part.text("name"),
            operator=part.text("employee_id") or part.text("user_id"),
            lines=lines,
            tenders=_tenders(order),
            customer=_customer(part),
            note=part.text("general_note", MAX_LONG_TEXT) or part.text("general_customer_note", MAX_LONG_TEXT),
            ext=_ext(order, state),
        )
    )


def _kind(state: str, lines: tuple[Line, ...], total: int) -> Kind:
    if state == "draft":
        return "suspend"
    if state == "cancel":
        return "cancel"
    back = [Decimal(line.quantity) < 0 for line in lines]
    if not any(back):
        return "sale" if lines or total >= 0 else "return"
    return "return" if all(back) else "exchange"


def _name(part: Part) -> str:
    """The order's own name, the same whenever it is sent. Raises `InvalidInput` where it has none."""
    for name in ("uuid", "uid", "pos_reference", "name"):
        if part.look(name) is not None:
            return part.need(name)
    raise InvalidInput("the order has no name", field=part.at("uuid"))


def _end(order: _Order) -> Moment:
    name = "date_order" if order.part.look("date_order") is not None else "creation_date"
    return order.part.need_moment(name, order.setting, utc=True)


def _totals(part: Part) -> Totals:
    """The header's other totals. A tip is one of Odoo's lines, so that `tip_amount` is left to `ext`."""
    return Totals(tax=part.amount("amount_tax"), paid=part.amount("amount_paid"), change=part.amount("amount_return"))


def _customer(part: Part) -> Customer | None:
    partner = part.text("partner_id")
    return None if partner is None else Customer(identifiers=(Identifier("account", partner),))


def _ext(order: _Order, state: str) -> dict[str, Any] | None:
    around = {f"wrapper_{name}": value for name, value in order.around.items()}
    unmapped = sorted(order.unmapped)[:_ALL]
    return ext_of(
        order.part.rest({"call": order.shape, "state": state, "unmapped": unmapped, **around}), order.part.notes
    )


def _commands(part: Part, name: str, most: int, gone: list[Any]) -> Iterator[Part]:
    """The objects of an x2many field; the ids of those taken away go into `gone`.

    Raises `InvalidInput` for what refers to objects that were sent before: half an order must not replace a whole one.
    """
    for index, command in enumerate(part.items(name, most)):
        where = f"{part.at(name)}[{index}]"
        parts = list_at(command, where)
        code = parts[0] if parts and not isinstance(parts[0], bool) else None
        if code in (_CREATE, _UPDATE) and len(parts) == 3:
            yield part.inner(parts[2], f"{where}[2]")
        elif code in (_DELETE, _UNLINK) and len(parts) > 1:
            gone.append(parts[1])
        elif code == _CLEAR or (code == _SET and len(parts) == 3 and parts[2] == []):
            gone.append("all")
        elif code in (_LINK, _SET):
            raise InvalidInput(
                "refers to what was sent before", field=where, hint="have the POS send the order with all its lines"
            )
        else:
            raise InvalidInput("is no command of Odoo", field=where, limit="[0, 0, {…}]")


def _lines(order: _Order) -> tuple[Line, ...]:
    gone: list[Any] = []
    found = list(_commands(order.part, "lines", MAX_LINES, gone))
    if gone:
        order.around["removed_lines"] = gone
    seqs: dict[str, int] = {}
    for seq, part in enumerate(found, 1):
        seqs.update({str(part.look(name)): seq for name in ("id", "uuid") if part.look(name) is not None})
    return tuple(_line(order, part, seq, seqs) for seq, part in enumerate(found, 1))


def _line(order: _Order, part: Part, seq: int, seqs: Mapping[str, int]) -> Line:
    amount = part.need_amount("price_subtotal_incl")
    unit_price = part.plain("price_unit")
    discounts = _discounts(part, amount)
    reward = part.look("is_reward_line") is True and amount < 0
    return Line(
        seq=seq,
        amount=amount,
        quantity=plain(part.need_number("qty")),
        type="discount" if reward else "item",
        parent=seqs.get(str(part.look("combo_parent_id"))),
        sku=_mapped(order, part, "product_id", "products"),
        name=part.text("full_product_name") or part.text("description"),
        regular_price=unit_price if discounts else None,
        price=None if discounts else unit_price,
        discounts=discounts,
        ext=ext_of(part.rest()),
    )


def _discounts(part: Part, amount: int) -> tuple[Discount, ...]:
    """A line's discount. Odoo sends its rate alone; its amount follows from the line's, and is noted as assumed."""
    rate = Decimal(plain(decimal(part.look("discount") or 0, part.at("discount"))))
    if not 0 < rate <= _ALL:
        return ()
    if rate == _ALL:
        price, quantity = (part.number(name) or Decimal() for name in ("price_unit", "qty"))
        off = part.minor(price * quantity, "discount")
    else:
        off = int((amount * rate / (_ALL - rate)).to_integral_value(ROUND_HALF_UP))
    part.notes.assumed.append("lines.discounts.amount")
    return (Discount(amount=off, kind="percent", rate=plain(rate)),)


def _mapped(order: _Order, part: Part, name: str, options: str) -> str | None:
    """What the setting's map says of an id. What it does not know is noted, and the id stays for `ext`."""
    value = part.look(name)
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise InvalidInput("is missing" if value is None else "is no id", field=part.at(name))
    mapped = _option(order.setting, options).get(str(value))
    if mapped is None:
        order.unmapped.add(f"{name} {value}"[:MAX_SHORT])
    return mapped


def _option(setting: Setting, name: str) -> Mapping[str, str]:
    """A map of texts among the setting's options; none is an empty one. Raises `InvalidInput` naming the option."""
    value = setting.options.get(name, {})
    if not isinstance(value, Mapping) or not all(isinstance(x, str) for pair in value.items() for x in pair):
        raise InvalidInput("is no map from text to text", field=f"options.{name}")
    return value


def _tenders(order: _Order) -> tuple[Tender, ...]:
    gone: list[Any] = []
    name = "payment_ids" if order.part.look("payment_ids") is not None else "statement_ids"
    tenders = tuple(_tender(order, part) for part in _commands(order.part, name, MAX_TENDERS, gone))
    if gone:
        order.around["removed_payments"] = gone
    return less_change(tenders, abs(order.part.amount("amount_return") or 0), order.part.notes)


def _tender(order: _Order, part: Part) -> Tender:
    older = part.look("payment_method_id") is None and part.look("journal_id") is not None
    method = "journal_id" if older else "payment_method_id"
    kind = _mapped(order, part, method, "payment_methods") or f"method {part.look(method)}"
    amount = part.need_amount("amount")
    return Tender(
        type=kind[:MAX_SHORT],
        amount=amount,
        card=part.text("card_no"),
        reference=part.text("transaction_id"),
        refund=amount < 0,
        ext=ext_of(part.rest()),
    )


ADAPTER: Final = Adapter(
    "odoo",
    "1",
    "application/json",
    read,
    tried="an order as Odoo 18's own tests send it (sync_from_ui)",
)
