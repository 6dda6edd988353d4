"""An order of Square becomes one transaction; an event that only names an order becomes none."""

from __future__ import annotations

import json
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.broken_json import broken
from support.golden import golden, read_or_refused, sample, written
from tillstream_protocol.adapters import Setting, square
from tillstream_protocol.errors import InvalidInput
from tillstream_protocol.transaction import Tax, Transaction, idempotency_key, reconcile

SETTING = Setting(zone=ZoneInfo("America/New_York"))
CREATED = sample("square/CreateOrderResponse.json")


def usd(amount: int) -> dict[str, Any]:
    return {"amount": amount, "currency": "USD"}


def order(**more: Any) -> dict[str, Any]:
    return {
        "id": "O1",
        "location_id": "L1",
        "state": "COMPLETED",
        "created_at": "2026-03-01T02:30:00Z",
        "closed_at": "2026-03-01T02:40:00.5Z",
        "total_money": usd(0),
        "version": 4,
        **more,
    }


def line(total: int, **more: Any) -> dict[str, Any]:
    return {"uid": "u", "quantity": "1", "name": "Soap", "total_money": usd(total), **more}


def read(**more: Any) -> Transaction:
    (reading,) = square.read(json.dumps({"order": order(**more)}).encode(), SETTING)
    return reading.transaction


def test_the_genuine_order_is_read_whole() -> None:
    (reading,) = square.read(CREATED, SETTING)
    assert written([reading]) == golden("square/CreateOrderResponse.json")
    assert reading.original == CREATED
    assert reconcile(reading.transaction) is None  # it is open and unpaid: nothing has been sold yet


def test_the_genuine_order_adds_up_once_it_is_paid() -> None:
    data = json.loads(CREATED)
    data["order"] |= {"state": "COMPLETED", "version": 2}
    (first,), (later,) = square.read(CREATED, SETTING), square.read(json.dumps(data).encode(), SETTING)
    assert (later.transaction.kind, reconcile(later.transaction)) == ("sale", True)
    assert later.transaction.revision > first.transaction.revision
    assert idempotency_key(later.transaction) == idempotency_key(first.transaction)


@pytest.mark.parametrize("name", ["OrderUpdatedEvent.json", "PaymentUpdatedEvent.json"])
def test_an_event_that_names_an_order_is_only_a_hint_to_fetch_it(name: str) -> None:
    assert square.read(sample(f"square/{name}"), SETTING) == []


def test_an_event_that_holds_the_order_is_read() -> None:
    event = {"type": "order.created", "data": {"object": {"order": order()}}}
    (reading,) = square.read(json.dumps(event).encode(), SETTING)
    assert reading.transaction.pos_id == "O1"
    event["data"] = {"object": {"order": order(id=None)}}
    with pytest.raises(InvalidInput) as caught:
        square.read(json.dumps(event).encode(), SETTING)
    assert caught.value.field == "data.object.order.id"


def test_a_bare_order_and_a_list_of_orders_are_read_each_with_its_own_bytes() -> None:
    bare = json.dumps(order()).encode()
    assert [reading.original for reading in square.read(bare, SETTING)] == [bare]
    listed = b'{"orders": [' + bare + b" , " + bare.replace(b"O1", b"O2") + b'], "cursor": "x"}'
    found = square.read(listed, SETTING)
    assert [reading.transaction.pos_id for reading in found] == ["O1", "O2"]
    assert [reading.original for reading in found] == [bare, bare.replace(b"O1", b"O2")]
    with pytest.raises(InvalidInput) as caught:
        square.read(listed.replace(b'"O2"', b"[]"), SETTING)
    assert caught.value.field == "orders[1].id"
    assert square.read(b'{"orders": []}', SETTING) == []


def test_the_business_date_is_the_local_date_of_the_orders_creation() -> None:
    sale = read()
    assert (sale.business_date, sale.end.text, sale.ext) == (
        "2026-02-28",
        "2026-03-01T02:40:00.5Z",
        {"state": "COMPLETED", "assumed": ["business_date"]},
    )
    assert (sale.store, sale.revision) == ("L1", 4)


@pytest.mark.parametrize(
    ("state", "more", "kind"),
    [
        ("OPEN", {}, "suspend"),
        ("DRAFT", {}, "suspend"),
        ("CANCELED", {}, "cancel"),
        ("COMPLETED", {}, "sale"),
        ("OPEN", {"tenders": [{"type": "CASH", "amount_money": usd(5)}], "net_amount_due_money": usd(0)}, "sale"),
        ("OPEN", {"tenders": [{"type": "CASH", "amount_money": usd(5)}], "net_amount_due_money": usd(1)}, "suspend"),
    ],
)
def test_an_order_is_a_sale_once_it_is_completed_or_paid(state: str, more: dict[str, Any], kind: str) -> None:
    assert read(state=state, **more).kind == kind


def test_included_taxes_service_charges_tips_and_rounding_add_up() -> None:
    vat = {"uid": "vat", "name": "VAT", "percentage": "20", "type": "INCLUSIVE", "applied_money": usd(200)}
    soap = line(
        1_260,
        quantity="0.500",
        quantity_unit={"measurement_unit": {"weight_unit": "METRIC_KILOGRAM"}, "precision": 3},
        base_price_money=usd(2_400),
        applied_taxes=[{"tax_uid": "vat", "applied_money": usd(200)}],
        total_service_charge_money=usd(60),
    )
    charges = [
        {"name": "Cover", "calculation_phase": "APPORTIONED_AMOUNT_PHASE", "applied_money": usd(60)},
        {
            "name": "Service",
            "calculation_phase": "SUBTOTAL_PHASE",
            "total_money": usd(110),
            "applied_taxes": [{"tax_uid": "t", "applied_money": usd(10)}],
        },
    ]
    sale = read(
        taxes=[vat, {"uid": "t", "name": "Service tax", "percentage": "10", "type": "ADDITIVE"}],
        line_items=[soap],
        service_charges=charges,
        total_money=usd(1_471),
        total_tip_money=usd(100),
        rounding_adjustment={"amount_money": usd(1)},
    )
    assert reconcile(sale) is True
    assert [(one.type, one.amount) for one in sale.lines] == [("item", 1_200), ("fee", 60), ("fee", 100)]
    assert sale.lines[0].taxes == (Tax("VAT", 200, "20", included=True),)
    assert (sale.lines[0].unit, sale.lines[0].quantity, sale.lines[0].price) == ("METRIC_KILOGRAM", "0.500", "24.00")


def test_tenders_say_how_it_was_paid() -> None:
    cash = {
        "id": "T1",
        "type": "CASH",
        "amount_money": usd(500),
        "cash_details": {"buyer_tendered_money": usd(1_000), "change_back_money": usd(500)},
    }
    card = {
        "id": "T2",
        "payment_id": "P2",
        "type": "CARD",
        "amount_money": usd(600),
        "tip_money": usd(100),
        "card_details": {"status": "CAPTURED", "card": {"bin": "540988", "last_4": "9029", "card_brand": "MASTERCARD"}},
    }
    sale = read(tenders=[cash, card], customer_id="C1", refunds=[{"id": "R", "amount_money": usd(1)}])
    first, second = sale.tenders
    assert (first.type, first.amount, first.tendered, first.change, first.reference) == ("cash", 500, 1_000, 500, "T1")
    assert (second.type, second.tip, second.card, second.reference) == ("card", 100, "540988******9029", "P2")
    assert second.ext == {"id": "T2", "card_details": {"status": "CAPTURED", "card": {"card_brand": "MASTERCARD"}}}
    assert sale.customer is not None
    assert [(one.scheme, one.value) for one in sale.customer.identifiers] == [("account", "C1")]
    assert sale.ext is not None
    assert sale.ext["refunds"]  # the refund has an order of its own


def test_payments_that_came_to_nothing_are_told_and_do_not_count() -> None:
    card = {"type": "CARD", "amount_money": usd(500), "card_details": {"status": "VOIDED"}}
    paid = {**card, "card_details": {"status": "CAPTURED"}}
    sale = read(tenders=[card, paid, {**card, "card_details": None}])
    assert [tender.amount for tender in sale.tenders] == [500, 500]
    assert sale.ext is not None
    assert sale.ext["tenders"] == [card]
    refunds = [{"id": str(n), "amount_money": usd(n), "status": s} for n, s in enumerate(("PENDING", "REJECTED"), 1)]
    back = read(returns=[{"source_order_id": "O0"}], net_amounts={"total_money": usd(-1)}, refunds=refunds)
    assert [tender.amount for tender in back.tenders] == [-1]
    assert back.ext is not None
    assert back.ext["refunds"] == [refunds[1]]


def test_a_return_links_to_its_sale_and_is_negative() -> None:
    tax = {"uid": "t", "name": "Tax", "percentage": "10", "type": "ADDITIVE", "applied_money": usd(100)}
    back = {
        "source_order_id": "O0",
        "return_taxes": [tax],
        "return_line_items": [
            line(1_100, quantity="2", applied_taxes=[{"tax_uid": "t", "applied_money": usd(100)}], gift="kept")
        ],
        "rounding_adjustment": {"amount_money": usd(1)},
    }
    more: dict[str, Any] = {
        "returns": [back],
        "net_amounts": {"total_money": usd(-1_101), "tax_money": usd(-100)},
        "refunds": [{"id": "R1", "tender_id": "T0", "amount_money": usd(1_101), "reason": "broken"}],
    }
    given_back = read(**more)
    assert (given_back.kind, given_back.total, reconcile(given_back)) == ("return", -1_101, True)
    assert [(one.relation, one.pos_id) for one in given_back.links] == [("original", "O0")]
    assert [(one.amount, one.quantity) for one in given_back.lines] == [(-1_000, "-2"), (-1, "1")]
    assert (given_back.tenders[0].amount, given_back.tenders[0].refund) == (-1_101, True)
    swapped = read(**more | {"line_items": [line(2_000)], "net_amounts": {"total_money": usd(899)}})
    assert (swapped.kind, swapped.total, reconcile(swapped)) == ("exchange", 899, True)


def test_an_order_that_only_returns_needs_no_total_of_its_own() -> None:
    back = {"source_order_id": "O0", "return_line_items": [line(1_100)]}
    bare = {"returns": [back], "total_money": None, "return_amounts": {"total_money": usd(1_100)}}
    for more in (bare, bare | {"net_amounts": {"total_money": usd(-1_100)}}):
        given_back = read(**more)
        assert (given_back.kind, given_back.total, given_back.currency) == ("return", -1_100, "USD")
        assert reconcile(given_back) is True


def test_what_is_too_long_is_cut_and_stands_whole_in_ext() -> None:
    sale = read(line_items=[line(1, name="n" * 300, catalog_object_id="s" * 65)])
    (sold,) = sale.lines
    assert sold.ext is not None
    assert (sold.name, sold.sku) == ("n" * 256, None)
    assert (sold.ext["name"], sold.ext["catalog_object_id"]) == ("n" * 300, "s" * 65)


@pytest.mark.parametrize(
    ("more", "field"),
    [
        (
            {"total_money": {"amount": 1, "currency": "EUR"}, "line_items": [line(1)]},
            "order.line_items[0].total_money.currency",
        ),
        ({"total_money": None}, "order.total_money.currency"),
        ({"total_money": {"currency": "USD"}}, "order.total_money.amount"),
        ({"total_money": {"amount": "1", "currency": "USD"}}, "order.total_money.amount"),
        ({"created_at": None}, "order.created_at"),
        ({"state": "PAID"}, "order.state"),
        ({"version": -1}, "order.version"),
        ({"line_items": [line(1, quantity=None)]}, "order.line_items[0].quantity"),
        ({"line_items": [{"quantity": "1"}]}, "order.line_items[0].total_money.amount"),
        ({"returns": [{"source_order_id": []}], "net_amounts": {}}, "order.net_amounts.total_money.amount"),
        ({"tenders": [{"amount_money": usd(1)}]}, "order.tenders[0].type"),
        ({"returns": [{}] * 51}, "order.returns"),
    ],
)
def test_what_is_wrong_is_named_by_its_place(more: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read(**more)
    assert caught.value.field == field


@pytest.mark.parametrize("data", [b"{}", b"[1]", b'"x"', b"7", b'{"errors": []}', b'{"order": 1}', CREATED[:-40], b""])
def test_what_is_no_order_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidInput):
        square.read(data, SETTING)


FULL = order(
    total_money=usd(100),
    net_amounts={"total_money": usd(50)},
    rounding_adjustment={"amount_money": usd(1)},
    customer_id="C1",
    taxes=[{"uid": "t", "name": "Tax", "percentage": "10", "type": "INCLUSIVE"}],
    line_items=[
        line(
            90,
            quantity_unit={"measurement_unit": {"custom_unit": {"name": "jar"}}},
            applied_taxes=[{"tax_uid": "t", "applied_money": usd(8)}, {"applied_money": usd(1)}],
            applied_discounts=[{"discount_uid": "none", "applied_money": usd(1)}],
        )
    ],
    service_charges=[{"name": "Cover", "applied_money": usd(10)}],
    returns=[{"source_order_id": "O0", "return_line_items": [line(50)], "rounding_adjustment": {}}],
    tenders=[{"id": "T", "type": "CARD", "amount_money": usd(50), "card_details": {"card": {"last_4": "9029"}}}],
    refunds=[{"id": "R", "tender_id": "T0", "amount_money": usd(1)}],
)


@given(
    st.binary() | broken(CREATED) | broken(json.dumps(FULL).encode()) | broken(sample("square/OrderUpdatedEvent.json"))
)
def test_whatever_comes_is_read_or_refused_by_name(data: bytes) -> None:
    read_or_refused(square.ADAPTER, data, SETTING)
