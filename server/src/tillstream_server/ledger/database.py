"""One SQLite file: exactly one writing connection, and readers that cannot write.

SQLite up to 3.51.2 can corrupt a WAL file that two connections write or checkpoint at the same time. So one
connection writes and checkpoints, one transaction after the other; the readers are `query_only` and never
checkpoint. `synchronous` is FULL: a transaction that has committed survives a power cut.

SQLAlchemy throws a connection away when a cancellation hits one of its statements, while the driver's thread still
works on it and holds its lock. So no statement can be cancelled here: it comes to its end, and the cancellation goes on
to what its task waits for next, at the latest at the end of the transaction.

Errors of driver and SQLAlchemy end here: `write` and `read` raise `LedgerFault`, `LedgerBusy` or `LedgerRefused`, whose
messages hold no values.
"""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path
from typing import Any, Final, TypeVar

import aiosqlite
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import URL, Connection, Engine, MetaData, create_engine, event
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, NullPool

from tillstream_protocol.errors import TillstreamError

READERS: Final = 4
CHECKPOINT_PAGES: Final = 4_000
"""The WAL is folded back when it passes about 16 MiB."""
CACHE_KIB: Final = 64 * 1024
BUSY_MS: Final = 5_000

_WIDE: Final = 64
_NARROW: Final = 8
"""Values of a row; with more of them, binding them costs what one statement for many rows saves."""
_VALUES: Final = re.compile(r"\bVALUES\s*(\(\?(?:, \?)*\))")

_MIGRATIONS: Final = Path(__file__).parent / "migrations"

T = TypeVar("T")
Connect = Callable[[Path], Awaitable[aiosqlite.Connection]]
"""Opens a connection in autocommit mode."""
Statement = tuple[str, Sequence[tuple[object, ...]]]
"""A statement, and the rows of values to execute it with."""


class LedgerFault(TillstreamError):
    """The database refused or failed; nothing of the transaction was written."""

    code = "ledger_fault"
    retryable = True


class LedgerBusy(LedgerFault):
    """Another process holds the database's lock."""

    code = "ledger_busy"


class LedgerRefused(LedgerFault):
    """The database is well, and does not take these values: whoever brings them again is refused again."""

    code = "ledger_refused"
    retryable = False


class LedgerVersion(TillstreamError):
    """A database that is missing, older or newer than this server."""

    code = "ledger_version"


class Database:
    """Transactions on one SQLite file. `open` makes one; `close` ends it."""

    def __init__(self, path: Path, writer: AsyncEngine, readers: AsyncEngine, conn: AsyncConnection) -> None:
        self.path = path
        self._writer = writer
        self._readers = readers
        self._conn = conn
        self._turn = asyncio.Lock()

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        readers: int = READERS,
        busy_ms: int = BUSY_MS,
        checkpoint_pages: int = CHECKPOINT_PAGES,
        connect: Connect | None = None,
    ) -> Database:
        """Open an existing file. Raises `LedgerVersion` where there is none, or `LedgerFault`.

        `busy_ms` is how long to wait for another process that writes to it; the WAL is folded back when it passes
        `checkpoint_pages`; `connect` makes the connections in place of the driver.
        """
        if not path.is_file():
            raise LedgerVersion(f"there is no database at {path}", field="data", hint="run `tillstream-server init`")
        connect = connect or _connected
        writer = _engine(path, _writer_pragmas(busy_ms, checkpoint_pages), 1, connect)
        try:
            conn = await writer.connect()
        except SQLAlchemyError as error:
            await writer.dispose()
            raise _translated(error) from error
        return cls(path, writer, _engine(path, _reader_pragmas(busy_ms), readers, connect), conn)

    async def close(self) -> None:
        """Wait for the transaction under way, and close every connection."""
        async with self._turn:
            await self._conn.close()
            await self._readers.dispose()
            await self._writer.dispose()

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """The writing connection, inside one transaction: it commits at the end, or rolls back on an error.

        A caller that is cancelled meanwhile is rolled back too, unless the commit has begun.
        """
        try:
            async with self._turn, self._conn.begin():
                await execute(self._conn, "BEGIN IMMEDIATE")
                yield self._conn
                await _postponed_cancellation()
        except (SQLAlchemyError, sqlite3.Error) as error:
            raise _translated(error) from error
        finally:
            await _postponed_cancellation()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A connection that cannot write, on one snapshot of the database."""
        try:
            async with self._readers.connect() as conn:
                await execute(conn, "BEGIN")
                yield conn
        except (SQLAlchemyError, sqlite3.Error) as error:
            raise _translated(error) from error
        finally:
            await _postponed_cancellation()


async def on_driver(conn: AsyncConnection, work: Callable[[sqlite3.Connection], T]) -> T:
    """Work with the driver's own connection, in its thread: one hop there and back, however many statements.

    It takes part in the transaction of `conn`. Raises `sqlite3.Error`, which `write` and `read` translate.
    """
    assert conn.sync_connection is not None
    driver = conn.sync_connection.connection.driver_connection
    assert isinstance(driver, aiosqlite.Connection)
    execute: Callable[..., Awaitable[T]] = driver._execute
    return await execute(work, driver._conn)


async def execute(conn: AsyncConnection, statement: str, *values: object) -> int:
    """Execute a statement that changes rows; how many it changed."""
    return await on_driver(conn, lambda driver: driver.execute(statement, values).rowcount)


async def execute_all(conn: AsyncConnection, statements: Iterable[Statement]) -> None:
    """Execute each statement with each of its rows, in order; one without rows is left out."""
    wanted = [(statement, rows) for statement, rows in statements if rows]
    if wanted:
        await on_driver(conn, partial(_execute_all, wanted))


def _execute_all(statements: Sequence[Statement], driver: sqlite3.Connection) -> None:
    for statement, rows in statements:
        wide = _wide(statement) if len(rows) >= _WIDE else None
        done = 0 if wide is None else len(rows) - len(rows) % _WIDE
        for start in range(0, done, _WIDE):
            driver.execute(wide or statement, list(chain.from_iterable(rows[start : start + _WIDE]))).close()
        if done < len(rows):
            driver.executemany(statement, rows[done:]).close()


@lru_cache(maxsize=256)
def _wide(statement: str) -> str | None:
    """The statement for `_WIDE` narrow rows at once, which takes a third off each; None for any other statement."""
    row = _VALUES.search(statement)
    if row is None or row[1].count("?") > _NARROW:
        return None
    return f"{statement[: row.start(1)]}{', '.join([row[1]] * _WIDE)}{statement[row.end(1) :]}"


class _Steady(aiosqlite.Connection):
    """A connection whose statements, once begun, come to their end: see the module's text."""

    def __init__(self, connector: Callable[[], sqlite3.Connection]) -> None:
        super().__init__(connector, iter_chunk_size=64)
        self._thread.daemon = True

    async def _execute(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if not self._running or not self._connection:
            raise ValueError("Connection closed")  # in the words of the driver, which SQLAlchemy knows
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._tx.put_nowait((done, partial(fn, *args, **kwargs)))
        try:
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            while not done.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([done])
            _cancel_later()
            return done.result()


def _cancel_later() -> None:
    """Have the running task's next wait raise the cancellation that was caught; their number stays the same."""
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()
        task.cancel()


async def _postponed_cancellation() -> None:
    """Raise the cancellation that waited for a statement, if there is one."""
    await asyncio.sleep(0)


async def migrate(path: Path) -> None:
    """Bring the file's schema up to this version, making the file if there is none.

    Raises `LedgerVersion` for a database that a newer server has written.
    """
    await asyncio.to_thread(_migrate, path)


async def create(path: Path, metadata: MetaData) -> None:
    """Make a file with these tables, where they are missing: for small databases beside the ledger."""

    def run() -> None:
        with _on_file(path) as conn:
            metadata.create_all(conn)

    await asyncio.to_thread(run)


async def is_current(conn: AsyncConnection) -> bool:
    """Whether the database has exactly the schema of this version."""
    head = ScriptDirectory.from_config(_alembic()).get_current_head()
    return await conn.run_sync(lambda sync: MigrationContext.configure(sync).get_current_revision()) == head


def _migrate(path: Path) -> None:
    config = _alembic()
    try:
        with _on_file(path) as conn:
            config.attributes["connection"] = conn
            command.upgrade(config, "head")
    except CommandError as error:
        raise LedgerVersion(
            f"{path} was written by another version of the server", field="data", hint="upgrade the server"
        ) from error


@contextmanager
def _on_file(path: Path) -> Iterator[Connection]:
    """One transaction on a file that nothing else has open; the file is made for its owner alone."""
    url = URL.create("sqlite", database=str(path))
    engine = create_engine(url, poolclass=NullPool, connect_args={"isolation_level": None})
    _prepare(engine, "BEGIN IMMEDIATE", _writer_pragmas(BUSY_MS, CHECKPOINT_PAGES))
    try:
        path.touch(mode=0o600)
        with engine.begin() as conn:
            yield conn
    except OSError as error:
        raise LedgerFault(f"cannot make {path}: {error.strerror}", field="data") from error
    except SQLAlchemyError as error:
        raise _translated(error) from error
    finally:
        engine.dispose()


def _alembic() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _engine(path: Path, pragmas: tuple[str, ...], size: int, connect: Connect) -> AsyncEngine:
    engine = create_async_engine(
        URL.create("sqlite+aiosqlite", database=str(path)),
        async_creator=partial(connect, path),
        poolclass=AsyncAdaptedQueuePool,
        pool_size=size,
        max_overflow=0,
        hide_parameters=True,
    )
    _prepare(engine.sync_engine, None, pragmas)
    return engine


async def _connected(path: Path) -> aiosqlite.Connection:
    return await _Steady(partial(sqlite3.connect, path, isolation_level=None, check_same_thread=False))


def _prepare(engine: Engine, begin: str | None, pragmas: tuple[str, ...]) -> None:
    """Begin transactions ourselves; the driver, which would begin them late and deferred, is told not to.

    Without `begin`, whoever has the connection does so: it takes one turn with the driver's thread, not three, and what
    is asked of the driver itself is inside the transaction too.
    """

    def connected(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        for pragma in pragmas:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    event.listen(engine, "connect", connected)
    if begin is not None:
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))


def _writer_pragmas(busy_ms: int, checkpoint_pages: int) -> tuple[str, ...]:
    return (
        f"busy_timeout={busy_ms}",
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        f"wal_autocheckpoint={checkpoint_pages}",
        f"cache_size=-{CACHE_KIB}",
        "temp_store=MEMORY",
    )


def _reader_pragmas(busy_ms: int) -> tuple[str, ...]:
    return (f"busy_timeout={busy_ms}", "query_only=ON", "wal_autocheckpoint=0", "temp_store=MEMORY")


def _translated(error: SQLAlchemyError | sqlite3.Error) -> LedgerFault:
    cause = error.orig if isinstance(error, DBAPIError) else error
    name = getattr(cause, "sqlite_errorname", None) or type(error).__name__
    if name in ("SQLITE_BUSY", "SQLITE_LOCKED"):
        return LedgerBusy("another process is writing to the database", hint="stop the other server")
    if isinstance(cause, (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.InterfaceError, sqlite3.ProgrammingError)):
        return LedgerRefused(f"the database refused values: {name}")
    if isinstance(cause, sqlite3.Error):
        return LedgerFault(f"the database failed: {name}", hint="see the server's log and the disk's free space")
    return LedgerFault(f"the database failed: {name}")
