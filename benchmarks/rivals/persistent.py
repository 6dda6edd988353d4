"""Queues in this process that outlive it. What each promises is what its own code asks of the file system."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from pathlib import Path

import aiosqlite

from ..records import Basket
from . import Entrant, Rival

_Opening = Callable[[Path], AbstractAsyncContextManager[Rival]]

_TABLE = "CREATE TABLE queue (id INTEGER PRIMARY KEY, body BLOB NOT NULL)"
_INSERT = "INSERT INTO queue (body) VALUES (?)"
_COUNT = "SELECT count(*) FROM queue"


@asynccontextmanager
async def _persist_queue_file(folder: Path) -> AsyncIterator[Rival]:
    from persistqueue import Queue

    queue = Queue(str(folder / "queue"), tempdir=str(folder))

    async def put(basket: Basket) -> None:
        queue.put(basket.body)

    async def held() -> int:
        again = Queue(str(folder / "queue"), tempdir=str(folder))
        with closing(again.headf), closing(again.tailf):
            return int(again.qsize())

    with closing(queue.headf), closing(queue.tailf):
        yield Rival(put, held)


@asynccontextmanager
async def _persist_queue_sqlite(folder: Path) -> AsyncIterator[Rival]:
    from persistqueue import SQLiteQueue

    queue = SQLiteQueue(str(folder), auto_commit=True)

    async def put(basket: Basket) -> None:
        queue.put(basket.body)

    async def held() -> int:
        return int(queue.size)

    yield Rival(put, held)
    queue.close()


@asynccontextmanager
async def _litequeue(folder: Path) -> AsyncIterator[Rival]:
    from litequeue import LiteQueue

    queue = LiteQueue(folder / "queue.db")

    async def put(basket: Basket) -> None:
        queue.put(basket.text)

    async def held() -> int:
        return int(queue.qsize())

    yield Rival(put, held)
    queue.close()


@asynccontextmanager
async def _aiosqlite(folder: Path) -> AsyncIterator[Rival]:
    async with aiosqlite.connect(folder / "queue.db") as database:
        await database.execute("PRAGMA journal_mode=WAL")
        await database.execute("PRAGMA synchronous=NORMAL")
        await database.execute(_TABLE)

        async def put(basket: Basket) -> None:
            await database.execute(_INSERT, (basket.body,))
            await database.commit()

        async def held() -> int:
            async with database.execute(_COUNT) as rows:
                row = await rows.fetchone()
            return 0 if row is None else int(row[0])

        yield Rival(put, held)


def _sqlite(synchronous: str) -> _Opening:
    @asynccontextmanager
    async def opened(folder: Path) -> AsyncIterator[Rival]:
        database = sqlite3.connect(folder / "queue.db")
        database.execute("PRAGMA journal_mode=WAL")
        database.execute(f"PRAGMA synchronous={synchronous}")
        database.execute(_TABLE)

        async def put(basket: Basket) -> None:
            database.execute(_INSERT, (basket.body,))
            database.commit()

        async def held() -> int:
            return int(database.execute(_COUNT).fetchone()[0])

        try:
            yield Rival(put, held)
        finally:
            database.close()

    return opened


SQLITE_NORMAL = "SQLite, one insert a sale, WAL NORMAL"
SQLITE_FULL = "SQLite, one insert a sale, WAL FULL"
FLOOR = "floor: bare write()"
DISK_FLOOR = "floor: bare write() and fdatasync"
OFF_THE_LOOP = "floor: bare write(), and fdatasync in a thread"
PROCESS = (
    Entrant("persist-queue, file", "process", _persist_queue_file, FLOOR),
    Entrant("litequeue", "process", _litequeue, FLOOR),
    Entrant("aiosqlite, plain queue, WAL NORMAL", "process", _aiosqlite, FLOOR),
    Entrant(SQLITE_NORMAL, "process", _sqlite("NORMAL"), FLOOR),
)
"""They survive a killed process: what they wrote is with the operating system."""
DISK = (
    Entrant("persist-queue, SQLite", "disk", _persist_queue_sqlite, DISK_FLOOR),
    Entrant(SQLITE_FULL, "disk", _sqlite("FULL"), DISK_FLOOR),
)
"""They survive a power cut: `persist-queue` leaves SQLite's default, which syncs at every commit."""
