"""Real processes: what a till cannot send is carried to the server by hand, and is in the ledger once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

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
        "total": 100,
        "lines": [{"seq": 1, "sku": f"SKU-{pos_id}", "amount": 100}],
    }


class Shop:
    """One server and one till, as processes."""

    def __init__(self, server: Server, till: Till) -> None:
        self.server = server
        self.till = till

    async def sells(self, names: list[str]) -> None:
        """Capture sales over the socket, each of them on the disk."""
        reader, writer = await asyncio.open_unix_connection(str(self.till.state / "hook.sock"))
        unpacker = msgpack.Unpacker()
        writer.write(b"".join(msgpack.packb({"call": "transactions", "body": sale(n), "ack": "disk"}) for n in names))
        answered = 0
        while answered < len(names):
            unpacker.feed(await reader.read(65_536))
            for reply in unpacker:
                assert reply["status"] == 201, reply
                answered += 1
        writer.close()

    async def asks(self, *arguments: str) -> Any:
        """What a command of the agent prints as JSON."""
        return json.loads(await command("tillstream-agent", *arguments, "--state", str(self.till.state), "--json"))

    async def drains(self) -> None:
        """Return when nothing is queued."""
        async with asyncio.timeout(WAIT_S):
            while (await self.asks("queue", "list"))["queue"]["records"]:
                await asyncio.sleep(0.2)

    async def ledger(self) -> list[str]:
        """The POS ids of the sales in the ledger, in order."""
        out = await command("tillstream-server", "ledger", "export", "--data", str(self.server.folder))
        rows = [json.loads(line) for line in out.splitlines()]
        return sorted(row["body"]["pos_id"] for row in rows if row["type"] == "transaction")


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    server = await Server.set_up(tmp_path)
    try:
        till = await Till.set_up(tmp_path, server, "north", 1)
        try:
            yield Shop(server, till)
        finally:
            await till.program.stop()
    finally:
        await server.program.stop()


async def test_a_queue_carried_by_hand_arrives_and_is_a_repeat_when_the_till_sends_it_itself(
    shop: Shop, tmp_path: Path
) -> None:
    await shop.sells(["before"])
    await shop.drains()
    await shop.server.program.kill()
    names = [f"cut-off-{n:03}" for n in range(200)]
    await shop.sells(names)
    stick = tmp_path / "stick"
    exported = await shop.asks("queue", "export", str(stick), "--all")
    assert exported["records"] >= len(names)
    for told in ({"stored": 200}, {"stored": 0}):
        done = json.loads(
            await command(
                "tillstream-server", "batch", "import", "--data", str(shop.server.folder), str(stick), "--json"
            )
        )
        assert done["refused"] == []
        assert done["stored"] == told["stored"]
    assert await shop.ledger() == ["before", *names]
    await shop.server.start()
    await shop.till.program.stop()  # begun anew, it does not wait out its last trouble
    await shop.till.start()
    await shop.drains()
    assert await shop.ledger() == ["before", *names]
    listed = await shop.asks("queue", "list")
    assert (listed["records"], listed["here"], listed["server"]) == ([], 0, 0)
