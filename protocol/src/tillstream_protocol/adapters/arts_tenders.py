"""How the ARTS formats write money and means of payment."""

from __future__ import annotations

import binascii
import re
from dataclasses import dataclass
from typing import Any, Final

from ..errors import InvalidInput, shown
from ..transaction import Tender
from .base import Notes, Setting, decimal, exponent_of, plain
from .xml import Element

_SECRET: Final = frozenset(("Track1Data", "Track2Data", "Track3Data", "Track4Data", "CVV", "CVV2", "CVC2"))
_CARD: Final = re.compile(r"[0-9*xX -]{4,}")


@dataclass(slots=True)
class Money:
    """What amounts are read with."""

    setting: Setting
    notes: Notes
    currency: str
    exponent: int

    def minor(self, element: Element) -> int:
        """An amount in minor units. Raises `InvalidInput`, also for one in another currency."""
        for name in ("Currency", "CurrencyCode"):
            said = element.attribute(name)
            if said and said != self.currency:
                raise InvalidInput(
                    f"an amount in {shown(said)}", field=element.place, limit=f"the transaction's own {self.currency}"
                )
        return self.notes.minor(element.take(), self.exponent, element.place)

    def minor_at(self, element: Element, name: str) -> int | None:
        """An amount below an element, None where there is none."""
        found = element.first(name)
        return None if found is None or not found.text else self.minor(found)


def rate_at(element: Element, name: str) -> str | None:
    """A decimal below an element as the canonical transaction writes it, None where there is none."""
    found = element.first(name)
    return plain(decimal(found.take(), found.place)) if found is not None and found.text else None


def ext_of(rest: dict[str, Any], more: dict[str, Any] | None = None) -> dict[str, Any] | None:
    """What nobody took, as a line's `ext`."""
    told = {**(more or {}), **({"rest": rest} if rest else {})}
    return told or None


def tender_of(money: Money, item: Element, tender: Element) -> tuple[Tender, int]:
    """A means of payment, or change as a line of its own, and by how much the total was rounded to be paid with it."""
    amount = money.minor(tender.need("Amount"))
    change = None
    if tender.name == "TenderChange":
        change = abs(amount)
        amount = -change
    refund = tender.name == "Tender" and tender.attributes.get("TypeCode") == "Refund"
    if refund or tender.attributes.get("TypeCode") == "Sale":
        tender.attribute("TypeCode")
    settled, tendered, given = _settled(money, tender, amount)
    rounding = 0 if tendered is None or given is not None else _rounded(money, tender, settled - amount)
    read = Tender(
        type=_tender_type(money, tender),
        amount=-abs(settled) if refund else settled,
        tendered=tendered,
        change=change if given is None else given,
        tip=money.minor_at(tender, "Tip"),
        gift_card=tender.value("GiftCard/CardNumber", "Voucher/SerialNumber") or None,
        card=_card(tender),
        reference=tender.value("Authorization/ReferenceNumber", "Authorization/AuthorizationCode") or None,
        refund=refund,
        **_foreign(money, tender.first("ForeignCurrency")),
        ext=ext_of(_without_secrets(item).rest()),
    )
    return read, rounding


def _settled(money: Money, tender: Element, amount: int) -> tuple[int, int | None, int | None]:
    """What a tender settled, what was handed over, and the change. NCR writes change as a negative tender."""
    applied = money.minor_at(tender, "AmountAppliedToBill")
    given = [abs(money.minor(one.need("Amount"))) for one in tender.all("TenderChange")]
    change = sum(given) if given else None
    if tender.name == "TenderChange" or (change is not None and amount < 0):
        return amount, None, change
    if applied is None:
        return (amount, None, None) if change is None else (amount - change, amount, change)
    return applied, amount if applied != amount else None, change


def _rounded(money: Money, tender: Element, off: int) -> int:
    """The rounding for the total's, where the tender's own numbers prove its sign."""
    rounding = tender.first("Rounding")
    proved = rounding is not None and rounding.text and abs(money.minor(rounding)) == abs(off)
    return off if proved else 0


def _tender_type(money: Money, tender: Element) -> str:
    said = tender.attribute("TenderType") or tender.value("TenderID")
    if not said:
        money.notes.assumed.append("tenders.type")
    return said or "other"


def _foreign(money: Money, foreign: Element | None) -> dict[str, Any]:
    if foreign is None:
        return {}
    face, currency = foreign.first("OriginalFaceAmount"), foreign.value("CurrencyCode")
    whole: dict[str, Any] = {"foreign_currency": currency or None, "foreign_rate": rate_at(foreign, "ExchangeRate")}
    if face is not None and face.text and currency:
        whole["foreign_amount"] = Money(money.setting, money.notes, currency, exponent_of(currency)).minor(face)
    return whole


def _card(tender: Element) -> str | None:
    """A card's number, which the schemas have in base64: what is masked has to be readable, or nobody can redact it."""
    found = tender.at("CreditDebit/PrimaryAccountNumber") or tender.at("CreditDebit/AccountNumber")
    if found is None or not found.text:
        return None
    if _CARD.fullmatch(found.text):
        return found.take()
    try:
        number = binascii.a2b_base64(found.text, strict_mode=True).decode("ascii")
    except ValueError:
        return None
    if not _CARD.fullmatch(number):
        return None
    found.take()
    return number


def _without_secrets(element: Element) -> Element:
    for child in element.children:
        if child.name in _SECRET:
            child.wipe()
        _without_secrets(child)
    return element
