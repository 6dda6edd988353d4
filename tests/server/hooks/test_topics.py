"""What a delivery is about: topics stand in headers that nobody signs, and make no sale of what is none."""

from __future__ import annotations

import json
from typing import Any

import pytest

from support.hooks import SECRET, SHOPIFY, WOOCOMMERCE, Cloud, altered, b64, mac
from support.serving import Server


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
