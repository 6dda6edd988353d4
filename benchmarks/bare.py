"""What the rows of a batch cost when they are merely inserted: the floors of `ingest`.

Which rows a batch put in or changed is found afterwards, by comparing the ledger's database with the copy that the
floor itself keeps; only the inserting is timed.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final

from tillstream_server.ledger.database import CACHE_KIB, CHECKPOINT_PAGES

Row = tuple[object, ...]

_APPENDED: Final = {"ledger": "id", "sale": "ledger_id"}
"""Tables to which sales that are new only add rows, and their keys. They are large; each other is compared as a whole.
"""
_TOGETHER: Final = 64
_NARROW: Final = 8
"""Rows of at most so many columns go in that many a statement, as the server writes them: it takes a third off each."""
_SCHEMA: Final = """
SELECT name, sql FROM sqlite_master WHERE type = ? AND sql IS NOT NULL AND name NOT LIKE 'sqlite%' ORDER BY rowid
"""


@dataclass(slots=True)
class Took:
    """What some work took, in seconds: by the wall, and of the processors."""

    wall: float = 0.0
    cpu: float = 0.0

    @contextmanager
    def timing(self) -> Iterator[None]:
        """Add what is done meanwhile."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall += time.perf_counter() - wall
        self.cpu += time.process_time() - cpu


class LedgerRows:
    """A bare table like the ledger's, with its primary key and no other index, that takes the ledger's new rows."""

    def __init__(self, ledger: Path, file: Path) -> None:
        self._ledger = sqlite3.connect(read_only(ledger), uri=True)
        self._bare = _synced(file)
        ((_, create),) = [one for one in self._ledger.execute(_SCHEMA, ("table",)) if one[0] == "ledger"]
        self._bare.execute(create)
        (highest,) = self._ledger.execute("SELECT coalesce(max(id), 0) FROM ledger").fetchone()
        self._after = int(highest)

    def insert(self, took: Took) -> None:
        """The rows that are new since the last time, in one transaction."""
        rows = self._ledger.execute("SELECT * FROM ledger WHERE id > ? ORDER BY id", (self._after,)).fetchall()
        with took.timing():
            self._bare.executemany(f"INSERT INTO ledger VALUES ({_marks(rows)})", rows)
            self._bare.commit()
        self._after = int(rows[-1][0])

    def missing(self, taken: int) -> int:
        """How many of the rows that were taken the bare table lacks."""
        return taken - int(self._bare.execute("SELECT count(*) FROM ledger").fetchone()[0])

    def close(self) -> None:
        """Close both databases."""
        self._ledger.close()
        self._bare.close()


class EveryRow:
    """A copy of the ledger's database, with every index, that takes all rows that batches put in or changed.

    It begins with the rows of all tables but the largest, so that a changed row is one that is there already.
    """

    def __init__(self, ledger: Path, file: Path) -> None:
        self._bare = _synced(file)
        self._bare.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
        self._bare.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
        self._reader = sqlite3.connect(read_only(ledger), uri=True)
        self._tables = dict(self._reader.execute(_SCHEMA, ("table",)))
        self._begin()
        self._reader.execute("ATTACH ? AS bare", (read_only(file),))
        self._reader.execute("PRAGMA temp_store=MEMORY")
        self._began = {table: self._highest(table, key) for table, key in _APPENDED.items()}
        self._after = dict(self._began)

    def _begin(self) -> None:
        """Make tables and indexes, and copy what is compared."""
        for create in [*self._tables.values(), *dict(self._reader.execute(_SCHEMA, ("index",))).values()]:
            self._bare.execute(create)
        for table in self._tables.keys() - _APPENDED.keys():
            self._put(table, self._reader.execute(f'SELECT * FROM "{table}"').fetchall())
        self._bare.commit()

    def _highest(self, table: str, key: str) -> int:
        (highest,) = self._reader.execute(f"SELECT coalesce(max({key}), 0) FROM main.{table}").fetchone()
        return int(highest)

    def insert(self, took: Took) -> None:
        """The rows that are new or others since the last time, as they are now, in one transaction."""
        changed = {table: self._changed(table) for table in self._tables}
        with took.timing():
            for table, rows in changed.items():
                self._put(table, rows)
            self._bare.commit()
        self._after = {table: self._highest(table, key) for table, key in _APPENDED.items()}

    def _changed(self, table: str) -> list[Row]:
        """In the order of the table's key, or of its columns."""
        key = _APPENDED.get(table)
        if key is not None:
            query = f"SELECT * FROM main.{table} WHERE {key} > ? ORDER BY {key}"
            return self._reader.execute(query, (self._after[table],)).fetchall()
        return self._reader.execute(f'SELECT * FROM main."{table}" EXCEPT SELECT * FROM bare."{table}"').fetchall()

    def _put(self, table: str, rows: list[Row]) -> None:
        """Rows of the largest tables are new; each other takes the place of the row that has its key."""
        if rows:
            how = "INSERT" if table in _APPENDED else "INSERT OR REPLACE"
            _insert(self._bare, f'{how} INTO "{table}" VALUES', rows)

    def missing(self) -> int:
        """How many rows of the ledger's database the copy lacks, or has otherwise, but for those from before it."""
        return sum(self._missing(table) for table in self._tables)

    def _missing(self, table: str) -> int:
        key = _APPENDED.get(table)
        since = "" if key is None else f" WHERE {key} > {self._began[table]}"
        rows = f'SELECT * FROM main."{table}"{since} EXCEPT SELECT * FROM bare."{table}"'
        return int(self._reader.execute(f"SELECT count(*) FROM ({rows})").fetchone()[0])

    def close(self) -> None:
        """Close both databases."""
        self._reader.close()
        self._bare.close()


def _insert(database: sqlite3.Connection, statement: str, rows: list[Row]) -> None:
    """Insert rows, narrow ones many a statement."""
    row = f"({_marks(rows)})"
    together = len(rows) - len(rows) % _TOGETHER if len(rows[0]) <= _NARROW else 0
    many = f"{statement} {', '.join([row] * _TOGETHER)}"
    for start in range(0, together, _TOGETHER):
        database.execute(many, list(chain.from_iterable(rows[start : start + _TOGETHER])))
    database.executemany(f"{statement} {row}", rows[together:])


def _synced(file: Path) -> sqlite3.Connection:
    """A database whose commits survive a power cut."""
    database = sqlite3.connect(file)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    return database


def read_only(file: Path) -> str:
    """The address under which SQLite opens a database that is not to be written."""
    return f"file:{file}?mode=ro"


def _marks(rows: list[Row]) -> str:
    return ", ".join("?" * len(rows[0]))
