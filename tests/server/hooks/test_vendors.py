"""What vendors' webhooks say arrives in the ledger: once, cut, and as it was sent."""

from __future__ import annotations

import json
from datetime import datetime

import pytest

from support.hooks import (
    BASE,
    ORDER_UPDATED,
    PAYMENT_UPDATED,
    SHOPIFY,
    SQUARE,
    WOOCOMMERCE,
    Cloud,
    altered,
    canonical,
    iso,
)
from support.serving import Server
from tillstream_server import office


@pytest.fixture
def cloud(server: Server) -> Cloud:
    return Cloud(server)


def told(body: bytes, seconds: float) -> float:
    """How far the clock has to be turned to stand so long after an event of Square's was made."""
    made = datetime.fromisoformat(json.loads(body)["created_at"]).timestamp()
    return made + seconds


async def test_an_order_of_shopifys_is_in_the_ledger_when_the_answer_comes(cloud: Cloud) -> None:
    made = await cloud.source("shopify")
    assert made["url"] == f"{BASE}/hooks/shopify"
    reply = await cloud.shopify()
    assert (reply.status, reply.json()) == (200, {"outcome": "stored", "transactions": 1})
    assert [row["amount_minor"] for row in await cloud.sales()] == [40994]
    assert cloud.count("shopify", "stored") == 1
    assert (await cloud.revenue())["tills"] == 1


async def test_an_order_of_woocommerces_is_too(cloud: Cloud) -> None:
    await cloud.source("woocommerce")
    reply = await cloud.woocommerce()
    assert (reply.status, reply.json()) == (200, {"outcome": "stored", "transactions": 1})
    assert [row["amount_minor"] for row in await cloud.sales()] == [2935]


async def test_woocommerces_ping_is_answered_though_nobody_signed_it(cloud: Cloud) -> None:
    await cloud.source("woocommerce")
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    reply = await cloud.server.send("POST", "/hooks/woocommerce", b"webhook_id=17", form)
    assert (reply.status, reply.json()["outcome"]) == (200, "ping")
    reply = await cloud.server.send("POST", "/hooks/woocommerce", b"webhook_id=17&order=1", form)
    assert (reply.status, reply.error["code"]) == (415, "unsupported_media")
    assert await cloud.sales() == []
    assert (cloud.count("woocommerce", "ping"), cloud.count("woocommerce", "unsupported_media")) == (1, 1)


async def test_a_payment_of_squares_is_a_sale_that_says_what_it_lacks(cloud: Cloud) -> None:
    await cloud.source("square")
    cloud.server.clock.turn(told(PAYMENT_UPDATED, 60) - cloud.server.clock.now_ms() / 1000)
    reply = await cloud.square(PAYMENT_UPDATED)
    assert (reply.status, reply.json()) == (200, {"outcome": "stored", "transactions": 1})
    (row,) = await cloud.rows("SELECT amount_minor, store, currency FROM ledger")
    assert row == {"amount_minor": 100, "store": "S8GWD5R9QB376", "currency": "USD"}


async def test_an_order_that_square_only_names_is_kept_by_its_name(cloud: Cloud) -> None:
    await cloud.source("square")
    cloud.server.clock.turn(told(ORDER_UPDATED, 60) - cloud.server.clock.now_ms() / 1000)
    reply = await cloud.square(ORDER_UPDATED)
    assert (reply.status, reply.json()) == (200, {"outcome": "hint", "transactions": 0})
    assert await cloud.sales() == []
    orders = (await cloud.server.order(office.SourceOrders("square")))["orders"]
    assert [(one["order"], one["version"], one["state"]) for one in orders] == [
        ("eA3vssLHKJrv9H0IdJCM3gNqfdcZY", 2, "OPEN")
    ]
    (listed,) = (await cloud.server.order(office.SourceList()))["sources"]
    assert listed["orders_without_lines"] == 1


async def test_an_older_word_of_an_order_does_not_take_the_place_of_a_newer_one(cloud: Cloud) -> None:
    await cloud.source("square")
    cloud.server.clock.turn(told(ORDER_UPDATED, 60) - cloud.server.clock.now_ms() / 1000)
    for version in (3, 2):
        event = json.loads(ORDER_UPDATED)
        event["data"]["object"]["order_updated"]["version"] = version
        assert (await cloud.square(json.dumps(event).encode())).status == 200
    (order,) = (await cloud.server.order(office.SourceOrders("square")))["orders"]
    assert order["version"] == 3


async def test_an_event_of_squares_that_holds_the_order_is_read_whole(cloud: Cloud) -> None:
    await cloud.source("square")
    now = iso(cloud.server.clock.now_ms())
    order = {**json.loads(SQUARE)["order"], "state": "COMPLETED", "version": 4}
    event = {"type": "order.updated", "event_id": "e", "created_at": now, "data": {"object": {"order": order}}}
    reply = await cloud.square(json.dumps(event).encode())
    assert (reply.status, reply.json()["outcome"]) == (200, "stored")


async def test_our_own_form_carries_canonical_transactions(cloud: Cloud) -> None:
    made = await cloud.source("generic", name="own", secret=None)
    cloud.secret = made["secret"]
    reply = await cloud.generic(canonical(1))
    assert (reply.status, reply.json()) == (200, {"outcome": "stored", "transactions": 1})
    assert [row["amount_minor"] for row in await cloud.sales()] == [2500]


async def test_and_what_any_adapter_reads(cloud: Cloud) -> None:
    mapping = {
        "format": "csv",
        "system": "own",
        "sale": {"pos_id": "Id", "end": ["Time"], "total": "Total"},
        "line": {"amount": "Total"},
        "rows": "sales",
    }
    options = json.dumps({"mapping": mapping})
    await cloud.source("generic", name="export", adapter="mapping", options=options, zone="Europe/Berlin")
    body = b"Id,Time,Total\n1,2026-09-20T10:00:00,12.50\n2,2026-09-20T10:01:00,7.50\n"
    reply = await cloud.generic(body, name="export", media_type="text/csv")
    assert (reply.status, reply.json()) == (200, {"outcome": "stored", "transactions": 2})
    assert [row["amount_minor"] for row in await cloud.sales()] == [1250, 750]


async def test_a_topic_that_is_no_sale_is_acknowledged_and_nothing_of_it_stored(cloud: Cloud) -> None:
    await cloud.source("shopify")
    await cloud.source("woocommerce")
    await cloud.source("square")
    event = {"type": "inventory.count.updated", "event_id": "e", "created_at": iso(cloud.server.clock.now_ms())}
    replies = [
        await cloud.shopify(b'{"id": 1}', topic="products/update"),
        await cloud.woocommerce(b'{"id": 1}', topic="order.deleted"),
        await cloud.square(json.dumps(event).encode()),
    ]
    assert [(reply.status, reply.json()["outcome"]) for reply in replies] == [(200, "ignored")] * 3
    assert (await cloud.sales(), await cloud.letters(), await cloud.rows("SELECT * FROM hook_event")) == ([], [], [])
    assert cloud.count("shopify", "ignored") == 1


async def test_two_accounts_with_one_vendor_are_told_apart_by_their_urls(cloud: Cloud) -> None:
    await cloud.source("shopify")
    made = await cloud.source("shopify", name="second", secret="the other app's secret", store="south")
    assert made["url"] == f"{BASE}/hooks/shopify/second"
    assert (await cloud.shopify()).status == 200
    other = Cloud(cloud.server, "the other app's secret")
    assert (await other.shopify()).status == 401


async def test_an_older_revision_that_comes_late_changes_no_figure(cloud: Cloud) -> None:
    await cloud.source("shopify")
    newer = altered(SHOPIFY, total_price="500.00", updated_at="2008-01-10T12:00:00-05:00", refunds=[])
    older = altered(SHOPIFY, refunds=[])
    assert (await cloud.shopify(newer, topic="orders/updated", event="event-2")).status == 200
    assert (await cloud.shopify(older, event="event-1")).status == 200
    assert len(await cloud.sales()) == 2
    assert (await cloud.revenue())["amount_minor"] == {"USD": 50000}


async def test_the_customer_is_in_the_vault_and_not_in_the_ledger(cloud: Cloud) -> None:
    await cloud.source("shopify")
    assert (await cloud.shopify()).status == 200
    whole = cloud.server.folder.ledger.read_bytes()
    wal = cloud.server.folder.ledger.with_name(cloud.server.folder.ledger.name + "-wal")
    whole += wal.read_bytes() if wal.exists() else b""
    assert b"bob.norman" not in whole
    assert b"Bob" not in whole
    fields = {row["field"] for row in await cloud.rows("SELECT DISTINCT field FROM vault_item")}
    assert {"identifier", "original", "particulars"} <= fields


async def test_card_numbers_are_cut_before_anything_is_written(cloud: Cloud) -> None:
    await cloud.source("woocommerce")
    body = altered(WOOCOMMERCE, customer_note="my card is 4111 1111 1111 1111")
    assert (await cloud.woocommerce(body)).status == 200
    assert (await cloud.woocommerce(b'{"id": "x", "note": "4111111111111111"}', event="2")).status == 200
    (listed, *_) = await cloud.letters()
    assert listed[0] == "invalid_input"
    for file in cloud.server.folder.root.rglob("*"):
        assert not file.is_file() or b"1111111111" not in file.read_bytes()
