"""A made-up sale goes the whole way, marked as training."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from support.agents import enrolled, running_agent
from support.gateways import Gateway, gateway
from tillstream_agent.calling import CallFailed, call_hook
from tillstream_agent.clock import SystemClock
from tillstream_agent.folder import Folder, write_private
from tillstream_agent.inspection import NoAnswer
from tillstream_agent.simulation import SYSTEM, Simulated, made_up, simulate
from tillstream_protocol.messages import DeadLetter
from tillstream_protocol.transaction import reconcile


@pytest.fixture
async def server() -> AsyncIterator[Gateway]:
    async with gateway() as opened:
        yield opened


@pytest.fixture
async def folder(server: Gateway, tmp_path: Path) -> Folder:
    return await enrolled(tmp_path / "state", server)


async def sell(folder: Folder, wait_s: float = 10.0) -> Simulated:
    return await simulate(folder, SystemClock(), os.urandom, ack="disk", wait_s=wait_s, timer=time.perf_counter)


def test_what_is_sold_is_training_of_nobody_and_adds_up() -> None:
    sale = made_up(SystemClock(), os.urandom)
    assert (sale.training, sale.customer, sale.source.system) == (True, None, SYSTEM)
    assert reconcile(sale) is True
    assert sale.total > 0
    assert made_up(SystemClock(), os.urandom).pos_id != sale.pos_id


async def test_it_is_captured_and_sent(server: Gateway, folder: Folder) -> None:
    async with running_agent(folder):
        done = await sell(folder)
    assert (done.ack, done.sent) == ("disk", True)
    assert (bytes.fromhex(done.epoch), done.seq) in server.records


async def test_what_the_server_would_not_take_is_not_called_sent(server: Gateway, folder: Folder) -> None:
    """It is in no queue any more: refused as it was and set aside here, or kept by the server as a dead letter."""
    server.dead[0] = DeadLetter(0, "cannot_open", "altered")
    server.refuses = {1}
    async with running_agent(folder):
        for seq, code in enumerate(("cannot_open", "unacceptable")):
            done = await sell(folder)
            assert (done.seq, done.sent, done.refused) == (seq, False, code)


async def test_without_a_server_it_waits(server: Gateway, folder: Folder) -> None:
    server.answers(503, times=100)
    async with running_agent(folder):
        assert not (await sell(folder, wait_s=0.3)).sent


async def test_without_an_agent_there_is_nobody_to_sell_to(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tillstream_agent.inspection.PATIENCE_S", 0.1)
    with pytest.raises(NoAnswer):
        await sell(folder)


async def test_a_hook_that_refuses_says_so(folder: Folder) -> None:
    async with running_agent(folder):
        write_private(folder.token_file, b"x" * 43 + b"\n")
        with pytest.raises(CallFailed, match="status 401"):
            await sell(folder)


async def test_what_is_no_hook_is_told_apart(folder: Folder) -> None:
    async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"220 mail.example ready\r\n")
        writer.close()

    other = await asyncio.start_server(nonsense, "127.0.0.1", 0)
    async with other:
        with pytest.raises(CallFailed, match="not the hook"):
            await call_hook(other.sockets[0].getsockname()[1], "t", "GET", "/healthz")
    with pytest.raises(CallFailed, match="does not answer"):
        await call_hook(1, "t", "GET", "/healthz")


async def test_more_than_a_reply_is_not_read(server: Gateway, folder: Folder) -> None:
    async def flood(_: web.Request) -> web.Response:
        return web.Response(body=bytes(2 << 20))

    server._troubles.append(flood)
    with pytest.raises(CallFailed, match="not the hook"):
        await call_hook(int(server.address.rpartition(":")[2]), "t", "POST", "/till/v1/hello")
