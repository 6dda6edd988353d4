"""Square: what its webhooks tell of a payment or a refund. That is no order: no lines, no taxes, no discounts.

Documentation: Square's API reference, objects Payment and PaymentRefund, as `payment.created`, `payment.updated`,
`refund.created` and `refund.updated` hold them. An order itself comes by no webhook of Square's, only its id.

A payment that is completed is a sale of its total, one that is only approved or pending is `suspend`, a cancelled or
failed one `cancel`; a refund likewise, and a completed one is a return that links to its payment. An order that is paid
in two parts therefore is two sales here: what is lacking, and which order it is, is said in `ext`. The key is the
payment's id, so an order of Square's that comes whole by another way is another transaction; use one way or the other.
"""

from __future__ import annotations

from typing import Any, Final

from ..errors import InvalidInput
from ..limits import MAX_SHORT
from ..transaction import Customer, Identifier, Kind, Link, Tender, Transaction
from .base import Adapter, Reading, Setting, checked, exponent_of, load_json
from .parts import Part, ext_of, identifiers, within
from .times import local_date

LACKING: Final = ("lines", "taxes", "discounts")
_WHAT: Final = "an event of Square"
_KINDS: Final[dict[str, Kind]] = {
    "COMPLETED": "sale",
    **dict.fromkeys(("APPROVED", "PENDING"), "suspend"),
    **dict.fromkeys(("CANCELED", "FAILED", "REJECTED"), "cancel"),
}


def read(data: bytes, setting: Setting) -> list[Reading]:
    """The payment or the refund of an event; none for any other event. Raises `InvalidInput`."""
    value = load_json(data, what=_WHAT)
    held = value.get("data") if isinstance(value, dict) else None
    inner = held.get("object") if isinstance(held, dict) else None
    if not isinstance(inner, dict):
        return []
    for name in ("payment", "refund"):
        if isinstance(inner.get(name), dict):
            part = Part(inner[name], f"data.object.{name}")
            return [Reading(_transaction(part, setting, refund=name == "refund"), data)]
    return []


ADAPTER: Final = Adapter(
    "square_payment",
    "2",
    "application/json",
    read,
    tried="the example of payment.updated in Square's own API specification",
)


def _transaction(part: Part, setting: Setting, *, refund: bool) -> Transaction:
    sign = -1 if refund else 1
    money = part.part("amount_money" if refund else "total_money")
    currency = part.notes.currency(money.text("currency"), setting, money.at("currency"))
    total = sign * _minor(money)
    begin = part.need_moment("created_at", setting)
    changed = part.moment("updated_at", setting)
    number = part.need("id")
    tender = _tender(part, total, refund=refund)
    links = (Link("original", part.need("payment_id")),) if refund and part.fields.get("payment_id") else ()
    customer = _customer(part)
    return checked(
        Transaction(
            source=ADAPTER.source("square"),
            kind=_kind(part, refund=refund),
            pos_id=number,
            business_date=local_date(begin, part.notes, setting),
            end=changed or begin,
            begin=begin,
            currency=currency,
            exponent=exponent_of(currency),
            total=total,
            store=part.code("location_id") or "",
            receipt=part.text("receipt_number"),
            links=links,
            tenders=(tender,),
            customer=customer,
            reason=part.text("reason"),
            ext=ext_of(part.rest(_lacking(part)), part.notes),
            scope="system",
            changed_at=(changed or begin).at,
        )
    )


def _lacking(part: Part) -> dict[str, Any]:
    """What an event of this kind does not tell, and the order that would."""
    return {"lacking": list(LACKING), "order_id": part.fields.get("order_id")}


def _kind(part: Part, *, refund: bool) -> Kind:
    kind = _KINDS.get(str(part.fields.get("status")))
    if kind is None:
        raise InvalidInput("is no state of a payment", field=part.at("status"), limit=", ".join(_KINDS))
    return "return" if refund and kind == "sale" else kind


def _minor(money: Part) -> int:
    amount = money.take("amount")
    if type(amount) is not int:
        raise InvalidInput("is not a whole number of minor units", field=money.at("amount"))
    return within(amount, money.at("amount"))


def _tender(part: Part, total: int, *, refund: bool) -> Tender:
    """How it was paid; of the card, Square gives six and four digits at the most."""
    card = part.part("card_details").part("card")
    last = card.text("last_4", 4)
    tip = part.part("tip_money")
    return Tender(
        (part.text("source_type", MAX_SHORT) or part.text("destination_type", MAX_SHORT) or "other").lower(),
        total,
        tip=None if refund or tip.fields.get("amount") is None else _minor(tip),
        card=None if last is None else f"{card.text('bin', 6) or ''}******{last}",
        refund=refund,
    )


def _customer(part: Part) -> Customer | None:
    named: tuple[Identifier, ...] = identifiers(
        ("account", part.text("customer_id")), ("email", part.text("buyer_email_address"))
    )
    return Customer(named) if named else None
