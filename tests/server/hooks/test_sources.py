"""Sources of webhooks: how they come to be, and what cannot be one."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_decrypt as decrypt
from sqlalchemy.ext.asyncio import AsyncConnection

from support.hooks import BASE, PAYMENT_UPDATED, SECRET, SHOPIFY, WOOCOMMERCE, Cloud, altered, canonical, iso
from support.serving import Server, Till, serving
from tillstream_protocol.events import Original
from tillstream_protocol.messages import Token
from tillstream_server import app, backup, keys, office
from tillstream_server.admin import CommandFailed
from tillstream_server.backup import Copying
from tillstream_server.config import Config
from tillstream_server.events import Events, json_logger
from tillstream_server.folder import Folder


@pytest.fixture
def cloud(server: Server) -> Cloud:
    return Cloud(server)


@pytest.mark.parametrize(
    ("fields", "url"),
    [
        ({"kind": "square"}, "https://hooks.example.com/hooks/square"),
        ({"kind": "square", "name": "paris"}, "https://hooks.example.com/hooks/square/paris"),
        ({"kind": "shopify", "url": ""}, "/hooks/shopify"),
        ({"kind": "generic"}, "https://hooks.example.com/hooks/generic/generic"),
        ({"kind": "generic", "name": "own", "url": "http://h:8700/tills/"}, "http://h:8700/tills/hooks/generic/own"),
    ],
)
async def test_the_url_to_give_the_vendor_is_told(cloud: Cloud, fields: dict[str, Any], url: str) -> None:
    made = await cloud.source(**fields)
    assert made["url"] == url
    assert "secret" not in made


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"kind": "square", "url": ""}, "url"),
        ({"kind": "square", "url": "hooks.example.com"}, "url"),
        ({"kind": "square", "url": "https://h/?q"}, "url"),
        ({"kind": "square", "secret": None}, "secret"),
        ({"kind": "shopify", "secret": None}, "secret"),
        ({"kind": "shopify", "secret": "short"}, "secret"),
        ({"kind": "shopify", "secret": "s" * 257}, "secret"),
        ({"kind": "shopify", "name": "a/b"}, "name"),
        ({"kind": "shopify", "name": "Paris"}, "name"),
        ({"kind": "shopify", "adapter": "square"}, "adapter"),
        ({"kind": "generic", "adapter": "nobody"}, "adapter"),
        ({"kind": "generic", "zone": "Nowhere/Land"}, "zone"),
        ({"kind": "generic", "zone": "../etc"}, "zone"),
        ({"kind": "generic", "options": "[]"}, "options"),
        ({"kind": "generic", "adapter": "mapping"}, "mapping"),
        ({"kind": "generic", "currency": "euro"}, "currency"),
    ],
)
async def test_what_could_not_work_is_refused_by_the_field(cloud: Cloud, fields: dict[str, Any], field: str) -> None:
    with pytest.raises(CommandFailed) as caught:
        await cloud.source(**fields)
    assert (caught.value.field or "").split(".")[0] == field
    assert (await cloud.server.order(office.SourceList()))["sources"] == []


async def test_two_sources_have_neither_name_nor_till_in_common(cloud: Cloud) -> None:
    await cloud.source("shopify")
    with pytest.raises(CommandFailed, match="already") as caught:
        await cloud.source("shopify", till="other")
    assert caught.value.field == "name"
    with pytest.raises(CommandFailed, match="already") as caught:
        await cloud.source("shopify", name="other", till="shopify")
    assert caught.value.field == "till"


async def test_sources_are_listed_with_what_they_brought(cloud: Cloud) -> None:
    await cloud.source("shopify")
    await cloud.source("square", store="south")
    await cloud.shopify()
    shopify, square = (await cloud.server.order(office.SourceList("acme")))["sources"]
    assert (shopify["store"], shopify["till"], shopify["events"]) == ("north", "shopify", 1)
    assert shopify["last_event_ms"] == cloud.server.clock.now_ms()
    assert (square["url"], square["events"], square["revoked_ms"]) == (f"{BASE}/hooks/square", 0, None)
    assert (await cloud.server.order(office.SourceList("rival")))["sources"] == []


@pytest.mark.parametrize(
    "command",
    [office.SourceRevoke("shopify"), office.SourceRotate("shopify", secret=SECRET), office.SourceOrders("square", "x")],
)
async def test_one_that_is_not_there_is_named(cloud: Cloud, command: office.Command) -> None:
    with pytest.raises(CommandFailed) as caught:
        await cloud.server.order(command)
    assert caught.value.code == "unknown_source"


async def test_no_agent_can_join_the_till_of_a_source(cloud: Cloud) -> None:
    await cloud.source("shopify")
    refused = await Till(cloud.server).asks_in(Token.parse(await cloud.server.token("shopify")).secret)
    assert (refused.status, refused.error["code"]) == (403, "token_till_is_source")
    assert (await cloud.shopify()).status == 200


async def test_a_secret_is_bound_to_its_source(cloud: Cloud) -> None:
    await cloud.source("shopify")
    await cloud.source("woocommerce", secret="quite another secret")
    with cloud.writing() as conn:
        conn.execute("UPDATE source SET secret = (SELECT secret FROM source WHERE kind = 'woocommerce')")
    reply = await cloud.shopify()
    assert (reply.status, reply.error["code"]) == (503, "source_damaged")
    assert cloud.count("shopify", "failed") == 1


async def test_whoever_has_the_keys_and_the_database_can_read_it(cloud: Cloud) -> None:
    made = await cloud.source("shopify")
    (row,) = await cloud.rows("SELECT till_id, secret FROM source")
    server = keys.load(cloud.server.folder.keys)
    sealed, till_id = row["secret"], bytes.fromhex(made["till_id"])
    assert decrypt(sealed[24:], till_id, sealed[:24], server.source_key()) == SECRET.encode()


async def test_the_very_bytes_come_back_from_the_server(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with serving(data) as server:
        cloud = Cloud(server)
        for kind in ("shopify", "woocommerce", "square", "generic"):
            await cloud.source(kind, name="own" if kind == "generic" else None)
        payment = altered(PAYMENT_UPDATED, created_at=iso(server.clock.now_ms()))
        replies = [
            await cloud.shopify(),
            await cloud.woocommerce(),
            await cloud.square(payment),
            await cloud.generic(canonical(1)),
        ]
        assert {reply.json()["outcome"] for reply in replies} == {"stored"}
        around = app.Surroundings(server.clock, os.urandom, Events(server.metrics, json_logger(server.log)))
        folder = server.folder
    async with app.opened(folder, Config(), around) as parts, parts.database.read() as conn:
        originals = {item.data for item in await originals_in(parts, conn)}
    assert originals == {SHOPIFY, WOOCOMMERCE, payment, canonical(1)}


async def test_after_a_restore_the_source_goes_on_and_no_name_is_given_twice(tmp_path: Path) -> None:
    data, copy = tmp_path / "data", tmp_path / "copy"
    async with serving(data) as server:
        cloud = Cloud(server)
        await cloud.source("generic", name="own")
        await cloud.generic(canonical(1), event="1")
        copying = Copying(server.clock.now_ms, os.urandom, "1.2.3")
        await asyncio.to_thread(backup.backup, server.folder, copy, copying)
        await cloud.generic(canonical(2), event="2")
        lost = {(row["epoch"], row["seq"]) for row in await cloud.sales()}
    await backup.restore(copy, Folder(tmp_path / "again"), copying)
    async with serving(tmp_path / "again") as server:
        cloud = Cloud(server)
        answers = [await cloud.generic(canonical(number), event=str(number)) for number in (1, 2)]
        assert [answer.json()["outcome"] for answer in answers] == ["repeat", "stored"]
        named = [(row["epoch"], row["seq"]) for row in await cloud.sales()]
        assert named[1] not in lost
        assert (await server.order(office.TillAlarms()))["alarms"] == []
        assert (await server.order(office.TillGaps("acme", "north", "own")))["gaps"] == []


async def originals_in(parts: app.Parts, conn: AsyncConnection) -> list[Original]:
    rows = await conn.exec_driver_sql("SELECT DISTINCT subject FROM vault_item")
    items = [item for (subject,) in rows.all() for item in await parts.vault.reveal(conn, subject)]
    return [msgspec.msgpack.decode(item.plain, type=Original) for item in items if item.field == "original"]
