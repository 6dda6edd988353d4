"""What Square's events tell of payments and refunds becomes a sale or a return that says what it lacks."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.broken_json import broken
from support.golden import golden, read_or_refused, sample, written
from tillstream_protocol.adapters import Setting, square_payment
from tillstream_protocol.errors import InvalidInput
from tillstream_protocol.transaction import Link, Transaction, reconcile

PAYMENT = sample("square/PaymentUpdatedEvent.json")
SETTING = Setting()


def payment(**more: Any) -> Transaction:
    event = json.loads(PAYMENT)
    event["data"]["object"]["payment"] |= more
    (reading,) = square_payment.read(json.dumps(event).encode(), SETTING)
    return reading.transaction


def refund(**more: Any) -> Transaction:
    held = {
        "id": "R1",
        "payment_id": "P1",
        "order_id": "O1",
        "status": "COMPLETED",
        "amount_money": {"amount": 40, "currency": "USD"},
        "created_at": "2026-03-01T02:30:00Z",
        "updated_at": "2026-03-01T02:31:00Z",
        "reason": "broken",
        "location_id": "L1",
        **more,
    }
    data = {"type": "refund.updated", "data": {"type": "refund", "object": {"refund": held}}}
    (reading,) = square_payment.read(json.dumps(data).encode(), SETTING)
    return reading.transaction


def test_the_genuine_event_is_read_whole() -> None:
    readings = square_payment.read(PAYMENT, SETTING)
    assert written(readings) == golden("square/PaymentUpdatedEvent.json")
    assert readings[0].original == PAYMENT


def test_a_payment_says_what_it_lacks_and_which_order_has_it() -> None:
    sale = payment()
    assert (sale.kind, sale.total, sale.currency, sale.lines) == ("sale", 100, "USD", ())
    assert sale.ext is not None
    assert sale.ext["lacking"] == ["lines", "taxes", "discounts"]
    assert sale.ext["order_id"] == "03O3USaPaAaFnI6kkwB1JxGgBsUZY"
    assert sale.ext["assumed"] == ["business_date"]
    assert reconcile(sale) is not True


def test_its_card_is_the_first_six_and_the_last_four() -> None:
    (tender,) = payment().tenders
    assert (tender.type, tender.amount, tender.card) == ("card", 100, "540988******9029")


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("COMPLETED", "sale"),
        ("APPROVED", "suspend"),
        ("PENDING", "suspend"),
        ("CANCELED", "cancel"),
        ("FAILED", "cancel"),
    ],
)
def test_its_state_makes_its_kind(status: str, kind: str) -> None:
    assert payment(status=status).kind == kind


def test_a_later_state_has_a_later_change() -> None:
    later, earlier = payment(updated_at="2020-11-22T21:20:00Z"), payment(updated_at="2020-11-22T21:19:00Z")
    assert (later.changed_at or 0) - (earlier.changed_at or 0) == 60_000


def test_who_paid_is_an_identifier() -> None:
    customer = payment(customer_id="C1", buyer_email_address="a@example.com").customer
    assert customer is not None
    assert [(one.scheme, one.value) for one in customer.identifiers] == [("account", "C1"), ("email", "a@example.com")]


def test_a_tip_is_part_of_the_total() -> None:
    (tender,) = payment(tip_money={"amount": 15, "currency": "USD"}).tenders
    assert (tender.amount, tender.tip) == (100, 15)


def test_a_refund_is_a_return_of_its_payment() -> None:
    back = refund()
    assert (back.kind, back.pos_id, back.total, back.reason) == ("return", "R1", -40, "broken")
    assert back.links == (Link("original", "P1"),)
    assert back.tenders[0].refund
    assert refund(status="PENDING").kind == "suspend"
    assert refund(status="REJECTED").kind == "cancel"
    assert refund(payment_id="").links == ()


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"status": "LOST"}, "status"),
        ({"total_money": None}, "total_money.currency"),
        ({"total_money": {"amount": 1.5, "currency": "USD"}}, "total_money.amount"),
        ({"total_money": {"amount": True, "currency": "USD"}}, "total_money.amount"),
        ({"total_money": {"amount": 10**17, "currency": "USD"}}, "total_money.amount"),
        ({"total_money": {"amount": 1}}, "total_money.currency"),
        ({"created_at": "soon"}, "created_at"),
        ({"id": ""}, "id"),
    ],
)
def test_what_cannot_be_read_is_refused_at_its_place(more: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        payment(**more)
    assert caught.value.field == f"data.object.payment.{field}"


@pytest.mark.parametrize(
    "data", [b"{}", b"[]", b'{"data": 1}', b'{"data": {"object": []}}', b'{"data": {"object": {}}}']
)
def test_any_other_event_gives_no_reading(data: bytes) -> None:
    assert square_payment.read(data, SETTING) == []


@given(st.binary() | broken(PAYMENT))
def test_whatever_comes_is_read_or_refused_by_name(data: bytes) -> None:
    read_or_refused(square_payment.ADAPTER, data, SETTING)
