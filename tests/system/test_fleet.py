"""A fleet in the hands of head office: a stolen till is turned away, and a bad setting undoes itself."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from support.agents import running_agent, sale
from support.serving import Server, serving
from tillstream_agent.clock import SystemClock
from tillstream_agent.folder import Folder
from tillstream_agent.inspection import look
from tillstream_agent.sync import enrol
from tillstream_agent.sync.asking import Asker
from tillstream_agent.trial import TrialTimes
from tillstream_protocol.messages import Token
from tillstream_server import office
from tillstream_server.office_fleet import TillAllowAgain, TillRevoke, TillRotate, TillShow
from tillstream_server.office_settings import ConfigSet, ConfigShow, ConfigStage

pytestmark = pytest.mark.system

PLACE = ("acme", "north", "till-1")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with serving(tmp_path / "server") as opened:
        yield opened


@pytest.fixture
async def folder(server: Server, tmp_path: Path) -> Folder:
    client = Asker(server.address, tls=None, timeout=10)
    state = Folder(tmp_path / "till")
    try:
        joining = enrol.Enrolment(state, client, SystemClock(), os.urandom, "1.0")
        await joining.join(server.address, Token.parse(await server.token("till-1")), replace=False)
    finally:
        await client.close()
    return state


async def sells(folder: Folder, port: int, pos_id: str) -> int:
    headers = {"Authorization": f"Bearer {folder.hook_token()}", "Content-Type": "application/json"}
    url, data = f"http://127.0.0.1:{port}/v1/transactions?ack=disk", msgspec.json.encode(sale(pos_id))
    async with aiohttp.ClientSession() as client, client.post(url, data=data, headers=headers) as reply:
        return reply.status


async def sales(server: Server) -> int:
    summary = await server.get("/api/v1/ledger/summary", await server.key())
    return int(summary.json()["transactions"])


async def comes_about(happened: Any, within_s: float) -> float:
    """Wait until something is so; how many seconds that took."""
    begun = time.monotonic()
    async with asyncio.timeout(within_s):
        while not await happened():
            await asyncio.sleep(0.05)
    return time.monotonic() - begun


async def test_a_stolen_till_is_refused_in_seconds_and_what_it_queued_is_not_lost(
    server: Server, folder: Folder
) -> None:
    async def connected() -> bool:
        return bool((await server.order(TillShow(*PLACE)))["connected"])

    async def turned_away() -> bool:
        status = await look(folder, SystemClock())
        return "revoked" in status.trouble and not status.push_connected and not await connected()

    async def held() -> bool:
        return bool((await server.order(office.QuarantineList()))["quarantine"])

    async with running_agent(folder) as (port, _):
        await comes_about(connected, 10)
        assert await sells(folder, port, "before") == 201
        await comes_about(lambda: _is(sales(server), 1), 10)
        await server.order(TillRevoke(*PLACE))
        assert await comes_about(turned_away, 5) < 5
        assert await sells(folder, port, "after") == 201, "the POS notices nothing"
        assert await comes_about(held, 5) < 5
        assert await sales(server) == 1
        assert (await look(folder, SystemClock())).queue.records == 1, "and the till keeps it"
        allowed = await server.order(TillAllowAgain(*PLACE))
        assert (allowed["released"], allowed["quarantine"]["batches"]) == (1, 0)
        assert await sales(server) == 2
    async with running_agent(folder) as (port, _):
        assert await sells(folder, port, "again") == 201
        await comes_about(lambda: _is(sales(server), 3), 10)
        await comes_about(lambda: _queue_is_empty(folder), 10)


async def _is(found: Any, wanted: int) -> bool:
    return bool(await found == wanted)


async def _queue_is_empty(folder: Folder) -> bool:
    return (await look(folder, SystemClock())).queue.records == 0


async def test_a_bad_setting_undoes_itself_within_a_minute_and_reaches_nobody_else(
    server: Server, folder: Folder
) -> None:
    async def undone() -> bool:
        shown = await server.order(ConfigShow("acme"))
        return bool(shown["tills"]["rolled_back"])

    async with running_agent(folder, trial=TrialTimes()) as (port, _):
        bad = await server.order(ConfigSet("acme", {"journal.reserve_bytes": str(2**50), "sync.heartbeat_s": "1"}))
        await server.order(ConfigStage("acme", bad["version"], percent=100))
        assert await comes_about(undone, 60) < 60
        shown = await server.order(ConfigShow("acme"))
        assert shown["failed"][0]["reason"] == "journal_full"
        assert shown["rollout"]["halted_why"]
        assert await sells(folder, port, "after") == 201
        await comes_about(lambda: _is(sales(server), 1), 10)


async def test_settings_and_a_new_key_reach_a_till_and_stay(server: Server, folder: Folder) -> None:
    former = folder.identity().device_key_id

    async def kept() -> bool:
        return bool((await server.order(ConfigShow("acme")))["tills"]["kept"])

    async def rotated() -> bool:
        devices = (await server.order(TillShow(*PLACE)))["devices"]
        return len(devices) == 2 and devices[1]["until_ms"] is not None

    async with running_agent(folder) as (port, _):
        good = await server.order(ConfigSet("acme", {"sync.heartbeat_s": "1"}))
        await server.order(ConfigStage("acme", good["version"], percent=100))
        await comes_about(kept, 20)
        assert await sells(folder, port, "1") == 201
        await server.order(TillRotate(*PLACE))
        await comes_about(rotated, 20)
        assert folder.identity().device_key_id != former
        assert await sells(folder, port, "2") == 201
        await comes_about(lambda: _is(sales(server), 2), 10)
