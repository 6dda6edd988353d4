"""fiskaltrust's receipts are what their case numbers say, with the signatures of their responses."""

from __future__ import annotations

import json
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.broken_json import as_json, broken
from support.golden import golden, read_or_refused, refusal, sample, written
from tillstream_protocol.adapters import Setting, fiskaltrust
from tillstream_protocol.transaction import Identifier, Link, Transaction, idempotency_key, reconcile

SETTING = Setting("EUR", ZoneInfo("Europe/Vienna"))
DE, AT = 0x4445 << 48, 0x4154 << 48
IMPLICIT, VOID, TRAINING, FAILED = 0x1_0000_0000, 0x4_0000, 0x2_0000, 0x1_0000
REQUEST = json.loads(sample("fiskaltrust/01_request.json"))
PAIR = {"request": REQUEST, "response": json.loads(sample("fiskaltrust/02_response.json"))}


def pair(first: int) -> bytes:
    """A request of the samples and the response after it, joined as the adapter takes them."""
    request, response = (
        sample(f"fiskaltrust/{first:02}_request.json"),
        sample(f"fiskaltrust/{first + 1:02}_response.json"),
    )
    return b'{"request": ' + request + b', "response": ' + response + b"}"


def receipt(**changes: Any) -> Transaction:
    (reading,) = fiskaltrust.ADAPTER.read(as_json({**REQUEST, **changes}), SETTING)
    return reading.transaction


def item(amount: float, case: int = DE + 1, **more: Any) -> dict[str, Any]:
    quantity = -1 if amount < 0 else 1
    return {"Quantity": quantity, "Description": "x", "Amount": amount, "VATRate": 19, "ftChargeItemCase": case, **more}


def pay(amount: float, case: int) -> dict[str, Any]:
    return {"Quantity": 1, "Description": "x", "Amount": amount, "ftPayItemCase": case}


# Orders are no sales, so that there is nothing to add up.
@pytest.mark.parametrize(("first", "adds_up"), [(1, True), (3, None), (5, None)])
def test_the_samples_are_read_as_their_golden_files_say(first: int, adds_up: bool | None) -> None:
    alone = fiskaltrust.ADAPTER.read(sample(f"fiskaltrust/{first:02}_request.json"), SETTING)
    both = fiskaltrust.ADAPTER.read(pair(first), SETTING)
    assert written(alone) == golden(f"fiskaltrust/{first:02}_request.json")
    assert written(both) == golden(f"fiskaltrust/{first + 1:02}_response.json")
    assert [reconcile(reading.transaction) for reading in (*alone, *both)] == [adds_up, adds_up]
    assert both[0].original == pair(first)


def test_a_response_later_on_is_a_revision_of_its_request() -> None:
    (alone,) = fiskaltrust.ADAPTER.read(sample("fiskaltrust/01_request.json"), SETTING)
    (both,) = fiskaltrust.ADAPTER.read(pair(1), SETTING)
    assert idempotency_key(alone.transaction) == idempotency_key(both.transaction)
    assert both.transaction.revision > alone.transaction.revision


def test_an_action_keeps_its_name_and_its_revision_grows() -> None:
    steps = [receipt(ftReceiptCase=DE + case) for case in (8, 9, 1)]
    assert [(step.kind, step.revision) for step in steps] == [("suspend", 0), ("suspend", 2), ("sale", 4)]
    assert len({idempotency_key(step) for step in steps}) == 1


def test_orders_of_one_table_are_told_apart() -> None:
    moments = ("2020-05-26T10:47:40.960Z", "2020-05-26T10:58:00Z")
    orders = [receipt(ftReceiptCase=DE + 0x10, cbReceiptMoment=moment) for moment in moments]
    assert [order.pos_id for order in orders] == [f"4747847@{moment}" for moment in moments]
    assert {order.receipt for order in orders} == {"4747847"}


@pytest.mark.parametrize(
    ("case", "kind"),
    [
        (0, "sale"),
        (DE, "sale"),
        (DE + IMPLICIT + 1, "sale"),
        (DE + 2, "no_sale"),
        (DE + 3, "no_sale"),
        (DE + 7, "close"),
        (DE + 0x0B, "cancel"),
        (DE + 0x0C, "sale"),
        (DE + 0x16, "void"),
        (DE + VOID + 1, "void"),
        (AT + 1, "sale"),
        (AT + 5, "close"),
        (AT + 0x0A, "paid_in"),
        (AT + 0x0B, "paid_out"),
        ((0x4652 << 48) + 1, "sale"),
    ],
)
def test_the_case_says_what_it_is(case: int, kind: str) -> None:
    assert receipt(ftReceiptCase=case).kind == kind


def test_flags_say_training_and_that_it_was_signed_late() -> None:
    plain, odd = receipt(), receipt(ftReceiptCase=DE + TRAINING + FAILED + 1)
    assert (plain.training, plain.offline, odd.training, odd.offline) == (False, False, True, True)


def test_a_request_to_send_a_receipt_again_is_no_transaction() -> None:
    assert fiskaltrust.ADAPTER.read(as_json({**REQUEST, "ftReceiptCase": DE + 0x8000_0000_0001}), SETTING) == []


def test_a_zero_receipt_has_no_lines() -> None:
    zero = receipt(ftReceiptCase=DE + 2, cbChargeItems=[], cbPayItems=None)
    assert (zero.kind, zero.total, zero.lines, zero.tenders, reconcile(zero)) == ("no_sale", 0, (), (), None)


def test_the_total_is_the_one_that_is_said() -> None:
    said = receipt(cbReceiptAmount=7.49)
    assert (said.total, reconcile(said)) == (749, False)
    assert said.ext is not None
    assert said.ext["assumed"] == ["business_date", "currency", "lines.taxes.amount"]


def test_what_came_back_makes_a_return_or_an_exchange() -> None:
    back, other = item(-3.5), item(4.0)
    deposit = item(-0.25, DE + 0x29)
    returned = receipt(cbChargeItems=[back], cbPreviousReceiptReference="4747")
    assert (returned.kind, returned.links) == ("return", (Link("original", "4747"),))
    assert receipt(cbChargeItems=[back, other]).kind == "exchange"
    assert receipt(cbChargeItems=[other, deposit]).kind == "sale"
    corrected = receipt(cbChargeItems=[other, item(-4.0, DE + 0x20_0001)])
    assert (corrected.kind, corrected.lines[1].reason) == ("sale", "position cancelled")


def test_links_say_which_receipt_came_before_or_was_voided() -> None:
    assert receipt(cbPreviousReceiptReference="7").links == (Link("previous_receipt", "7"),)
    assert receipt(ftReceiptCase=DE + VOID + 1, cbPreviousReceiptReference="7").links == (Link("voids", "7"),)


def test_charge_items_are_what_their_cases_say() -> None:
    bases = (1, 0x11, 0x21, 0x31, 0x39, 0x41, 0x51, 0x61, 0x69, 0x81, 0xA1)
    lines = receipt(cbChargeItems=[item(1, DE + base) for base in bases]).lines
    assert [line.type for line in lines] == [
        *("item", "item", "deposit", "discount", "fee", "other", "tip", "gift_card", "coupon", "other", "item")
    ]
    (austrian,) = receipt(cbChargeItems=[item(1, AT + 3)]).lines
    assert (austrian.type, austrian.taxes[0].code) == ("item", "vat")


@pytest.mark.parametrize(
    ("case", "tax"),
    [(1, "normal"), (0x1A, "discounted-1"), (0x36, "zero"), (0x59, "not taxable"), (0xA1, "not taxable")],
)
def test_taxes_are_named_as_in_the_countrys_table(case: int, tax: str) -> None:
    (line,) = receipt(cbChargeItems=[item(1, DE + case)]).lines
    assert line.taxes[0].code == tax


def test_a_charge_item_tells_its_product() -> None:
    extras = {"ProductNumber": "P1", "ProductBarcode": "4006381333931", "ProductGroup": "drinks", "Unit": "l"}
    (line,) = receipt(cbChargeItems=[item(2.38, UnitPrice=2.38, VATAmount=0.38, CostCenter="7") | extras]).lines
    assert (line.sku, line.gtin, line.scan, line.hierarchy) == ("P1", "4006381333931", "4006381333931", ("drinks",))
    assert (line.unit, line.price, line.taxes[0].amount) == ("l", "2.38", 38)
    assert line.ext is not None
    assert line.ext["CostCenter"] == "7"
    (bare,) = receipt(cbChargeItems=[{"Amount": 1}]).lines
    assert (bare.quantity, bare.taxes, bare.ext) == ("1", (), None)


def test_a_long_description_is_cut_and_kept_whole_beside() -> None:
    (line,) = receipt(cbChargeItems=[item(1, Description="y" * 900)]).lines
    assert line.name == "y" * 256
    assert line.ext is not None
    assert line.ext["Description"] == "y" * 900


@pytest.mark.parametrize(
    ("case", "amount", "kind", "refund"),
    [
        (DE, 1, "cash", False),
        (DE + 4, -1, "debit_card", True),
        (DE + 0x0B, -1, "change", False),
        (DE + 0x17, 1, "cash_transfer", False),
        (DE + 0x99, 1, "other", False),
        (AT + 6, 1, "voucher", False),
        ((0x4652 << 48) + 7, 1, "other", False),
    ],
)
def test_pay_items_are_what_their_cases_say(case: int, amount: int, kind: str, refund: bool) -> None:
    (tender,) = receipt(cbPayItems=[pay(amount, case)]).tenders
    assert (tender.type, tender.refund) == (kind, refund)


def test_cash_that_leaves_is_paid_out() -> None:
    for amount, kind in ((20, "paid_in"), (-20, "paid_out")):
        moved = [pay(amount, DE + 1), pay(-amount, DE + 0x14)]
        assert receipt(ftReceiptCase=DE + 0x11, cbChargeItems=[], cbPayItems=moved).kind == kind


@pytest.mark.parametrize(
    ("said", "identifiers"),
    [
        ("jo@example.org", (Identifier("email", "jo@example.org"),)),
        ("4711", (Identifier("other", "4711"),)),
        ("{}", ()),
    ],
)
def test_the_customer_is_a_name_or_the_pos_own_text(said: str, identifiers: tuple[Identifier, ...]) -> None:
    customer = receipt(cbCustomer=said).customer
    assert customer is not None
    assert customer.identifiers == identifiers
    assert customer.personal == (None if identifiers else {"cbCustomer": said})


def test_a_response_without_signatures_says_what_it_can() -> None:
    (reading,) = fiskaltrust.ADAPTER.read(as_json({"request": REQUEST, "response": {}}), SETTING)
    fiscal = reading.transaction.fiscal
    assert fiscal is not None
    assert (fiscal.system, fiscal.signature, fiscal.ext) == ("fiskaltrust DE", "", None)


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        (b"[]", "body"),
        (sample("fiskaltrust/02_response.json"), "ftReceiptCase"),
        (b'{"request": {}}', "request.cbReceiptReference"),
        (as_json({"request": REQUEST, "response": {"cbReceiptReference": "1"}}), "response.cbReceiptReference"),
        (as_json({**REQUEST, "ftReceiptCase": DE + 0x7777}), "ftReceiptCase"),
        (as_json({**REQUEST, "ftReceiptCase": "sale"}), "ftReceiptCase"),
        (as_json({**REQUEST, "cbReceiptReference": "9" * 200}), "cbReceiptReference"),
        (as_json({**REQUEST, "cbChargeItems": [{"Amount": "x"}]}), "cbChargeItems[0].Amount"),
        (as_json({**REQUEST, "cbChargeItems": [item(1, VATRate=-100)]}), "cbChargeItems[0].VATRate"),
        (as_json({"request": {**REQUEST, "cbPayItems": [{}]}}), "request.cbPayItems[0].Amount"),
    ],
    ids=range(10),
)
def test_what_is_no_receipt_is_refused_by_its_place(payload: bytes, field: str) -> None:
    assert refusal(lambda: fiskaltrust.ADAPTER.read(payload, SETTING)).field == field


@given(broken(PAIR) | broken(REQUEST))
@settings(max_examples=400)
def test_whatever_is_broken_it_is_read_or_refused(data: bytes) -> None:
    read_or_refused(fiskaltrust.ADAPTER, data, SETTING)


@given(st.binary(max_size=300) | st.integers(0, 6_000).map(lambda end: pair(1)[:end]))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    read_or_refused(fiskaltrust.ADAPTER, data, SETTING)
