"""A page of a configured origin may make the POS's calls, and its browser is told so; nobody else is told anything."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import msgspec
import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from support.agents import Counter, counter, sale
from support.doors import http_door, pairing_of
from tillstream_agent.hooks import cors
from tillstream_agent.hooks.crowd import STRANGERS_A_SECOND, Caps
from tillstream_agent.hooks.guard import Forbidden

TOKEN = "k" * 43
POS = "https://pos.example"
ASKS = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization, content-type"}


@pytest.fixture
async def behind(tmp_path: Path) -> AsyncIterator[Counter]:
    async with counter(tmp_path) as opened:
        yield opened


@pytest.fixture
async def port(behind: Counter, tmp_path: Path) -> AsyncIterator[int]:
    door = http_door(behind, pairing_of(behind, tmp_path), origins=(POS,), caps=Caps(calls=300))
    yield await door.open(0)
    await door.close()


Answer = tuple[int, CIMultiDictProxy[str], bytes]


async def send(port: int, method: str, path: str, headers: dict[str, str], body: bytes = b"") -> Answer:
    url = f"http://127.0.0.1:{port}{path}"
    async with (
        aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as client,
        client.request(method, url, headers=headers, data=body) as reply,
    ):
        return reply.status, reply.headers, await reply.read()


def granted(headers: CIMultiDictProxy[str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.startswith(("Access-Control", "Vary"))}


@pytest.mark.parametrize(
    ("path", "method"),
    [
        ("/v1/transactions", "POST"),
        ("/v1/transactions?ack=disk", "POST"),
        ("/v1/baskets/B%207", "PUT"),
        ("/v1/members/identify", "POST"),
        ("/v1/offers/00/declined", "POST"),
        ("/v1/adapters/odoo", "POST"),
    ],
)
async def test_a_preflight_of_the_pos_is_granted_that_call_and_no_more(port: int, path: str, method: str) -> None:
    status, headers, body = await send(
        port, "OPTIONS", path, {"Origin": POS, **ASKS, "Access-Control-Request-Method": method}
    )
    assert (status, body) == (204, b"")
    assert granted(headers) == {
        "Access-Control-Allow-Origin": POS,
        "Access-Control-Allow-Methods": method,
        "Access-Control-Allow-Headers": "authorization, content-type",
        "Access-Control-Max-Age": "600",
        "Vary": "Origin",
    }


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:{port}"])
async def test_nobody_else_is_granted_anything(port: int, origin: str) -> None:
    status, headers, _ = await send(port, "OPTIONS", "/v1/transactions", {"Origin": origin.format(port=port), **ASKS})
    assert (status, granted(headers)) == (403, {"Vary": "Origin"})


async def test_a_page_of_the_pos_reads_answers_and_refusals(port: int) -> None:
    headers = {"Origin": POS, "Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    status, told, _ = await send(port, "POST", "/v1/transactions", headers, msgspec.json.encode(sale()))
    assert (status, granted(told)) == (201, cors.shared(POS))
    status, told, _ = await send(port, "POST", "/v1/transactions", headers, b"{}")
    assert (status, granted(told)) == (400, cors.shared(POS))
    status, told, _ = await send(port, "POST", "/v1/transactions", {"Origin": POS}, b"{}")
    assert (status, granted(told)) == (401, cors.shared(POS))


async def test_a_page_of_the_pos_reads_nothing_that_is_no_call_of_it(port: int) -> None:
    for path in ("/v1/status", "/healthz", "/metrics", "/nowhere"):
        _, headers, _ = await send(port, "GET", path, {"Origin": POS, "Authorization": f"Bearer {TOKEN}"})
        assert granted(headers) == {}


async def health(port: int, times: int, **headers: str) -> list[int]:
    """The statuses of so many questions, one after the other."""
    found = []
    async with aiohttp.ClientSession() as client:
        for _ in range(times):
            async with client.get(f"http://127.0.0.1:{port}/healthz", headers=headers) as reply:
                found.append(reply.status)
    return found


async def test_a_flood_of_strangers_leaves_the_pos_its_calls(port: int, behind: Counter) -> None:
    assert await health(port, STRANGERS_A_SECOND + 2) == [200] * STRANGERS_A_SECOND + [429, 429]
    assert await health(port, 1, Authorization=f"Bearer {TOKEN}") == [200]
    assert (await send(port, "OPTIONS", "/v1/transactions", {"Origin": POS, **ASKS}))[0] == 204
    behind.clock.turn(1.0)
    assert await health(port, 1) == [200]


async def test_a_caller_with_the_token_that_runs_wild_is_told_to_wait(port: int, behind: Counter) -> None:
    assert await health(port, 301, Authorization=f"Bearer {TOKEN}") == [200] * 300 + [429]
    assert behind.telling.counted("refusals", reason="too_many_calls") == 1


@pytest.mark.parametrize(
    ("path", "asks"),
    [
        ("/v1/status", [("Access-Control-Request-Method", "GET")]),
        ("/v1/transactions", [("Access-Control-Request-Method", "PUT")]),
        ("/v1/transactions", []),
        ("/v1/transactions", [("Access-Control-Request-Method", "POST")] * 2),
        (
            "/v1/transactions",
            [("Access-Control-Request-Method", "POST"), ("Access-Control-Request-Headers", "authorization, x-more")],
        ),
    ],
)
def test_what_no_pos_needs_is_not_granted(path: str, asks: list[tuple[str, str]]) -> None:
    with pytest.raises(Forbidden):
        cors.preflight(CIMultiDict([("Origin", POS), *asks]), path)
