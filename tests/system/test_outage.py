"""Real processes: the till goes on without the server, and a killed agent loses nothing that it acknowledged."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgpack
import pytest

from demo.processes import Server, Till, command

pytestmark = pytest.mark.system

WAIT_S = 60


def sale(pos_id: str) -> dict[str, Any]:
    return {
        "source": {"system": "test"},
        "kind": "sale",
        "pos_id": pos_id,
        "business_date": "2026-01-31",
        "end": {"at": 1_769_850_000_000},
        "currency": "USD",
        "total": 700,
        "lines": [{"seq": n, "sku": f"SKU-{random.randrange(10**9)}", "amount": 100} for n in range(7)],
    }


class Stand:
    """One server and one till, as processes, and a POS that tries again until it is answered."""

    def __init__(self, server: Server, till: Till, http: aiohttp.ClientSession) -> None:
        self.server = server
        self.till = till
        self.http = http

    async def captures(self, pos_id: str) -> tuple[int, tuple[str, int]]:
        """Status and name of a captured sale."""
        headers = {"Authorization": f"Bearer {self.till.token}"}
        while True:
            try:
                async with self.http.post(
                    f"{self.till.url}/v1/transactions", json=sale_of(pos_id), headers=headers
                ) as response:
                    said = await response.json()
                    assert response.status in (200, 201), said
                    return response.status, (said["epoch"], said["seq"])
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.02)

    async def captures_many(self, names: list[str]) -> None:
        """Capture over the socket, without waiting for each answer."""
        reader, writer = await asyncio.open_unix_connection(str(self.till.state / "hook.sock"))
        unpacker = msgpack.Unpacker()
        answered = 0
        for start in range(0, len(names), 100):
            calls = [{"call": "transactions", "body": sale_of(name)} for name in names[start : start + 100]]
            writer.write(b"".join(map(msgpack.packb, calls)))
            while answered < start + len(calls):
                unpacker.feed(await reader.read(65536))
                for reply in unpacker:
                    assert reply["status"] == 201, reply
                    answered += 1
        writer.close()

    async def sells_on(self, stop: asyncio.Event) -> list[str]:
        """Capture a sale now and then until `stop` is set; the names of those sales."""
        names: list[str] = []
        while not stop.is_set():
            names.append(f"live-{len(names)}")
            await self.captures(names[-1])
            await asyncio.sleep(0.02)
        return names

    async def ledger(self) -> list[tuple[str, str, int]]:
        """POS id, epoch and seq of every sale, in the order of arrival."""
        out = await command("tillstream-server", "ledger", "export", "--data", str(self.server.folder))
        rows = [json.loads(line) for line in out.splitlines()]
        return [(row["body"]["pos_id"], row["epoch"], row["seq"]) for row in rows if row["type"] == "transaction"]

    async def ledger_of(self, count: int) -> list[tuple[str, str, int]]:
        """The ledger, once it holds so many sales."""
        async with asyncio.timeout(WAIT_S):
            while len(rows := await self.ledger()) < count:
                await asyncio.sleep(0.1)
        return rows


_sales: dict[str, dict[str, Any]] = {}


def sale_of(pos_id: str) -> dict[str, Any]:
    """The same sale each time it is asked for."""
    return _sales.setdefault(pos_id, sale(pos_id))


@pytest.fixture
async def stand(tmp_path: Path) -> AsyncIterator[Stand]:
    server = await Server.set_up(tmp_path)
    try:
        till = await Till.set_up(tmp_path, server, "north", 1)
        try:
            async with aiohttp.ClientSession() as http:
                yield Stand(server, till, http)
        finally:
            await till.program.stop()
    finally:
        await server.program.stop()


async def test_without_the_server_capturing_goes_on_and_afterwards_live_sales_overtake_the_backlog(
    stand: Stand,
) -> None:
    await stand.captures("before")
    await stand.ledger_of(1)
    await stand.server.program.kill()
    backlog = [f"backlog-{n}" for n in range(6000)]
    await stand.captures_many(backlog)
    await stand.server.start()
    stop = asyncio.Event()
    selling = asyncio.create_task(stand.sells_on(stop))
    await stand.ledger_of(1 + len(backlog))
    stop.set()
    live = await selling
    rows = await stand.ledger_of(1 + len(backlog) + len(live))
    order = [pos_id for pos_id, _, _ in rows]
    assert sorted(order) == sorted(["before", *backlog, *live])
    assert len({(epoch, seq) for _, epoch, seq in rows}) == len(rows)
    last_backlog = max(place for place, name in enumerate(order) if name.startswith("backlog"))
    assert any(name.startswith("live") for name in order[:last_backlog])


async def test_an_agent_killed_between_any_two_captures_loses_nothing_it_acknowledged(stand: Stand) -> None:
    chance = random.Random(7)
    acknowledged: dict[str, tuple[str, int]] = {}
    for run in range(8):
        for n in range(chance.randrange(1, 40)):
            _, acknowledged[f"{run}-{n}"] = await stand.captures(f"{run}-{n}")
        await stand.till.program.kill()
        await stand.till.start()
        again = chance.choice(list(acknowledged))
        status, name = await stand.captures(again)
        assert (status, name) == (200, acknowledged[again])
    rows = await stand.ledger_of(len(acknowledged))
    assert {pos_id: (epoch, seq) for pos_id, epoch, seq in rows} == acknowledged
    assert len(rows) == len(acknowledged)
