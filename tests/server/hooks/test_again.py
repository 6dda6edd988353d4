"""Deliveries come twice, at the same time, out of order and across restarts: each sale counts once."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from support.hooks import ORDER_UPDATED, PAYMENT_UPDATED, SHOPIFY, WOOCOMMERCE, Cloud, altered, canonical, iso
from support.serving import Server, sale, serving
from tillstream_server import office


@pytest.fixture
def cloud(server: Server) -> Cloud:
    return Cloud(server)


async def test_a_delivery_that_comes_twice_changes_nothing(cloud: Cloud) -> None:
    await cloud.source("shopify")
    first, second = await cloud.shopify(), await cloud.shopify()
    assert [first.json()["outcome"], second.json()["outcome"]] == ["stored", "repeat"]
    assert len(await cloud.sales()) == 1
    assert (await cloud.revenue())["duplicates_refused"] == 0
    assert (cloud.count("shopify", "stored"), cloud.count("shopify", "repeat")) == (1, 1)


async def test_nor_does_one_that_is_played_again_under_other_headers(cloud: Cloud) -> None:
    await cloud.source("shopify")
    await cloud.shopify()
    newer = altered(SHOPIFY, total_price="500.00")  # in the same second
    assert (await cloud.shopify(newer)).json()["outcome"] == "stored"
    cloud.server.clock.turn(3600)
    assert (await cloud.shopify(event="event-9", topic="orders/paid")).json()["outcome"] == "repeat"
    assert (await cloud.revenue())["amount_minor"] == {"USD": 50000}


async def test_the_same_sale_in_another_event_is_a_duplicate(cloud: Cloud) -> None:
    await cloud.source("shopify")
    await cloud.shopify(event="event-1")
    reply = await cloud.shopify(SHOPIFY + b"\n", event="event-2", topic="orders/paid")
    assert (reply.status, reply.json()["outcome"]) == (200, "stored")
    assert len(await cloud.sales()) == 1
    told = await cloud.revenue()
    assert (told["transactions"], told["duplicates_refused"], told["amount_minor"]) == (1, 1, {"USD": 40994})


async def test_an_event_that_says_something_else_is_no_repeat(cloud: Cloud) -> None:
    await cloud.source("shopify")
    await cloud.shopify()
    changed = altered(SHOPIFY, total_price="500.00", updated_at="2008-01-10T12:00:00-05:00")
    assert (await cloud.shopify(changed)).json()["outcome"] == "stored"
    assert (await cloud.revenue())["amount_minor"] == {"USD": 50000}


async def test_ten_at_once_are_one(cloud: Cloud) -> None:
    await cloud.source("shopify")
    replies = await asyncio.gather(*(cloud.shopify() for _ in range(10)))
    assert sorted(reply.json()["outcome"] for reply in replies) == ["repeat"] * 9 + ["stored"]
    assert len(await cloud.sales()) == 1


async def test_different_sales_at_once_get_names_that_follow_one_another(cloud: Cloud) -> None:
    await cloud.source("generic", name="own")
    replies = await asyncio.gather(*(cloud.generic(canonical(n), event=str(n)) for n in range(20)))
    assert {reply.json()["outcome"] for reply in replies} == {"stored"}
    assert sorted(row["seq"] for row in await cloud.sales()) == list(range(20))
    assert (await cloud.revenue())["amount_minor"] == {"USD": 50000}


async def test_tills_sell_beside_it(cloud: Cloud) -> None:
    await cloud.source("generic", name="own")
    till = await cloud.server.till()
    await asyncio.gather(till.sends(sale(1000)), *(cloud.generic(canonical(n), event=str(n)) for n in range(5)))
    told = await cloud.revenue()
    assert (told["transactions"], told["tills"]) == (6, 2)


async def test_what_a_till_has_sold_already_is_a_duplicate(cloud: Cloud) -> None:
    await cloud.source("generic", name="own")
    till = await cloud.server.till()
    await till.sends(sale(1))
    assert (await cloud.generic(canonical(1))).status == 200
    told = await cloud.revenue()
    assert (told["transactions"], told["duplicates_refused"]) == (1, 1)


async def test_after_a_restart_repeats_are_known_and_nothing_looks_like_a_clone(tmp_path: Path) -> None:
    for run in range(3):
        async with serving(tmp_path / "data") as server:
            cloud = Cloud(server)
            if run == 0:
                await cloud.source("generic", name="own")
            outcomes = [(await cloud.generic(canonical(n), event=str(n))).json()["outcome"] for n in range(run + 1)]
            assert outcomes == ["repeat"] * run + ["stored"]
            gaps = await server.order(office.TillGaps("acme", "north", "own"))
            alarms = await server.order(office.TillAlarms())
            assert (gaps["gaps"], alarms["alarms"]) == ([], [])
    assert len({row["epoch"] for row in await cloud.sales()}) == 3


async def test_an_event_that_was_stored_and_not_noted_is_found_by_its_content(cloud: Cloud) -> None:
    await cloud.source("generic", name="own")
    await cloud.generic(canonical(1))
    with cloud.writing() as conn:
        conn.execute("DELETE FROM hook_event")
    assert (await cloud.generic(canonical(1))).json()["outcome"] == "stored"
    told = await cloud.revenue()
    assert (told["transactions"], told["duplicates_refused"]) == (1, 1)


async def test_an_older_version_of_an_order_that_comes_late_changes_no_figure(cloud: Cloud) -> None:
    await cloud.source("generic", name="own", adapter="square")
    for version, total, order in ((5, 700, "later"), (4, 600, "earlier")):
        body = json.dumps({"order": square_order(version, total)}).encode()
        assert (await cloud.generic(body, event=order)).status == 200
    assert (await cloud.revenue())["amount_minor"] == {"USD": 700}


async def test_a_payment_that_is_completed_takes_the_place_of_one_that_was_pending(cloud: Cloud) -> None:
    await cloud.source("square")
    now = iso(cloud.server.clock.now_ms())
    for status, changed in (("COMPLETED", "2020-11-22T21:19:00Z"), ("APPROVED", "2020-11-22T21:17:00Z")):
        event = json.loads(PAYMENT_UPDATED) | {"created_at": now}
        event["data"]["object"]["payment"] |= {"status": status, "updated_at": changed}
        assert (await cloud.square(json.dumps(event).encode())).status == 200
    told = await cloud.revenue()
    assert (told["transactions"], told["amount_minor"]) == (1, {"USD": 100})


async def test_a_new_box_key_is_sealed_to_at_once(cloud: Cloud) -> None:
    await cloud.source("shopify")
    await cloud.shopify()
    await cloud.server.order(office.KeyRotateBox())
    changed = altered(SHOPIFY, total_price="500.00", updated_at="2008-01-10T12:00:00-05:00")
    assert (await cloud.until_it_answers(changed)).json()["outcome"] == "stored"
    alarms = await cloud.server.order(office.TillAlarms())
    assert alarms["alarms"] == []


# Dead letters


async def test_a_kept_delivery_is_read_again_once_the_setting_is_right(cloud: Cloud) -> None:
    await cloud.source("shopify", currency=None)
    body = altered(SHOPIFY, currency=None)
    assert (await cloud.shopify(body)).json()["outcome"] == "dead_letter"
    assert await cloud.retried() == {"retried": 1, "taken": 0, "still_dead": 1}
    with cloud.writing() as conn:
        conn.execute("UPDATE source SET currency = 'EUR'")
    assert await cloud.retried() == {"retried": 1, "taken": 1, "still_dead": 0}
    assert await cloud.letters() == []
    told = await cloud.revenue()
    assert (told["transactions"], told["amount_minor"], told["dead_letters"]) == (1, {"EUR": 40994}, 0)


async def test_and_all_of_its_sales_are_there_after_a_restart_too(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as server:
        cloud = Cloud(server)
        await cloud.source("generic", name="own", adapter="shopify", currency=None)
        order = json.loads(altered(SHOPIFY, currency=None))["order"]
        orders = json.dumps([{**order, "id": number} for number in (1, 2, 3)]).encode()
        assert (await cloud.generic(orders)).status == 422
    async with serving(tmp_path / "data") as server:
        cloud = Cloud(server)
        with cloud.writing() as conn:
            conn.execute("UPDATE source SET currency = 'EUR'")
        assert (await cloud.retried())["taken"] == 1
        assert (await cloud.revenue())["transactions"] == 3
        assert (await server.order(office.TillGaps("acme", "north", "own")))["gaps"] == []
        assert (await server.order(office.TillAlarms()))["alarms"] == []


async def test_what_the_server_itself_fails_over_is_kept_until_a_better_one_comes(cloud: Cloud) -> None:
    await cloud.source("shopify")
    with cloud.writing() as conn:
        conn.execute("UPDATE source SET adapter = 'of a newer server'")
    assert (await cloud.shopify()).json()["outcome"] == "dead_letter"
    assert await cloud.letters() == [("server_defect", "body: server_defect")]
    assert [line["where"] for line in cloud.server.logged("unexpected_error")] == ["hooks"]
    with cloud.writing() as conn:
        conn.execute("UPDATE source SET adapter = 'shopify'")
    assert (await cloud.retried())["taken"] == 1
    assert (await cloud.revenue())["amount_minor"] == {"USD": 40994}


async def test_one_that_no_adapter_reads_stays_and_says_why_it_is_now(cloud: Cloud) -> None:
    await cloud.source("shopify")
    await cloud.shopify(b"nonsense")
    assert (await cloud.retried())["still_dead"] == 1
    assert await cloud.letters() == [("invalid_input", "body: invalid_input")]


async def test_one_that_holds_no_transaction_any_more_stays(cloud: Cloud) -> None:
    await cloud.source("generic", name="own", adapter="woocommerce")
    await cloud.generic(b'{"id": 1}')
    with cloud.writing() as conn:
        conn.execute("UPDATE source SET adapter = 'square_payment'")
    assert (await cloud.retried())["still_dead"] == 1


async def test_a_damaged_secret_holds_up_no_reading_for_reading_needs_none(cloud: Cloud) -> None:
    await cloud.source("shopify", currency=None)
    await cloud.source("woocommerce", currency=None)
    assert (await cloud.shopify(altered(SHOPIFY, currency=None))).json()["outcome"] == "dead_letter"
    assert (await cloud.woocommerce(altered(WOOCOMMERCE, currency=None))).json()["outcome"] == "dead_letter"
    with cloud.writing() as conn:
        conn.execute("UPDATE source SET currency = 'EUR'")
        conn.execute("UPDATE source SET secret = zeroblob(72) WHERE kind = 'shopify'")
    assert (await cloud.shopify(event="2")).error["code"] == "source_damaged"
    assert await cloud.retried() == {"retried": 2, "taken": 2, "still_dead": 0}
    assert (await cloud.revenue())["transactions"] == 2


async def test_a_record_of_a_source_that_the_pipeline_set_aside_is_tried_as_a_record(cloud: Cloud) -> None:
    await cloud.source("generic", name="own")
    await cloud.generic(canonical(1, retailer="rival"))
    assert await cloud.retried() == {"retried": 1, "taken": 0, "still_dead": 1}
    assert await cloud.letters() == [("unacceptable", "retailer: unacceptable")]


async def test_what_a_revoked_source_left_can_still_be_read(cloud: Cloud) -> None:
    await cloud.source("shopify", currency=None)
    await cloud.shopify(altered(SHOPIFY, currency=None))
    await cloud.server.order(office.SourceRevoke("shopify"))
    with cloud.writing() as conn:
        conn.execute("UPDATE source SET currency = 'EUR'")
    assert (await cloud.retried())["taken"] == 1


@pytest.mark.parametrize(
    ("column", "value"), [("zone", "Nowhere/Land"), ("options", "[]")], ids=["a zone that is gone", "broken options"]
)
async def test_a_source_that_cannot_be_used_any_more_holds_up_no_others_letters(
    cloud: Cloud, column: str, value: str
) -> None:
    await cloud.source("shopify", currency=None)
    await cloud.source("woocommerce", currency=None)
    await cloud.shopify(altered(SHOPIFY, currency=None))
    await cloud.woocommerce(altered(WOOCOMMERCE, currency=None))
    with cloud.writing() as conn:
        conn.execute("UPDATE source SET currency = 'EUR'")
        conn.execute(f"UPDATE source SET {column} = ? WHERE kind = 'shopify'", (value,))
    reply = await cloud.shopify(event="2")
    assert (reply.status, reply.error["code"], reply.error["field"]) == (503, "source_unusable", column)
    assert await cloud.retried() == {"retried": 2, "taken": 1, "still_dead": 1}
    assert await cloud.letters() == [("source_unusable", "the shopify source 'shopify' cannot be used")]
    await cloud.server.order(office.SourceReplace("shopify", zone="UTC", options="{}"))
    assert (await cloud.retried())["taken"] == 1
    assert (await cloud.revenue())["transactions"] == 2


async def test_a_kept_event_that_only_names_an_order_is_put_on_the_list(cloud: Cloud) -> None:
    await cloud.source("square")
    event = json.dumps(json.loads(ORDER_UPDATED) | {"created_at": iso(cloud.server.clock.now_ms())}).encode()
    with cloud.writing() as conn:
        conn.execute("UPDATE source SET adapter = 'of a newer server'")
    assert (await cloud.square(event)).json()["outcome"] == "dead_letter"
    with cloud.writing() as conn:
        conn.execute("UPDATE source SET adapter = 'square'")
    assert await cloud.retried() == {"retried": 1, "taken": 1, "still_dead": 0}
    assert await cloud.letters() == []
    (order,) = (await cloud.server.order(office.SourceOrders("square")))["orders"]
    assert order["order"] == json.loads(ORDER_UPDATED)["data"]["object"]["order_updated"]["order_id"]
    assert (await cloud.server.order(office.TillGaps("acme", "north", "square")))["gaps"] == []


async def test_a_rebuild_folds_what_webhooks_brought(cloud: Cloud) -> None:
    await cloud.source("shopify")
    await cloud.shopify()
    before = await cloud.revenue()
    await cloud.server.order(office.Rebuild())
    assert await cloud.revenue() == before


def square_order(version: int, total: int) -> dict[str, object]:
    money = {"amount": total, "currency": "USD"}
    return {
        "id": "O1",
        "location_id": "L1",
        "state": "COMPLETED",
        "created_at": "2026-03-01T02:30:00Z",
        "closed_at": "2026-03-01T02:40:00Z",
        "total_money": money,
        "version": version,
    }
