"""ARTS POSLog, versions 2.1 to 6: the journal of a shop's tills, many transactions in a file.

The schemas are those of ARTS (NRF, later OMG), `POSLog.xsd`; version 2 names a shop by `RetailStoreID`, version 6 by
`BusinessUnit/UnitID` and gives its version on the root. NCR's additions (`acs:`) are read where they move money or name
a member. Local times without an offset are in the setting's zone. What stands on the root goes with the first one.

Sales, returns, suspended, resumed, cancelled and post-voided transactions, signing on and off, no-sale, money paid in
and out, opening and closing are read. Another kind of transaction is refused, and with it the file, unless the option
`skip` lists the name of its element: nothing is to disappear unseen.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from ..errors import InvalidInput, shown
from ..transaction import Kind, Moment, Transaction
from .arts import HOME, KNOWN, Basket, truth
from .base import Adapter, Notes, Reading, Setting, exponent_of, moment
from .times import date_of, local_date
from .xml import Element, checked_at, cut, parse

SYSTEM: Final = "arts-poslog"
_RETAIL: Final = ("RetailTransaction", "CustomerOrderTransaction")
_CONTROL: Final[dict[str, Kind]] = {
    "OperatorSignOn": "sign_on",
    "SignOn": "sign_on",
    "OperatorSignOff": "sign_off",
    "SignOff": "sign_off",
    "NoSale": "no_sale",
    "BusinessSOD": "open",
    "POSSOD": "open",
    "TillOpen": "open",
    "BusinessEOD": "close",
    "POSEOD": "close",
    "TillClose": "close",
    "PaidIn": "paid_in",
    "TenderLoan": "paid_in",
    "PaidOut": "paid_out",
    "TenderPickup": "paid_out",
    "TillSettle": "close",
    "PostVoid": "void",
}
_CONTROLS: Final = ("ControlTransaction", "TenderControlTransaction")
_STATUS: Final[dict[str, Kind | None]] = {
    "": None,
    "Totaled": None,
    "Tendered": None,
    "Delivered": None,
    "Completed": None,
    "SuspendedRetrieved": None,
    "Suspended": "suspend",
    "SuspendedDeleted": "cancel",
    "Canceled": "cancel",
    "Cancelled": "cancel",
    "Voided": "void",
    "PostVoided": "void",
}
"""`TransactionStatus` of a retail transaction; None where its lines say what it is."""


def read(data: bytes, setting: Setting) -> list[Reading]:
    """The transactions of a file in its order, each with its own bytes. Raises `InvalidInput` or `TooLarge`."""
    root = parse(data, what="a POSLog", home=HOME, known=KNOWN)
    if root.name != "POSLog":
        raise InvalidInput(f"{shown(root.name)} is no POSLog", field=root.name, limit="POSLog")
    version = _version(root)
    head = root.rest(but="Transaction")
    skipped = frozenset(setting.options.get("skip", ()))
    found = [one for one in root.all("Transaction") if not any(child.name in skipped for child in one.children)]
    alone = len(root.all("Transaction")) == 1
    readings = []
    for index, one in enumerate(found):
        made = _Reader(one, setting, version, {} if index else head).made()
        readings.append(Reading(made, data if alone else cut(data, one)))
    return readings


def _version(element: Element) -> str:
    parts = [element.attribute(f"{part}Version") for part in ("Major", "Minor", "Fix")]
    return ".".join(part for part in parts if part)


class _Reader:
    """One transaction while it is read."""

    def __init__(self, transaction: Element, setting: Setting, version: str, head: dict[str, Any]) -> None:
        self._element = transaction
        self._setting = setting
        self._head = head
        self._notes = Notes()
        currency = transaction.value("CurrencyCode")
        currency = self._notes.currency(currency, setting, f"{transaction.place}/CurrencyCode")
        self._basket = Basket(setting, self._notes, currency, exponent_of(currency))
        self._body = _body(transaction)
        self._version = version or _version(transaction) or self._body.attribute("Version") or self._guess()

    def _guess(self) -> str:
        return "6" if self._element.first("BusinessUnit") is not None else "2"

    def made(self) -> Transaction:
        """The canonical transaction. Raises `InvalidInput`."""
        this, basket = self._element, self._basket
        kind = self._kind()
        begin, end = self._times()
        made = Transaction(
            source=ADAPTER.source(SYSTEM, self._version),
            kind=kind,
            pos_id=self._pos_id(),
            business_date=self._business_date(end),
            begin=begin,
            end=end,
            currency=basket.currency,
            exponent=basket.exponent,
            total=basket.total,
            totals=basket.totals_said(),
            store=this.value("RetailStoreID", "BusinessUnit/UnitID"),
            till=this.value("WorkstationID"),
            sequence=this.value("SequenceNumber") or None,
            receipt=this.value("ReceiptNumber") or self._body.value("ReceiptNumber") or None,
            operator=this.value("OperatorID") or None,
            links=tuple(basket.links),
            lines=tuple(basket.lines),
            discounts=tuple(basket.discounts),
            taxes=tuple(basket.taxes),
            tenders=tuple(basket.tenders),
            customer=basket.customer,
            reason=self._body.value("ReasonCode", "Reason", *(f"{one.name}/Reason" for one in self._body.children))
            or None,
            training=self._flag("TrainingModeFlag"),
            offline=self._flag("OfflineFlag"),
            ext=self._notes.ext(rest=this.rest(), head=self._head),
        )
        return checked_at(this, made)

    def _flag(self, name: str) -> bool:
        """Flags are attributes in the schemas; some tills write elements."""
        return truth(self._element.attribute(name)) or truth(self._element.value(name))

    def _kind(self) -> Kind:
        if self._body.name in _RETAIL:
            self._basket.read(self._body)
            kind = self._retail_kind()
        else:
            kind = self._control_kind()
        if kind == "void":
            self._basket.links = [
                msgspec.structs.replace(link, relation="voids") if link.relation == "original" else link
                for link in self._basket.links
            ]
        return "cancel" if self._flag("CancelFlag") else kind

    def _retail_kind(self) -> Kind:
        status = self._body.attributes.get("TransactionStatus", "")
        if status not in _STATUS:
            place = f"{self._body.place}@TransactionStatus"
            raise InvalidInput(
                f"{shown(status)} is no known status", field=place, limit=", ".join(filter(None, _STATUS))
            )
        kind = _STATUS[status]
        if kind is not None:
            self._body.attribute("TransactionStatus")
        return kind or self._basket.kind

    def _control_kind(self) -> Kind:
        """What a control transaction did, and the money that it moved."""
        body, basket = self._body, self._basket
        for detail in body.children:
            if detail.name in _CONTROL:
                amount = detail.first("Amount") or body.first("Amount")
                basket.total = basket.minor(amount) if amount is not None and amount.text else 0
                for tender in detail.all("Tender"):
                    basket.tender(tender, tender)
                basket.read_links(body, detail)
                return _CONTROL[detail.name]
        names = ", ".join(shown(child.name) for child in body.children[:5])
        raise InvalidInput(
            f"{names or 'nothing'} is no known kind of it", field=body.place, hint="list it in the option `skip`"
        )

    def _times(self) -> tuple[Moment | None, Moment]:
        begin = self._moment(self._element.first("BeginDateTime"))
        ends = [self._element.first("EndDateTime"), *self._element.all("POSLogDateTime")]
        ends += [owner.first("ReceiptDateTime") for owner in (self._element, self._body)]
        end = next((one for one in map(self._moment, ends) if one is not None), begin)
        if end is None:
            raise InvalidInput("is missing", field=f"{self._element.place}/EndDateTime")
        if end.offset_from != "explicit":
            self._notes.assumed.append("zone")
        return begin, end

    def _moment(self, element: Element | None) -> Moment | None:
        if element is None or not element.text:
            return None
        return moment(element.take(), self._setting, element.place)

    def _pos_id(self) -> str:
        number = self._element.value("SequenceNumber", "TransactionID")
        if not number:
            raise InvalidInput("is missing", field=f"{self._element.place}/SequenceNumber")
        return number

    def _business_date(self, end: Moment) -> str:
        return date_of(self._element.value("BusinessDayDate")) or local_date(end, self._notes)


def _body(transaction: Element) -> Element:
    """What the transaction is about. Raises `InvalidInput` for none, several, or one of another kind."""
    bodies = [one for one in transaction.children if one.name.endswith("Transaction")]
    if len(bodies) != 1:
        raise InvalidInput(f"{len(bodies)} kinds are given", field=transaction.place, limit="one RetailTransaction")
    if bodies[0].name not in (*_RETAIL, *_CONTROLS):
        raise InvalidInput(
            f"{shown(bodies[0].name)} is no known kind", field=bodies[0].place, hint="list it in the option `skip`"
        )
    return bodies[0]


ADAPTER: Final = Adapter(
    "poslog",
    "1",
    "application/xml",
    read,
    tried="NCR ACS, POSLog 2.1: a small file, and a day's of 51 transactions. Version 6 not yet",
    also=("text/xml",),
)
