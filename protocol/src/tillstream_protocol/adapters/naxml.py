"""NAXML POSJournal, versions 3.2 to 3.6: what the tills of convenience stores write. Not yet tried on genuine data.

The vocabulary is that of Conexxus (formerly NACS), `NAXML-POSJournal.xsd`; this was written from published mappings of
Verifone's journal, published examples, and what open source of others says of Gilbarco Passport's files, since the
standard itself is for members. A file holds one event or many:

- `SaleEvent` is a sale, suspended where its flag says so; `RefundEvent` a return; `VoidEvent` voids the transaction
  that it links to, and without a link is one that was given up.
- `FinancialEvent` is money paid in or out, safe drops and loans too; `OtherEvent` no-sale, a register or a cashier
  opened or closed. Another detail is refused, and with it the file, unless the option `skip` lists its element's name.

Lines with the status `cancel` or `void` are struck out. Refunds are negative, as Passport writes them; where a till
writes them positive they are turned. Change is a tender of its own. A line's promotions are taken to be off its amount.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from ..errors import InvalidInput, shown
from ..transaction import Customer, Discount, Identifier, Kind, Line, Link, Moment, Tax, Tender, Totals, Transaction
from .base import Adapter, Notes, Reading, Setting, decimal, exponent_of, moment, plain
from .times import date_of, local_date
from .xml import Element, checked_at, cut, parse

SYSTEM: Final = "naxml"
HOME: Final = "http://www.naxml.org/POSBO/Vocabulary/2003-10-16"
_EVENTS: Final = ("SaleEvent", "RefundEvent", "VoidEvent", "FinancialEvent", "OtherEvent")
_DETAILS: Final[dict[tuple[str, str], Kind]] = {
    ("PayInDetail", ""): "paid_in",
    ("PayOutDetail", ""): "paid_out",
    ("SafeDropDetail", ""): "paid_out",
    ("SafeLoanDetail", ""): "paid_in",
    ("DrawerLoanDetail", ""): "paid_in",
    ("NosaleDetail", ""): "no_sale",
    ("NoSaleDetail", ""): "no_sale",
    ("RegisterDetail", "open"): "open",
    ("RegisterDetail", "close"): "close",
    ("CashierDetail", "open"): "sign_on",
    ("CashierDetail", "close"): "sign_off",
}
"""By the name of a detail and its `detailType`."""
_LINES: Final = {
    "ItemLine": "SalesAmount",
    "FuelLine": "SalesAmount",
    "MerchandiseCodeLine": "SalesAmount",
    "FuelPrepayLine": "SalesAmount",
    "FeeLine": "FeeAmount",
    "MoneyOrderLine": "MoneyOrderFaceAmount",
}
"""What counts into the total, and by which amount."""
_STRUCK: Final = ("cancel", "void")
_GTIN: Final = ("upca", "upce", "ean8", "ean13", "gtin")
_CARD: Final = re.compile(r"[0-9*xX]{4,}")


def read(data: bytes, setting: Setting) -> list[Reading]:
    """The events of a journal in its order, each with its own bytes. Raises `InvalidInput` or `TooLarge`."""
    root = parse(data, what="a NAXML POS journal", home=HOME)
    if root.name != "NAXML-POSJournal":
        raise InvalidInput(f"{shown(root.name)} is no POS journal", field=root.name, limit="NAXML-POSJournal")
    head = _Head(root)
    events = [event for report in root.all("JournalReport") for event in _events(report, setting)]
    alone = len(events) == 1
    readings = []
    for one in events:
        readings.append(Reading(_Reader(one, setting, head).made(), data if alone else cut(data, one)))
        head.rest = {}
    return readings


def _events(report: Element, setting: Setting) -> Iterator[Element]:
    skipped = frozenset(setting.options.get("skip", ()))
    for child in report.children:
        details = {detail.name for one in (child, *child.all("FinancialEventDetail")) for detail in one.children}
        if child.name == "JournalHeader" or child.name in skipped or details & skipped:
            continue
        if child.name not in _EVENTS:
            raise InvalidInput(
                f"{shown(child.name)} is no known event", field=child.place, hint="list it in the option `skip`"
            )
        yield child


class _Head:
    """What stands around the events, and holds for each of them; `rest` goes with the first."""

    def __init__(self, root: Element) -> None:
        self.version = root.attribute("version")
        self.store = root.value("TransmissionHeader/StoreLocationID")
        self.currency = root.value("TransmissionHeader/extension/currencyCode")
        self.rest = root.rest(but="JournalReport")
        for header in (one for report in root.all("JournalReport") for one in report.all("JournalHeader")):
            self.rest.update({f"JournalHeader/{path}": text for path, text in header.rest().items()})


class _Reader:
    """One event while it is read."""

    def __init__(self, event: Element, setting: Setting, head: _Head) -> None:
        self._event = event
        self._setting = setting
        self._head = head
        self._notes = Notes()
        self._currency = self._notes.currency(head.currency, setting, "NAXML-POSJournal/TransmissionHeader")
        self._exponent = exponent_of(self._currency)
        self._lines: list[Line] = []
        self._taxes: list[Tax] = []
        self._tenders: list[Tender] = []
        self._identifiers: list[Identifier] = []
        self._total = 0
        self._sign = 1

    def made(self) -> Transaction:
        """The canonical transaction. Raises `InvalidInput`."""
        event = self._event
        self._link = self._linked()
        kind, totals = self._kind(), self._totals()
        self._read_lines()
        begin, end = self._times()
        made = Transaction(
            source=ADAPTER.source(SYSTEM, self._head.version),
            kind=kind,
            pos_id=self._pos_id(),
            business_date=self._business_date(end),
            begin=begin,
            end=end,
            currency=self._currency,
            exponent=self._exponent,
            total=self._total,
            totals=totals,
            store=self._head.store,
            till=event.value("RegisterID"),
            session=event.value("TillID") or None,
            sequence=event.value("EventSequenceID") or None,
            operator=event.value("CashierID") or None,
            training=_flag(event, "TrainingModeFlag"),
            offline=_flag(event, "OfflineFlag"),
            links=(self._link,) if self._link is not None else (),
            lines=tuple(self._lines),
            taxes=tuple(self._taxes),
            tenders=tuple(self._tenders),
            customer=Customer(identifiers=tuple(self._identifiers)) if self._identifiers else None,
            reason=event.value("RefundReason", "VoidReason", "Reason") or None,
            ext=self._notes.ext(rest=event.rest(), head=self._head.rest),
        )
        return checked_at(event, made)

    # What it is

    def _kind(self) -> Kind:
        event = self._event
        if event.name == "SaleEvent":
            return "suspend" if _flag(event, "SuspendFlag") else "sale"
        if event.name == "RefundEvent":
            self._sign = self._sign_of_refunds()
            return "return"
        if event.name == "VoidEvent":
            return "void" if self._link is not None else "cancel"
        return self._detail()

    def _sign_of_refunds(self) -> int:
        """Minus one where nothing of a refund is negative by itself."""
        for _, line in self._parts():
            found = line.first(_LINES.get(line.name, ""))
            if found is not None and found.text.startswith("-"):
                return 1
        return -1

    def _detail(self) -> Kind:
        owners = [*self._event.all("FinancialEventDetail"), self._event]
        for detail in (child for owner in owners for child in owner.children):
            kind = _DETAILS.get((detail.name, detail.attributes.get("detailType", "")))
            if kind is not None:
                detail.attribute("detailType")
                amount = detail.first("DetailAmount")
                self._total = self._minor(amount) if amount is not None and amount.text else 0
                for tender in detail.all("TenderInfo"):
                    self._tenders.append(self._tender(tender))
                return kind
        raise InvalidInput(
            "no known detail is given", field=self._event.place, hint="list its detail in the option `skip`"
        )

    def _linked(self) -> Link | None:
        link = self._event.first("LinkedTransactionInfo")
        if link is None:
            return None
        pos_id = link.value("OriginalTransactionID", "TransactionID")
        if not pos_id:
            raise InvalidInput("is missing", field=f"{link.place}/OriginalTransactionID")
        reason = link.at("TransactionLinkReason")
        said = (reason.text or " ".join(reason.attributes.values())).lower() if reason is not None else ""
        resumed = "suspend" in said or "resume" in said or "recall" in said
        return Link(
            relation="voids" if self._event.name == "VoidEvent" else "resumes" if resumed else "original",
            pos_id=pos_id,
            store=link.value("OriginalStoreLocationID") or None,
            till=link.value("OriginalRegisterID") or None,
        )

    # Lines

    def _parts(self) -> Iterator[tuple[Element, Element]]:
        """What stands in the lines: one may hold a fee, an item and its tax."""
        for group in self._event.all("TransactionDetailGroup"):
            for line in group.all("TransactionLine"):
                for part in line.children:
                    yield line, part

    def _read_lines(self) -> None:
        for line, part in self._parts():
            struck = line.attributes.get("status", "normal") in _STRUCK
            if part.name in _LINES:
                line.attribute("status")
                self._lines.append(self._line(part, struck=struck))
            elif struck:
                continue
            elif part.name == "TransactionTax":
                self._taxes.append(self._tax(part))
            elif part.name == "TenderInfo":
                self._tenders.append(self._tender(part))
            elif part.name == "LoyaltyInfo":
                member = part.value("LoyaltyID")
                self._identifiers += [Identifier("loyalty", member)] if member else []
            if not struck and line.attributes.get("status") == "normal":
                line.attribute("status")

    def _line(self, part: Element, *, struck: bool) -> Line:
        code = part.at("ItemCode/POSCodeFormat")
        gtin = code is not None and code.attributes.get("format", "").lower() in _GTIN
        number = part.value("ItemCode/POSCode", "FuelGradeID", "FeeID")
        group = part.value("MerchandiseCode")
        line = Line(
            seq=len(self._lines) + 1,
            amount=self._sign * self._minor(part.need(_LINES[part.name])),
            quantity=self._quantity(part),
            type="fee" if part.name == "FeeLine" else "item" if part.first("SalesQuantity") is not None else "other",
            sku=number or None,
            gtin=number if gtin else None,
            name=part.value("Description") or None,
            hierarchy=(group,) if group else (),
            regular_price=self._price(part, "RegularSellPrice"),
            price=self._price(part, "ActualSalesPrice"),
            void=struck,
            discounts=tuple(self._discounts(part)),
            ext={"line": part.name, **({"rest": rest} if (rest := part.rest()) else {})},
        )
        self._notes.assumed.append("lines.seq")
        return line

    def _quantity(self, part: Element) -> str:
        found = part.first("SalesQuantity")
        if found is None or not found.text:
            return "1"
        quantity = decimal(found.take(), found.place)
        return plain(quantity * self._sign)

    def _price(self, part: Element, name: str) -> str | None:
        found = part.first(name)
        return plain(decimal(found.take(), found.place)) if found is not None and found.text else None

    def _discounts(self, part: Element) -> Iterator[Discount]:
        for kind in ("Promotion", "Discount"):
            for one in part.all(kind):
                amount = one.first(f"{kind}Amount")
                if amount is not None and amount.text:
                    yield Discount(
                        amount=self._minor(amount),
                        kind=kind.lower(),
                        promotion=one.value("PromotionID") or None,
                        reason=one.value(f"{kind}Reason") or None,
                    )

    def _tax(self, tax: Element) -> Tax:
        """A tax of the whole, on top of it: what was collected, or on a refund given back."""
        collected, refunded = tax.first("TaxCollectedAmount"), tax.first("TaxRefundedAmount")
        base = tax.first("TaxableSalesAmount")
        amount = self._sign * self._minor(collected) if collected is not None and collected.text else 0
        if refunded is not None and refunded.text:
            amount -= abs(self._minor(refunded))
        code = tax.value("TaxLevelID")
        if not code:
            self._notes.assumed.append("taxes.code")
        return Tax(
            code=code or "tax",
            amount=amount,
            base=self._sign * self._minor(base) if base is not None and base.text else None,
        )

    def _tender(self, tender: Element) -> Tender:
        amount = self._sign * self._minor(tender.need("TenderAmount"))
        change = _flag(tender, "ChangeFlag")
        kind = tender.value("Tender/TenderCode", "TenderCode")
        if not kind:
            self._notes.assumed.append("tenders.type")
        account = tender.at("AccountInfo/AccountID")
        card = account.take() if account is not None and _CARD.fullmatch(account.text) else None
        return Tender(
            type=kind or "other",
            amount=-abs(amount) if change else amount,
            change=abs(amount) if change else None,
            card=card,
            reference=tender.value("Authorization/ReferenceNumber", "Authorization/ApprovalReferenceCode") or None,
            refund=self._event.name == "RefundEvent" and not change,
            ext={"rest": rest} if (rest := tender.rest()) else None,
        )

    # The head

    def _minor(self, element: Element) -> int:
        return self._notes.minor(element.take(), self._exponent, element.place)

    def _totals(self) -> Totals | None:
        summary = self._event.first("TransactionSummary")
        if summary is None:
            self._notes.assumed += ["total"] if self._event.name in ("SaleEvent", "RefundEvent") else []
            return None
        named = {"gross": "TransactionTotalGrossAmount", "net": "TransactionTotalNetAmount"}
        named["tax"] = "TransactionTotalTaxNetAmount"
        found: dict[str, Any] = {}
        for name, element in ((name, summary.first(path)) for name, path in named.items()):
            if element is not None and element.text:
                found[name] = self._turned(self._minor(element))
        grand = summary.first("TransactionTotalGrandAmount")
        if grand is None or not grand.text:
            self._notes.assumed.append("total")
            self._total = found.get("net", 0)
        else:
            self._total = self._turned(self._minor(grand))
            if grand.attributes.get("direction") == ("Refunded" if self._total < 0 else "Collected"):
                grand.attribute("direction")
        return Totals(**found) if found else None

    def _turned(self, amount: int) -> int:
        """A header amount; of a refund it is negative, whichever way it was written."""
        return -abs(amount) if self._event.name == "RefundEvent" else amount

    def _times(self) -> tuple[Moment | None, Moment]:
        begin, end = self._moment("EventStart"), self._moment("EventEnd") or self._moment("Receipt")
        if begin is None and end is None:
            raise InvalidInput("is missing", field=f"{self._event.place}/EventEndDate")
        last = end or begin
        assert last is not None
        if last.offset_from != "explicit":
            self._notes.assumed.append("zone")
        return begin, last

    def _moment(self, name: str) -> Moment | None:
        """A date such as `2021-07-03T` and a time such as `16:13:40-07:00`, which stand apart."""
        date, time = self._event.first(f"{name}Date"), self._event.first(f"{name}Time")
        if date is None or time is None or not (date.text and time.text):
            return None
        return moment(f"{date.take()[:10]}T{time.take()}", self._setting, date.place)

    def _pos_id(self) -> str:
        """Its transaction's number; what is none is named by its number among the events, which is another count."""
        number = self._event.value("TransactionID")
        sequence = self._event.value("EventSequenceID")
        if not (number or sequence):
            raise InvalidInput("is missing", field=f"{self._event.place}/TransactionID")
        return number or f"event-{sequence}"

    def _business_date(self, end: Moment) -> str:
        return date_of(self._event.value("BusinessDate")) or local_date(end, self._notes)


def _flag(owner: Element, name: str) -> bool:
    """A flag such as `<OfflineFlag value="yes"/>`; without a value it is not set."""
    flag = owner.first(name)
    if flag is None:
        return False
    if flag.attributes.get("value", "no") in ("yes", "no"):
        return flag.attribute("value") == "yes"
    raise InvalidInput(f"{shown(flag.attributes['value'])} is no flag", field=flag.place, limit="yes or no")


ADAPTER: Final = Adapter("naxml", "1", "application/xml", read, also=("text/xml",))
