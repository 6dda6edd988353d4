"""ARCHITECTURE.md names the path of a sale function by function; here one sale goes along it."""

from __future__ import annotations

import asyncio
import io
import os
import re
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import reduce
from importlib import import_module
from pathlib import Path
from types import CodeType, FrameType

import aiohttp
import msgspec
from prometheus_client import CollectorRegistry

from support.agents import running_agent
from tillstream_agent.clock import SystemClock
from tillstream_agent.folder import Folder as AgentFolder
from tillstream_agent.sync import enrol
from tillstream_agent.sync.asking import Asker
from tillstream_protocol.messages import Token
from tillstream_server import app, office
from tillstream_server.clock import SystemClock as ServerClock
from tillstream_server.config import Config
from tillstream_server.events import Events, json_logger
from tillstream_server.folder import Folder
from tillstream_server.metrics import Metrics

PAGE = Path(__file__).parents[2] / "ARCHITECTURE.md"
STEP = re.compile(r"^\d+\. `([a-z_.]+):([A-Za-z_.]+)`", re.MULTILINE)

CAMPAIGN = b"""{
  "id": "first-visit", "version": 1, "name": "Welcome", "trigger": "transaction",
  "condition": {"==": [{"var": "member.visits"}, 1]},
  "effects": [{"type": "customer_message", "text": "Welcome to the club"}]
}"""
FOR_THE_TILL = b"""{
  "id": "big-baskets", "version": 1, "name": "Thanks", "trigger": "transaction",
  "condition": {">=": [{"var": "sale.total"}, 100000]},
  "effects": [{"type": "customer_message", "text": "Thank you"}]
}"""
"""What the till can decide by itself: without any such rule it passes that step over."""
SALE = {
    "source": {"system": "walk"},
    "kind": "sale",
    "pos_id": "1",
    "business_date": "2026-01-31",
    "end": {"at": 1_769_000_000_000, "offset_minutes": 60},
    "total": 250,
    "lines": [{"seq": 1, "sku": "A", "amount": 250}],
    "customer": {"identifiers": [{"scheme": "loyalty", "value": "4711"}]},
}


def documented_path() -> list[str]:
    return [f"{module}:{name}" for module, name in STEP.findall(PAGE.read_text(encoding="utf-8"))]


def code_of(step: str) -> CodeType:
    module, _, name = step.partition(":")
    function = reduce(getattr, name.split("."), import_module(module))
    code: CodeType = function.__code__
    return code


@contextmanager
def first_calls(steps: list[str]) -> Iterator[list[str]]:
    """The steps in the order in which they are first called, in whichever thread, from the first of them on."""
    wanted = {code_of(step): step for step in steps}
    called: list[str] = []

    def profile(frame: FrameType, event: str, _argument: object) -> None:
        step = wanted.get(frame.f_code) if event == "call" else None
        if step is not None and step not in called and (called or step == steps[0]):
            called.append(step)

    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        yield called
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


@asynccontextmanager
async def server(root: Path) -> AsyncIterator[tuple[str, str]]:
    """A whole server with one campaign in force: its address, and a token."""
    folder = Folder(root)
    await app.init(folder, "USD", os.urandom)
    around = app.Surroundings(
        ServerClock(), os.urandom, Events(Metrics(CollectorRegistry()), json_logger(io.StringIO()))
    )
    async with app.opened(folder, Config(port=0), around) as parts:
        for campaign in (CAMPAIGN, FOR_THE_TILL):
            await parts.office.run(office.CampaignPut(retailer="acme", document=campaign.decode()))
        said = await parts.office.run(office.TokenCreate(retailer="acme", store="north", ttl_ms=60_000))
    stop, bound = asyncio.Event(), asyncio.get_running_loop().create_future()
    task = asyncio.create_task(app.serve(folder, Config(port=0), around, ready=bound.set_result, stop=stop))
    try:
        yield await bound, str(msgspec.to_builtins(said)["token"])
    finally:
        stop.set()
        await task


async def joined(state: Path, address: str, token: str) -> AgentFolder:
    folder = AgentFolder(state)
    client = Asker(address, tls=None, timeout=5)
    try:
        joining = enrol.Enrolment(folder, client, SystemClock(), os.urandom, "1.0")
        await joining.join(address, Token.parse(token), replace=False)
    finally:
        await client.close()
    return folder


async def push_channel_open(http: aiohttp.ClientSession, url: str) -> None:
    while True:
        async with http.get(f"{url}/v1/status") as response:
            if (await response.json())["push_connected"]:
                return
        await asyncio.sleep(0.01)


async def offer_on_the_page(stream: aiohttp.ClientResponse) -> str:
    async for line in stream.content:
        if b"Welcome to the club" in line:
            return line.decode()
    raise AssertionError("the page's stream ended without the offer")


async def test_a_sale_takes_the_path_that_the_page_names(tmp_path: Path) -> None:
    steps = documented_path()
    assert len(steps) > 20
    with first_calls(steps) as called:
        async with asyncio.timeout(60), server(tmp_path / "server") as (address, token):
            folder = await joined(tmp_path / "till", address, token)
            headers = {"Authorization": f"Bearer {folder.hook_token()}"}
            async with running_agent(folder) as (port, _), aiohttp.ClientSession(headers=headers) as http:
                url = f"http://127.0.0.1:{port}"
                await push_channel_open(http, url)
                async with http.get(f"{url}/display/stream") as stream:
                    async with http.post(f"{url}/v1/transactions", json=SALE) as response:
                        assert response.status == 201
                    await offer_on_the_page(stream)
    assert called == steps
