"""Odoo's Point of Sale: the orders that its browser sends to its server.

Two shapes, told apart by what is in them; both come as a bare list, or inside the JSON-RPC call (`call_kw`):

- Odoo 12 to 17, `pos.order.create_from_ui`: `[{"id", "data": {…}, "to_invoice"}]`, payments in `statement_ids`, the
  time in `creation_date` (17: `date_order`), and an argument that says whether these are drafts. Not yet tried on
  genuine data.
- Odoo 18 and later, `pos.order.sync_from_ui`: `[{"uuid", "session_id", "payment_ids", "state", …}]`, no wrapper.

Lines and payments are Odoo's x2many commands, `[0, 0, {…}]`. `false` stands for nothing. Times without an offset are
UTC. The payload has neither currency nor SKU, store or rates of tax: `options["products"]` maps a product's id to the
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
from ..limits import MAX_SHORT
from ..transaction import Customer, Discount, Identifier, Kind, Line, Moment, Tender, Totals, Transaction
from .base import (
    Adapter,
    Notes,
    Reading,
    Setting,
    checked,
    decimal,
    exponent_of,
    list_at,
    load_json,
    moment,
    object_at,
    plain,
)
from .fields import Fields, Path, local_date, option, originals

_METHODS: Final = ("create_from_ui", "sync_from_ui")
_CREATE, _UPDATE, _DELETE, _UNLINK, _LINK, _CLEAR, _SET = range(7)
"""Odoo's commands of x2many fields."""
_REVISIONS: Final[Mapping[str, int]] = {"draft": 0, "paid": 1, "cancel": 1, "done": 2, "invoiced": 2}
_ID: Final = 128
_ALL: Final = 100


@dataclass(slots=True)
class _Order:
    """One order on its way: its fields, what the payload says around it, and what is to be noted."""

    fields: Fields
    shape: str
    draft: bool
    around: dict[str, Any]
    setting: Setting
    notes: Notes = field(default_factory=Notes)
    exponent: int = 2
    unmapped: set[str] = field(default_factory=set)


def read(data: bytes, setting: Setting) -> list[Reading]:
    """The orders of one call, in its order. Raises `InvalidInput`."""
    payload = load_json(data, what="a call of Odoo's Point of Sale")
    path, orders, draft = _orders(payload)
    parts = originals(data, path, len(orders))
    where = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).lstrip(".") or "orders"
    return [
        Reading(_transaction(_order(value, f"{where}[{index}]", draft, setting)), original)
        for index, (value, original) in enumerate(zip(orders, parts, strict=True))
    ]


def _orders(payload: object) -> tuple[Path, list[Any], bool]:
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
    outer = Fields(value, where, false_is_empty=True)
    if "data" not in outer:
        shape = "create_from_ui" if outer.look("statement_ids") is not None else "sync_from_ui"
        return _Order(outer, shape, draft, {}, setting)
    inner = Fields(outer.get("data"), outer.place("data"), false_is_empty=True)
    return _Order(inner, "create_from_ui", draft, outer.rest(), setting)


def _transaction(order: _Order) -> Transaction:
    fields, notes = order.fields, order.notes
    currency = notes.currency(None, order.setting, fields.where)
    order.exponent = exponent_of(currency)
    end = _end(order)
    lines = _lines(order)
    total = fields.amount("amount_total", notes, order.exponent)
    state = fields.required("state", MAX_SHORT) if "state" in fields else ("draft" if order.draft else "paid")
    return checked(
        Transaction(
            source=ADAPTER.source("odoo"),
            kind=_kind(state, lines, total),
            pos_id=_name(fields),
            business_date=local_date(end, order.setting, notes, fields.where),
            end=end,
            currency=currency,
            exponent=order.exponent,
            total=total,
            totals=_totals(order),
            revision=_REVISIONS.get(state, 1),
            session=fields.text("session_id") or fields.text("pos_session_id"),
            sequence=fields.text("sequence_number"),
            receipt=fields.text("pos_reference") or fields.text("name"),
            operator=fields.text("employee_id") or fields.text("user_id"),
            lines=lines,
            tenders=_tenders(order),
            customer=_customer(fields),
            note=fields.text("general_note", 4_000) or fields.text("general_customer_note", 4_000),
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


def _name(fields: Fields) -> str:
    """The order's own name, the same whenever it is sent. Raises `InvalidInput` where it has none."""
    for name in ("uuid", "uid", "pos_reference", "name"):
        if name in fields:
            return fields.required(name, _ID)
    raise InvalidInput("the order has no name", field=fields.place("uuid"))


def _end(order: _Order) -> Moment:
    name = "date_order" if "date_order" in order.fields else "creation_date"
    return moment(order.fields.required(name), order.setting, order.fields.place(name), utc=True)


def _totals(order: _Order) -> Totals:
    """The header's other totals. A tip is one of Odoo's lines, so that `tip_amount` is left to `ext`."""
    fields, notes, exponent = order.fields, order.notes, order.exponent
    return Totals(
        tax=fields.minor("amount_tax", notes, exponent),
        paid=fields.minor("amount_paid", notes, exponent),
        change=fields.minor("amount_return", notes, exponent),
    )


def _customer(fields: Fields) -> Customer | None:
    partner = fields.text("partner_id")
    return None if partner is None else Customer(identifiers=(Identifier("account", partner),))


def _ext(order: _Order, state: str) -> dict[str, Any] | None:
    around = {f"wrapper_{name}": value for name, value in order.around.items()}
    unmapped = sorted(order.unmapped)[:_ALL]
    return order.notes.ext(**order.fields.rest(call=order.shape, state=state, unmapped=unmapped, **around))


def _commands(fields: Fields, name: str, gone: list[Any]) -> Iterator[Fields]:
    """The objects of an x2many field; the ids of those taken away go into `gone`.

    Raises `InvalidInput` for what refers to objects that were sent before: half an order must not replace a whole one.
    """
    for index, command in enumerate(fields.items(name)):
        where = f"{fields.place(name)}[{index}]"
        parts = list_at(command, where)
        code = parts[0] if parts and not isinstance(parts[0], bool) else None
        if code in (_CREATE, _UPDATE) and len(parts) == 3:
            yield Fields(parts[2], f"{where}[2]", false_is_empty=True)
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
    found = list(_commands(order.fields, "lines", gone))
    if gone:
        order.around["removed_lines"] = gone
    seqs: dict[str, int] = {}
    for seq, fields in enumerate(found, 1):
        seqs.update({str(fields.look(name)): seq for name in ("id", "uuid") if name in fields})
    return tuple(_line(order, fields, seq, seqs) for seq, fields in enumerate(found, 1))


def _line(order: _Order, fields: Fields, seq: int, seqs: Mapping[str, int]) -> Line:
    amount = fields.amount("price_subtotal_incl", order.notes, order.exponent)
    unit_price = fields.plain("price_unit")
    discounts = _discounts(order, fields, amount)
    reward = fields.look("is_reward_line") is True and amount < 0
    quantity = fields.plain("qty")
    if quantity is None:
        raise InvalidInput("is missing", field=fields.place("qty"))
    return Line(
        seq=seq,
        amount=amount,
        quantity=quantity,
        type="discount" if reward else "item",
        parent=seqs.get(str(fields.look("combo_parent_id"))),
        sku=_mapped(order, fields, "product_id", "products"),
        name=fields.text("full_product_name") or fields.text("description"),
        regular_price=unit_price if discounts else None,
        price=None if discounts else unit_price,
        discounts=discounts,
        ext=fields.rest() or None,
    )


def _discounts(order: _Order, fields: Fields, amount: int) -> tuple[Discount, ...]:
    """A line's discount. Odoo sends its rate alone; its amount follows from the line's, and is noted as assumed."""
    rate = Decimal(plain(decimal(fields.look("discount") or 0, fields.place("discount"))))
    if not 0 < rate <= _ALL:
        return ()
    if rate == _ALL:
        price, quantity = (fields.number(name) or Decimal() for name in ("price_unit", "qty"))
        off = order.notes.minor(price * quantity, order.exponent, fields.place("discount"))
    else:
        off = int((amount * rate / (_ALL - rate)).to_integral_value(ROUND_HALF_UP))
    order.notes.assumed.append("lines.discounts.amount")
    return (Discount(amount=off, kind="percent", rate=plain(rate)),)


def _mapped(order: _Order, fields: Fields, name: str, options: str) -> str | None:
    """What the setting's map says of an id. What it does not know is noted, and the id stays for `ext`."""
    value = fields.look(name)
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise InvalidInput("is missing" if value is None else "is no id", field=fields.place(name))
    mapped = option(order.setting, options).get(str(value))
    if mapped is None:
        order.unmapped.add(f"{name} {value}"[:MAX_SHORT])
    return mapped


def _tenders(order: _Order) -> tuple[Tender, ...]:
    gone: list[Any] = []
    name = "payment_ids" if "payment_ids" in order.fields else "statement_ids"
    tenders = tuple(_tender(order, fields) for fields in _commands(order.fields, name, gone))
    if gone:
        order.around["removed_payments"] = gone
    return tenders


def _tender(order: _Order, fields: Fields) -> Tender:
    method = "journal_id" if "payment_method_id" not in fields and "journal_id" in fields else "payment_method_id"
    kind = _mapped(order, fields, method, "payment_methods") or f"method {fields.look(method)}"
    amount = fields.amount("amount", order.notes, order.exponent)
    return Tender(
        type=kind[:MAX_SHORT],
        amount=amount,
        card=fields.text("card_no"),
        reference=fields.text("transaction_id"),
        refund=amount < 0,
        ext=fields.rest() or None,
    )


ADAPTER: Final = Adapter(
    "odoo",
    "1",
    "application/json",
    read,
    tried="an order as Odoo 18's own tests send it (sync_from_ui)",
)
