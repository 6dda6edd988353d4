"""What store IT asks of all tills at once: which there are, how each is, how many of each sort, who was not let in.

Lists are filtered in the database and paged by the till's id, so that a page costs the same at the end of a large
fleet as at its beginning. `states` says what the state of a till is; `heard_since_ms` comes from there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from . import states
from .states import STATES, State

MAX_FAILURES: Final = 1_000
"""Failed enrolments that are remembered; the ones that were tried last stay."""
MAX_STRANGERS: Final = 500
"""Of these, with a token that is not ours: anybody can make those up, and must not push out the others."""

_STATE: Final = states.of_till(":heard")
_FROM: Final = "FROM till t LEFT JOIN till_status s ON s.till_id = t.till_id"
_CONDITIONS: Final = {
    "retailer": "t.retailer = :retailer",
    "store": "t.store = :store",
    "version": "s.agent_version = :version",
    "state": _STATE + " = :state",
}
_COLUMNS: Final = (
    "t.till_id, t.retailer, t.store, t.till, t.created_ms, t.revoked_ms, epoch, position, queued, oldest_queued_ms,"
    " hook_p50, hook_p99, hook_max, disk_free, clock_ms, agent_version, last_error, seen_ms, dead_letters,"
    " damaged_files"
)
_FAILURE: Final = (
    "code",
    "address",
    "retailer",
    "store",
    "till",
    "agent_version",
    "platform",
    "tries",
    "first_ms",
    "last_ms",
)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which tills; None is any."""

    retailer: str | None = None
    store: str | None = None
    state: State | None = None
    version: str | None = None
    """The version of the agent."""

    def where(self) -> str:
        """The conditions, each only if it is asked for: a store is found by its index, and a page of all by the till's
        id, which a search by the retailer alone (hence the `+`) would have to sort for."""
        asked = [text for name, text in _CONDITIONS.items() if getattr(self, name) is not None]
        whole = " WHERE " + " AND ".join(["TRUE", *asked])
        return whole if self.store is not None else whole.replace("t.retailer =", "+t.retailer =")

    def values(self, heard_since_ms: int) -> dict[str, object]:
        """The same for a statement."""
        return {
            "retailer": self.retailer,
            "store": self.store,
            "state": self.state,
            "version": self.version,
            "heard": heard_since_ms,
        }


@dataclass(frozen=True, slots=True)
class Failure:
    """Somebody who was not let in. Neither a token nor anything made of one stands here."""

    code: str
    address: str
    """Where the request came from, as far as the connection and our own proxies tell."""
    retailer: str = ""
    store: str = ""
    till: str = ""
    """Where the token would have led, if it was one of ours."""
    agent_version: str = ""
    platform: str = ""


@dataclass(frozen=True, slots=True)
class Tries:
    """How often one failure happened, and when: milliseconds."""

    count: int
    first_ms: int
    last_ms: int


async def search(
    conn: AsyncConnection, which: Filter, *, heard_since_ms: int, after: bytes = b"", limit: int = 1000
) -> list[dict[str, object]]:
    """Tills in the order of their ids, at most `limit` after the id `after`, each with its state and last heartbeat."""
    rows = await conn.exec_driver_sql(
        f"SELECT {_COLUMNS}, {_STATE} AS state {_FROM}{which.where()}"
        " AND t.till_id > :after ORDER BY t.till_id LIMIT :limit",
        {**which.values(heard_since_ms), "after": after, "limit": limit},
    )
    return [{name: _plain(value) for name, value in row._mapping.items()} for row in rows]


async def counts(conn: AsyncConnection, which: Filter, *, heard_since_ms: int) -> dict[State, int]:
    """How many tills are in each state, zeros included. `state` of the filter is left out of account."""
    which = replace(which, state=None)
    rows = await conn.exec_driver_sql(
        f"SELECT {_STATE} AS state, COUNT(*) {_FROM}{which.where()} GROUP BY 1",
        which.values(heard_since_ms),
    )
    found = {str(state): int(number) for state, number in map(tuple, rows)}
    return {state: found.get(state, 0) for state in STATES}


async def versions(conn: AsyncConnection, which: Filter, *, heard_since_ms: int) -> dict[str, int]:
    """How many tills run which version of the agent, by their last heartbeats."""
    rows = await conn.exec_driver_sql(
        f"SELECT s.agent_version, COUNT(*) {_FROM}{which.where()}"
        " AND s.agent_version IS NOT NULL GROUP BY 1 ORDER BY 1",
        which.values(heard_since_ms),
    )
    return {str(version): int(number) for version, number in map(tuple, rows)}


async def one(conn: AsyncConnection, till_id: bytes, *, heard_since_ms: int, now_ms: int) -> dict[str, object]:
    """A till with its state, its last heartbeat, its devices, and what of it is in quarantine."""
    rows = await conn.exec_driver_sql(
        f"SELECT {_COLUMNS}, {_STATE} AS state {_FROM} WHERE t.till_id = :till",
        {"till": till_id, "heard": heard_since_ms},
    )
    found = {name: _plain(value) for row in rows for name, value in row._mapping.items()}
    return {**found, "devices": await _devices(conn, till_id, now_ms), "quarantine": await held(conn, till_id)}


async def _devices(conn: AsyncConnection, till_id: bytes, now_ms: int) -> list[dict[str, object]]:
    rows = await conn.exec_driver_sql(
        "SELECT key_id, created_ms, revoked_ms, agent_version, platform, revoked_ms IS NULL OR revoked_ms > ?"
        " FROM device WHERE till_id = ? ORDER BY created_ms DESC, key_id",
        (now_ms, till_id),
    )
    names = ("key_id", "created_ms", "until_ms", "agent_version", "platform", "speaks")
    devices = [dict(zip(names, map(_plain, row), strict=True)) for row in rows]
    return [{**device, "speaks": bool(device["speaks"])} for device in devices]


async def held(conn: AsyncConnection, till_id: bytes) -> dict[str, object]:
    """How much of a till is in quarantine, and since when."""
    rows = await conn.exec_driver_sql(
        "SELECT COUNT(*), COALESCE(SUM(LENGTH(body)), 0), MIN(received_ms) FROM quarantine WHERE till_id = ?",
        (till_id,),
    )
    batches, size, oldest = tuple(rows.one())
    return {"batches": batches, "bytes": size, "oldest_ms": oldest}


async def note_failures(conn: AsyncConnection, failures: Mapping[Failure, Tries]) -> None:
    """Remember who was not let in: the same attempt from the same place as one row, the newest `MAX_FAILURES`, of
    them `MAX_STRANGERS` with a token that is not ours."""
    rows = [
        (f.code, f.address, f.retailer, f.store, f.till, f.agent_version, f.platform, t.count, t.first_ms, t.last_ms)
        for f, t in failures.items()
    ]
    if not rows:
        return
    await conn.exec_driver_sql(
        f"INSERT INTO failed_enrolment ({', '.join(_FAILURE)}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608
        " ON CONFLICT (code, address, retailer, store, till, agent_version, platform) DO UPDATE SET"
        " tries = tries + excluded.tries, last_ms = MAX(last_ms, excluded.last_ms)",
        rows,
    )
    for which, most in (("retailer = ''", MAX_STRANGERS), ("TRUE", MAX_FAILURES)):
        await conn.exec_driver_sql(
            f"DELETE FROM failed_enrolment WHERE {which} AND id NOT IN"  # noqa: S608
            f" (SELECT id FROM failed_enrolment WHERE {which} ORDER BY last_ms DESC, id DESC LIMIT ?)",
            (most,),
        )


async def failures(
    conn: AsyncConnection, *, retailer: str | None = None, store: str | None = None, limit: int = MAX_FAILURES
) -> list[dict[str, object]]:
    """Failed enrolments, the newest first. Those with a token that is not ours belong to no retailer."""
    rows = await conn.exec_driver_sql(
        f"SELECT {', '.join(_FAILURE)} FROM failed_enrolment"  # noqa: S608
        " WHERE (:retailer IS NULL OR retailer = :retailer) AND (:store IS NULL OR store = :store)"
        " ORDER BY last_ms DESC, id DESC LIMIT :limit",
        {"retailer": retailer, "store": store, "limit": limit},
    )
    return [dict(row._mapping) for row in rows]


async def tokens(conn: AsyncConnection, *, retailer: str | None = None, now_ms: int) -> list[dict[str, object]]:
    """Enrolment tokens that still let somebody in: where, how often, until when. The tokens are not known here."""
    rows = await conn.exec_driver_sql(
        "SELECT retailer, store, till, uses_left, created_ms, expires_ms FROM token"
        " WHERE uses_left > 0 AND expires_ms > :now AND (:retailer IS NULL OR retailer = :retailer)"
        " ORDER BY expires_ms, retailer, store LIMIT 1000",
        {"now": now_ms, "retailer": retailer},
    )
    return [dict(row._mapping) for row in rows]


def _plain(value: object) -> object:
    return value.hex() if isinstance(value, bytes) else value
