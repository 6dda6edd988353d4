"""An order of Shopify becomes a sale, and each of its refunds a return that links to it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.broken_json import broken
from support.golden import ext_of, golden, read_or_refused, sample, written
from tillstream_protocol.adapters import Setting, shopify
from tillstream_protocol.errors import InvalidInput
from tillstream_protocol.transaction import Discount, Link, Tax, Transaction, idempotency_key, reconcile

SETTING = Setting()
ORDER = sample("shopify/order.json")


def both(amount: str, currency: str = "EUR") -> dict[str, Any]:
    money = {"amount": amount, "currency_code": currency}
    return {"shop_money": money, "presentment_money": money}


REFUND: dict[str, Any] = {
    "id": 77,
    "order_id": 5001,
    "created_at": "2026-04-02T10:00:00+02:00",
    "processed_at": "2026-04-02T10:00:01+02:00",
    "note": "did not fit",
    "user_id": 9,
    "refund_line_items": [
        {
            "id": 1,
            "line_item_id": 11,
            "quantity": 1,
            "restock_type": "return",
            "subtotal": 9.0,
            "total_tax": 0.9,
            "line_item": {"id": 11, "name": "Shirt - M", "sku": "SHIRT-M", "price": "10.00", "gift_card": False,
                          "tax_lines": [{"title": "VAT", "rate": 0.1, "price": "1.80"}]},
        }
    ],
    "order_adjustments": [
        {"id": 3, "kind": "shipping_refund", "reason": "Shipping refund", "amount": "-5.00", "tax_amount": "-0.50"}
    ],
    "transactions": [
        {"id": 8, "kind": "refund", "status": "success", "gateway": "cash", "amount": "15.40", "currency": "EUR"},
        {"id": 9, "kind": "refund", "status": "failure", "gateway": "cash", "amount": "15.40", "currency": "EUR"},
    ],
}  # fmt: skip

POS_ORDER: dict[str, Any] = {
    "id": 5001,
    "name": "#1044",
    "order_number": 1044,
    "number": 44,
    "created_at": "2026-03-31T23:58:00+02:00",
    "processed_at": "2026-04-01T00:01:00+02:00",
    "updated_at": "2026-03-31T23:59:00+02:00",
    "currency": "EUR",
    "presentment_currency": "EUR",
    "total_price": "30.30",
    "total_line_items_price": "25.00",
    "total_discounts": "2.00",
    "total_tax": "2.30",
    "total_tip_received": "0.0",
    "subtotal_price": "18.00",
    "current_total_price": "14.90",
    "taxes_included": False,
    "financial_status": "paid",
    "payment_gateway_names": ["cash"],
    "source_name": "pos",
    "location_id": 42,
    "device_id": 7,
    "user_id": 9,
    "note": "gift",
    "email": "jo@example.org",
    "phone": None,
    "buyer_accepts_marketing": True,
    "customer": {"id": 1, "email": "jo@example.org", "phone": "+49301234", "first_name": "Jo", "last_name": None},
    "discount_applications": [
        {"type": "discount_code", "code": "TENTH", "value": "10.0", "value_type": "percentage"},
        {"type": "manual", "title": "Staff", "value": "1.0", "value_type": "fixed_amount"},
    ],
    "discount_codes": [{"code": "TENTH", "amount": "2.00", "type": "percentage"}],
    "tax_lines": [{"title": "VAT", "rate": 0.1, "price": "2.30"}],
    "line_items": [
        {
            "id": 11,
            "name": "Shirt - M",
            "sku": "SHIRT-M",
            "price": "10.00",
            "price_set": both("10.00"),
            "quantity": 2,
            "total_discount": "0.00",
            "discount_allocations": [{"amount": "2.00", "discount_application_index": 0, "amount_set": both("2.00")}],
            "tax_lines": [{"title": "VAT", "rate": 0.1, "price": "1.80", "channel_liable": False}],
        },
        {"id": 12, "name": "Tip", "price": "5.00", "quantity": 1, "tip_payment_gateway": "cash"},
    ],
    "shipping_lines": [{"title": "Courier", "price": "5.00", "tax_lines": [{"title": "VAT", "price": "0.50"}]}],
    "refunds": [],
}


def read_all(**more: Any) -> list[Transaction]:
    data = json.dumps(POS_ORDER | more).encode()
    return [reading.transaction for reading in shopify.read(data, SETTING)]


def read(**more: Any) -> Transaction:
    (sale,) = read_all(**more)
    return sale


def test_the_genuine_order_is_read_whole() -> None:
    (reading,) = shopify.read(ORDER, SETTING)
    assert written([reading]) == golden("shopify/order.json")
    assert reading.original == ORDER
    assert reconcile(reading.transaction) is False  # 3 x 199.00 - 10.00 + 11.94 is not 409.94: the sample's own fault


def test_an_order_of_today_is_read_and_adds_up() -> None:
    sale = read()
    assert reconcile(sale) is True
    assert (sale.kind, sale.pos_id, sale.receipt, sale.sequence) == ("sale", "5001", "#1044", "1044")
    assert (sale.store, sale.till, sale.operator, sale.business_date) == ("42", "7", "9", "2026-04-01")
    assert [(line.type, line.amount) for line in sale.lines] == [("item", 1_800), ("tip", 500), ("fee", 500)]
    (shirt, _, _) = sale.lines
    assert (shirt.regular_price, shirt.price, shirt.quantity) == ("10.00", None, "2")
    assert shirt.discounts == (Discount(200, "discount_code", coupon="TENTH", rate="10.0"),)
    assert shirt.taxes == (Tax("VAT", 180, "10"),)
    assert shirt.ext is not None
    assert sorted(shirt.ext) == ["id", "tax_lines", "total_discount"]  # and no set that repeats an amount
    assert (sale.discounts, sale.taxes) == ((), (Tax("VAT", 230, "10"),))
    assert sale.totals is not None
    assert (sale.totals.discount, sale.totals.tip) == (200, None)
    assert [(one.type, one.amount) for one in sale.tenders] == [("cash", 3_030)]


def test_the_customer_is_named_once_and_consents_only_if_they_said_yes() -> None:
    customer = read().customer
    assert customer is not None
    assert [(one.scheme, one.value) for one in customer.identifiers] == [
        ("account", "1"),
        ("email", "jo@example.org"),
        ("phone", "+49301234"),
    ]
    assert (customer.name, [(one.purpose, one.level) for one in customer.consents]) == ("Jo", [("marketing", 4)])
    nobody = read(customer=None, email="", buyer_accepts_marketing=False).customer
    assert nobody is None


def test_a_refund_is_a_return_that_links_to_the_order() -> None:
    sale, back = read_all(refunds=[REFUND], financial_status="partially_refunded")
    assert (sale.kind, sale.total) == ("sale", 3_030)
    assert (back.kind, back.pos_id, back.total, reconcile(back)) == ("return", "5001/refunds/77", -1_540, True)
    assert back.links == (Link("original", "5001", "2026-04-01", receipt="#1044"),)
    assert [(line.type, line.amount, line.quantity) for line in back.lines] == [
        ("item", -900, "-1"),
        ("fee", -500, "1"),
    ]
    assert [line.taxes for line in back.lines] == [(Tax("VAT", -90),), (Tax("tax", -50),)]
    assert [(one.type, one.amount, one.refund) for one in back.tenders] == [("cash", -1_540, True)]
    assert (back.business_date, back.store, back.note, back.customer) == (
        "2026-04-02",
        "42",
        "did not fit",
        sale.customer,
    )
    assert ext_of(back)["assumed"] == ["business_date"]
    assert [one["status"] for one in ext_of(back)["transactions"]] == ["success", "failure"]


def test_a_refund_without_its_own_total_says_that_it_was_assumed() -> None:
    twice = [REFUND["transactions"][0]] * 2
    for transactions, total in ((twice, -3_080), ([], 0), ([{**twice[0], "currency": "JPY"}], -1_540)):
        _, back = read_all(refunds=[REFUND | {"transactions": transactions}])
        assert back.total == total
        assert ext_of(back)["assumed"] == ["business_date", "total"]


def test_money_in_another_currency_is_told_as_such() -> None:
    paid = {"id": 1, "kind": "sale", "status": "success", "gateway": "card", "amount": "5000", "currency": "JPY"}
    tried = paid | {"status": "failure"}
    (tender,) = read(transactions=[paid, tried]).tenders
    assert (tender.amount, tender.foreign_currency, tender.foreign_amount) == (0, "JPY", 5_000)


def test_change_is_a_tender_of_its_own_where_more_was_paid() -> None:
    paid = {"id": 1, "kind": "sale", "status": "success", "gateway": "cash", "amount": "40.00", "currency": "EUR"}
    back = {"id": 2, "kind": "change", "status": "success", "gateway": "cash", "amount": "9.70", "currency": "EUR"}
    sale = read(transactions=[paid, back])
    assert [(one.amount, one.change, one.refund) for one in sale.tenders] == [(4_000, None, False), (-970, 970, False)]
    assert sum(one.amount for one in sale.tenders) == sale.total
    (exact,) = read(transactions=[{**paid, "amount": "30.30"}, back]).tenders
    assert exact.amount == 3_030


def test_a_cancelled_order_counts_no_more_unless_money_went_back() -> None:
    cancelled = {"cancelled_at": "2026-04-02T10:00:00+02:00", "cancel_reason": "customer"}
    unpaid = read(**cancelled, refunds=[REFUND | {"transactions": []}])
    assert (unpaid.kind, unpaid.reason) == ("cancel", "customer")
    assert ext_of(unpaid)["refunds"][0]["id"] == 77
    assert [one.kind for one in read_all(**cancelled, refunds=[REFUND])] == ["sale", "return"]


def test_a_later_delivery_keeps_the_key_and_has_a_later_change() -> None:
    first, later, last = (
        read(updated_at=text)
        for text in ("2026-03-31T23:58:30+02:00", "2026-04-04T00:00:00+02:00", "2028-04-04T00:00:00+02:00")
    )
    assert [one.revision for one in (first, later, last)] == [0, 0, 0]
    assert (first.changed_at or 0) < (later.changed_at or 0) < (last.changed_at or 0)
    assert idempotency_key(first) == idempotency_key(later) == idempotency_key(last)
    moved = read(location_id=99, device_id=7, processed_at="2026-05-01T10:00:00+02:00")
    assert idempotency_key(moved) == idempotency_key(first)


def test_older_shapes_put_discounts_into_one_sum_and_codes_on_the_whole() -> None:
    lines = [{"name": "Shirt", "price": "10.00", "quantity": 1, "total_discount": "1.00"}]
    sale = read(discount_applications=None, line_items=lines, shipping_lines=[], tax_lines=[], total_price="7.00")
    assert sale.lines[0].discounts == (Discount(100),)
    assert sale.discounts == (Discount(200, "percentage", coupon="TENTH"),)
    assert reconcile(sale) is True


def test_a_removed_shipping_line_counts_for_nothing_and_a_gift_card_is_one() -> None:
    sale = read(
        shipping_lines=[{"title": "Courier", "price": "5.00", "is_removed": True}],
        line_items=[{"name": "Voucher", "price": "20.00", "quantity": 1, "gift_card": True}],
        tax_lines=[],
        total_price="20.00",
        test=True,
    )
    assert [(line.type, line.void) for line in sale.lines] == [("gift_card", False), ("fee", True)]
    assert (reconcile(sale), sale.test) == (True, True)


def test_tenders_are_not_guessed_between_two_gateways_or_before_payment() -> None:
    assert read(payment_gateway_names=["cash", "gift_card"]).tenders == ()
    assert read(financial_status="pending").tenders == ()


def test_orders_of_a_list_keep_their_own_bytes() -> None:
    one = json.dumps(POS_ORDER).encode()
    found = shopify.read(b'{"orders":[' + one + b",\n" + one + b"]}", SETTING)
    assert [reading.original for reading in found] == [one, one]


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"id": None}, "id"),
        ({"created_at": "soon"}, "created_at"),
        ({"total_price": None}, "total_price"),
        ({"currency": None}, "currency"),
        ({"line_items": [{"price": "1", "quantity": "x"}]}, "line_items[0].quantity"),
        ({"line_items": [{"quantity": 1}]}, "line_items[0].price"),
        ({"line_items": {}}, "line_items"),
        ({"taxes_included": "no"}, "taxes_included"),
        ({"shipping_lines": [{"price": "1e15"}]}, "shipping_lines[0].price"),
        ({"refunds": [{"id": 1}]}, "refunds[0].created_at"),
        (
            {
                "shipping_lines": [
                    {"price": 1, "discount_allocations": [{"amount": 1, "discount_application_index": 2}]}
                ]
            },
            "shipping_lines[0].discount_allocations[0].discount_application_index",
        ),
        (
            {"transactions": [{"kind": "sale", "status": "success", "amount": 1, "currency": "dollars"}]},
            "transactions[0].currency",
        ),
    ],
)
def test_what_is_wrong_is_named_by_its_place(more: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read(**more)
    assert caught.value.field == field


FULL = json.dumps(POS_ORDER | {"refunds": [REFUND], "transactions": REFUND["transactions"]}).encode()


@given(st.binary() | broken(ORDER) | broken(FULL) | broken(json.dumps(POS_ORDER).encode()))
def test_whatever_comes_is_read_or_refused_by_name(data: bytes) -> None:
    read_or_refused(shopify.ADAPTER, data, SETTING)
