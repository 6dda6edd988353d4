"""ARTS Digital Receipt 2.0, with the Swedish extension.

An electronic receipt as XML, after the schema `DigitalReceiptV2.0.0.xsd` of ARTS (NRF, later OMG) and
`SweArtsDR200ExtV1.0.0.xsd` of the Swedish Payment and ECR Group, whose documentation and samples are public. It is what
the customer gets, so it says less than a POSLog: there is no business day, and no begin. Swedish prices contain VAT,
whatever a tax line's flag says of its own base; that is noted as assumed.

A receipt that was sent a second time, as a copy, has the same key and the same revision.
"""

from __future__ import annotations

from typing import Final

from ..errors import InvalidInput, shown
from ..transaction import Fiscal, Kind, Transaction
from .arts import HOME, KNOWN, Basket
from .base import Adapter, Notes, Reading, Setting, exponent_of, moment
from .times import local_date
from .xml import Element, checked_at, cut, parse

SYSTEM: Final = "arts-digital-receipt"


def read(data: bytes, setting: Setting) -> list[Reading]:
    """The receipts of a payload, one `Reading` each. Raises `InvalidInput` or `TooLarge`."""
    root = parse(data, what="a digital receipt", home=HOME, known=KNOWN)
    if root.name != "DigitalReceipt":
        raise InvalidInput(f"{shown(root.name)} is no digital receipt", field=root.name, limit="DigitalReceipt")
    receipts = root.all("Transaction")
    if not receipts:
        raise InvalidInput("is missing", field=f"{root.place}/Transaction")
    head = _Head(root)
    alone = len(receipts) == 1
    readings = []
    for one in receipts:
        readings.append(Reading(_receipt(head, one, setting), data if alone else cut(data, one)))
        head.rest = {}
    return readings


class _Head:
    """What stands around the receipts, and holds for each of them; `rest` goes with the first."""

    def __init__(self, root: Element) -> None:
        self.version = ".".join(root.attribute(f"{part}Version") or "0" for part in ("Major", "Minor", "Fix"))
        self.fiscal = _fiscal(root)
        self.swedish = any(one.name.startswith("se:") for one in root.children)
        self.rest = root.rest(but="Transaction")


def _receipt(head: _Head, receipt: Element, setting: Setting) -> Transaction:
    notes = Notes()
    currency = notes.currency(receipt.value("CurrencyCode"), setting, f"{receipt.place}/CurrencyCode")
    retail = _retail(receipt)
    swedish = head.swedish or any(one.name.startswith("se:") for one in (*receipt.children, *retail.children))
    basket = Basket(setting, notes, currency, exponent_of(currency), inclusive=swedish or currency == "SEK")
    basket.read(retail)
    end = moment(receipt.need("ReceiptDateTime").take(), setting, f"{receipt.place}/ReceiptDateTime")
    if end.offset_from != "explicit":
        notes.assumed.append("zone")
    made = Transaction(
        source=ADAPTER.source(SYSTEM, head.version),
        kind=_kind(receipt, basket),
        pos_id=_pos_id(receipt),
        business_date=local_date(end, notes),
        end=end,
        currency=currency,
        exponent=basket.exponent,
        total=basket.total,
        totals=basket.totals_said(),
        store=receipt.value("BusinessUnit/UnitID"),
        till=receipt.value("WorkstationID"),
        sequence=receipt.value("SequenceNumber") or None,
        receipt=receipt.value("ReceiptNumber") or None,
        operator=receipt.value("OperatorID") or None,
        links=tuple(basket.links),
        lines=tuple(basket.lines),
        discounts=tuple(basket.discounts),
        taxes=tuple(basket.taxes),
        tenders=tuple(basket.tenders),
        customer=basket.customer,
        reason=retail.value("Reason") or None,
        fiscal=head.fiscal or _fiscal(receipt),
        ext=notes.ext(rest=receipt.rest(), head=head.rest),
    )
    return checked_at(receipt, made)


def _retail(receipt: Element) -> Element:
    """What was sold. Raises `InvalidInput` for a receipt of several, which is several sales."""
    found = [one for one in receipt.children if one.name in ("RetailTransaction", "CustomerOrderTransaction")]
    if len(found) != 1:
        raise InvalidInput(f"{len(found)} are given", field=f"{receipt.place}/RetailTransaction", limit="one")
    return found[0]


def _kind(receipt: Element, basket: Basket) -> Kind:
    said = receipt.attributes.get("TypeCode", "")
    kind = {"SaleTransaction": "sale", "ReturnTransaction": "return"}.get(said)
    if said and kind is None and ":" not in said:
        raise InvalidInput(f"{shown(said)} is no kind of receipt", field=f"{receipt.place}@TypeCode")
    if kind is not None:
        receipt.attribute("TypeCode")
    return "return" if kind == "return" else basket.kind


def _pos_id(receipt: Element) -> str:
    """The number that the POS counts by; a receipt without any is named by what is printed on it."""
    number = receipt.value("SequenceNumber", "ReceiptNumber", "se:ReceiptCode")
    if not number:
        raise InvalidInput("is missing", field=f"{receipt.place}/SequenceNumber")
    return number


def _fiscal(owner: Element) -> Fiscal | None:
    """The Swedish control unit, by the line that tells its number."""
    unit = owner.first("se:ControlUnit")
    if unit is None:
        return None
    device = ""
    for text in unit.all("se:Text"):
        if not device and "tillverkningsnummer" in text.attributes.get("Name", ""):
            device = text.take()
    rest = unit.rest()
    return Fiscal(system="se:ControlUnit", device=device, ext={"rest": rest} if rest else None)


ADAPTER: Final = Adapter(
    "digital_receipt",
    "1",
    "application/xml",
    read,
    tried="the five samples of the Swedish digital receipt standard",
    also=("text/xml",),
)
