"""Head office's API."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from typing import Any, cast, get_args

import pytest

from support.serving import NOW, Server, campaign_document, sale
from tillstream_protocol.events import RecordsLost
from tillstream_server import office
from tillstream_server.api.handlers import Api
from tillstream_server.api.openapi import document
from tillstream_server.auth import PERMISSIONS, Role

JSON = {"Content-Type": "application/json"}
CAMPAIGN = "/api/v1/campaigns/acme/big-sale"


async def test_the_summary_says_what_the_tills_sold(server: Server) -> None:
    till = await server.till()
    await till.sends(sale(1, total=2500), sale(2, total=99))
    reply = await server.get("/api/v1/ledger/summary", await server.key())
    assert reply.json() == {
        "transactions": 2,
        "amount_minor": {"USD": 2599},
        "duplicates_refused": 0,
        "dead_letters": 0,
        "tills": 1,
    }


async def test_the_summary_keeps_to_its_window_and_store(server: Server) -> None:
    till = await server.till()
    await till.sends(sale(1))
    key = await server.key()
    for query, count in (("from=2026-09-21&to=2026-09-22", 1), ("to=2026-09-01", 0), ("store=south", 0)):
        reply = await server.get(f"/api/v1/ledger/summary?{query}", key)
        assert reply.json()["transactions"] == count, query


@pytest.mark.parametrize(
    ("query", "field"), [("from=yesterday", "from"), ("colour=red", "colour"), ("store=a&store=b", "store")]
)
async def test_a_question_that_makes_no_sense_names_the_parameter(server: Server, query: str, field: str) -> None:
    reply = await server.get(f"/api/v1/ledger/summary?{query}", await server.key())
    assert (reply.status, reply.error["field"]) == (400, field)


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer tsk_nonsense!", "Basic dXNlcjpwYXNz", "Bearer x"])
async def test_without_a_key_nothing_is_told(server: Server, header: str) -> None:
    reply = await server.get("/api/v1/ledger/summary", {"Authorization": header})
    assert (reply.status, reply.error["code"]) == (401, "unauthorised")
    assert reply.headers["WWW-Authenticate"] == "Bearer"


async def test_every_role_sees_the_summary(server: Server) -> None:
    for role in get_args(Role):
        assert (await server.get("/api/v1/ledger/summary", await server.key(role))).status == 200


async def test_a_viewer_puts_no_campaign(server: Server) -> None:
    reply = await server.send("PUT", CAMPAIGN, campaign_document().encode(), {**JSON, **await server.key("viewer")})
    assert (reply.status, reply.error["code"], reply.error["limit"]) == (403, "forbidden", "marketer")


async def test_a_campaign_is_put_read_and_ended(server: Server) -> None:
    marketer = await server.key("marketer")
    put = await server.send("PUT", CAMPAIGN, campaign_document().encode(), {**JSON, **marketer})
    assert (put.status, put.json()) == (200, {"campaign": "big-sale", "version": 1, "changed": True})
    again = await server.send("PUT", CAMPAIGN, campaign_document().encode(), {**JSON, **marketer})
    assert again.json()["changed"] is False
    got = (await server.get(CAMPAIGN, marketer)).json()
    assert (got["active"], got["campaign"]["effects"][0]["text"]) == (True, "Say thanks")
    listed = (await server.get("/api/v1/campaigns/acme", marketer)).json()["campaigns"]
    assert [one["campaign"]["id"] for one in listed] == ["big-sale"]
    ended = await server.send("DELETE", CAMPAIGN, headers=marketer)
    assert (ended.status, ended.json()["active"]) == (200, False)
    assert (await server.get(CAMPAIGN, marketer)).json()["active"] is False
    assert (await server.send("DELETE", CAMPAIGN, headers=marketer)).status == 404


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"{", "body"),
        (campaign_document(colour="red").encode(), "colour"),
        (campaign_document(version=0).encode(), "version"),
        (campaign_document(condition={">=": [{"var": "sale.totl"}, 1]}).encode(), "condition"),
        (campaign_document(id="other").encode(), "id"),
        (b"\xff\xfe", "body"),
    ],
)
async def test_a_campaign_that_is_not_sound_is_refused_by_field(server: Server, body: bytes, field: str) -> None:
    marketer = await server.key("marketer")
    reply = await server.send("PUT", CAMPAIGN, body, {**JSON, **marketer})
    assert reply.status == 400
    assert reply.error["field"].startswith(field)
    assert (await server.get("/api/v1/campaigns/acme", marketer)).json() == {"campaigns": []}


async def test_a_campaign_is_json(server: Server) -> None:
    headers = {"Content-Type": "text/plain", **await server.key("marketer")}
    reply = await server.send("PUT", CAMPAIGN, campaign_document().encode(), headers)
    assert (reply.status, reply.error["limit"]) == (415, "application/json")


async def test_a_campaign_that_is_not_there_is_not_found(server: Server) -> None:
    reply = await server.get(CAMPAIGN, await server.key())
    assert (reply.status, reply.error["code"]) == (404, "unknown_campaign")


async def test_the_fleet_is_listed_a_page_at_a_time(server: Server) -> None:
    for _ in range(3):
        await server.till()
    key = await server.key("operator")
    first = (await server.get("/api/v1/tills?limit=2", key)).json()
    second = (await server.get(f"/api/v1/tills?limit=2&after={first['next']}", key)).json()
    assert sorted(till["till"] for till in first["tills"] + second["tills"]) == ["till-1", "till-2", "till-3"]
    assert second["next"] is None


async def test_a_tills_gaps_and_alarms_are_told(server: Server) -> None:
    till = await server.till("till-1")
    await till.sends(sale(1), RecordsLost(b"f" * 16, 2, 0, "damaged_frame", 3))
    key = await server.key("operator")
    async with till.on_push() as pushes, asyncio.timeout(10):
        while not (alarms := (await server.get("/api/v1/tills/alarms?retailer=acme", key)).json())["alarms"]:
            await pushes.says(till.heartbeat(5))
    (alarm,) = alarms["alarms"]
    names = ("retailer", "store", "till", "kind", "first", "last", "settled_ms")
    assert [alarm[name] for name in names] == ["acme", "north", "till-1", "missing", 2, 4, None]
    told = (await server.get("/api/v1/tills/gaps?retailer=acme&store=north&till=till-1", key)).json()
    assert [(gap["epoch"], gap["first"], gap["last"], gap["records"], gap["alarm"]) for gap in told["gaps"]] == [
        (till.epoch.hex(), 2, 4, 3, True)
    ]
    assert [(one["first"], one["last"], one["reason"], one["filled"]) for one in told["lost"]] == [
        (2, 3, "damaged_frame", False)
    ]


async def test_alarms_are_listed_a_page_at_a_time_and_the_settled_ones_when_asked_for(server: Server) -> None:
    till = await server.till("till-1")
    rows = [(till.reply.till_id, b"e" * 16, b"e" * 16, n, NOW, NOW if n == 1 else None) for n in range(4)]
    with closing(sqlite3.connect(server.folder.ledger, timeout=10)) as conn, conn:
        conn.executemany(
            "INSERT INTO alarm (till_id, kind, epoch, other, first_seq, first_seen_ms, settled_ms)"
            " VALUES (?, 'missing', ?, ?, ?, ?, ?)",
            rows,
        )
    key = await server.key("operator")
    first = (await server.get("/api/v1/tills/alarms?limit=2", key)).json()
    second = (await server.get(f"/api/v1/tills/alarms?limit=2&after={first['next']}", key)).json()
    assert [alarm["first"] for alarm in first["alarms"] + second["alarms"]] == [0, 2, 3]
    assert second["next"] is None
    every = (await server.get("/api/v1/tills/alarms?settled=true", key)).json()["alarms"]
    assert [alarm["first"] for alarm in every] == [0, 1, 2, 3]
    assert (await server.get("/api/v1/tills/alarms?retailer=other", key)).json()["alarms"] == []


async def test_a_till_that_is_not_there_has_no_gaps(server: Server) -> None:
    reply = await server.get("/api/v1/tills/gaps?retailer=acme&store=north&till=x", await server.key("operator"))
    assert (reply.status, reply.error["code"]) == (404, "unknown_till")


@pytest.mark.parametrize(
    ("query", "field"),
    [("gaps", "retailer"), ("gaps?retailer=a&store=b&till=", "till"), ("alarms?settled=perhaps", "settled")],
)
async def test_a_question_that_is_not_whole_is_refused_by_field(server: Server, query: str, field: str) -> None:
    reply = await server.get(f"/api/v1/tills/{query}", await server.key("operator"))
    assert (reply.status, reply.error["field"]) == (400, field)


async def test_only_operators_see_the_fleet(server: Server) -> None:
    assert (await server.get("/api/v1/tills", await server.key("marketer"))).status == 403


async def test_a_page_too_large_names_the_limit(server: Server) -> None:
    reply = await server.get("/api/v1/tills?limit=100000", await server.key("operator"))
    assert (reply.status, reply.error["field"]) == (400, "limit")


async def test_offers_are_counted(server: Server) -> None:
    document = campaign_document(condition={">=": [{"var": "member.visits"}, 1]})
    await server.order(office.CampaignPut("acme", document))
    till = await server.till()
    await till.sends(sale(1, member="1234567"))
    reply = (await server.get("/api/v1/offers/summary", await server.key())).json()
    assert reply["totals"]["offered"] == 1


async def test_the_description_names_every_route_and_no_other(server: Server) -> None:
    paths = cast("dict[str, dict[str, object]]", document()["paths"])
    described = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    nothing: Any = None
    assert described == {(route.method, route.path) for route in Api(nothing, nothing).routes()}
    assert (await server.get("/api/openapi.json")).json() == document()


def test_every_role_has_its_permissions() -> None:
    assert set(PERMISSIONS) == set(get_args(Role))
