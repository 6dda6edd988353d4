"""Real processes: a server restored from a backup gets back from its tills whatever it took since."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from demo.processes import Program, Server, Till, command
from tillstream_server.ledger import schema

pytestmark = pytest.mark.system

WAIT_S = 120
TILLS = "SELECT retailer, store, till, hex(till_id) FROM till ORDER BY till"
Names = dict[str, tuple[str, int]]
"""POS id → epoch and seq."""


def sale(pos_id: str, till: str) -> dict[str, Any]:
    """A sale by a member, so that every projection has a share in it."""
    return {
        "source": {"system": "test"},
        "kind": "sale",
        "pos_id": pos_id,
        "till": till,
        "business_date": "2026-01-31",
        "end": {"at": 1_769_850_000_000},
        "currency": "USD",
        "total": 700,
        "lines": [{"seq": 1, "sku": f"SKU-{len(pos_id)}", "amount": 700, "hierarchy": ["FOOD"]}],
        "customer": {"identifiers": [{"scheme": "loyalty", "value": pos_id[-1]}]},
    }


class Stand:
    """One server, and the tills that were enrolled with it."""

    def __init__(self, folder: Path, server: Server, http: aiohttp.ClientSession) -> None:
        self.folder = folder
        self.server = server
        self.http = http
        self.tills: list[Till] = []
        self.captured: Names = {}

    async def enrols_a_till(self) -> Till:
        till = await Till.set_up(self.folder, self.server, "north", len(self.tills) + 1)
        self.tills.append(till)
        return till

    async def sells(self, till: Till, *numbers: int) -> None:
        """Capture sales, each acknowledged as on the disk."""
        headers = {"Authorization": f"Bearer {till.token}"}
        for number in numbers:
            body = sale(f"{till.state.name}-{number}", till.state.name)
            async with self.http.post(f"{till.url}/v1/transactions?ack=disk", json=body, headers=headers) as response:
                said = await response.json()
                assert response.status == 201, said
                self.captured[body["pos_id"]] = said["epoch"], said["seq"]

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """What the ledger's database answers to a reader."""
        file = self.server.folder / "ledger.db"
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=30)) as conn:
            return conn.execute(statement).fetchall()

    async def has_everything(self) -> None:
        """Wait until the server has as many sales as were captured."""
        async with asyncio.timeout(WAIT_S):
            while self.rows("SELECT count(*) FROM sale")[0][0] < len(self.captured):
                await asyncio.sleep(0.1)

    async def ledger(self) -> list[tuple[str, str, int]]:
        """POS id, epoch and seq of every sale."""
        out = await command("tillstream-server", "ledger", "export", "--data", str(self.server.folder))
        rows = [json.loads(line) for line in out.splitlines()]
        return [(row["body"]["pos_id"], row["epoch"], row["seq"]) for row in rows if row["type"] == "transaction"]

    def projections(self) -> Mapping[str, Counter[tuple[Any, ...]]]:
        """Every projection's rows."""
        return {table.name: Counter(self.rows(f"SELECT * FROM {table.name}")) for table in schema.PROJECTIONS}

    async def is_restored_from(self, backup: Path) -> None:
        """Have the server die with its folder, and one restored from a backup serve at the same port."""
        await self.server.program.kill()
        new = self.folder / "restored"
        await command("tillstream-server", "restore", "--from", str(backup), "--data", str(new))
        self.server.folder.rename(self.folder / "lost")
        self.server.folder = new
        arguments = self.server.program.arguments
        arguments[arguments.index("--data") + 1] = str(new)
        await self.server.start()


@pytest.fixture
async def stand(tmp_path: Path) -> AsyncIterator[Stand]:
    data = tmp_path / "server"
    await command("tillstream-server", "init", "--data", str(data))
    server = Server(
        data, Program("server", ["tillstream-server", "serve", "--data", str(data), "--port", "0"], tmp_path)
    )
    await server.start()
    async with aiohttp.ClientSession() as http:
        stand = Stand(tmp_path, server, http)
        try:
            yield stand
        finally:
            for till in stand.tills:
                await till.program.stop()
            await server.program.stop()


async def test_after_a_restore_everything_is_there_again_exactly_once(stand: Stand, tmp_path: Path) -> None:
    early = await stand.enrols_a_till()
    await stand.sells(early, *range(20))
    await stand.has_everything()
    backup = tmp_path / "backup"
    await command("tillstream-server", "backup", "--data", str(stand.server.folder), "--to", str(backup))

    await stand.sells(early, *range(20, 40))
    late = await stand.enrols_a_till()
    await stand.sells(late, *range(10))
    await stand.has_everything()
    before = stand.rows(TILLS)
    assert len(before) == 2

    await stand.is_restored_from(backup)
    await stand.has_everything()
    rows = await stand.ledger()
    assert {pos_id: (epoch, seq) for pos_id, epoch, seq in rows} == stand.captured
    assert len(rows) == len(stand.captured) == 50
    assert stand.rows(TILLS) == before

    await stand.sells(early, 40)
    await stand.sells(late, 10)
    await stand.has_everything()
    assert stand.rows("SELECT kind, hex(epoch), first_seq, last_seq FROM alarm WHERE settled_ms IS NULL") == []
    assert stand.rows("SELECT count(*) FROM dead_letter") == [(0,)]
    folded = stand.projections()
    assert sum(folded["sale"].values()) == 52
    await command("tillstream-server", "rebuild", "--data", str(stand.server.folder))
    assert stand.projections() == folded
