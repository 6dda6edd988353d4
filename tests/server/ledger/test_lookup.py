"""Reading by many keys at once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tillstream_server.ledger.database import Database, migrate
from tillstream_server.ledger.lookup import among

STATEMENT = "SELECT hash FROM identifier WHERE retailer = ? AND hash IN (?)"


def key(number: int) -> bytes:
    return number.to_bytes(16, "big")


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    await migrate(tmp_path / "ledger.db")
    database = await Database.open(tmp_path / "ledger.db")
    async with database.write() as conn:
        rows = [(key(n), key(n), "acme") for n in range(2000)]
        await conn.exec_driver_sql("INSERT INTO identifier (hash, subject, retailer) VALUES (?, ?, ?)", rows)
    yield database
    await database.close()


@pytest.mark.parametrize("count", [0, 1, 2, 8, 9, 64, 65, 511, 512, 513, 1500])
async def test_every_key_gives_its_row_once(database: Database, count: int) -> None:
    async with database.read() as conn:
        rows = await among(conn, STATEMENT, [key(n) for n in range(count)], "acme")
    assert sorted(row[0] for row in rows) == [key(n) for n in range(count)]


async def test_keys_that_are_not_there_give_nothing(database: Database) -> None:
    async with database.read() as conn:
        assert await among(conn, STATEMENT, [key(5000)], "acme") == []
        assert await among(conn, STATEMENT, [key(1)], "other") == []
