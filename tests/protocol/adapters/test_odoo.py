"""Odoo's orders, both shapes, are read without loss; a changed one keeps its name; half an order is refused."""

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
from tillstream_protocol.adapters import Setting, odoo
from tillstream_protocol.errors import InvalidInput
from tillstream_protocol.transaction import Transaction, idempotency_key, reconcile

SETTING = Setting(
    "EUR",
    ZoneInfo("Europe/Berlin"),
    {"products": {"101": "COFFEE", "102": "BREAKFAST"}, "payment_methods": {"1": "cash", "2": "card", "8": "cash"}},
)
SYNC = json.loads(sample("odoo/sync_from_ui.json"))
CREATE = json.loads(sample("odoo/create_from_ui.json"))


def orders(payload: Any, setting: Setting = SETTING) -> list[Transaction]:
    return [reading.transaction for reading in odoo.ADAPTER.read(as_json(payload), setting)]


def test_sync_from_ui_is_read_as_its_golden_file_says() -> None:
    readings = odoo.ADAPTER.read(sample("odoo/sync_from_ui.json"), SETTING)
    assert written(readings) == golden("odoo/sync_from_ui.json")
    assert [reconcile(reading.transaction) for reading in readings] == [True, None]  # a draft is no sale


def test_create_from_ui_is_read_as_its_golden_file_says() -> None:
    readings = odoo.ADAPTER.read(sample("odoo/create_from_ui.json"), SETTING)
    assert written(readings) == golden("odoo/create_from_ui.json")
    assert [reconcile(reading.transaction) for reading in readings] == [True, True, True]


@pytest.mark.parametrize(("path", "where"), [("odoo/sync_from_ui.json", SYNC), ("odoo/create_from_ui.json", CREATE)])
def test_each_order_has_its_own_bytes(path: str, where: Any) -> None:
    readings = odoo.ADAPTER.read(sample(path), SETTING)
    wanted = where if isinstance(where, list) else where["params"]["args"][0]
    assert [json.loads(reading.original) for reading in readings] == wanted
    assert all(reading.original in sample(path) for reading in readings)


def test_a_lone_order_has_the_whole_payload() -> None:
    payload = as_json(SYNC[:1])
    assert [reading.original for reading in odoo.ADAPTER.read(payload, SETTING)] == [payload]


def test_a_bare_list_and_the_call_around_it_are_read_alike() -> None:
    bare = orders(CREATE["params"]["args"][0])
    assert bare == orders(CREATE)
    call = {"params": {"method": "sync_from_ui", "args": [], "kwargs": {"orders": SYNC}}}
    assert orders(call) == orders(SYNC)


def test_drafts_of_older_versions_are_said_by_the_call() -> None:
    drafts = copy.deepcopy(CREATE)
    drafts["params"]["args"][1] = True
    assert {(order.kind, order.revision) for order in orders(drafts)} == {("suspend", 0)}
    unwrapped = [order["data"] for order in CREATE["params"]["args"][0]]
    assert [order.kind for order in orders(unwrapped)] == ["sale", "return", "sale"]


@pytest.mark.parametrize(
    ("state", "kind", "revision"),
    [
        ("draft", "suspend", 0),
        ("paid", "sale", 1),
        ("cancel", "cancel", 1),
        ("invoiced", "sale", 2),
        ("new", "sale", 1),
    ],
)
def test_the_state_says_what_it_is_and_how_late(state: str, kind: str, revision: int) -> None:
    (order,) = orders([{**SYNC[0], "state": state}])
    assert (order.kind, order.revision) == (kind, revision)
    assert order.ext is not None
    assert order.ext["state"] == state


def test_a_paid_order_that_comes_again_changed_keeps_its_name() -> None:
    changed = {**SYNC[0], "amount_paid": 25, "state": "done", "to_invoice": True, "partner_id": 8, "nb_print": 2}
    (first,), (later,) = orders(SYNC[:1]), orders([changed])
    assert idempotency_key(first) == idempotency_key(later)
    assert later.revision > first.revision
    assert later != first


def test_what_no_map_knows_keeps_its_id_and_is_noted() -> None:
    order, _ = orders(SYNC, Setting("EUR"))
    assert order.ext is not None
    assert order.ext["unmapped"] == [
        *("payment_method_id 1", "payment_method_id 2", "product_id 101", "product_id 102", "product_id 103")
    ]
    assert [line.sku for line in order.lines] == [None, None, None]
    assert order.lines[0].ext is not None
    assert order.lines[0].ext["product_id"] == 101
    assert [tender.type for tender in order.tenders] == ["method 2", "method 1"]


def test_change_comes_off_the_cash_whichever_way_its_sign_is_written() -> None:
    for change in (2.17, -2.17):
        order, *_ = orders([{**SYNC[0], "amount_return": change}])
        card, cash = order.tenders
        assert (card.amount, cash.amount, cash.tendered, cash.change) == (1_000, 1_783, 2_000, 217)
        assert sum(tender.amount for tender in order.tenders) == order.total
    unmapped, *_ = orders([SYNC[0]], Setting("EUR"))
    assert [tender.amount for tender in unmapped.tenders] == [1_000, 2_000]


def test_goods_given_back_and_others_bought_are_an_exchange() -> None:
    order = copy.deepcopy(SYNC[0])
    order["lines"][0][2]["qty"] = -1
    assert orders([order])[0].kind == "exchange"
    assert orders([{**order, "lines": [], "amount_total": -1}])[0].kind == "return"


def test_a_line_given_away_has_its_price_as_discount() -> None:
    order = copy.deepcopy(SYNC[0])
    order["lines"][0][2] |= {"discount": 100, "price_subtotal_incl": 0}
    assert orders([order])[0].lines[0].discounts[0].amount == 1815
    order["lines"][0][2] |= {"discount": 150}
    line = orders([order])[0].lines[0]
    assert (line.discounts, line.ext is not None and line.ext["discount"]) == ((), 150)


def test_a_reward_is_a_discount_line() -> None:
    order = copy.deepcopy(SYNC[0])
    order["lines"][2][2] |= {"is_reward_line": True, "price_subtotal_incl": -1, "points_cost": 100}
    line = orders([order])[0].lines[2]
    assert (line.type, line.amount) == ("discount", -100)


def test_what_was_taken_away_is_written() -> None:
    order = copy.deepcopy(SYNC[0])
    order["lines"] = [[5], [6, 0, []], [2, 5511], *order["lines"]]
    order["payment_ids"].append([3, 91, 0])
    (read,) = orders([order])
    assert read.ext is not None
    assert read.ext["wrapper_removed_lines"] == ["all", "all", 5511]
    assert read.ext["wrapper_removed_payments"] == [91]


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        (b"{", "body"),
        (b"7", "body"),
        (b'{"params": {"method": "read", "args": [[]]}}', "params.method"),
        (b'{"params": {"method": "sync_from_ui"}}', "params.args"),
        (b"[7]", "orders[0]"),
        (as_json([{**SYNC[0], "lines": [[4, 17]]}]), "orders[0].lines[0]"),
        (as_json([{**SYNC[0], "lines": [[1, 5512, {"qty": 2}]]}]), "orders[0].lines[0][2].price_subtotal_incl"),
        (as_json([{**SYNC[0], "lines": [["x"]]}]), "orders[0].lines[0]"),
        (as_json([{**SYNC[0], "uuid": "", "name": False, "pos_reference": None}]), "orders[0].uuid"),
        (as_json([{**SYNC[0], "date_order": False}]), "orders[0].creation_date"),
        (as_json([{**SYNC[0], "date_order": "soon"}]), "orders[0].date_order"),
        (as_json([{**SYNC[0], "amount_total": None}]), "orders[0].amount_total"),
        (as_json([{**SYNC[0], "partner_id": [7, "Jo"]}]), "orders[0].partner_id"),
    ],
    ids=range(13),
)
def test_what_is_no_order_is_refused_by_its_place(payload: bytes, field: str) -> None:
    problem = refusal(lambda: odoo.ADAPTER.read(payload, SETTING))
    assert problem.field == field
    assert "Jo" not in str(problem)


def test_the_place_inside_a_call_is_named_in_full() -> None:
    payload = copy.deepcopy(CREATE)
    del payload["params"]["args"][0][1]["data"]["lines"][0][2]["qty"]
    assert refusal(lambda: orders(payload)).field == "params.args[0][1].data.lines[0][2].qty"


def test_a_till_without_currency_and_with_a_broken_map_is_written() -> None:
    assert refusal(lambda: orders(SYNC, Setting())).hint == "set the currency of the till's adapter"
    assert refusal(lambda: orders(SYNC, Setting("EUR", options={"products": [1]}))).field == "options.products"


@given(broken(SYNC) | broken(CREATE))
@settings(max_examples=400)
def test_whatever_is_broken_it_is_read_or_refused(data: bytes) -> None:
    read_or_refused(odoo.ADAPTER, data, SETTING)


@given(st.binary(max_size=300) | st.integers(0, 4_000).map(lambda end: sample("odoo/create_from_ui.json")[:end]))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    read_or_refused(odoo.ADAPTER, data, SETTING)


def test_half_a_character_is_no_text() -> None:
    with pytest.raises(InvalidInput):
        odoo.ADAPTER.read(rb'[{"uuid": "\ud800"}]', SETTING)
