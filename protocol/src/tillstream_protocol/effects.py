"""What an offer does at the till, and why one was refused."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from .limits import MAX_LONG_TEXT, MAX_MINOR, MAX_TEXT
from .transaction import Code

Text = Annotated[str, Meta(min_length=1, max_length=MAX_TEXT)]
Positive = Annotated[int, Meta(ge=1, le=MAX_MINOR)]


class Discount(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag="discount"):
    """Money off: either `amount` in minor units of `currency`, or `basis_points` (1 % is 100) of the scope."""

    text: Text
    scope: Literal["basket", "line"] = "basket"
    amount: Positive | None = None
    currency: Annotated[str, Meta(pattern=r"^[A-Z]{3}$", max_length=3)] | None = None
    basis_points: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    sku: Code | None = None


class Points(Struct, frozen=True, forbid_unknown_fields=True, tag="points"):
    """Points to credit."""

    text: Text
    points: Positive


class Gift(Struct, frozen=True, forbid_unknown_fields=True, tag="gift"):
    """Something handed over."""

    text: Text
    sku: Code


class CashierMessage(Struct, frozen=True, forbid_unknown_fields=True, tag="cashier_message"):
    """For the cashier's eyes."""

    text: Text


class CustomerMessage(Struct, frozen=True, forbid_unknown_fields=True, tag="customer_message"):
    """To be said or shown to the customer."""

    text: Text


class ReceiptLine(Struct, frozen=True, forbid_unknown_fields=True, tag="receipt_line"):
    """To be printed."""

    text: Annotated[str, Meta(min_length=1, max_length=MAX_LONG_TEXT)]


class Prompt(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag="prompt"):
    """A question with buttons; without choices it takes free text."""

    text: Text
    question: Code
    choices: Annotated[tuple[Text, ...], Meta(max_length=8)] = ()


class ReserveCoupon(Struct, frozen=True, forbid_unknown_fields=True, tag="reserve_coupon"):
    """Asks the POS to hold a coupon for this basket."""

    text: Text
    coupon: Code


Effect = Discount | Points | Gift | CashierMessage | CustomerMessage | ReceiptLine | Prompt | ReserveCoupon

RefusalCode = Literal[
    "already_offered", "budget_exhausted", "campaign_ended", "clock_untrusted", "coupon_expired", "stale"
]
