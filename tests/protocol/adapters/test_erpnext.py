"""ERPNext's POS Invoice is read whole, in whatever Frappe wraps it; drafts and cancelled ones are no sales."""

from __future__ import annotations

import copy
import json
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.broken_json import as_json, broken
from support.golden import golden, read_or_refused, refusal, sample, written
from tillstream_protocol.adapters import Setting, erpnext
from tillstream_protocol.transaction import Transaction, idempotency_key, reconcile

SETTING = Setting("INR", ZoneInfo("Europe/Berlin"))
INVOICE = json.loads(sample("erpnext/pos_invoice.json"))["data"]
RETURNS = json.loads(sample("erpnext/pos_invoice_return.json"))


def invoice(**changes: Any) -> Transaction:
    (reading,) = erpnext.ADAPTER.read(as_json({**INVOICE, **changes}), SETTING)
    return reading.transaction


@pytest.mark.parametrize(
    ("path", "adds_up"),
    # The second document of the returns is cancelled: nothing to add up.
    [("erpnext/pos_invoice.json", [True]), ("erpnext/pos_invoice_return.json", [True, None])],
)
def test_documents_are_read_as_their_golden_files_say(path: str, adds_up: list[bool | None]) -> None:
    readings = erpnext.ADAPTER.read(sample(path), SETTING)
    assert written(readings) == golden(path)
    assert [reconcile(reading.transaction) for reading in readings] == adds_up


def test_whatever_it_is_wrapped_in_the_document_is_the_same() -> None:
    wrapped = [INVOICE, {"data": INVOICE}, {"message": INVOICE}, {"docs": [INVOICE]}, [INVOICE]]
    read = [erpnext.ADAPTER.read(as_json(payload), SETTING) for payload in wrapped]
    assert {len(readings) for readings in read} == {1}
    assert all(readings[0].transaction == read[0][0].transaction for readings in read)


def test_each_document_of_several_has_its_own_bytes() -> None:
    readings = erpnext.ADAPTER.read(as_json(RETURNS), SETTING)
    assert [json.loads(reading.original) for reading in readings] == RETURNS["docs"]


@pytest.mark.parametrize(("status", "kind"), [(0, "suspend"), (1, "sale"), (2, "cancel")])
def test_a_document_keeps_its_name_while_its_status_grows(status: int, kind: str) -> None:
    read = invoice(docstatus=status)
    assert (read.kind, read.revision) == (kind, status)
    assert idempotency_key(read) == idempotency_key(invoice())


@pytest.mark.parametrize(("payload", "field"), [(b"0", "body"), (b'{"data": 0}', "data"), (b"[0]", "[0]")])
def test_what_is_no_document_is_refused(payload: bytes, field: str) -> None:
    assert refusal(lambda: erpnext.ADAPTER.read(payload, SETTING)).field == field


def test_a_site_that_does_not_round_has_its_grand_total() -> None:
    read = invoice(rounded_total=0, rounding_adjustment=0)
    assert (read.total, reconcile(read)) == (4668, True)


def test_a_discount_on_the_net_total_adds_up_with_taxes_on_top() -> None:
    tax = {"account_head": "VAT", "rate": 10, "tax_amount": 9}
    item = {"item_code": "X", "qty": 1, "rate": 100, "amount": 100}
    read = invoice(
        items=[item], taxes=[tax], discount_amount=10, apply_discount_on="Net Total", grand_total=99, rounded_total=0
    )
    assert reconcile(read) is True


def test_change_comes_off_the_cash_that_was_handed_over() -> None:
    read = invoice()
    cash = read.tenders[0]
    assert (cash.type, cash.amount, cash.tendered, cash.change) == ("Cash", 470, 500, 30)
    assert sum(tender.amount for tender in read.tenders) == read.total


def test_time_and_date_are_the_sites_own() -> None:
    read = invoice()
    assert (read.business_date, read.end.text) == ("2026-02-03", "2026-02-03 9:05:01.123456")
    assert (read.end.offset_minutes, read.end.offset_from) == (60, "store")


def test_what_the_document_leaves_out_is_not_made_up() -> None:
    bare = {"name": "X-1", "posting_date": "2026-02-03", "grand_total": 5}
    (reading,) = erpnext.ADAPTER.read(as_json(bare), SETTING)
    read = reading.transaction
    assert (read.kind, read.lines, read.tenders, read.customer) == ("suspend", (), (), None)
    assert read.ext == {"assumed": ["currency", "end"]}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"doctype": "Sales Order"}, "doctype"),
        ({"doctype": "Sales Invoice", "is_pos": 0}, "doctype"),
        ({"__islocal": 1}, "name"),
        ({"name": None}, "name"),
        ({"docstatus": 3}, "docstatus"),
        ({"posting_date": None}, "posting_date"),
        ({"posting_time": "noon"}, "posting_time"),
        ({"grand_total": None, "rounded_total": None}, "grand_total"),
        ({"items": [{"qty": 1}]}, "items[0].amount"),
        ({"items": [{"amount": 1}]}, "items[0].qty"),
        ({"items": {}}, "items"),
        ({"payments": [{"amount": 1}]}, "payments[0].mode_of_payment"),
        ({"customer": ["Jo"]}, "customer"),
    ],
)
def test_what_is_no_invoice_is_refused_by_its_place(changes: dict[str, Any], field: str) -> None:
    problem = refusal(lambda: invoice(**changes))
    assert problem.field == field
    assert "Jo" not in str(problem)
    inside = refusal(lambda: erpnext.ADAPTER.read(as_json({"docs": [{**INVOICE, **changes}]}), SETTING))
    assert inside.field == f"docs[0].{field}"


@given(broken(copy.deepcopy(RETURNS)) | broken({"data": INVOICE}))
@settings(max_examples=400)
def test_whatever_is_broken_it_is_read_or_refused(data: bytes) -> None:
    read_or_refused(erpnext.ADAPTER, data, SETTING)


@given(st.binary(max_size=300) | st.integers(0, 4_000).map(lambda end: sample("erpnext/pos_invoice.json")[:end]))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    read_or_refused(erpnext.ADAPTER, data, SETTING)
