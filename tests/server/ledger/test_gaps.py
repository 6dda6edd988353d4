"""What of a till's records is not here, since when, and when it becomes an alarm."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tillstream_protocol.messages import HookLatency, Range, Vitals
from tillstream_server.ledger import alarms, gaps, lineage, received
from tillstream_server.ledger.alarms import Suspicion
from tillstream_server.ledger.database import Database, create
from tillstream_server.ledger.lineage import Mark
from tillstream_server.ledger.schema import metadata

TILL, EPOCH, OLDER = b"t" * 16, b"e" * 16, b"o" * 16
NOW = 1_790_000_000_000


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    await create(tmp_path / "ledger.db", metadata)
    database = await Database.open(tmp_path / "ledger.db")
    yield database
    await database.close()


async def receive(database: Database, first: int, last: int, epoch: bytes = EPOCH) -> None:
    async with database.write() as conn:
        span = Range(first, last)
        await received.add_each(conn, [(await received.near(conn, TILL, epoch, span), [span])])


async def hear(database: Database, position: int, epoch: bytes = EPOCH, at_ms: int = NOW) -> None:
    async with database.write() as conn:
        await lineage.hear(conn, [Mark(TILL, epoch, position)], at_ms)


async def found(database: Database) -> list[tuple[bytes, int, int]]:
    async with database.read() as conn:
        return [(gap.epoch, gap.range.first, gap.range.last) for gap in await gaps.of_till(conn, TILL)]


async def beat(
    database: Database, *, queued: int = 0, dead_letters: int = 0, all_epochs: bool = True, epoch: bytes = EPOCH
) -> list[Suspicion]:
    vitals = Vitals(
        TILL, epoch, 0, queued, 0, HookLatency(0, 0, 0, 0), 0, NOW, "0.1.0", "", dead_letters, damaged_files=0
    )
    async with database.write() as conn:
        return await gaps.watch(conn, vitals, all_epochs=all_epochs, now_ms=NOW)


async def unsettled(database: Database) -> list[tuple[str, int, int | None]]:
    async with database.read() as conn:
        every = await alarms.of_till(conn, TILL)
    return [(a.about.kind, a.about.first, a.about.last) for a in every if a.settled_ms is None]


async def test_a_till_that_sent_everything_has_no_gap(database: Database) -> None:
    await receive(database, 0, 9)
    await hear(database, 10)
    assert await found(database) == []


async def test_gaps_lie_between_records_and_below_what_was_signed_for(database: Database) -> None:
    await receive(database, 2, 3)
    await receive(database, 6, 7)
    await hear(database, 10)
    await hear(database, 4, OLDER)
    assert await found(database) == [(EPOCH, 0, 1), (EPOCH, 4, 5), (EPOCH, 8, 9), (OLDER, 0, 3)]


async def test_a_lower_position_takes_nothing_back(database: Database) -> None:
    await hear(database, 10)
    await hear(database, 4)
    assert await found(database) == [(EPOCH, 0, 9)]


async def test_a_gap_says_since_when(database: Database) -> None:
    await receive(database, 3, 3)
    await hear(database, 6, at_ms=NOW + 5)
    await hear(database, 6, at_ms=NOW + 9)
    async with database.write() as conn:
        await conn.exec_driver_sql(
            "INSERT INTO dead_letter (retailer, till_id, epoch, seq, code, reason, header, frame, received_ms)"
            " VALUES ('', ?, ?, 3, '', '', x'', x'', ?)",
            (TILL, EPOCH, NOW + 1),
        )
    async with database.read() as conn:
        assert [gap.since_ms for gap in await gaps.of_till(conn, TILL)] == [NOW + 1, NOW + 5]


async def test_what_is_still_queued_is_no_alarm(database: Database) -> None:
    await hear(database, 10)
    assert await beat(database, queued=10) == []


async def test_what_is_missing_though_nothing_is_queued_is_told_once(database: Database) -> None:
    await receive(database, 0, 3)
    await hear(database, 10)
    assert await beat(database) == [Suspicion(TILL, "missing", EPOCH, EPOCH, 4, 9)]
    assert await beat(database) == []
    async with database.read() as conn:
        assert [gap.alarm for gap in await gaps.of_till(conn, TILL)] == [True]


async def test_what_is_left_of_a_told_gap_is_not_told_again_and_what_is_new_is(database: Database) -> None:
    await hear(database, 10)
    await beat(database)
    await receive(database, 0, 6)
    assert await beat(database) == []
    await hear(database, 12)
    assert [(one.first, one.last) for one in await beat(database)] == [(7, 11)]


async def test_records_that_the_till_keeps_as_refused_are_no_alarm(database: Database) -> None:
    await receive(database, 1, 9)
    assert await beat(database, dead_letters=1) == []
    assert len(await beat(database, dead_letters=0)) == 1


async def test_between_times_only_the_epoch_that_is_written_is_looked_at(database: Database) -> None:
    await hear(database, 3, OLDER)
    assert await beat(database, all_epochs=False) == []
    assert len(await beat(database, all_epochs=True)) == 1


async def test_when_the_records_arrive_the_alarm_settles_itself(database: Database) -> None:
    await hear(database, 10)
    await beat(database)
    await receive(database, 0, 8)
    await beat(database, queued=1)
    assert await unsettled(database) == [("missing", 0, 9)]
    await receive(database, 9, 9)
    await beat(database, queued=1)
    assert await unsettled(database) == []


async def test_a_settled_alarm_closes_its_gap(database: Database) -> None:
    await receive(database, 0, 3)
    await hear(database, 10)
    await beat(database)
    async with database.write() as conn:
        (alarm,) = await alarms.of_till(conn, TILL)
        await alarms.settle(conn, TILL, alarm.id, "the disk was thrown away", NOW)
    assert await found(database) == []
    assert await beat(database) == []


async def test_a_settled_clone_closes_no_gap(database: Database) -> None:
    await hear(database, 10)
    async with database.write() as conn:
        (one,) = await alarms.sound(conn, [Suspicion(TILL, "restored_image", OLDER, EPOCH, 0, 9)], NOW)
        (alarm,) = await alarms.of_till(conn, TILL)
        await alarms.settle(conn, TILL, alarm.id, "", NOW)
    assert one.other == EPOCH
    assert await found(database) == [(EPOCH, 0, 9)]


async def test_what_was_lost_from_a_place_on_leaves_no_gap_above_it(database: Database) -> None:
    await hear(database, 10)
    async with database.write() as conn:
        await conn.exec_driver_sql("PRAGMA defer_foreign_keys=ON")
        await conn.exec_driver_sql(_LEDGER, (TILL, b"n" * 16))
        await conn.exec_driver_sql(
            "INSERT INTO lost (ledger_id, till_id, epoch, first_seq, chunk, reason)"
            " VALUES (1, ?, ?, 6, 0, 'power_cut')",
            (TILL, EPOCH),
        )
    assert await found(database) == [(EPOCH, 0, 5)]


_LEDGER = """
INSERT INTO ledger (id, retailer, store, till_id, epoch, seq, kind, body_type, at_ms, captured_ms, received_ms, content,
    digest, revision, training, body)
VALUES (1, 'acme', 's1', ?, ?, 0, 5, 'records_lost', 0, 0, 0, x'', x'', 0, 0, x'')
"""
