"""What the ARTS formats have in common: the inside of a `RetailTransaction`, in POSLog as in Digital Receipt.

Names and meanings are those of the ARTS schemas (IXRetail namespace). Three things are not as they seem:

- A returned item's amounts, taxes and quantity are positive in the file and negative here, as is the total of a
  `Return`.
- A void line with a negative amount (NCR's) takes back an earlier line: the two are struck out together. Where none is
  its exact opposite it stays as it is, and counts.
- Track data and verification values of cards are dropped, as the redactor would (`arts_tenders`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final, Literal

import msgspec

from ..errors import InvalidInput, TooLarge, shown
from ..limits import MAX_LINES
from ..transaction import Customer, Discount, Line, Link, Tax, Tender, Totals
from .arts_customer import People
from .arts_goods import goods_codes, goods_hierarchy, goods_type
from .arts_tenders import Money, ext_of, rate_at, tender_of
from .base import decimal, plain
from .times import date_of
from .xml import Element

HOME: Final = "http://www.nrf-arts.org/IXRetail/namespace/"
KNOWN: Final = {
    "http://www.ncr.com/rsd/acs/tlog/markup/poslog/2.1": "acs",
    "http://www.sweretailstandard.se/schemas/namespace/se": "se",
    "http://www.swestandard.se/schemas/namespace/se": "se",
}
SALES: Final = ("Sale", "SaleForDelivery", "SaleForPickup", "FuelSale", "StoredValueFund", "GiftCertificate")
RETURNS: Final = ("Return", "ReturnForDelivery", "ReturnForPickup")
LINKS: Final = {
    "Return": "original",
    "Resume": "resumes",
    "Voided": "voids",
    "PostVoided": "voids",
    "ReceiptReprint": "previous_receipt",
}
"""Reasons of a `TransactionLink`; any other is a link to the original."""
_TOTALS: Final = {
    "TransactionGrossAmount": "gross",
    "TransactionNetAmount": "net",
    "TransactionTaxAmount": "tax",
    "TransactionTotalSavings": "discount",
    "TransactionTenderApplied": "paid",
}
_WITH_MONEY: Final = (
    "Rounding",
    "PaymentOnAccount",
    "Deposit",
    "Layaway",
    "PreviousLayaway",
    "CustomerOrderForDelivery",
    "CustomerOrderForPickup",
)
"""Lines of other kinds than goods that count into the total."""
_FLAGS: Final = ("VoidFlag", "CancelFlag", "DeleteFlag")
_TRUE: Final = frozenset(("true", "1"))
_MOST_DISCOUNTS: Final = 100
_MOST_LINKS: Final = 50


@dataclass(slots=True)
class Basket(Money):
    """One `RetailTransaction` while it is read: what was found so far, and what it is read with."""

    inclusive: bool = False
    """Whether amounts of lines contain their tax where the format says nothing of it."""
    lines: list[Line] = field(default_factory=list)
    discounts: list[Discount] = field(default_factory=list)
    taxes: list[Tax] = field(default_factory=list)
    tenders: list[Tender] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    people: People = field(default_factory=People)
    totals: dict[str, int] = field(default_factory=dict)
    total: int = 0
    customer: Customer | None = None
    _standing: dict[tuple[str, str, int], list[int]] = field(default_factory=dict)
    """Lines that are not struck out, by product and amount."""
    returns: int = 0
    """How many lines are returns."""

    def read(self, retail: Element) -> None:
        """Take what the canonical transaction has a place for; the rest stays. Raises `InvalidInput`."""
        for item in retail.all("LineItem"):
            self._line_item(item)
        self._total(retail)
        if self.kind == "return" and self.total < 0:
            self.taxes = [_given_back(tax) for tax in self.taxes]
        self.read_links(retail)
        self.customer = self.people.customer(retail)

    @property
    def kind(self) -> Literal["sale", "return", "exchange"]:
        """What the lines that are not struck out say."""
        lines = [line for line in self.lines if line.type not in ("rounding", "other", "discount") and not line.void]
        if not self.returns or not lines:
            return "sale"
        return "return" if self.returns >= len(lines) else "exchange"

    # Numbers

    def _signed(self, element: Element) -> int:
        """An amount whose `Action` says whether it is added or subtracted."""
        amount = self.minor(element)
        return -amount if element.attribute("Action") == "Subtract" and amount > 0 else amount

    # Lines

    def _line_item(self, item: Element) -> None:
        sale, returned = item.first(*SALES), item.first(*RETURNS)
        if sale is not None:
            self.lines.append(self._goods(item, sale, returned=False))
        elif returned is not None:
            self.returns += not _void(item)
            self.lines.append(self._goods(item, returned, returned=True))
        elif _void(item):
            item.keep(*_FLAGS)
        elif (tax := item.first("Tax")) is not None and tax.first("Amount") is not None:
            self.taxes.append(self._tax(tax))
        elif (tender := item.first("Tender", "TenderChange")) is not None:
            self.tender(item, tender)
        elif (other := item.first(*_WITH_MONEY)) is not None:
            self.lines.append(self._other(item, other))
        else:
            self._reduction(item)
            self.people.loyalty(item)

    def _goods(self, item: Element, goods: Element, *, returned: bool) -> Line:
        amount = self._extended(goods)
        quantity = self._quantity(goods)
        if returned:
            amount, quantity = -abs(amount), -abs(quantity)
        void = _void(item)
        if len(self.lines) >= MAX_LINES:
            raise TooLarge("too many lines", field=item.place, limit=f"{MAX_LINES} lines")
        if void and amount < 0 and not returned:
            void = self._take_back(item, goods, amount)
        elif not void:
            self._standing.setdefault((*_product(goods), amount), []).append(len(self.lines))
        self.read_links(goods)
        taxes = tuple(self._tax(tax) for tax in goods.all("Tax") if tax.first("Amount") is not None)
        return Line(
            seq=self._seq(item),
            amount=amount,
            quantity=plain(quantity),
            type=goods_type(goods),
            parent=self._parent(goods),
            unit=self._unit(goods),
            hierarchy=goods_hierarchy(goods),
            name=goods.value("Description") or None,
            regular_price=self._price(goods, "RegularSalesUnitPrice", "UnitListPrice"),
            price=self._price(goods, "ActualSalesUnitPrice"),
            void=void,
            reason=goods.value("Reason", "ReasonCode") or item.value("ReasonCode") or None,
            discounts=tuple(self._line_discounts(goods)),
            taxes=taxes if not returned else tuple(map(_given_back, taxes)),
            **goods_codes(goods),
            ext=ext_of(item.rest()),
        )

    def _extended(self, goods: Element) -> int:
        for name in ("ExtendedAmount", "Amount", "FaceValueAmount"):
            found = goods.first(name)
            if found is not None and found.text:
                return self._signed(found)
        self.notes.assumed.append("lines.amount")
        return 0

    def _quantity(self, goods: Element) -> Decimal:
        """How many: `Units` is how many are in one, a pack of six say, so that it multiplies."""
        found = goods.first("Quantity")
        if found is None or not found.text:
            return Decimal(1)
        quantity = decimal(found.take(), found.place)
        units = decimal(found.attributes.get("Units") or "1", f"{found.place}@Units")
        if units == 1 or units.is_zero():
            found.attribute("Units")
            return quantity
        return quantity * units

    def _unit(self, goods: Element) -> str | None:
        found = goods.first("Quantity")
        return (found.attribute("UnitOfMeasureCode") if found is not None else "") or None

    def _price(self, goods: Element, *names: str) -> str | None:
        found = goods.first(*names)
        if found is None or not found.text:
            return None
        found.attribute("Currency")
        if found.attributes.get("Action") == "Add":
            found.attribute("Action")
        return plain(decimal(found.take(), found.place))

    def _seq(self, item: Element) -> int:
        """A line's number; where none is said it is the place in the file."""
        said = item.value("SequenceNumber")
        if not said:
            self.notes.assumed.append("lines.seq")
            return item.ordinal
        return _whole(said, f"{item.place}/SequenceNumber")

    def _parent(self, goods: Element) -> int | None:
        link = goods.first("ItemLink")
        return _whole(link.take(), link.place) if link is not None and link.text else None

    def _take_back(self, item: Element, goods: Element, amount: int) -> bool:
        """Strike out the line that a void line takes back; False where none is its exact opposite."""
        opposite = self._standing.get((*_product(goods), -amount))
        if opposite:
            index = opposite.pop()
            self.lines[index] = msgspec.structs.replace(self.lines[index], void=True)
            return True
        item.keep(*_FLAGS)
        return False

    def _other(self, item: Element, other: Element) -> Line:
        """A line of a kind of its own that has an amount: a payment on account, a rounding, a deposit."""
        found = other.first("ExtendedAmount", "Amount") or other
        amount = self._signed(found)
        rounding = other.name == "Rounding"
        return Line(
            seq=self._seq(item),
            amount=amount,
            type="rounding" if rounding else "other",
            void=_void(item),
            ext=ext_of(item.rest(), {} if rounding else {"line": other.name}),
        )

    # Discounts

    def _line_discounts(self, goods: Element) -> Iterator[Discount]:
        """What is already taken off a line: its price modifiers, or where it has none its discount amount."""
        found = False
        for modifier in goods.all("RetailPriceModifier"):
            discount = self._discount(modifier)
            if discount is not None:
                found = True
                yield discount
        amount = goods.first("ExtendedDiscountAmount")
        if amount is not None and amount.text and not found:
            taken_off = self.minor(amount)
            if taken_off:
                yield Discount(amount=taken_off)

    def _discount(self, modifier: Element) -> Discount | None:
        """A price modifier or order discount with an amount of its own; None for a percentage or a new price alone."""
        found = modifier.first("Amount")
        action = found.attributes.get("Action", "Subtract") if found is not None else ""
        if found is None or not found.text or action not in ("Subtract", "Add"):
            return None
        amount = self.minor(found)
        found.attribute("Action")
        modifier.value("SequenceNumber")
        return Discount(
            amount=-amount if action == "Add" else amount,
            kind=modifier.attribute("MethodCode"),
            promotion=modifier.value("PromotionID") or None,
            name=modifier.value("Description") or None,
            rate=rate_at(modifier, "Percent"),
            reason=modifier.value("ReasonCode") or None,
        )

    def _reduction(self, item: Element) -> None:
        """A discount on the whole. One that is linked to an item repeats what that item's own modifiers say.

        NCR tells each reward in detail and once more summarized: money counts where it stands in detail.
        """
        found = item.first("Discount")
        discount = self._discount(found) if found is not None and found.first("ItemLink") is None else None
        if discount is not None:
            self._take_off(item, discount)
        reward = item.first("LoyaltyReward")
        if reward is None:
            return
        amount = reward.first("acs:ExtendedRewardAmount")
        money = (category := reward.first("acs:RewardCategory")) is not None and category.text == "Monetary"
        if amount is None or not money or reward.attributes.get("acs:detailedData") not in _TRUE:
            return
        self._take_off(
            item,
            Discount(
                amount=-self.minor(amount),
                kind=reward.value("acs:RewardType"),
                promotion=reward.value("PromotionID") or None,
                reason=reward.value("ReasonCode") or None,
            ),
        )

    def _take_off(self, item: Element, discount: Discount) -> None:
        """Discounts beyond those that the canonical transaction holds become lines: a day has sales with so many."""
        if len(self.discounts) < _MOST_DISCOUNTS:
            self.discounts.append(discount)
            return
        told = {"promotion": discount.promotion} if discount.promotion else {}
        self.lines.append(
            Line(
                seq=self._seq(item),
                amount=-discount.amount,
                type="discount",
                name=discount.name or discount.kind or None,
                reason=discount.reason,
                ext=ext_of(item.rest(), told),
            )
        )

    # Taxes

    def _tax(self, tax: Element) -> Tax:
        base = tax.first("TaxableAmount")
        return Tax(
            code=self._tax_code(tax),
            amount=self.minor(tax.need("Amount")),
            rate=rate_at(tax, "Percent"),
            base=self.minor(base) if base is not None and base.text else None,
            included=self._included(tax, base),
        )

    def _included(self, tax: Element, base: Element | None) -> bool:
        flag = "TaxIncludedInTaxableAmountFlag"
        owner = base if base is not None and flag in base.attributes else tax
        if owner.attributes.get(flag) in _TRUE:
            owner.attribute(flag)
            return True
        if self.inclusive or tax.attributes.get("TaxType") == "VAT":
            self.notes.assumed.append("taxes.included")
            return True
        owner.attribute(flag)
        return False

    def _tax_code(self, tax: Element) -> str:
        for name in ("TaxType", "acs:TaxID", "TaxSubType"):
            if tax.attributes.get(name):
                return tax.attribute(name)
        code = tax.value("TaxGroupID", "TaxRuleID")
        if not code:
            self.notes.assumed.append("taxes.code")
        return code or "tax"

    # Tenders

    def tender(self, item: Element, tender: Element) -> None:
        """A means of payment, or change as a line of its own, and what else stands in its line."""
        read, rounding = tender_of(self, item, tender)
        self.tenders.append(read)
        if rounding:
            self.totals["rounding"] = self.totals.get("rounding", 0) + rounding

    # Head and customer

    def _total(self, retail: Element) -> None:
        found: dict[str, Element] = {}
        for total in retail.all("Total"):
            found.setdefault(total.attributes.get("TotalType", ""), total)
        for said, name in _TOTALS.items():
            if said in found:
                self.totals[name] = self._one_total(found[said])
        if "TransactionGrandAmount" in found:
            self.total = self._one_total(found["TransactionGrandAmount"])
            return
        self.notes.assumed.append("total")
        self.total = self.totals.get("net", 0)

    def _one_total(self, total: Element) -> int:
        amount = self.minor(total)
        total.attribute("TotalType")
        return -abs(amount) if total.attribute("TypeCode") == "Return" else amount

    def totals_said(self) -> Totals | None:
        """The header's other totals."""
        return Totals(**self.totals) if self.totals else None

    def read_links(self, *owners: Element) -> None:
        """Other transactions that these name, each once. Raises `InvalidInput` for a link that names none."""
        for owner in owners:
            receipt = owner.first("se:ReceiptCodeLink")
            for one in owner.all("TransactionLink"):
                link = self._link(one, receipt)
                if link not in self.links:
                    self.links.append(link)
                if len(self.links) > _MOST_LINKS:
                    raise TooLarge("too many links", field=one.place, limit=f"{_MOST_LINKS} links")

    def _link(self, link: Element, receipt: Element | None) -> Link:
        reason = link.attributes.get("ReasonCode", "")
        if reason in LINKS:
            link.attribute("ReasonCode")
        pos_id = link.value("SequenceNumber", "TransactionID")
        if not pos_id:
            raise InvalidInput("neither SequenceNumber nor TransactionID is said", field=link.place)
        return Link(
            relation=LINKS.get(reason, "original"),  # type: ignore[arg-type]
            pos_id=pos_id,
            business_date=date_of(link.value("BusinessDayDate")),
            store=link.value("RetailStoreID", "BusinessUnit/UnitID") or None,
            till=link.value("WorkstationID") or None,
            receipt=receipt.take() or None if receipt is not None else None,
        )


def truth(text: str) -> bool:
    """A flag of the schemas."""
    return text in _TRUE


def _void(item: Element) -> bool:
    """Whether a line is struck out, or cancelled as later versions say."""
    flags = [item.attribute(name) for name in _FLAGS]
    return any(flag in _TRUE for flag in flags)


def _product(goods: Element) -> tuple[str, str]:
    codes = goods_codes(goods)
    return codes.get("sku", ""), codes.get("gtin", "")


def _given_back(tax: Tax) -> Tax:
    """A tax of what was returned, whichever sign it was written with."""
    base = None if tax.base is None else -abs(tax.base)
    return msgspec.structs.replace(tax, amount=-abs(tax.amount), base=base)


def _whole(text: str, place: str) -> int:
    number = decimal(text, place)
    if number != number.to_integral_value() or not 0 <= number <= 1_000_000:
        raise InvalidInput(f"{shown(text)} is not a line's number", field=place, limit="0 to 1000000")
    return int(number)
