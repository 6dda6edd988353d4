"""What the console's pages of stores and tills show, read from the tables as they are.

Lists go by an index and are paged by the key after which to go on, never by a number of rows to skip. A till's state
is a matter of its last heartbeat and of the time, so nothing has to be kept up to date for it; `since_ms` is the
`heard_since_ms` of `states`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncConnection

from ..ledger.database import on_driver
from ..states import STATES, State, of_heartbeat, of_till

FEW: Final = 2_000
"""So many tills are sorted rather than found in order."""
TIMELINE: Final = 50
RECORDS: Final = 20

Value = str | int | bytes | None
Key = tuple[str, str, str]


class Filter(Struct, frozen=True):
    """Which tills; None is every one. `name` is how a till's name begins."""

    retailer: str | None = None
    store: str | None = None
    state: State | None = None
    version: str | None = None
    name: str | None = None


class TillRow(Struct, frozen=True):
    """A till and its last heartbeat, whose fields are None where there never was one. Times are in milliseconds.

    `lag_ms` is the age of the oldest record that waits; `skew_ms` how far the till's clock is ahead.
    """

    till_id: bytes
    retailer: str
    store: str
    till: str
    created_ms: int
    revoked_ms: int | None
    state: State
    seen_ms: int | None
    version: str | None
    queued: int | None
    lag_ms: int | None
    skew_ms: int | None
    last_error: str | None
    dead_letters: int | None
    damaged_files: int | None
    disk_free: int | None
    hook_p99: int | None
    epoch: bytes | None
    position: int | None

    @property
    def key(self) -> Key:
        """What the list is ordered by."""
        return self.retailer, self.store, self.till


@dataclass(frozen=True, slots=True)
class Counts:
    """How many tills are in each state and run each version, as of a moment."""

    as_of_ms: int
    states: dict[State, int]
    versions: dict[str, int]

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self.states.values())


class StoreRow(Struct, frozen=True):
    """A store and how many tills it has in each state."""

    retailer: str
    store: str
    states: dict[State, int]

    @property
    def tills(self) -> int:
        """All of them."""
        return sum(self.states.values())


class Device(Struct, frozen=True):
    """A device that speaks, or spoke, for a till."""

    key_id: bytes
    created_ms: int
    revoked_ms: int | None
    version: str
    platform: str


class Happening(Struct, frozen=True):
    """Something in a till's life. `kind` names it in the words of the pages, `detail` is text of ours or the till's."""

    at_ms: int
    kind: str
    detail: str


class RecordRow(Struct, frozen=True):
    """One of a till's newest records, without what it says of anybody."""

    seq: int
    body_type: str
    at_ms: int
    received_ms: int
    amount_minor: int | None
    currency: str | None


@dataclass(frozen=True, slots=True)
class TillLife:
    """What is known of one till beside its row."""

    devices: tuple[Device, ...]
    timeline: tuple[Happening, ...]
    records: tuple[RecordRow, ...]
    alarms: int
    quarantined: int


async def tills(
    conn: AsyncConnection, wanted: Filter, since_ms: int, *, after: Key | None, limit: int
) -> list[TillRow]:
    """Tills by retailer, store and name, at most `limit` of them that come after a key."""
    return await on_driver(conn, lambda driver: _tills(driver, wanted, since_ms, after, limit))


def _tills(driver: sqlite3.Connection, wanted: Filter, since_ms: int, after: Key | None, limit: int) -> list[TillRow]:
    where, values = _where(wanted, since_ms)
    if after is not None:
        where.append("(t.retailer, t.store, t.till) > (?, ?, ?)")
        values += after
    tables, chosen = _tables(driver, wanted, since_ms)
    statement = f"{_COLUMNS} {tables} WHERE {' AND '.join(where)} ORDER BY t.retailer, t.store, t.till LIMIT ?"
    rows = driver.execute(statement, (since_ms, *chosen, *values, limit))
    return [TillRow(*row) for row in rows]


def _tables(driver: sqlite3.Connection, wanted: Filter, since_ms: int) -> tuple[str, Sequence[Value]]:
    """Where to begin: with the tills in order, or with those of a heartbeat that few have, sorted afterwards."""
    where, values = _status_where(wanted, since_ms)
    if wanted.store is not None or not where:
        return _FROM, ()
    few = f"SELECT s.till_id FROM till_status s WHERE {' AND '.join(where)}"  # noqa: S608
    ((count,),) = driver.execute(f"SELECT COUNT(*) FROM ({few} LIMIT ?)", (*values, FEW + 1))  # noqa: S608
    return (
        (f"FROM ({few}) few CROSS JOIN till t ON t.till_id = few.till_id {_JOINS}", values)
        if count <= FEW
        else (_FROM, ())
    )


async def till(conn: AsyncConnection, key: Key, since_ms: int) -> TillRow | None:
    """One till, if there is one of this name."""
    rows = await on_driver(conn, lambda driver: driver.execute(_TILL, (since_ms, *key)).fetchall())
    return TillRow(*rows[0]) if rows else None


async def counts(
    conn: AsyncConnection, retailer: str | None, store: str | None, since_ms: int, *, as_of_ms: int
) -> Counts:
    """The fleet in figures, of which every till is in one and only one."""
    rows = await on_driver(conn, lambda driver: _counts(driver, retailer, store, since_ms))
    states: dict[State, int] = dict.fromkeys(STATES, 0)
    versions: dict[str, int] = {}
    for state, version, count in rows:
        states[state] += count
        if version:
            versions[version] = versions.get(version, 0) + count
    return Counts(as_of_ms, states, {version: count for version, count in sorted(versions.items()) if count})


def _counts(
    driver: sqlite3.Connection, retailer: str | None, store: str | None, since_ms: int
) -> list[tuple[State, str | None, int]]:
    """State, version and how many; a line may take back what another counted.

    Of the whole fleet, heartbeats are counted where they lie, one after another, and only the few tills that are
    revoked or take webhooks are looked up; that takes a tenth of the time that looking up each till's would.
    """
    ((first, last),) = driver.execute("SELECT (SELECT MIN(retailer) FROM till), (SELECT MAX(retailer) FROM till)")
    if store is not None or (retailer is not None and (first, last) != (retailer, retailer)):
        where, values = _where(Filter(retailer, store), since_ms)
        statement = f"SELECT {_STATE}, s.agent_version, COUNT(*) {_FROM} WHERE {' AND '.join(where)} GROUP BY 1, 2"
        return driver.execute(statement, (since_ms, *values)).fetchall()
    found = driver.execute(_HEARD, (since_ms,)).fetchall()
    for statement in _SPECIAL:
        for state, counted_as, version, count in driver.execute(statement, (since_ms,)):
            found += [(state, version, count), (counted_as, version, -count)]
    ((tills,),) = driver.execute("SELECT COUNT(*) FROM till")
    return [*found, ("new", None, tills - sum(count for _, _, count in found))]


async def stores(
    conn: AsyncConnection,
    retailer: str | None,
    store: str | None,
    since_ms: int,
    *,
    after: tuple[str, str] | None,
    limit: int,
) -> list[StoreRow]:
    """Stores by retailer and name: those where tills were enrolled, and those that only sales name."""
    return await on_driver(conn, lambda driver: _stores(driver, (retailer, store), since_ms, after or ("", ""), limit))


def _stores(
    driver: sqlite3.Connection, scope: tuple[str | None, str | None], since_ms: int, after: tuple[str, str], limit: int
) -> list[StoreRow]:
    values = (scope[0], scope[0], scope[1], scope[1])
    names: set[tuple[str, str]] = set(driver.execute(_STORES, (*after, *values, limit)).fetchall())
    names.update(islice(selling(driver, *scope, after=after), limit))
    found: list[StoreRow] = []
    for retailer, store in sorted(names)[:limit]:
        counted = driver.execute(_STORE_COUNTS, (since_ms, retailer, store)).fetchall()
        found.append(StoreRow(retailer, store, dict(counted)))
    return found


def selling(
    driver: sqlite3.Connection, retailer: str | None, store: str | None, *, after: tuple[str, str] = ("", "")
) -> Iterator[tuple[str, str]]:
    """Every store of which there are sales after a key, in order: a seek each, and nobody reads all of their hours."""
    if retailer is not None and store is not None:
        if (retailer, store) > after and driver.execute(_SOLD, (retailer, store)).fetchone():
            yield retailer, store
        return
    place: tuple[str, str] | None = after
    while place is not None:
        place = driver.execute(_NEXT, place).fetchone()
        if place is not None and retailer in (None, place[0]) and store in (None, place[1]):
            yield place


async def life(conn: AsyncConnection, row: TillRow) -> TillLife:
    """What is known of a till."""
    return await on_driver(conn, lambda driver: _life(driver, row))


def _life(driver: sqlite3.Connection, row: TillRow) -> TillLife:
    devices = tuple(Device(*found) for found in driver.execute(_DEVICES, (row.till_id,)))
    happenings = [
        Happening(*found) for statement in _TIMELINE for found in driver.execute(statement, (row.till_id, TIMELINE))
    ]
    happenings += _of_places(row)
    records = driver.execute(_RECORDS, (row.till_id, row.epoch or b"", RECORDS)).fetchall()
    ((alarms,),) = driver.execute(_ALARMS, (row.till_id,))
    ((quarantined,),) = driver.execute(_QUARANTINED, (row.till_id,))
    newest = sorted(happenings, key=lambda one: -one.at_ms)[:TIMELINE]
    return TillLife(devices, tuple(newest), tuple(RecordRow(*found) for found in records), alarms, quarantined)


def _of_places(row: TillRow) -> Iterable[Happening]:
    yield Happening(row.created_ms, "made", "")
    if row.revoked_ms is not None:
        yield Happening(row.revoked_ms, "revoked", "")
    if row.seen_ms is not None:
        yield Happening(row.seen_ms, "heard", row.version or "")


def _where(wanted: Filter, since_ms: int) -> tuple[list[str], list[Value]]:
    where, values = ["1 = 1"], list[Value]()
    columns = (("t.retailer", wanted.retailer), ("t.store", wanted.store), ("s.agent_version", wanted.version))
    for column, value in columns:
        if value is not None:
            where.append(f"{column} = ?")
            values.append(value)
    if wanted.name:
        where.append("substr(t.till, 1, length(?)) = ?")
        values += (wanted.name, wanted.name)
    if wanted.state is not None:
        where.append(f"{_STATE} = ?")
        values += (since_ms, wanted.state)
        if wanted.state in _HINTS:
            where.append(_HINTS[wanted.state])
    return where, values


def _status_where(wanted: Filter, since_ms: int) -> tuple[list[str], list[Value]]:
    """What of a filter the heartbeat alone decides."""
    where, values = list[str](), list[Value]()
    if wanted.version is not None:
        where.append("s.agent_version = ?")
        values.append(wanted.version)
    if wanted.state in ("well", "ill", "silent"):
        where.append(f"{_HEARD_STATE} = ?")
        values += (since_ms, wanted.state)
    return where, values


_HEARD_STATE: Final = of_heartbeat("?")
_STATE: Final = of_till("?")
_JOINS: Final = "LEFT JOIN till_status s ON s.till_id = t.till_id"
_FROM: Final = f"FROM till t {_JOINS}"
_HINTS: Final[dict[State, str]] = {
    "new": "NOT EXISTS (SELECT 1 FROM till_status n WHERE n.till_id = t.till_id)",
    "source": "t.till_id IN (SELECT till_id FROM source)",
    "revoked": "t.revoked_ms IS NOT NULL",
}
"""What holds for a state and has an index: it says no more than the state does."""

_COLUMNS: Final = f"""
SELECT t.till_id, t.retailer, t.store, t.till, t.created_ms, t.revoked_ms, {_STATE}, s.seen_ms, s.agent_version,
    s.queued, s.oldest_queued_ms, s.clock_ms - s.seen_ms, s.last_error, s.dead_letters, s.damaged_files,
    s.disk_free, s.hook_p99, s.epoch, s.position"""
_TILL: Final = f"{_COLUMNS} {_FROM} WHERE (t.retailer, t.store, t.till) = (?, ?, ?)"
_STORE_COUNTS: Final = f"SELECT {_STATE}, COUNT(*) {_FROM} WHERE t.retailer = ? AND t.store = ? GROUP BY 1"

_HEARD: Final = f"SELECT {_HEARD_STATE}, s.agent_version, COUNT(*) FROM till_status s GROUP BY 1, 2"  # noqa: S608
_SPECIAL: Final = (
    f"SELECT 'revoked', {_HEARD_STATE}, s.agent_version, COUNT(*) FROM till t {_JOINS}"  # noqa: S608
    " WHERE t.revoked_ms IS NOT NULL GROUP BY 2, 3",
    f"SELECT 'source', {_HEARD_STATE}, s.agent_version, COUNT(*) FROM source d JOIN till t ON t.till_id = d.till_id"  # noqa: S608
    f" {_JOINS} WHERE t.revoked_ms IS NULL GROUP BY 2, 3",
)
"""What the tills that are revoked or take webhooks count as, and what they were counted as by their heartbeats."""

_STORES: Final = """
SELECT retailer, store FROM store WHERE (retailer, store) > (?, ?) AND (? IS NULL OR retailer = ?)
    AND (? IS NULL OR store = ?) ORDER BY retailer, store LIMIT ?
"""
_NEXT: Final = """
SELECT retailer, store FROM sales_by_hour WHERE (retailer, store, hour_ms) > (?, ?, 9223372036854775807)
ORDER BY retailer, store, hour_ms LIMIT 1
"""
"""With the last hour that there could be: SQLite would read every hour of the store before otherwise."""
_SOLD: Final = "SELECT 1 FROM sales_by_hour WHERE retailer = ? AND store = ? LIMIT 1"

_DEVICES: Final = """
SELECT key_id, created_ms, revoked_ms, agent_version, platform FROM device WHERE till_id = ?
ORDER BY created_ms DESC LIMIT 20
"""
_TIMELINE: Final = (
    "SELECT created_ms, 'enrolled', lower(hex(key_id)) FROM device WHERE till_id = ? ORDER BY created_ms DESC LIMIT ?",
    "SELECT first_seen_ms, 'started', lower(hex(epoch)) FROM epoch WHERE till_id = ?"
    " ORDER BY first_seen_ms DESC LIMIT ?",
    "SELECT first_seen_ms, 'alarm', kind FROM alarm WHERE till_id = ? ORDER BY first_seen_ms DESC LIMIT ?",
    "SELECT settled_ms, 'settled', note FROM alarm WHERE till_id = ? AND settled_ms IS NOT NULL"
    " ORDER BY settled_ms DESC LIMIT ?",
    "SELECT l.received_ms, 'lost', o.reason FROM lost o JOIN ledger l ON l.id = o.ledger_id WHERE o.till_id = ?"
    " ORDER BY o.ledger_id DESC LIMIT ?",
    "SELECT received_ms, 'dead_letter', code || ': ' || reason FROM dead_letter WHERE till_id = ?"
    " ORDER BY received_ms DESC LIMIT ?",
    "SELECT received_ms, 'quarantined', reason FROM quarantine WHERE till_id = ? ORDER BY received_ms DESC LIMIT ?",
)
_RECORDS: Final = """
SELECT seq, body_type, at_ms, received_ms, amount_minor, currency FROM ledger WHERE till_id = ? AND epoch = ?
ORDER BY seq DESC LIMIT ?
"""
_ALARMS: Final = "SELECT COUNT(*) FROM alarm WHERE till_id = ? AND settled_ms IS NULL"
_QUARANTINED: Final = "SELECT COUNT(*) FROM quarantine WHERE till_id = ?"
