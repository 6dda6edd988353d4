"""A sale of Tryton's point of sale as a canonical transaction.

Amounts are what Tryton charges: a line's gross amount, whatever price the shop enters, so that lines add up to the
total. Names come in the database's own language, so that a sale that is sent again is the same to the byte.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from trytond import __version__

SYSTEM = "tryton"
ADAPTER = "sale_point_tillstream"
VERSION = "0.1.0"
TEXT = 256
CODE = 64
GROUPS = 8
SCANNED = {"ean", "isbn", "ismn"}
"""Product identifiers that are article numbers of the world's."""
CONTACTS = {"phone", "mobile", "email"}


class Unmapped(Exception):
    """A sale that has no canonical form; the message says why."""


def name_of(sale: Any, database: str) -> str:
    """The sale's own id, while it is a basket and afterwards."""
    return f"{database}:{sale.id}"[-128:]


def basket(sale: Any, schemes: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    """How a sale stands that is not paid yet, as arguments of `Till.basket`. Raises `Unmapped`."""
    digits = _digits(sale)
    return _said(
        {
            "state": "open" if sale.state == "open" else "voided",
            "lines": [_line(line, seq, digits) for seq, line in enumerate(sale.lines, start=1)],
            "total": _minor(sale.total, digits),
            "currency": sale.currency.code,
            "identifiers": list(_identifiers(sale, schemes)),
            "offset_minutes": _moment(sale, datetime.now(timezone.utc)).get("offset_minutes"),
        }
    )


def transaction(sale: Any, database: str, schemes: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    """The canonical transaction of a sale that was paid or cancelled. Raises `Unmapped`."""
    digits = _digits(sale)
    people = list(_identifiers(sale, schemes))
    body = {
        "source": {"system": SYSTEM, "version": __version__, "adapter": ADAPTER, "adapter_version": VERSION},
        "kind": _kind(sale),
        "pos_id": name_of(sale, database),
        "business_date": sale.tillstream_date.isoformat(),
        "revision": sale.tillstream_revision,
        "begin": _moment(sale, sale.create_date),
        "end": _moment(sale, sale.tillstream_at),
        "currency": sale.currency.code,
        "exponent": digits,
        "total": _minor(sale.total, digits),
        "totals": _totals(sale, digits),
        "session": _session(sale),
        "receipt": sale.number,
        "operator": str(sale.employee.id) if sale.employee else None,
        "lines": [_line(line, seq, digits) for seq, line in enumerate(sale.lines, start=1)],
        "tenders": [_tender(payment, digits) for payment in sale.payments],
        "customer": {"identifiers": people} if people else None,
        "ext": _ext(sale, database),
    }
    return _said(body)


def _digits(sale: Any) -> int:
    digits: int = sale.currency.digits
    if not 0 <= digits <= 4:
        raise Unmapped(f"the currency has {digits} digits, and 4 are the most")
    return digits


def _kind(sale: Any) -> str:
    if sale.state == "cancelled":
        return "cancel"
    back = [line.quantity < 0 for line in sale.lines]
    if not any(back):
        return "sale"
    return "return" if all(back) else "exchange"


def _moment(sale: Any, at: datetime) -> dict[str, Any]:
    """An instant; Tryton keeps them in UTC without saying so. The offset is the company's."""
    instant = at.replace(tzinfo=timezone.utc)
    milliseconds = int(instant.timestamp() * 1000)
    zone = sale.company.timezone
    if not zone:
        return {"at": milliseconds}
    offset = instant.astimezone(ZoneInfo(zone)).utcoffset()
    minutes = int(offset.total_seconds() // 60) if offset is not None else 0
    return {"at": milliseconds, "offset_minutes": minutes, "offset_from": "store"}


def _totals(sale: Any, digits: int) -> dict[str, Any]:
    given_back = sum((-payment.amount for payment in sale.payments if payment.amount < 0), Decimal(0))
    change = _minor(given_back, digits) if given_back and sale.total >= 0 else None
    return _said(
        {
            "net": _minor(sale.total - sale.total_tax, digits),
            "tax": _minor(sale.total_tax, digits),
            "paid": _minor(sale.amount_paid, digits),
            "change": change,
        }
    )


def _session(sale: Any) -> str | None:
    sessions = sorted({payment.session.id for payment in sale.payments if payment.session})
    return str(sessions[-1]) if sessions else None


def _line(line: Any, seq: int, digits: int) -> dict[str, Any]:
    product = line.product
    scanned = next((one.code for one in product.identifiers if one.type in SCANNED), None)
    return _said(
        {
            "seq": seq,
            "amount": _minor(line.gross_amount, digits),
            "quantity": _decimal(Decimal(str(line.quantity))),
            "sku": (product.code or f"#{product.id}")[:CODE],
            "gtin": scanned[:CODE] if scanned else None,
            "name": product.name[:TEXT],
            "hierarchy": list(_groups(product)),
            "unit": line.unit.symbol[:TEXT] if line.unit else None,
            "price": _decimal(line.unit_gross_price),
            "taxes": _taxes(line, digits),
        }
    )


def _groups(product: Any) -> tuple[str, ...]:
    """The first of the product's categories, from the broadest group to it."""
    found: list[str] = []
    category = next(iter(product.categories), None)
    while category is not None and len(found) < GROUPS:
        found.append(category.name[:TEXT])
        category = category.parent
    return tuple(reversed(found))


def _taxes(line: Any, digits: int) -> list[dict[str, Any]]:
    """The line's taxes. What rounding leaves goes to the largest, so that they are what the line contains."""
    given = list(line._get_taxes().values())
    if not given:
        return []
    rest = line.tax_amount - sum(tax.amount for tax in given)
    largest = max(given, key=lambda tax: abs(tax.amount))
    return [
        _said(
            {
                "code": tax.tax.name[:CODE],
                "amount": _minor(tax.amount + (rest if tax is largest else 0), digits),
                "rate": _decimal(tax.tax.rate * 100) if tax.tax.type == "percentage" else None,
                "base": _minor(tax.base, digits),
                "included": True,
            }
        )
        for tax in given
    ]


def _tender(payment: Any, digits: int) -> dict[str, Any]:
    method = payment.method
    return _said(
        {
            "type": "cash" if method.cash else method.name[:CODE],
            "amount": _minor(payment.amount, digits),
            "refund": payment.amount < 0,
            "ext": {"method": method.name, "payment": payment.id},
        }
    )


def _identifiers(sale: Any, schemes: tuple[tuple[str, str], ...]) -> Iterator[dict[str, str]]:
    """What the settings name of the sale's customer, in their order; the first is the sale's."""
    party = sale.tillstream_party
    for kind, scheme in schemes if party else ():
        for value in _values(party, kind):
            yield {"scheme": scheme, "value": value[:TEXT]}


def _values(party: Any, kind: str) -> Iterator[str]:
    if kind == "code":
        found: list[Any] = [party.code]
    elif kind in CONTACTS:
        found = [one.value for one in party.contact_mechanisms if one.type == kind]
    else:
        wanted = None if kind == "identifier" else kind
        found = [one.code for one in party.identifiers if (one.type or None) == wanted]
    return (value for value in found if value)


def _ext(sale: Any, database: str) -> dict[str, Any]:
    """Where in Tryton it was sold."""
    return {"database": database, "sale": sale.id, "point": sale.point.name, "date": sale.date.isoformat()}


def _minor(amount: Decimal, digits: int) -> int:
    return int(amount.scaleb(digits).to_integral_value())


def _decimal(number: Decimal) -> str:
    """Plain digits, at most 12 after the point."""
    text = f"{round(number, 12):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _said(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
