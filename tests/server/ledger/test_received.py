"""The ranges that make a repeat a repeat."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tillstream_protocol.messages import Range
from tillstream_protocol.ranges import collect, merge
from tillstream_server.ledger import received
from tillstream_server.ledger.database import Database, create
from tillstream_server.ledger.schema import metadata

TILL, EPOCH = b"t" * 16, b"e" * 16


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    await create(tmp_path / "ledger.db", metadata)
    database = await Database.open(tmp_path / "ledger.db")
    yield database
    await database.close()


async def receive(database: Database, *ranges: Range, epoch: bytes = EPOCH) -> tuple[Range, ...]:
    async with database.write() as conn:
        span = Range(ranges[0].first, ranges[-1].last)
        return await received.add(conn, await received.near(conn, TILL, epoch, span), ranges)


async def stored(database: Database) -> list[tuple[int, int]]:
    async with database.read() as conn:
        rows = await conn.exec_driver_sql("SELECT first_seq, last_seq FROM received ORDER BY epoch, first_seq")
        return [(row.first_seq, row.last_seq) for row in rows]


async def test_neighbours_become_one_range(database: Database) -> None:
    await receive(database, Range(0, 4))
    assert await receive(database, Range(5, 9)) == (Range(0, 9),)
    assert await stored(database) == [(0, 9)]


async def test_a_gap_stays_a_gap_until_it_is_filled(database: Database) -> None:
    await receive(database, Range(0, 4))
    await receive(database, Range(6, 9))
    assert await stored(database) == [(0, 4), (6, 9)]
    assert await receive(database, Range(5, 5)) == (Range(0, 9),)
    assert await stored(database) == [(0, 9)]


async def test_a_repeat_changes_nothing(database: Database) -> None:
    await receive(database, Range(0, 9))
    assert await receive(database, Range(3, 5)) == (Range(0, 9),)
    assert await stored(database) == [(0, 9)]


async def test_epochs_are_apart(database: Database) -> None:
    await receive(database, Range(0, 4))
    await receive(database, Range(5, 9), epoch=b"f" * 16)
    assert await stored(database) == [(0, 4), (5, 9)]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=8), min_size=1, max_size=8))
def test_whatever_order_the_seqs_come_in_the_ranges_hold_exactly_them(batches: Sequence[Sequence[int]]) -> None:
    async def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            await create(Path(folder) / "ledger.db", metadata)
            database = await Database.open(Path(folder) / "ledger.db", readers=1)
            try:
                for batch in batches:
                    await receive(database, *merge(collect(batch)))
                everything = collect(sorted({seq for batch in batches for seq in batch}))
                assert await stored(database) == [(r.first, r.last) for r in everything]
            finally:
                await database.close()

    asyncio.run(run())
