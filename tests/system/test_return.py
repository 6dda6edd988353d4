"""A server put back to before a till had joined: the till comes back by itself, and so does all that it had sent."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import msgspec

from support.agents import running_agent, sale
from support.serving import Server, serving
from tillstream_agent.clock import SystemClock
from tillstream_agent.folder import Folder
from tillstream_agent.sync import enrol
from tillstream_agent.sync.asking import Asker
from tillstream_protocol.messages import Token
from tillstream_server.ledger import export
from tillstream_server.reading import reading

WAIT_S = 30


async def joins(folder: Folder, server: Server) -> Folder:
    client = Asker(server.address, tls=None, timeout=10)
    try:
        joining = enrol.Enrolment(folder, client, SystemClock(), os.urandom, "1.0")
        await joining.join(server.address, Token.parse(await server.token("till-1")), replace=False)
    finally:
        await client.close()
    return folder


async def sells(folder: Folder, port: int, name: str) -> None:
    headers = {"Authorization": f"Bearer {folder.hook_token()}", "Content-Type": "application/json"}
    url = f"http://127.0.0.1:{port}/v1/transactions?ack=disk"
    async with (
        aiohttp.ClientSession() as client,
        client.post(url, data=msgspec.json.encode(sale(name)), headers=headers) as reply,
    ):
        assert reply.status == 201, await reply.text()


async def sold(server: Server, count: int) -> list[str]:
    """The POS ids of all sales in the ledger, once there are so many."""
    async with asyncio.timeout(WAIT_S):
        while True:
            async with reading(server.folder.ledger) as conn:
                rows = [json.loads(export.line(row)) async for row in export.rows(conn)]
            if len(rows) >= count:
                return sorted(row["body"]["pos_id"] for row in rows)
            await asyncio.sleep(0.05)


async def backed_up(data: Path, backup: Path) -> int:
    """A server that has been stopped and copied; the port that it had."""
    async with serving(data) as server:
        port = urlsplit(server.address).port
    shutil.copytree(data, backup, ignore=shutil.ignore_patterns("*.sock"))
    assert port is not None
    return port


async def test_a_till_that_its_server_forgot_comes_back_with_everything_and_nobody_enrols_it(tmp_path: Path) -> None:
    data, backup = tmp_path / "server", tmp_path / "backup"
    port = await backed_up(data, backup)
    async with serving(data, port=port) as server:
        till = await joins(Folder(tmp_path / "till"), server)
    who = till.identity()
    async with running_agent(till) as (hook, log):
        async with serving(data, port=port) as server:
            await sells(till, hook, "1")
            await sells(till, hook, "2")
            assert await sold(server, 2) == ["1", "2"]
        shutil.rmtree(data)
        shutil.copytree(backup, data)
        async with serving(data, port=port) as server:
            assert await sold(server, 2) == ["1", "2"]
            await sells(till, hook, "3")
            assert await sold(server, 3) == ["1", "2", "3"]
            assert server.logged("alarm") == []
    said = [json.loads(line)["event"] for line in log.getvalue().splitlines()]
    assert "returned" in said
    assert "rewound" in said
    assert till.identity() == who
