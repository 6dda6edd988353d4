"""A real Prometheus beside a server and an agent: every panel and rule has data, and a silent till is noticed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import msgspec
import pytest

from support.agents import running_agent, sale
from support.certificates import certificate, needs_openssl
from support.prometheus import RANGE, SHIPPED, Prometheus, configuration, needs_prometheus, prometheus
from support.serving import Server, SetClock, serving
from tillstream_agent.clock import SystemClock
from tillstream_agent.config import Config
from tillstream_agent.folder import Folder
from tillstream_agent.sync import enrol
from tillstream_agent.sync.asking import Asker
from tillstream_agent.sync.transport import tls_context
from tillstream_protocol.messages import Token

WAIT_S = 30
SELECTOR = re.compile(r"\b(?:tillstream[\w:]+|up)(?:\{[^}]*\})?")

pytestmark = [pytest.mark.system, needs_prometheus, needs_openssl]


class TrueClock(SetClock):
    """The machine's time: Prometheus has no other."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        return time.monotonic()


async def joins(folder: Path, server: Server, ca_file: Path) -> Folder:
    """A state folder that has joined the server."""
    state = Folder(folder)
    client = Asker(server.address, tls=tls_context(server.address, str(ca_file)), timeout=10)
    try:
        joining = enrol.Enrolment(state, client, SystemClock(), os.urandom, "1.0")
        await joining.join(server.address, Token.parse(await server.token("till-1")), replace=False)
    finally:
        await client.close()
    return state


@asynccontextmanager
async def selling(state: Folder, config: Config, numbers: Iterator[int]) -> AsyncIterator[int]:
    """An agent at whose hook a POS sells all the time; the hook's port."""
    async with running_agent(state, config) as (port, _):
        task = asyncio.create_task(sells(state, port, numbers))
        try:
            yield port
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def sells(state: Folder, port: int, numbers: Iterator[int]) -> None:
    headers = {"Authorization": f"Bearer {state.hook_token()}", "Content-Type": "application/json"}
    async with aiohttp.ClientSession(headers=headers) as client:
        for number in numbers:
            data = msgspec.json.encode(sale(str(number)))
            async with client.post(f"http://127.0.0.1:{port}/v1/transactions", data=data) as reply:
                assert reply.status == 201, await reply.text()
            await asyncio.sleep(0.2)


def panels() -> dict[str, str]:
    """Where a query stands, and the query as Grafana would send it; what readers choose from included."""
    found = {}
    for file in sorted((SHIPPED / "grafana" / "dashboards").glob("*.json")):
        page = json.loads(file.read_text(encoding="utf-8"))
        for variable in page["templating"]["list"]:
            for metric in re.findall(r"label_values\((\w+), instance\)", variable["query"]):
                found[f"{file.name}: ${variable['name']}"] = metric
        for panel in page["panels"]:
            for target in panel.get("targets", ()):
                expr = target["expr"].replace("$__rate_interval", RANGE)
                found[f"{file.name}: {panel['title']} {target['refId']}"] = re.sub(r"\$(instance|agent)\b", ".*", expr)
    assert len(found) > 60
    return found


async def rules(of: Prometheus) -> dict[str, str]:
    """Where a query stands, and the query: of recording rules the result, of alerts each series that they look at."""
    found = {}
    for group in (await of.asks("rules"))["groups"]:
        for rule in group["rules"]:
            assert rule["health"] != "err", (rule["name"], rule["lastError"])
            if rule["type"] == "recording":
                found[rule["name"]] = rule["name"]
            else:
                looked_at = SELECTOR.findall(rule["query"])
                assert looked_at, rule["query"]
                found |= {f"{rule['name']}: {selector}": selector for selector in looked_at}
    return found


async def without_data(of: Prometheus, queries: dict[str, str]) -> dict[str, str]:
    """Those that come to nothing, or to what is not a number everywhere."""
    return {
        where: expr
        for where, expr in queries.items()
        if all(math.isnan(float(value)) for value in await of.values(expr))
    }


async def comes_true(what: str, of: Prometheus, *, firing: bool) -> None:
    """Wait until an alert fires, or no longer does."""
    async with asyncio.timeout(WAIT_S):
        while (what in await of.firing()) is not firing:
            await asyncio.sleep(0.2)


async def test_every_panel_and_rule_has_data_and_a_till_that_falls_silent_is_noticed(tmp_path: Path) -> None:
    pem, key = certificate(tmp_path)
    tls = {"tls_certificate": str(pem), "tls_key": str(key)}
    settings = {"silent_seconds": 3.0, "opening_hours": "Mo-Su 00:00-24:00", **tls}
    config = Config(hook_port=0, sync_heartbeat_s=0.5, sync_ca_file=str(pem))
    numbers = count()
    async with serving(tmp_path / "server", clock=TrueClock(), **settings) as server:
        state = await joins(tmp_path / "till", server, pem)
        async with contextlib.AsyncExitStack() as stack:
            async with selling(state, config, numbers) as hook:
                text = configuration(urlsplit(server.address).netloc, f"127.0.0.1:{hook}", pem)
                watched = await stack.enter_async_context(prometheus(tmp_path / "prometheus", text))
                await have_data(watched)
                assert await without_data(watched, {"nothing": "tillstream_nothing"})
                await comes_true("TillstreamCertificateExpiring", watched, firing=True)
                await comes_true("TillstreamTillsSilent", watched, firing=False)
                assert "TillstreamServerFailing" not in await watched.firing()
            await comes_true("TillstreamTillsSilent", watched, firing=True)
            async with selling(state, config, numbers):
                await comes_true("TillstreamTillsSilent", watched, firing=False)


async def have_data(watched: Prometheus) -> None:
    """Wait until every query of panels and rules has come to something."""
    missing = panels()
    try:
        async with asyncio.timeout(WAIT_S):
            while not any(name.startswith("tillstream:") for name in await rules(watched)):
                await asyncio.sleep(0.2)
            missing |= await rules(watched)
            while missing := await without_data(watched, missing):
                await asyncio.sleep(0.5)
    except TimeoutError:
        raise AssertionError(f"no data for {json.dumps(missing, indent=1)}") from None
