"""Reads what `gauges` tells: when somebody asks, and at most every `FRESH_S` seconds, however many ask.

The figures come from the tills' last heartbeats, one row a till, in three passes over that table that the event loop
does not wait for: at 100,000 tills they take a reader's thread about a quarter of a second
(`tests/server/test_watch.py` makes such a fleet).
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncConnection

from tillstream_protocol.errors import TillstreamError

from .clock import Clock
from .gauges import (
    HOOK_SECONDS,
    LAG_SECONDS,
    SHORT_OF_DISK_BYTES,
    SKEW_SECONDS,
    VERSIONS,
    Fleet,
    Gauges,
    Ledger,
    Readings,
    Spread,
)
from .ledger.database import Database
from .ledger.lookup import rows_of
from .opening import OpeningHours
from .states import heard_since_ms

FRESH_S: Final = 5.0


@dataclass(slots=True)
class Watch:
    """Keeps gauges as fresh as those who ask need them. A till that was not heard for `silent_s` is silent."""

    database: Database
    clock: Clock
    gauges: Gauges
    hours: OpeningHours
    silent_s: float
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _looked: float | None = None

    async def look(self) -> None:
        """Bring the gauges up to date. Raises `LedgerFault` or `OSError`; then they hold nothing."""
        async with self._turn:
            if self._looked is not None and self.clock.monotonic() - self._looked < min(FRESH_S, self.silent_s / 4):
                return
            try:
                self.gauges.now = await self._read()
            except (TillstreamError, OSError):
                self.gauges.now = self._looked = None
                raise
            self._looked = self.clock.monotonic()

    async def _read(self) -> Readings:
        now_ms = self.clock.now_ms()
        async with self.database.read() as conn:
            fleet = await fleet_of(conn, heard_since_ms=heard_since_ms(now_ms, self.silent_s))
            ledger = await _ledger_of(conn, self.database.path)
        return Readings(fleet, ledger, self.hours.state(now_ms))


async def fleet_of(conn: AsyncConnection, *, heard_since_ms: int) -> Fleet:
    """The fleet by its last heartbeats; a till talks if it was heard since then. Webhook sources are no tills here."""
    ((tills, revoked),) = await rows_of(conn, _TILLS)
    ((heard, queued, refused, damaged),) = await rows_of(conn, _HEARD)
    (row,) = await rows_of(conn, _TALKING, heard_since_ms)
    versions = await rows_of(conn, _BY_VERSION, heard_since_ms)
    figures = iter(row)
    talking, short_of_disk = (int(one or 0) for one in islice(figures, 2))
    named: dict[str, int] = dict(versions[:VERSIONS])
    named["other"] = named.get("other", 0) + sum(count for _, count in versions[VERSIONS:])
    return Fleet(
        talking=talking,
        silent=heard - talking,
        unheard=tills - revoked - heard,
        revoked=revoked,
        queued=queued or 0,
        refused=refused or 0,
        damaged=damaged or 0,
        short_of_disk=short_of_disk,
        lag=_spread(figures, LAG_SECONDS, _MS),
        skew=_spread(figures, SKEW_SECONDS, _MS),
        hook=_spread(figures, HOOK_SECONDS, _US),
        versions=named,
        distinct_versions=len(versions),
        off_main_version=talking - (versions[0][1] if versions else 0),
    )


def _spread(figures: Iterator[Any], bounds: Sequence[float], unit: int) -> Spread:
    """The next columns of a row, as `_columns` has named them, from their unit to seconds."""
    total, sum_, max_ = (int(one or 0) for one in islice(figures, 3))
    counts = tuple(int(one or 0) for one in islice(figures, len(bounds)))
    return Spread(tuple(bounds), counts, total, sum_ / unit, max_ / unit)


async def _ledger_of(conn: AsyncConnection, path: Path) -> Ledger:
    alarms = await rows_of(conn, "SELECT kind, COUNT(*) FROM alarm WHERE settled_ms IS NULL GROUP BY kind")
    ((dead_letters, quarantined, conflicts),) = await rows_of(conn, _KEPT)
    return Ledger(
        alarms=dict(alarms),
        dead_letters=dead_letters,
        quarantined=quarantined,
        conflicts=conflicts,
        size=_size(path),
        wal_size=_size(path.with_name(path.name + "-wal")),
        disk_free=shutil.disk_usage(path.parent).free,
    )


def _size(path: Path) -> int:
    """A file's bytes; SQLite takes its write-ahead log away when nobody has the database open."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


_MS: Final = 1_000
_US: Final = 1_000_000


def _columns(value: str, bounds: Sequence[float], unit: int) -> str:
    """SQL for a `Spread` of `value`, where it is not NULL: its number, sum and maximum, then the buckets."""
    within = (f"SUM({value} <= {round(bound * unit)})" for bound in bounds)
    return ", ".join((f"COUNT({value})", f"SUM({value})", f"MAX({value})", *within))


_TILLS: Final = """
SELECT COUNT(*), COUNT(revoked_ms) FROM till WHERE till_id NOT IN (SELECT till_id FROM source)
"""
_CURRENT: Final = "till_id NOT IN (SELECT till_id FROM till WHERE revoked_ms IS NOT NULL)"
_HEARD: Final = f"""
SELECT COUNT(*), SUM(queued), SUM(dead_letters), SUM(damaged_files) FROM till_status WHERE {_CURRENT}
"""  # noqa: S608
_TALKING: Final = f"""
SELECT COUNT(*), SUM(disk_free < {SHORT_OF_DISK_BYTES}),
    {_columns("oldest_queued_ms", LAG_SECONDS, _MS)},
    {_columns("skew_ms", SKEW_SECONDS, _MS)},
    {_columns("hook_p99", HOOK_SECONDS, _US)}
FROM (
    SELECT disk_free, oldest_queued_ms, ABS(clock_ms - seen_ms) AS skew_ms, NULLIF(hook_p99, 0) AS hook_p99
    FROM till_status WHERE seen_ms >= ? AND {_CURRENT} LIMIT -1
)
"""  # noqa: S608
"""The limit limits nothing: it keeps SQLite from working each expression out anew for every bucket. An agent says 0 of
its hook where nobody called."""
_BY_VERSION: Final = f"""
SELECT agent_version, COUNT(*) AS tills FROM till_status WHERE seen_ms >= ? AND {_CURRENT}
GROUP BY agent_version ORDER BY tills DESC, agent_version DESC
"""  # noqa: S608
_KEPT: Final = """
SELECT (SELECT COUNT(*) FROM dead_letter), (SELECT COUNT(*) FROM quarantine), (SELECT COUNT(*) FROM conflict)
"""
