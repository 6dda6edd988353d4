"""An order that is edited is a revision of the same sale, whatever was edited, and in whatever order it is told."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from support.hooks import PAYMENT_UPDATED, SECRET, SHOPIFY, WOOCOMMERCE, Cloud, altered, canonical, iso
from support.serving import Server, serving
from tillstream_protocol.transaction import Source
from tillstream_server import office
from tillstream_server.admin import CommandFailed
from tillstream_server.hooks.returns import DELETED

NOON = "2017-03-23T12:00:00"
LATER = "2017-03-24T12:00:00"


@pytest.fixture
def cloud(server: Server) -> Cloud:
    return Cloud(server)


def woo(total: str = "29.35", changed: str = NOON, **fields: Any) -> bytes:
    """The genuine order with another total, changed at this time of UTC."""
    return altered(WOOCOMMERCE, total=total, date_modified=None, date_modified_gmt=changed, **fields)


def refunds(*numbers: int) -> list[dict[str, object]]:
    return [{"id": number, "reason": "broken", "total": "-3.00"} for number in numbers]


async def figures(cloud: Cloud) -> tuple[int, dict[str, int]]:
    """Transactions that count, and their sum: the same after everything derived was made anew."""
    told = await cloud.revenue()
    await cloud.server.order(office.Rebuild())
    assert await cloud.revenue() == told
    return told["transactions"], told["amount_minor"]


@pytest.mark.parametrize("created", ["2017-03-30T09:00:00", "2016-01-01T09:00:00"])
@pytest.mark.parametrize("backwards", [False, True])
async def test_an_order_of_woocommerce_whose_date_is_edited_is_one_sale(
    cloud: Cloud, created: str, backwards: bool
) -> None:
    await cloud.source("woocommerce")
    edited = woo("50.00", LATER, date_created=created, date_created_gmt=created)
    for body in (edited, woo()) if backwards else (woo(), edited):
        assert (await cloud.woocommerce(body)).json()["outcome"] == "stored"
    assert await figures(cloud) == (1, {"USD": 5000})
    days = await cloud.rows("SELECT DISTINCT business_date FROM product_day")
    assert [row["business_date"] for row in days] == [created[:10]]


async def test_an_order_of_shopifys_that_moves_to_another_place_is_one_sale(cloud: Cloud) -> None:
    await cloud.source("shopify")
    moved = {"location_id": 99, "device_id": 7, "processed_at": "2008-02-02T11:00:00-05:00"}
    await cloud.shopify()
    await cloud.shopify(altered(SHOPIFY, total_price="500.00", updated_at="2008-01-11T12:00:00-05:00", **moved))
    assert await figures(cloud) == (1, {"USD": 50000})
    assert [row["store"] for row in await cloud.rows("SELECT store FROM sales_by_hour")] == ["99"]


async def test_of_two_changes_in_one_second_the_one_that_comes_later_holds_and_no_repeat_of_the_first(
    cloud: Cloud,
) -> None:
    await cloud.source("woocommerce")
    first, second = woo("30.00"), woo("40.00")
    for body in (first, second, first + b"\n", first):
        await cloud.woocommerce(body)
    assert await figures(cloud) == (1, {"USD": 4000})
    assert (await cloud.revenue())["duplicates_refused"] == 1


async def test_a_repeat_that_was_not_noted_changes_nothing_either(cloud: Cloud) -> None:
    await cloud.source("woocommerce")
    for total in ("30.00", "40.00"):
        await cloud.woocommerce(woo(total))
    with cloud.writing() as conn:
        conn.execute("DELETE FROM hook_event")
    assert (await cloud.woocommerce(woo("30.00"))).json()["outcome"] == "stored"
    assert await figures(cloud) == (1, {"USD": 4000})


async def test_nor_does_a_restart_change_which_of_two_came_later(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as server:
        cloud = Cloud(server)
        await cloud.source("woocommerce")
        for number in (1, 2, 727):
            await cloud.woocommerce(woo("30.00", id=number))
    async with serving(tmp_path / "data") as server:
        cloud = Cloud(server)
        await cloud.woocommerce(woo("40.00"))
        assert await figures(cloud) == (3, {"USD": 10000})


async def test_a_vendors_order_by_a_generic_source_ranks_by_its_own_time(cloud: Cloud) -> None:
    await cloud.source("generic", name="own", adapter="woocommerce")
    await cloud.generic(woo("40.00", LATER), event="2")
    cloud.server.clock.turn(60)
    await cloud.generic(woo("30.00", NOON), event="1-again")
    assert await figures(cloud) == (1, {"USD": 4000})
    told = await cloud.rows("SELECT captured_ms FROM ledger ORDER BY id")
    assert [row["captured_ms"] for row in told] == [1_490_356_800_000, 1_490_270_400_000]


async def test_so_does_a_canonical_sale_that_says_when_it_was_changed(cloud: Cloud) -> None:
    await cloud.source("generic", name="own")
    shop: dict[str, Any] = {"scope": "till", "source": Source("shop")}
    await cloud.generic(canonical(1, total=4000, changed_at=2_000, business_date="2026-03-02", **shop), event="2")
    await cloud.generic(canonical(1, total=3000, changed_at=1_000, **shop), event="1")
    assert await figures(cloud) == (1, {"USD": 4000})


# Refunds that were deleted


async def test_a_refund_that_the_order_lists_no_more_is_a_return_no_more(cloud: Cloud) -> None:
    await cloud.source("woocommerce")
    await cloud.woocommerce(woo(refunds=refunds(8, 9)))
    assert await figures(cloud) == (3, {"USD": 2335})
    await cloud.woocommerce(woo(changed=LATER, refunds=refunds(9)))
    assert await figures(cloud) == (2, {"USD": 2635})
    assert any(DELETED.encode() in row["body"] for row in await cloud.rows("SELECT body FROM ledger"))
    await cloud.woocommerce(woo(changed=LATER, refunds=refunds(9), status="completed"))
    assert await figures(cloud) == (2, {"USD": 2635})


async def test_however_the_deliveries_overtake_each_other(cloud: Cloud) -> None:
    listed = [(NOON, refunds(8)), ("2017-03-23T13:00:00", refunds(8, 9)), (LATER, refunds(9))]
    for number, some in enumerate(permutations(listed)):
        name = f"shop{number}"
        await cloud.source("generic", name=name, adapter="woocommerce")
        for changed, there in some:
            event = changed.replace(":", "_")
            reply = await cloud.generic(woo(changed=changed, refunds=there), name=name, event=event)
            assert reply.json()["outcome"] == "stored"
        assert await figures(cloud) == (2 * (number + 1), {"USD": 2635 * (number + 1)}), [at for at, _ in some]


@pytest.mark.parametrize("backwards", [False, True])
async def test_and_when_one_delivery_tells_of_both_states(cloud: Cloud, backwards: bool) -> None:
    await cloud.source("generic", name="own", adapter="woocommerce")
    states = [woo(refunds=refunds(8)), woo(changed=LATER, refunds=refunds(9))]
    body = b"[" + b",".join(reversed(states) if backwards else states) + b"]"
    assert (await cloud.generic(body)).json()["outcome"] == "stored"
    assert await figures(cloud) == (2, {"USD": 2635})


async def test_an_order_that_does_not_say_which_refunds_it_has_takes_none_back(cloud: Cloud) -> None:
    await cloud.source("woocommerce")
    await cloud.woocommerce(woo(refunds=refunds(9)))
    silent = json.loads(woo(changed=LATER))
    del silent["refunds"]
    await cloud.woocommerce(json.dumps(silent).encode())
    assert await figures(cloud) == (2, {"USD": 2635})


async def test_what_an_older_order_still_lists_is_kept_where_it_is_known(cloud: Cloud) -> None:
    await cloud.source("woocommerce")
    await cloud.woocommerce(woo(changed=LATER, refunds=refunds(9)))
    await cloud.woocommerce(woo(changed=NOON, refunds=refunds(9)))
    assert await figures(cloud) == (2, {"USD": 2635})


async def test_a_refund_of_squares_leads_to_its_payment_whatever_the_days(cloud: Cloud) -> None:
    await cloud.source("square")
    payment = json.loads(PAYMENT_UPDATED) | {"created_at": iso(cloud.server.clock.now_ms())}
    paid = payment["data"]["object"]["payment"]
    await cloud.square(json.dumps(payment).encode())
    told = {"amount_money": paid["total_money"], "status": "COMPLETED", "created_at": "2020-12-24T10:00:00Z"}
    refund = {"id": "R1", "payment_id": paid["id"], "location_id": paid["location_id"], **told}
    event = {**payment, "type": "refund.updated", "event_id": "e2", "data": {"object": {"refund": refund}}}
    assert (await cloud.square(json.dumps(event).encode())).json()["outcome"] == "stored"
    joined = "SELECT k.relation, l.idem FROM link k JOIN ledger l ON l.idem = k.target"
    assert [row["relation"] for row in await cloud.rows(joined)] == ["original"]


# A source in the place of another


async def test_a_replaced_source_goes_on_with_the_orders_that_its_till_knows(cloud: Cloud) -> None:
    made = await cloud.source("woocommerce")
    await cloud.woocommerce(woo(refunds=refunds(9)))
    await cloud.server.order(office.SourceRevoke("woocommerce"))
    assert (await cloud.woocommerce(woo("50.00", LATER))).error["code"] == "unknown_source"
    replaced = await cloud.server.order(
        office.SourceReplace("woocommerce", to="paris", secret="another secret", zone="Europe/Paris")
    )
    assert replaced["till_id"] == made["till_id"]
    assert replaced["url"] == "https://hooks.example.com/hooks/woocommerce/paris"
    cloud.secret = "another secret"
    reply = await cloud.woocommerce(woo("50.00", LATER), path="/hooks/woocommerce/paris")
    assert reply.json()["outcome"] == "stored"
    assert await figures(cloud) == (1, {"USD": 5000})
    (listed,) = (await cloud.server.order(office.SourceList()))["sources"]
    assert (listed["name"], listed["revoked_ms"], listed["zone"], listed["currency"]) == (
        "paris",
        None,
        "Europe/Paris",
        "USD",
    )


async def test_one_in_force_is_replaced_at_once_and_keeps_its_secret(cloud: Cloud) -> None:
    await cloud.source("shopify")
    await cloud.server.order(office.SourceReplace("shopify", currency="EUR", url="https://new.example.com"))
    assert (await cloud.shopify(altered(SHOPIFY, currency=None))).json()["outcome"] == "stored"
    assert await figures(cloud) == (1, {"EUR": 40994})


@pytest.mark.parametrize("secret", [None, "a third secret"])
async def test_a_secret_that_is_being_rotated_is_taken_on_unless_another_is_given(
    cloud: Cloud, secret: str | None
) -> None:
    await cloud.source("woocommerce")
    await cloud.server.order(office.SourceRotate("woocommerce", secret="another secret"))
    await cloud.server.order(office.SourceReplace("woocommerce", zone="Europe/Paris", secret=secret))
    assert (await cloud.woocommerce(woo())).status == (200 if secret is None else 401)
    cloud.secret = secret or "another secret"
    assert (await cloud.woocommerce(woo("50.00", LATER))).json()["outcome"] == "stored"
    if secret is None:
        cloud.server.clock.turn(25 * 3600)
        cloud.secret = SECRET
        assert (await cloud.woocommerce(woo("60.00", LATER))).error["code"] == "bad_signature"


@pytest.mark.parametrize(
    ("order", "code", "field"),
    [
        (office.SourceReplace("square"), "unknown_source", None),
        (office.SourceReplace("shopify", to="other"), "invalid_input", "to"),
        (office.SourceReplace("shopify", to="A/B"), "invalid_input", "name"),
        (office.SourceReplace("shopify", zone="Nowhere/Land"), "invalid_input", "zone"),
        (office.SourceReplace("shopify", secret="short"), "invalid_input", "secret"),
        (office.SourceReplace("shopify", adapter="square"), "invalid_input", "adapter"),
    ],
)
async def test_what_could_not_work_changes_nothing(
    cloud: Cloud, order: office.SourceReplace, code: str, field: str | None
) -> None:
    await cloud.source("shopify")
    await cloud.source("shopify", name="other")
    before = await cloud.rows("SELECT * FROM source ORDER BY name")
    with pytest.raises(CommandFailed) as caught:
        await cloud.server.order(order)
    assert (caught.value.code, caught.value.field) == (code, field)
    assert await cloud.rows("SELECT * FROM source ORDER BY name") == before
