"""One writer, readers that cannot write, a schema that migrations make."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from tillstream_server.ledger import schema
from tillstream_server.ledger.database import (
    Database,
    LedgerBusy,
    LedgerFault,
    LedgerRefused,
    LedgerVersion,
    execute,
    execute_all,
    is_current,
    migrate,
)
from tillstream_server.ledger.lookup import rows_of

COUNT = "INSERT INTO refusal (reason, count) VALUES (?, ?)"
SLOW = "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 150000) SELECT sum(n) FROM r"
"""A statement that takes some 30 ms."""


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    await migrate(tmp_path / "ledger.db")
    database = await Database.open(tmp_path / "ledger.db")
    yield database
    await database.close()


async def reasons(database: Database) -> set[str]:
    async with database.read() as conn:
        return set((await conn.exec_driver_sql("SELECT reason FROM refusal")).scalars())


async def test_a_transaction_is_written_whole(database: Database) -> None:
    async with database.write() as conn:
        await conn.exec_driver_sql(COUNT, [("a", 1), ("b", 2)])
    assert await reasons(database) == {"a", "b"}


async def test_an_error_takes_everything_back(database: Database) -> None:
    async def fail() -> None:
        async with database.write() as conn:
            await conn.exec_driver_sql(COUNT, ("a", 1))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fail()
    assert await reasons(database) == set()


async def test_a_cancelled_writer_takes_everything_back_and_the_next_one_writes(database: Database) -> None:
    inside = asyncio.Event()

    async def stay() -> None:
        async with database.write() as conn:
            await conn.exec_driver_sql(COUNT, ("a", 1))
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(stay())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with database.write() as conn:
        await conn.exec_driver_sql(COUNT, ("b", 1))
    assert await reasons(database) == {"b"}


async def test_a_writer_may_be_cancelled_at_any_moment(database: Database) -> None:
    async def count(reason: str) -> None:
        async with database.write() as conn:
            await conn.exec_driver_sql(COUNT, (reason, 1))

    whole: set[str] = set()
    for turns in range(25):
        writing = asyncio.create_task(count(f"cancelled {turns}"))
        for _ in range(turns):
            await asyncio.sleep(0)
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        await count(f"whole {turns}")
        whole.add(f"whole {turns}")
    assert whole <= await reasons(database) <= whole | {f"cancelled {turns}" for turns in range(25)}


@pytest.mark.parametrize("wait_ms", [0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89])
async def test_a_writer_may_be_cancelled_inside_a_slow_statement(database: Database, wait_ms: int) -> None:
    async def count_slowly() -> None:
        async with database.write() as conn:
            await conn.exec_driver_sql(COUNT, ("first", 1))
            await conn.exec_driver_sql(SLOW)
            await conn.exec_driver_sql(COUNT, ("last", 1))

    before = await writing_connection(database)
    writing = asyncio.create_task(count_slowly())
    await asyncio.sleep(wait_ms / 1000)
    writing.cancel()
    await asyncio.wait([writing])
    impatient = sqlite3.connect(database.path, timeout=0, isolation_level=None)
    impatient.execute("BEGIN IMMEDIATE")  # nobody holds the lock any more
    impatient.close()
    async with database.write() as conn:
        await conn.exec_driver_sql(COUNT, ("next", 1))
    assert await writing_connection(database) is before
    whole = {"first", "last", "next"}
    nothing = [{"next"}] if writing.cancelled() else []  # a cancellation may come while the commit is on its way
    assert await reasons(database) in [*nothing, whole]


async def test_a_cancellation_is_kept_until_the_statement_is_done_and_stops_the_rest(database: Database) -> None:
    begun, came_back, went_on = asyncio.Event(), False, False

    async def stay() -> None:
        nonlocal came_back, went_on
        async with database.write() as conn:
            begun.set()
            await conn.exec_driver_sql(SLOW)
            came_back = True
            await asyncio.Event().wait()
            went_on = True

    task = asyncio.create_task(stay())
    await begun.wait()
    await asyncio.sleep(0)
    task.cancel()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (came_back, went_on) == (True, False)


async def test_a_time_limit_on_a_transaction_is_told_as_such_and_hits_nothing_else(database: Database) -> None:
    async def count_slowly() -> None:
        async with asyncio.timeout(0.005), database.write() as conn:
            await conn.exec_driver_sql(COUNT, ("late", 1))
            await conn.exec_driver_sql(SLOW)

    with pytest.raises(TimeoutError):
        await count_slowly()
    await asyncio.sleep(0)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    assert await reasons(database) == set()


async def test_a_reader_may_be_cancelled_inside_a_slow_statement(database: Database) -> None:
    async def look() -> None:
        async with database.read() as conn:
            await conn.exec_driver_sql(SLOW)

    for wait_ms in (1, 5, 20):
        looking = [asyncio.create_task(look()) for _ in range(6)]
        await asyncio.sleep(wait_ms / 1000)
        for task in looking:
            task.cancel()
        await asyncio.wait(looking)
        assert await reasons(database) == set()


async def test_an_error_inside_a_cancelled_statement_is_rolled_back_too(database: Database) -> None:
    async def fail() -> None:
        async with database.write() as conn:
            await conn.exec_driver_sql(COUNT, ("a", 1))
            writing.cancel()
            await conn.exec_driver_sql(COUNT, ("a", 1))

    writing = asyncio.create_task(fail())
    await asyncio.wait([writing])
    assert writing.cancelled()
    async with database.write() as conn:
        await conn.exec_driver_sql(COUNT, ("a", 1))


async def writing_connection(database: Database) -> object:
    """The driver's connection that writes."""
    async with database.write() as conn:
        return (await conn.get_raw_connection()).driver_connection


async def test_statements_of_one_hop_are_one_with_their_transaction(database: Database) -> None:
    with pytest.raises(LedgerRefused, match="SQLITE_CONSTRAINT"):
        async with database.write() as conn:
            await execute_all(conn, [(COUNT, [("a", 1), ("b", 1)]), (COUNT, []), (COUNT, [("c", 1), ("a", 2)])])
    assert await reasons(database) == set()
    async with database.write() as conn:
        await execute_all(conn, [(COUNT, [("a", 1), ("b", 1)])])
        assert await execute(conn, "UPDATE refusal SET count = ?", 7) == 2
    assert await reasons(database) == {"a", "b"}


@pytest.mark.parametrize("count", [1, 63, 64, 65, 200])
async def test_many_rows_are_written_as_one_by_one(database: Database, count: int) -> None:
    adding = f"{COUNT} ON CONFLICT (reason) DO UPDATE SET count = count + excluded.count"
    rows = [(f"r{number % 50}", number) for number in range(count)]
    expected: Counter[str] = Counter()
    for reason, number in rows:
        expected[reason] += number
    async with database.write() as conn:
        await execute_all(conn, [(adding, rows), ("UPDATE refusal SET count = count + ?", [(1,)] * 70)])
        found = (await conn.exec_driver_sql("SELECT reason, count FROM refusal")).all()
    assert dict(map(tuple, found)) == {reason: total + 70 for reason, total in expected.items()}


async def test_one_row_of_many_that_is_refused_takes_all_of_them_back(database: Database) -> None:
    rows = [(f"r{number}", 1) for number in range(100)]
    with pytest.raises(LedgerRefused, match="SQLITE_CONSTRAINT"):
        async with database.write() as conn:
            await execute_all(conn, [(COUNT, [*rows, rows[20]])])
    assert await reasons(database) == set()


async def test_a_reader_cannot_write_through_the_driver_either(database: Database) -> None:
    with pytest.raises(LedgerFault, match="SQLITE_READONLY"):
        async with database.read() as conn:
            await execute(conn, COUNT, "a", 1)


async def test_writers_take_turns(database: Database) -> None:
    async def count_one() -> None:
        async with database.write() as conn:
            rows = (await conn.exec_driver_sql("SELECT count FROM refusal WHERE reason = 'n'")).all()
            await asyncio.sleep(0)
            count = rows[0][0] + 1 if rows else 1
            await conn.exec_driver_sql("INSERT OR REPLACE INTO refusal VALUES ('n', ?)", (count,))

    await asyncio.gather(*(count_one() for _ in range(20)))
    async with database.read() as conn:
        assert (await conn.exec_driver_sql("SELECT count FROM refusal")).scalar_one() == 20


async def test_a_reader_cannot_write(database: Database) -> None:
    with pytest.raises(LedgerFault, match="SQLITE_READONLY"):
        async with database.read() as conn:
            await conn.exec_driver_sql(COUNT, ("a", 1))


async def test_a_reader_sees_one_snapshot(database: Database) -> None:
    async with database.read() as conn:
        before = (await conn.exec_driver_sql("SELECT count(*) FROM refusal")).scalar_one()
        async with database.write() as writer:
            await writer.exec_driver_sql(COUNT, ("a", 1))
        after = (await conn.exec_driver_sql("SELECT count(*) FROM refusal")).scalar_one()
    assert (before, after) == (0, 0)
    assert await reasons(database) == {"a"}


async def test_a_reader_that_asks_the_driver_itself_sees_one_snapshot(database: Database) -> None:
    async with database.read() as conn:
        (before,) = await rows_of(conn, "SELECT count(*) FROM refusal")
        async with database.write() as writer:
            await writer.exec_driver_sql(COUNT, ("a", 1))
        (after,) = await rows_of(conn, "SELECT count(*) FROM refusal")
        by_the_library = (await conn.exec_driver_sql("SELECT count(*) FROM refusal")).scalar_one()
    assert (before, after, by_the_library) == ((0,), (0,), 0)
    assert await reasons(database) == {"a"}


async def test_readers_leave_checkpoints_to_the_writer(database: Database) -> None:
    async with database.read() as conn:
        assert (await conn.exec_driver_sql("PRAGMA wal_autocheckpoint")).scalar_one() == 0
    async with database.write() as conn:
        assert (await conn.exec_driver_sql("PRAGMA journal_mode")).scalar_one() == "wal"
        assert (await conn.exec_driver_sql("PRAGMA synchronous")).scalar_one() == 2
        assert (await conn.exec_driver_sql("PRAGMA foreign_keys")).scalar_one() == 1


async def test_another_process_at_the_database_is_said_to_be_there(tmp_path: Path) -> None:
    await migrate(tmp_path / "ledger.db")
    database = await Database.open(tmp_path / "ledger.db", busy_ms=0)
    other = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        with pytest.raises(LedgerBusy, match="another process") as caught:
            async with database.write():
                pass
        assert caught.value.retryable
    finally:
        other.close()
        await database.close()


async def test_a_fault_shows_no_values(database: Database) -> None:
    async with database.write() as conn:
        await conn.exec_driver_sql(COUNT, ("5551234567", 1))
    with pytest.raises(LedgerFault) as caught:
        async with database.write() as conn:
            await conn.exec_driver_sql(COUNT, ("5551234567", 1))
    error: BaseException | None = caught.value
    while error is not None:
        assert "5551234567" not in str(error)
        error = error.__cause__


async def test_there_must_be_a_database(tmp_path: Path) -> None:
    with pytest.raises(LedgerVersion, match="there is no database"):
        await Database.open(tmp_path / "ledger.db")
    assert not (tmp_path / "ledger.db").exists()


async def test_something_else_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_bytes(b"certainly not SQLite" * 100)
    with pytest.raises(LedgerFault, match="SQLITE_NOTADB"):
        await Database.open(tmp_path / "ledger.db")
    with pytest.raises(LedgerFault, match="SQLITE_NOTADB"):
        await migrate(tmp_path / "ledger.db")


async def test_a_folder_that_is_not_there_is_said_to_be_so(tmp_path: Path) -> None:
    with pytest.raises(LedgerFault, match="cannot make"):
        await migrate(tmp_path / "nowhere" / "ledger.db")


async def test_migrations_make_exactly_the_schema(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    await migrate(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    engine = create_engine(f"sqlite:///{path}", poolclass=NullPool)
    with engine.connect() as conn:
        assert compare_metadata(MigrationContext.configure(conn), schema.metadata) == []
    made = sqlite3.connect(path)
    keyed = {name for (name,) in made.execute("SELECT name FROM sqlite_master WHERE sql LIKE '%WITHOUT ROWID%'")}
    made.close()
    tables = schema.metadata.tables.values()
    assert keyed == {table.name for table in tables if table.dialect_options["sqlite"]["with_rowid"] is False}


async def test_migrating_again_changes_nothing(database: Database) -> None:
    async with database.write() as conn:
        await conn.exec_driver_sql(COUNT, ("a", 1))
        assert await is_current(conn)
    await migrate(database.path)
    assert await reasons(database) == {"a"}


async def test_a_database_of_a_newer_server_is_left_alone(tmp_path: Path) -> None:
    await migrate(tmp_path / "ledger.db")
    newer = sqlite3.connect(tmp_path / "ledger.db")
    newer.execute("UPDATE alembic_version SET version_num = '9999'")
    newer.commit()
    newer.close()
    with pytest.raises(LedgerVersion, match="another version"):
        await migrate(tmp_path / "ledger.db")
