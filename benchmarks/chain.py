"""A retailer's whole chain, made up in the ledger's tables: its tills as they last were, and a year of sales.

Nothing of it went through the pipeline: what is measured on it is how head office's pages read, not what tills write.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

RETAILER: Final = "chain"
CURRENCY: Final = "EUR"
TILLS_A_STORE: Final = 100
HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS
YEAR: Final = 365
OPENS, CLOSES = 8, 20
"""Hours of a store's day, in UTC."""


def build(ledger: Path, tills: int, now_ms: int) -> int:
    """Fill an empty ledger; how many rows of sales that made. The same for the same arguments."""
    stores = max(1, tills // TILLS_A_STORE)
    today = now_ms - now_ms % DAY_MS
    with closing(sqlite3.connect(ledger)) as database, database:
        for pragma in ("journal_mode = WAL", "synchronous = OFF", "cache_size = -200000"):
            database.execute(f"PRAGMA {pragma}")
        database.executemany("INSERT INTO store VALUES (?, ?, 0)", ((RETAILER, store_name(n)) for n in range(stores)))
        database.executemany(
            "INSERT INTO till (till_id, retailer, store, till, created_ms) VALUES (?, ?, ?, ?, ?)",
            ((_till_id(n), RETAILER, store_name(n % stores), till_name(n // stores), n) for n in range(tills)),
        )
        database.execute("UPDATE till SET revoked_ms = 1 WHERE created_ms % 1000 = 7")
        database.executemany(_STATUS, (_status(n, now_ms) for n in range(tills) if n % 500 != 3))
        before = database.total_changes  # `rowcount` knows nothing of statements that begin with WITH
        for statement in (_QUARTERS, _HOURS):
            database.execute(statement, (stores, today, now_ms))
        rows = database.total_changes - before
    with closing(sqlite3.connect(ledger)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return rows


def store_name(number: int) -> str:
    """A store's name."""
    return f"store-{number:05}"


def till_name(number: int) -> str:
    """A till's name in its store."""
    return f"till-{number:03}"


def _till_id(number: int) -> bytes:
    """Ids lie about as random ones do."""
    return (number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128).to_bytes(16, "big")


def _status(number: int, now_ms: int) -> tuple[object, ...]:
    """Most tills are well; one in fifty is silent, one in a hundred ill.

    They were heard later than now, so that no other falls silent while it is measured.
    """
    silent, ill = number % 50 == 1, number % 100 == 2
    seen_ms = now_ms - (HOUR_MS if silent else number % 15_000 - HOUR_MS)
    version = f"0.{1 + number % 3}.0"
    queued, oldest_ms, error = (50, HOUR_MS, "unavailable") if ill else (number % 7, 20, "")
    waits = queued, oldest_ms, 90, 200, 900
    return (_till_id(number), bytes(16), number, *waits, 10**10, seen_ms, version, error, seen_ms)


_STATUS: Final = """
INSERT INTO till_status (till_id, epoch, position, queued, oldest_queued_ms, hook_p50, hook_p99, hook_max, disk_free,
    clock_ms, agent_version, last_error, seen_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""

_SERIES: Final = f"""
WITH RECURSIVE store(n) AS (VALUES (0) UNION ALL SELECT n + 1 FROM store WHERE n + 1 < ?1),
    day(d) AS (VALUES ({YEAR - 1}) UNION ALL SELECT d - 1 FROM day WHERE d > 0),
    hour(h) AS (VALUES ({OPENS}) UNION ALL SELECT h + 1 FROM hour WHERE h + 1 < {CLOSES})
"""
_QUARTERS: Final = f"""
{_SERIES}
INSERT INTO sales_by_quarter
SELECT ?2 - d * {DAY_MS} + h * {HOUR_MS} AS at, '{RETAILER}', printf('store-%05d', n), '{CURRENCY}',
    {", ".join(f"20 + (n + d + h + {q}) % 30, 40000 + (n * 7 + d * 11 + h * 13 + {q}) % 30000" for q in range(4))}
FROM day, hour, store WHERE at <= ?3
"""
_HOURS: Final = f"""
{_SERIES}
INSERT INTO sales_by_hour (retailer, store, hour_ms, currency, transactions, amount_minor, lines)
SELECT '{RETAILER}', printf('store-%05d', n), ?2 - d * {DAY_MS} + h * {HOUR_MS} AS at, '{CURRENCY}',
    100 + (n + d + h) % 30, 180000 + (n * 7 + d * 11 + h * 13) % 90000, 900
FROM store, day, hour WHERE at <= ?3
"""
