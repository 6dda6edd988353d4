"""SQLite without threads: aiosqlite's connection, with every statement done on the spot.

A connection can also be lost, as in a killed process: what was not committed is gone, and nothing more can be done
through it.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import aiosqlite

Pause = Callable[[str], Awaitable[None]]
"""Called before a statement; whoever has a slow disk waits in it."""


class InlineConnection(aiosqlite.Connection):
    """Does what it is told when it is told so. `lose` ends it as a kill would."""

    def __init__(self, connector: Callable[[], sqlite3.Connection]) -> None:
        super().__init__(connector, iter_chunk_size=64)
        self._begun = False

    def __await__(self) -> Any:
        return self._connect().__await__()

    async def _connect(self) -> InlineConnection:
        if self._connection is None:
            self._connection = self._connector()
        return self

    async def _execute(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if not self._running or self._connection is None:
            raise ValueError("Connection closed")  # in the words of the driver, which SQLAlchemy knows
        return fn(*args, **kwargs)

    def stop(self) -> asyncio.Future[Any] | None:
        """End it; there is no thread to wait for."""
        self.lose()
        return None

    def lose(self) -> None:
        """End it as a kill does: what was begun is rolled back."""
        self._running = False
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.close()


class Connections:
    """Every connection of one process, so that a kill takes all of them."""

    def __init__(self) -> None:
        self._all: list[InlineConnection] = []

    def connect(self, database: str | Path, **options: Any) -> InlineConnection:
        """What `aiosqlite.connect` does."""
        options.setdefault("check_same_thread", False)
        connection = InlineConnection(partial(sqlite3.connect, database, **options))
        self._all.append(connection)
        return connection

    async def connected(self, path: Path) -> aiosqlite.Connection:
        """A connection in autocommit mode, for the server's databases."""
        connection: aiosqlite.Connection = await self.connect(path, isolation_level=None)
        return connection

    def lose(self) -> None:
        """The process was killed."""
        for connection in self._all:
            connection.lose()
        self._all.clear()
