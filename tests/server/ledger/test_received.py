"""The ranges that make a repeat a repeat."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tillstream_protocol.messages import EpochRanges, Range
from tillstream_protocol.ranges import collect, contains, merge
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
        (merged,) = await received.add_each(conn, [(await received.near(conn, TILL, epoch, span), ranges)])
        return merged


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


# What a till believes to be here and is not

OTHER = b"o" * 16
seqs = st.sets(st.integers(0, 40), max_size=30)


@given(seqs, seqs)
def test_taking_ranges_away_leaves_exactly_the_rest(some: set[int], taken: set[int]) -> None:
    left = received.without(collect(sorted(some)), collect(sorted(taken)))
    assert [seq for seq in range(42) if contains(left, seq)] == sorted(some - taken)
    assert merge(left) == left


async def lacking(database: Database, *claimed: EpochRanges) -> tuple[EpochRanges, ...]:
    async with database.read() as conn:
        return await received.lacking(conn, TILL, claimed)


async def test_a_server_that_has_everything_lacks_nothing(database: Database) -> None:
    await receive(database, Range(0, 9))
    assert await lacking(database, EpochRanges(EPOCH, (Range(0, 4), Range(7, 9)))) == ()


async def test_a_restored_server_lacks_what_came_after_the_backup(database: Database) -> None:
    await receive(database, Range(0, 4))
    await receive(database, Range(8, 9))
    claimed = (EpochRanges(EPOCH, (Range(0, 20),)), EpochRanges(OTHER, (Range(3, 3), Range(5, 6))))
    assert await lacking(database, *claimed) == (
        EpochRanges(EPOCH, (Range(5, 7), Range(10, 20))),
        EpochRanges(OTHER, (Range(3, 3), Range(5, 6))),
    )


async def test_another_tills_records_are_not_this_ones(database: Database) -> None:
    await receive(database, Range(0, 4))
    async with database.read() as conn:
        claimed = EpochRanges(EPOCH, (Range(0, 4),))
        assert await received.lacking(conn, b"u" * 16, [claimed]) == (claimed,)


async def test_a_claim_of_a_thousand_epochs_is_answered(database: Database) -> None:
    await receive(database, Range(0, 4))
    claimed = [EpochRanges(number.to_bytes(16, "big"), (Range(0, 0),)) for number in range(1, 1001)]
    assert await lacking(database, *claimed, EpochRanges(EPOCH, (Range(0, 4),))) == tuple(claimed)


async def test_a_claim_beyond_every_number_is_answered(database: Database) -> None:
    await receive(database, Range(0, 4))
    assert await lacking(database, EpochRanges(EPOCH, (Range(0, 2**62),))) == (EpochRanges(EPOCH, (Range(5, 2**62),)),)
