"""The places that tills are: how one comes to be, gets a new device, is turned away and let in again."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from tillstream_protocol.errors import TillstreamError
from tillstream_protocol.messages import Vitals

from .auth import Grant, Randomness, TokenRefused

_NUMBERED: Final = re.compile(r"till-([1-9]\d{0,8})")

_STATUS_COLUMNS: Final = (
    "epoch, position, queued, oldest_queued_ms, hook_p50, hook_p99, hook_max, disk_free, clock_ms, agent_version,"
    " last_error, seen_ms"
)


class UnknownTill(TillstreamError):
    """There is no such till."""

    code = "unknown_till"


@dataclass(frozen=True, slots=True)
class Place:
    """One till by its names. `till_id` has 16 bytes."""

    till_id: bytes
    retailer: str
    store: str
    till: str
    revoked: bool


@dataclass(frozen=True, slots=True)
class NewDevice:
    """What an agent brings along when it joins. `key_id` has 8 bytes, `public_key` 32."""

    key_id: bytes
    public_key: bytes
    agent_version: str
    platform: str


async def place_for(conn: AsyncConnection, grant: Grant, *, now_ms: int, random: Randomness) -> Place:
    """The till that a token's grant leads to, made if need be. Raises `TokenRefused` for one that is revoked."""
    name = grant.till or await _next_name(conn, grant.retailer, grant.store)
    found = await find(conn, grant.retailer, grant.store, name)
    if found is not None:
        if found.revoked:
            hint = "let it in again first: tillstream-server till allow-again"
            raise TokenRefused("till_revoked", f"the till {name} is revoked", hint=hint)
        return found
    await conn.exec_driver_sql(
        "INSERT INTO store (retailer, store, created_ms) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        (grant.retailer, grant.store, now_ms),
    )
    place = Place(random(16), grant.retailer, grant.store, name, revoked=False)
    await conn.exec_driver_sql(
        "INSERT INTO till (till_id, retailer, store, till, created_ms, revoked_ms, push_seq)"
        " VALUES (?, ?, ?, ?, ?, NULL, 0)",
        (place.till_id, place.retailer, place.store, place.till, now_ms),
    )
    return place


async def give_device(conn: AsyncConnection, place: Place, device: NewDevice, now_ms: int) -> None:
    """Let a new device speak for a till; the one before it may no longer."""
    await conn.exec_driver_sql(
        "UPDATE device SET revoked_ms = ? WHERE till_id = ? AND revoked_ms IS NULL", (now_ms, place.till_id)
    )
    await conn.exec_driver_sql(
        "INSERT INTO device (key_id, till_id, public_key, created_ms, revoked_ms, agent_version, platform)"
        " VALUES (?, ?, ?, ?, NULL, ?, ?)",
        (device.key_id, place.till_id, device.public_key, now_ms, device.agent_version, device.platform),
    )


async def find(conn: AsyncConnection, retailer: str, store: str, till: str) -> Place | None:
    """The till of these names, or None."""
    rows = await conn.exec_driver_sql(
        "SELECT till_id, revoked_ms FROM till WHERE retailer = ? AND store = ? AND till = ?", (retailer, store, till)
    )
    for row in rows.all():
        till_id, revoked_ms = tuple(row)
        return Place(till_id, retailer, store, till, revoked_ms is not None)
    return None


async def require(conn: AsyncConnection, retailer: str, store: str, till: str) -> Place:
    """The till of these names. Raises `UnknownTill`."""
    place = await find(conn, retailer, store, till)
    if place is None:
        raise UnknownTill(f"there is no till {till!r} in store {store!r} of {retailer!r}", hint="see: till list")
    return place


async def revoke(conn: AsyncConnection, place: Place, now_ms: int) -> None:
    """Turn a till away: what it sends from now on is quarantined."""
    await conn.exec_driver_sql(
        "UPDATE till SET revoked_ms = ? WHERE till_id = ? AND revoked_ms IS NULL", (now_ms, place.till_id)
    )


async def allow_again(conn: AsyncConnection, place: Place) -> None:
    """Undo a revocation."""
    await conn.exec_driver_sql("UPDATE till SET revoked_ms = NULL WHERE till_id = ?", (place.till_id,))


async def listing(
    conn: AsyncConnection, *, retailer: str | None = None, after: bytes = b"", limit: int = 1000
) -> list[dict[str, object]]:
    """Tills in the order of their ids, at most `limit` after the id `after`, each with its last heartbeat."""
    rows = await conn.exec_driver_sql(
        f"SELECT t.till_id, t.retailer, t.store, t.till, t.created_ms, t.revoked_ms, {_STATUS_COLUMNS}"  # noqa: S608
        " FROM till t LEFT JOIN till_status s ON s.till_id = t.till_id"
        " WHERE t.till_id > ? AND (? IS NULL OR t.retailer = ?) ORDER BY t.till_id LIMIT ?",
        (after, retailer, retailer, limit),
    )
    return [{name: _plain(value) for name, value in row._mapping.items()} for row in rows]


async def record_vitals(conn: AsyncConnection, beats: Iterable[tuple[Vitals, int]]) -> None:
    """Keep each till's last heartbeat, received at the given millisecond."""
    rows = [
        (
            v.till_id,
            v.epoch,
            v.position,
            v.queued,
            v.oldest_queued_ms,
            v.hook.p50,
            v.hook.p99,
            v.hook.max,
            v.disk_free,
            v.clock_ms,
            v.agent_version,
            v.last_error,
            seen_ms,
        )
        for v, seen_ms in beats
    ]
    if rows:
        await conn.exec_driver_sql(
            f"INSERT OR REPLACE INTO till_status (till_id, {_STATUS_COLUMNS})"  # noqa: S608
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            rows,
        )


async def number_pushes_above(conn: AsyncConnection, till_id: bytes, seq: int) -> None:
    """Never number a push so that the till takes it for an old one: after a restore, tills know higher numbers."""
    await conn.exec_driver_sql("UPDATE till SET push_seq = ? WHERE till_id = ? AND push_seq < ?", (seq, till_id, seq))


async def _next_name(conn: AsyncConnection, retailer: str, store: str) -> str:
    rows = await conn.exec_driver_sql("SELECT till FROM till WHERE retailer = ? AND store = ?", (retailer, store))
    numbers = [int(match[1]) for (name,) in rows if (match := _NUMBERED.fullmatch(name))]
    return f"till-{max(numbers, default=0) + 1}"


def _plain(value: object) -> object:
    return value.hex() if isinstance(value, bytes) else value
