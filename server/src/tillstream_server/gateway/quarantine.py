"""What revoked tills sent: kept as it came, to be taken after all when head office says so.

A till is never told that a quarantined batch was taken, so it keeps its own copy; that is why the quarantine may
stop growing at a bound without losing anything.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

MAX_BYTES_A_TILL: Final = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Held:
    """One quarantined batch, as it came."""

    id: int
    till_id: bytes
    body: bytes


async def hold(conn: AsyncConnection, till_id: bytes, reason: str, body: bytes, now_ms: int) -> bool:
    """Keep a body once. False when it was there already, or when the till's quarantine is full."""
    used = await conn.exec_driver_sql(
        "SELECT COALESCE(SUM(LENGTH(body)), 0) FROM quarantine WHERE till_id = ?", (till_id,)
    )
    if used.scalar_one() + len(body) > MAX_BYTES_A_TILL:
        return False
    digest = hashlib.sha256(till_id + body).digest()
    kept = await conn.exec_driver_sql(
        "INSERT INTO quarantine (till_id, reason, digest, body, received_ms) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (digest) DO NOTHING",
        (till_id, reason, digest, body, now_ms),
    )
    return kept.rowcount == 1


async def listing(conn: AsyncConnection) -> list[dict[str, object]]:
    """What is held, by till and reason."""
    rows = await conn.exec_driver_sql(
        "SELECT t.retailer, t.store, t.till, q.reason, COUNT(*), SUM(LENGTH(q.body)), MIN(q.received_ms)"
        " FROM quarantine q JOIN till t ON t.till_id = q.till_id"
        " GROUP BY t.retailer, t.store, t.till, q.reason ORDER BY t.retailer, t.store, t.till"
    )
    names = ("retailer", "store", "till", "reason", "batches", "bytes", "oldest_ms")
    return [dict(zip(names, row, strict=True)) for row in rows]


async def next_held(conn: AsyncConnection, till_id: bytes, after: int) -> Held | None:
    """The till's first batch after this id, in the order of arrival."""
    rows = await conn.exec_driver_sql(
        "SELECT id, till_id, body FROM quarantine WHERE till_id = ? AND id > ? ORDER BY id LIMIT 1", (till_id, after)
    )
    return next((Held(*tuple(row)) for row in rows.all()), None)


async def drop(conn: AsyncConnection, held: Held) -> None:
    """Forget a batch that has been taken."""
    await conn.exec_driver_sql("DELETE FROM quarantine WHERE id = ?", (held.id,))
