"""The ledger as JSON lines."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import insert

from support.campaigning import NOW, RETAILER, Server, server_at
from tillstream_server.ledger import export, schema
from tillstream_server.ledger.bodies import LedgerDamaged

SUBJECT = bytes(range(16))


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with server_at(tmp_path / "ledger.db") as server:
        yield server


async def holds(server: Server, count: int, **columns: Any) -> None:
    row = {
        "retailer": RETAILER,
        "store": "north",
        "till_id": b"t" * 16,
        "epoch": b"e" * 16,
        "kind": 1,
        "body_type": "transaction",
        "at_ms": NOW,
        "business_date": "2026-09-21",
        "captured_ms": NOW,
        "received_ms": NOW,
        "content": bytes(16),
        "digest": bytes(16),
        "revision": 0,
        "subject": SUBJECT,
        "currency": "USD",
        "amount_minor": 2500,
        "training": 0,
        "body": msgspec.msgpack.encode({"total": 2500, "lines": [{"offer_id": b"\x01\x02"}]}),
        "reconciles": None,
    }
    rows = [{**row, "seq": seq, **columns} for seq in range(count)]
    async with server.database.write() as conn:
        await conn.execute(insert(schema.ledger), rows)


async def exports(server: Server, **which: Any) -> list[dict[str, Any]]:
    async with server.database.read() as conn:
        return [json.loads(export.line(row)) async for row in export.rows(conn, **which)]


async def test_a_row_is_readable_and_names_its_member_by_subject(server: Server) -> None:
    await holds(server, 1)
    [row] = await exports(server)
    assert row == {
        "id": 1,
        "retailer": RETAILER,
        "store": "north",
        "till": "74" * 16,
        "epoch": "65" * 16,
        "seq": 0,
        "type": "transaction",
        "at_ms": NOW,
        "business_date": "2026-09-21",
        "captured_ms": NOW,
        "received_ms": NOW,
        "revision": 0,
        "subject": SUBJECT.hex(),
        "currency": "USD",
        "amount_minor": 2500,
        "training": False,
        "reconciles": None,
        "body": {"total": 2500, "lines": [{"offer_id": "0102"}]},
    }


async def test_every_row_comes_once_in_order_over_all_pages(server: Server) -> None:
    await holds(server, 1003, reconciles=1, subject=None)
    rows = await exports(server)
    assert [row["seq"] for row in rows] == list(range(1003))
    assert rows[0]["reconciles"] is True
    assert rows[0]["subject"] is None


async def test_an_export_goes_on_after_an_id_and_keeps_to_a_retailer(server: Server) -> None:
    await holds(server, 3)
    await holds(server, 2, retailer="other", epoch=b"o" * 16)
    assert [row["id"] for row in await exports(server, after=2)] == [3, 4, 5]
    assert [row["id"] for row in await exports(server, retailer="other")] == [4, 5]
    assert await exports(server, after=5) == []


async def test_a_damaged_row_is_named(server: Server) -> None:
    await holds(server, 1, body=b"\xc1")
    with pytest.raises(LedgerDamaged, match="row 1 "):
        await exports(server)
