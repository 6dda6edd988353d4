"""An order of WooCommerce becomes a sale, and each of its refunds a return that links to it."""

from __future__ import annotations

import json
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.broken_json import broken
from support.golden import ext_of, golden, read_or_refused, sample, written
from tillstream_protocol.adapters import Setting, woocommerce
from tillstream_protocol.errors import InvalidInput
from tillstream_protocol.transaction import Discount, Link, Tax, Transaction, idempotency_key, reconcile

SETTING = Setting(zone=ZoneInfo("America/New_York"))
ORDER = sample("woocommerce/order_created_response.json")


def read_all(**more: Any) -> list[Transaction]:
    data = json.dumps(json.loads(ORDER) | more).encode()
    return [reading.transaction for reading in woocommerce.read(data, SETTING)]


def read(**more: Any) -> Transaction:
    (sale,) = read_all(**more)
    return sale


def test_the_genuine_order_is_read_whole() -> None:
    (reading,) = woocommerce.read(ORDER, SETTING)
    assert written([reading]) == golden("woocommerce/order_created_response.json")
    assert reading.original == ORDER
    assert reconcile(reading.transaction) is True


@pytest.mark.parametrize("data", [b"webhook_id=7", b"webhook_id=12\n"])
def test_the_ping_of_a_new_webhook_is_no_sale(data: bytes) -> None:
    assert woocommerce.read(data, SETTING) == []


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("completed", "sale"),
        ("on-hold", "sale"),
        ("refunded", "sale"),
        ("a-plugins-own", "sale"),
        ("pending", "suspend"),
        ("checkout-draft", "suspend"),
        ("cancelled", "cancel"),
        ("failed", "cancel"),
    ],
)
def test_the_status_says_whether_it_is_a_sale(status: str, kind: str) -> None:
    assert read(status=status).kind == kind


def test_times_have_the_offset_between_local_and_gmt_or_the_stores() -> None:
    assert read().end.offset_minutes == -180
    local = read(date_created_gmt=None).end
    assert (local.offset_minutes, local.offset_from) == (-240, "store")
    gmt = read(date_created=None).end
    assert (gmt.offset_minutes, gmt.text) == (0, "2017-03-22T19:28:02")


def test_what_a_coupon_took_off_stands_on_the_lines() -> None:
    line = {"name": "Soap", "quantity": 2, "subtotal": "10.00", "total": "8.00", "price": 4, "taxes": [{"total": ""}]}
    coupon = {"id": 1, "code": "TWO-OFF", "discount": "2.00"}
    sale = read(line_items=[line], shipping_lines=[], tax_lines=[], coupon_lines=[coupon], total="8.00")
    assert sale.lines[0].discounts == (Discount(200, coupon="TWO-OFF"),)
    assert sale.lines[0].taxes == ()
    assert ext_of(sale)["coupon_lines"] == [coupon]
    assert reconcile(sale) is True


def test_shipping_and_fees_are_lines_with_their_taxes() -> None:
    rate = {"rate_id": 1, "rate_code": "VAT", "rate_percent": 10, "tax_total": "0.10", "shipping_tax_total": "0.50"}
    sale = read(
        line_items=[],
        shipping_lines=[{"method_title": "Courier", "total": "5.00", "taxes": [{"id": 1, "total": "0.50"}]}],
        fee_lines=[{"name": "Wrapping", "total": "1.00", "taxes": [{"id": 1, "total": "0.10"}]}],
        tax_lines=[rate],
        total="6.60",
    )
    assert [(line.type, line.name, line.amount) for line in sale.lines] == [
        ("fee", "Courier", 500),
        ("fee", "Wrapping", 100),
    ]
    assert sale.lines[0].taxes == (Tax("VAT", 50, "10"),)
    assert sale.taxes == (Tax("VAT", 10, "10"), Tax("VAT", 50, "10"))
    assert reconcile(sale) is True


def test_a_refund_is_a_return_of_which_little_is_known() -> None:
    sale, back = read_all(status="cancelled", refunds=[{"id": 9, "reason": "broken", "total": "-3.00"}])
    assert (sale.kind, sale.total) == ("sale", 2_935)
    assert (back.kind, back.pos_id, back.total, back.reason) == ("return", "727/refunds/9", -300, "broken")
    assert back.links == (Link("original", "727", "2017-03-22", receipt="727"),)
    assert ext_of(back) == {"assumed": ["business_date", "end"]}
    assert reconcile(back) is None  # it has no lines


def test_whatever_is_edited_the_key_stays_and_the_time_of_the_change_ranks() -> None:
    edited = {"date_created": "2019-01-01T08:00:00", "date_created_gmt": "2019-01-01T11:00:00"}
    first, later = read(), read(**edited, date_modified_gmt="2017-03-22T20:00:00")
    assert idempotency_key(first) == idempotency_key(later)
    assert (first.revision, later.revision, later.business_date) == (0, 0, "2019-01-01")
    assert later.changed_at == 1_490_212_800_000
    assert first.changed_at is not None
    assert first.changed_at < later.changed_at


def test_an_order_names_the_refunds_it_has_and_each_bears_its_own_bytes() -> None:
    refunds = [{"id": 9, "total": "-3.00"}, {"id": 10, "total": "-1.00"}]
    body = json.dumps(json.loads(ORDER) | {"refunds": refunds}).encode()
    for wrapped in (
        body,
        b"[" + body + b"]",
        b'{"order": ' + body + b"}",
        b'{"orders": [' + body + b"," + body + b"]}",
    ):
        sale, *backs = woocommerce.read(wrapped, SETTING)[:3]
        assert sale.returns == frozenset({"727/refunds/9", "727/refunds/10"})
        assert [json.loads(one.original) for one in backs] == refunds
        assert json.loads(sale.original)
    (silent,) = woocommerce.read(json.dumps(json.loads(ORDER) | {"refunds": None}).encode(), SETTING)
    assert silent.returns is None


def test_an_unpaid_order_has_no_tender_and_a_guest_no_account() -> None:
    unpaid = read(date_paid=None, date_paid_gmt=None, customer_id=5)
    assert unpaid.tenders == ()
    assert ext_of(unpaid)["payment_method"] == "bacs"
    assert unpaid.customer is not None
    assert unpaid.customer.identifiers[0].value == "5"
    assert read(billing={}, shipping={}).customer is None


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"id": None}, "id"),
        ({"date_created": None, "date_created_gmt": None}, "date_created"),
        ({"date_created_gmt": "soon"}, "date_created_gmt"),
        ({"date_created_gmt": "2017-03-21T19:28:02"}, "date_created_gmt"),
        ({"total": ""}, "total"),
        ({"currency": None}, "currency"),
        ({"line_items": [{"total": "x"}]}, "line_items[0].total"),
        ({"refunds": [{"id": 1}]}, "refunds[0].total"),
        ({"coupon_lines": 5}, "coupon_lines"),
    ],
)
def test_what_is_wrong_is_named_by_its_place(more: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read(**more)
    assert caught.value.field == field


FULL = json.dumps(
    json.loads(ORDER)
    | {
        "refunds": [{"id": 9, "reason": "broken", "total": "-3.00"}],
        "fee_lines": [{"name": "Wrapping", "total": "1.00", "taxes": [{"id": 75, "total": "0.10"}]}],
        "coupon_lines": [{"id": 1, "code": "TWO-OFF", "discount": "2.00"}],
    }
).encode()


@given(st.binary() | broken(ORDER) | broken(FULL))
def test_whatever_comes_is_read_or_refused_by_name(data: bytes) -> None:
    read_or_refused(woocommerce.ADAPTER, data, SETTING)
