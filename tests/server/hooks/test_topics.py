"""What a delivery is about: topics stand in headers that nobody signs, and make no sale of what is none."""

from __future__ import annotations

import json
from typing import Any

import pytest

from support.hooks import ORDER_UPDATED, SECRET, SHOPIFY, SQUARE, WOOCOMMERCE, Cloud, altered, b64, iso, mac
from support.serving import Server
from tillstream_server import office


@pytest.fixture
def cloud(server: Server) -> Cloud:
    return Cloud(server)


def bare(**fields: object) -> bytes:
    """An order as a webhook of Shopify's has it: not under `order`."""
    return json.dumps({**json.loads(SHOPIFY)["order"], **fields}).encode()


@pytest.mark.parametrize("gid", ["gid://shopify/DraftOrder/1", "gid://shopify/OrderEdit/1", "", 7, ["gid"]])
async def test_what_shopify_signed_of_something_else_is_no_sale_under_the_topic_of_an_order(
    cloud: Cloud, gid: object
) -> None:
    await cloud.source("shopify")
    reply = await cloud.shopify(bare(admin_graphql_api_id=gid))
    assert (reply.status, reply.json()["outcome"]) == (200, "dead_letter")
    assert await cloud.letters() == [("invalid_input", "admin_graphql_api_id: expected gid://shopify/Order/")]
    assert (await cloud.retried())["still_dead"] == 1
    assert await cloud.sales() == []


async def test_an_order_of_shopifys_that_says_so_is_one(cloud: Cloud) -> None:
    await cloud.source("shopify")
    reply = await cloud.shopify(bare(admin_graphql_api_id="gid://shopify/Order/450789469"))
    assert (reply.status, reply.json()["outcome"]) == (200, "stored")


@pytest.mark.parametrize(
    "links",
    [
        {"self": [{"href": "https://shop.example/wp-json/wc/v3/products/1"}]},
        {"collection": [{"href": "https://shop.example/wp-json/wc/v3/orders/"}]},
        {"self": []},
        {"self": {"href": "/orders/1"}},
        [],
        "orders",
    ],
)
async def test_nor_is_what_woocommerce_signed_of_something_else(cloud: Cloud, links: Any) -> None:
    await cloud.source("woocommerce")
    reply = await cloud.woocommerce(altered(WOOCOMMERCE, _links=links))
    assert (reply.status, reply.json()["outcome"]) == (200, "dead_letter")
    assert [reason for _, reason in await cloud.letters()] == ["_links.self[0].href: expected /orders/"]
    assert await cloud.sales() == []


@pytest.mark.parametrize(
    "href", ["https://s.example/wp-json/wc/v3/orders/727", "https://s.example/?rest_route=/wc/v3/orders/7"]
)
async def test_an_order_of_woocommerces_links_to_itself(cloud: Cloud, href: str) -> None:
    await cloud.source("woocommerce")
    assert (await cloud.woocommerce(altered(WOOCOMMERCE, _links={"self": [{"href": href}]}))).json()[
        "outcome"
    ] == "stored"


@pytest.mark.parametrize(
    ("kind", "body", "signature", "topic"),
    [
        ("shopify", SHOPIFY, "X-Shopify-Hmac-Sha256", "X-Shopify-Topic"),
        ("woocommerce", WOOCOMMERCE, "X-WC-Webhook-Signature", "X-WC-Webhook-Topic"),
    ],
)
async def test_a_delivery_without_a_topic_is_refused_by_name(
    cloud: Cloud, kind: Any, body: bytes, signature: str, topic: str
) -> None:
    await cloud.source(kind)
    reply = await cloud.posts(f"/hooks/{kind}", body, {signature: b64(mac(SECRET, body))})
    assert (reply.status, reply.error["code"], reply.error["field"]) == (400, "invalid_input", topic)
    assert (await cloud.sales(), await cloud.letters()) == ([], [])


# What should hold a sale, and holds none


async def order_event(cloud: Cloud, **named: object) -> str:
    """What became of an event of Square's that names an order."""
    event = json.loads(ORDER_UPDATED) | {"created_at": iso(cloud.server.clock.now_ms())}
    event["data"]["object"]["order_updated"] |= named
    reply = await cloud.square(json.dumps(event).encode())
    assert reply.status == 200
    return str(reply.json()["outcome"])


@pytest.mark.parametrize("topic", ["payment.updated", "refund.created", "order.updated"])
@pytest.mark.parametrize("data", [{}, {"object": {}}, {"object": {"order_updated": {"order_id": None}}}, None])
async def test_an_event_of_squares_that_holds_and_names_nothing_is_kept(cloud: Cloud, topic: str, data: object) -> None:
    await cloud.source("square")
    event = {"type": topic, "event_id": "e", "created_at": iso(cloud.server.clock.now_ms()), "data": data}
    reply = await cloud.square(json.dumps(event).encode())
    assert (reply.status, reply.json()["outcome"]) == (200, "dead_letter")
    assert len(await cloud.letters()) == 1
    assert cloud.count("square", "dead_letter") == 1


async def test_so_is_an_empty_list_of_orders(cloud: Cloud) -> None:
    await cloud.source("shopify")
    await cloud.source("woocommerce")
    replies = [await cloud.shopify(b'{"orders": []}'), await cloud.woocommerce(b'{"orders": []}')]
    assert [(reply.status, reply.json()["outcome"]) for reply in replies] == [(200, "dead_letter")] * 2
    assert len(await cloud.letters()) == 2


async def test_a_sender_of_our_own_form_is_told_that_there_was_nothing_in_it(cloud: Cloud) -> None:
    await cloud.source("generic", name="own", adapter="square")
    event = json.dumps({"type": "order.updated", "data": {"object": {}}}).encode()
    for body in (event, ORDER_UPDATED):
        reply = await cloud.generic(body)
        assert (reply.status, reply.error["code"], reply.error["field"]) == (422, "invalid_input", "body")
    assert len(await cloud.letters()) == 2
    assert (await cloud.generic(SQUARE, event="2")).status == 200


@pytest.mark.parametrize("lacking", ["location_id", "state", "version"])
async def test_an_order_that_is_named_without_the_rest_is_on_the_list_all_the_same(cloud: Cloud, lacking: str) -> None:
    await cloud.source("square")
    assert await order_event(cloud, **{lacking: None}) == "hint"
    (order,) = (await cloud.server.order(office.SourceOrders("square")))["orders"]
    assert order["order"] == json.loads(ORDER_UPDATED)["data"]["object"]["order_updated"]["order_id"]


@pytest.mark.parametrize(
    "named", [{"version": 2**63}, {"version": 2**70}, {"version": -1}, {"version": "2"}, {"order_id": "x" * 193}]
)
async def test_an_order_that_cannot_be_is_kept_and_not_on_the_list(cloud: Cloud, named: dict[str, object]) -> None:
    await cloud.source("square")
    assert await order_event(cloud, **named) == "dead_letter"
    assert (await cloud.server.order(office.SourceOrders("square")))["orders"] == []


@pytest.mark.parametrize("named", [{"version": 2**63 - 1}, {"order_id": "x" * 192}])
async def test_the_largest_that_can_be_is(cloud: Cloud, named: dict[str, object]) -> None:
    await cloud.source("square")
    assert await order_event(cloud, **named) == "hint"
    assert len((await cloud.server.order(office.SourceOrders("square")))["orders"]) == 1
