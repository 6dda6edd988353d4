"""Whatever is not taken is named and counted, and nothing of it is stored; what cannot be read is kept."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
from typing import Any

import pytest

from support.hooks import JSON, PAYMENT_UPDATED, SECRET, SHOPIFY, WOOCOMMERCE, Cloud, altered, b64, canonical, iso, mac
from support.serving import Server
from tillstream_protocol.limits import DEFAULT
from tillstream_server import office, office_fleet
from tillstream_server.hooks.intake import MOST_WAITING
from tillstream_server.hooks.signatures import KINDS, SIGNATURE


@pytest.fixture
def cloud(server: Server) -> Cloud:
    return Cloud(server)


async def every_source(cloud: Cloud) -> None:
    for kind in KINDS:
        await cloud.source(kind, name="own" if kind == "generic" else None, till=f"{kind}-till")


PATHS = {kind: f"/hooks/{kind}" for kind in KINDS} | {"generic": "/hooks/generic/own"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("given", [None, "", "nonsense", "v1=", "é", b64(bytes(32))])
async def test_a_bad_signature_is_refused_by_name(cloud: Cloud, kind: Any, given: str | None) -> None:
    await every_source(cloud)
    headers = {} if given is None else {SIGNATURE[kind]: given}
    reply = await cloud.posts(PATHS[kind], SHOPIFY, headers)
    assert (reply.status, reply.error["code"], reply.error["field"]) == (401, "bad_signature", SIGNATURE[kind])
    assert cloud.count(kind, "bad_signature") == 1
    assert SECRET not in reply.body.decode() + cloud.server.log.getvalue()
    assert (await cloud.sales(), await cloud.letters()) == ([], [])


async def test_a_signature_of_another_body_url_or_vendor_is_refused(cloud: Cloud) -> None:
    await every_source(cloud)
    right = b64(mac(SECRET, SHOPIFY))
    reply = await cloud.posts("/hooks/shopify", SHOPIFY + b" ", {"X-Shopify-Hmac-Sha256": right})
    assert reply.status == 401
    reply = await cloud.posts("/hooks/square", SHOPIFY, {"x-square-hmacsha256-signature": right})
    assert reply.status == 401
    elsewhere = b64(mac(SECRET, b"https://elsewhere.example.com/hooks/square", SHOPIFY))
    reply = await cloud.posts("/hooks/square", SHOPIFY, {"x-square-hmacsha256-signature": elsewhere})
    assert reply.status == 401


@pytest.mark.parametrize("name", ["Tillstream-Timestamp", "Tillstream-Event"])
async def test_in_our_own_form_time_and_event_are_signed(cloud: Cloud, name: str) -> None:
    await every_source(cloud)
    told, body = str(cloud.server.clock.now_ms() // 1000), canonical(1)
    signature = "v1=" + mac(SECRET, f"{told}.one.".encode(), body).hex()
    right = {"Tillstream-Timestamp": told, "Tillstream-Event": "one", "Tillstream-Signature": signature}
    assert (await cloud.posts("/hooks/generic/own", body, {**right, name: "1"})).status == 401
    assert (await cloud.posts("/hooks/generic/own", body, right)).status == 200


@pytest.mark.parametrize("event", ["e.1", "e 1", "e/1", "é", "."])
async def test_an_event_that_could_be_parted_otherwise_is_refused(cloud: Cloud, event: str) -> None:
    await every_source(cloud)
    reply = await cloud.generic(canonical(1), event=event)
    assert (reply.status, reply.error["code"], reply.error["field"]) == (400, "invalid_input", "Tillstream-Event")
    assert (await cloud.sales(), await cloud.letters()) == ([], [])


async def test_one_of_letters_digits_and_their_joints_is_taken(cloud: Cloud) -> None:
    await every_source(cloud)
    assert (await cloud.generic(canonical(1), event="Till-3:sale_0017")).status == 200


@pytest.mark.parametrize(("event", "told"), [("", None), ("e" * 129, None), ("e", "soon"), ("e", "-1"), ("e", "")])
async def test_and_have_to_be_there(cloud: Cloud, event: str, told: str | None) -> None:
    await every_source(cloud)
    more = {} if told is None else {"told": told}
    reply = await cloud.generic(canonical(1), event=event, **more)
    assert (reply.status, reply.error["code"]) == (400, "invalid_input")
    assert cloud.count("generic", "invalid_input") == 1


@pytest.mark.parametrize("path", ["/hooks/shopify", "/hooks/square/other", "/hooks/generic/own", "/hooks/generic/%00"])
async def test_a_source_that_is_not_there_is_unknown(cloud: Cloud, path: str) -> None:
    reply = await cloud.posts(path, SHOPIFY, {})
    assert (reply.status, reply.error["code"]) == (404, "unknown_source")
    assert cloud.count(path.split("/")[2], "unknown_source") == 1


@pytest.mark.parametrize("path", ["/hooks", "/hooks/generic", "/hooks/paypal", "/hooks/square/a/b"])
async def test_no_other_address_leads_anywhere(cloud: Cloud, path: str) -> None:
    reply = await cloud.posts(path, SHOPIFY, {})
    assert (reply.status, reply.error["code"]) == (404, "not_found")


async def test_only_post_is_answered(cloud: Cloud) -> None:
    assert (await cloud.server.get("/hooks/square")).status == 405


async def test_a_body_over_the_limit_is_refused_with_the_limit_and_not_read(cloud: Cloud) -> None:
    await every_source(cloud)
    reply = await cloud.shopify(bytes(DEFAULT.hook_body + 1))
    assert (reply.status, reply.error["code"]) == (413, "too_large")
    assert str(DEFAULT.hook_body) in reply.error["limit"]
    assert cloud.count("shopify", "too_large") == 1


async def test_one_that_does_not_say_how_long_it_is_ends_there_too(cloud: Cloud) -> None:
    await every_source(cloud)

    async def endless() -> Any:
        for _ in range(2 * DEFAULT.hook_body // 65_536):
            yield bytes(65_536)

    address = cloud.server.address + "/hooks/shopify"
    async with cloud.server.http.post(address, data=endless(), headers={"Content-Type": JSON}) as reply:
        assert reply.status == 413


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", "application/msgpack"])
async def test_only_json_is_taken_from_vendors(cloud: Cloud, media_type: str) -> None:
    await every_source(cloud)
    reply = await cloud.posts("/hooks/shopify", SHOPIFY, {"Content-Type": media_type})
    assert (reply.status, reply.error["code"]) == (415, "unsupported_media")


async def test_a_compressed_body_is_not_taken(cloud: Cloud) -> None:
    await every_source(cloud)
    assert (await cloud.posts("/hooks/shopify", SHOPIFY, {"Content-Encoding": "gzip"})).status == 415


# Replay windows


@pytest.mark.parametrize("days", [-5, 1])
async def test_a_delivery_from_another_time_is_stale(cloud: Cloud, days: int) -> None:
    await every_source(cloud)
    then = iso(cloud.server.clock.now_ms() + days * 86_400_000)
    event = json.loads(PAYMENT_UPDATED) | {"created_at": then}
    replies = [await cloud.shopify(told=then), await cloud.square(json.dumps(event).encode())]
    assert [(reply.status, reply.error["code"]) for reply in replies] == [(401, "stale_delivery")] * 2
    assert (cloud.count("shopify", "stale_delivery"), cloud.count("square", "stale_delivery")) == (1, 1)
    assert await cloud.sales() == []


async def test_one_that_a_vendor_has_tried_for_three_days_is_not(cloud: Cloud) -> None:
    await every_source(cloud)
    then = iso(cloud.server.clock.now_ms() - 3 * 86_400_000)
    event = json.loads(PAYMENT_UPDATED) | {"created_at": then}
    assert (await cloud.shopify(told=then)).status == 200
    assert (await cloud.square(json.dumps(event).encode())).status == 200


@pytest.mark.parametrize(("seconds", "status"), [(-301, 401), (-299, 200), (299, 200), (301, 401)])
async def test_our_own_form_is_good_for_five_minutes(cloud: Cloud, seconds: int, status: int) -> None:
    await every_source(cloud)
    reply = await cloud.generic(canonical(1), told=cloud.server.clock.now_ms() // 1000 + seconds)
    assert reply.status == status


@pytest.mark.parametrize("told", ["", "yesterday", "2026-13-40T00:00:00Z"])
async def test_a_time_that_is_none_keeps_no_sale_out(cloud: Cloud, told: str) -> None:
    await every_source(cloud)
    signature = b64(mac(SECRET, SHOPIFY))
    headers = {"X-Shopify-Hmac-Sha256": signature, "X-Shopify-Topic": "orders/paid", "X-Shopify-Triggered-At": told}
    assert (await cloud.posts("/hooks/shopify", SHOPIFY, headers)).status == 200


# What cannot be read


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "body"),
        (b"[" * 100_000, "body"),
        (b"\xff\xfe", "body"),
        (b"{}", "id"),
        (altered(SHOPIFY, total_price="a lot"), "order.total_price"),
        (altered(SHOPIFY, created_at="yesterday"), "order.created_at"),
    ],
)
async def test_what_a_vendor_sends_and_nobody_can_read_is_kept_and_acknowledged(
    cloud: Cloud, body: bytes, reason: str
) -> None:
    await every_source(cloud)
    reply = await cloud.shopify(body)
    assert (reply.status, reply.json()) == (200, {"outcome": "dead_letter", "transactions": 0})
    ((code, said),) = await cloud.letters()
    assert (code, said.split(":")[0]) == ("invalid_input", reason)
    assert cloud.count("shopify", "dead_letter") == 1
    assert [line["reason"] for line in cloud.server.logged("hook_unreadable")] == ["invalid_input"]
    assert (await cloud.shopify(body)).json()["outcome"] == "repeat"
    assert len(await cloud.letters()) == 1


async def test_a_sender_of_our_own_form_is_told_what_is_wrong_and_it_is_kept_all_the_same(cloud: Cloud) -> None:
    await every_source(cloud)
    reply = await cloud.generic(canonical(1).replace(b'"total":2500', b'"total":"x"'))
    assert (reply.status, reply.error["code"], reply.error["field"]) == (422, "invalid_input", "total")
    assert "dead-letters" in reply.error["hint"]
    assert len(await cloud.letters()) == 1
    assert cloud.count("generic", "dead_letter") == 1


async def test_a_field_that_nobody_knows_is_not_written_down(cloud: Cloud) -> None:
    await every_source(cloud)
    reply = await cloud.generic(canonical(1).replace(b'"total":', b'"bob@example.com":1,"total":'))
    assert reply.status == 422
    ((_, reason),) = await cloud.letters()
    assert "bob" not in reason + cloud.server.log.getvalue()


async def test_a_sale_of_another_retailer_is_set_aside_by_the_pipeline(cloud: Cloud) -> None:
    await every_source(cloud)
    reply = await cloud.generic(canonical(1, retailer="rival"))
    assert (reply.status, reply.json()["outcome"]) == (200, "dead_letter")
    assert await cloud.letters() == [("unacceptable", "retailer: unacceptable")]


async def test_many_orders_at_once_are_taken_together(cloud: Cloud) -> None:
    await cloud.source("generic", name="own", adapter="shopify")
    order = json.loads(SHOPIFY)["order"]
    orders = json.dumps([{**order, "id": number} for number in range(60)]).encode()
    assert (await cloud.generic(orders)).json() == {"outcome": "stored", "transactions": 60}


async def test_what_would_be_too_much_for_a_batch_is_kept_whole(cloud: Cloud) -> None:
    await every_source(cloud)
    body = altered(WOOCOMMERCE, refunds=[{"id": number, "total": "-0.01"} for number in range(1_000)])
    assert (await cloud.woocommerce(body)).json()["outcome"] == "dead_letter"
    ((code, _),) = await cloud.letters()
    assert code == "too_large"
    assert await cloud.sales() == []


async def test_an_order_of_many_refunds_carries_what_it_was_read_from_once(cloud: Cloud) -> None:
    await every_source(cloud)
    body = altered(
        WOOCOMMERCE,
        refunds=[{"id": number, "total": "-0.01"} for number in range(100)],
        meta_data=[{"id": 1, "key": "noise", "value": os.urandom(40_000).hex()}],
    )
    assert (await cloud.woocommerce(body)).json() == {"outcome": "stored", "transactions": 101}
    ((kept,),) = [tuple(row.values()) for row in await cloud.rows("SELECT sum(length(sealed)) FROM vault_item")]
    assert len(body) < kept < 4 * len(body)


async def test_more_deliveries_at_once_than_can_wait_are_sent_away_for_now(cloud: Cloud) -> None:
    await every_source(cloud)
    with cloud.held():
        sent = [asyncio.create_task(cloud.generic(canonical(n), event=str(n))) for n in range(MOST_WAITING + 3)]
        refused = [await one for one in itertools.islice(asyncio.as_completed(sent), 3)]
    assert {(reply.status, reply.error["code"]) for reply in refused} == {(503, "busy")}
    assert all(reply.headers["Retry-After"] for reply in refused)
    assert sorted(reply.status for reply in await asyncio.gather(*sent)) == [200] * MOST_WAITING + [503] * 3
    assert len(await cloud.sales()) == MOST_WAITING
    assert cloud.count("generic", "busy") == 3


async def test_when_the_database_fails_nothing_is_acknowledged(cloud: Cloud) -> None:
    await every_source(cloud)
    with cloud.held():
        reply = await cloud.shopify()
    assert (reply.status, reply.error["code"]) == (503, "ledger_busy")
    assert cloud.count("shopify", "failed") == 1
    assert (await cloud.shopify()).json()["outcome"] == "stored"
    assert len(await cloud.sales()) == 1


# Secrets


async def test_after_a_change_both_secrets_are_good_for_a_while(cloud: Cloud) -> None:
    await cloud.source("woocommerce")
    changed = await cloud.server.order(office.SourceRotate("woocommerce", overlap_ms=3_600_000))
    new = Cloud(cloud.server, changed["secret"])
    assert (await cloud.woocommerce()).status == 200
    assert (await new.woocommerce(event="2")).status == 200
    cloud.server.clock.turn(3_600)
    assert (await cloud.woocommerce(event="3")).status == 401
    assert (await new.woocommerce(event="3")).status == 200


async def test_a_revoked_source_is_unknown_and_its_name_free_again(cloud: Cloud) -> None:
    await cloud.source("woocommerce")
    assert (await cloud.woocommerce()).status == 200
    await cloud.server.order(office.SourceRevoke("woocommerce"))
    reply = await cloud.woocommerce(event="2")
    assert (reply.status, reply.error["code"]) == (404, "unknown_source")
    await cloud.source("woocommerce", till="woo-2", secret="another secret of theirs")
    assert (await cloud.woocommerce(event="2")).status == 401
    assert len(await cloud.sales()) == 1


async def test_so_is_one_whose_till_was_revoked(cloud: Cloud) -> None:
    await cloud.source("woocommerce")
    await cloud.server.order(office_fleet.TillRevoke("acme", "north", "woocommerce"))
    assert (await cloud.woocommerce()).status == 404


async def test_no_secret_lies_in_the_folder_or_the_log(cloud: Cloud) -> None:
    await every_source(cloud)
    made = await cloud.source("generic", name="made", secret=None)
    listed = await cloud.server.order(office.SourceList())
    for secret in (SECRET, made["secret"]):
        assert secret not in json.dumps(listed) + cloud.server.log.getvalue()
        for file in cloud.server.folder.root.rglob("*"):
            assert not file.is_file() or secret.encode() not in file.read_bytes()
