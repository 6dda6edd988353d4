"""What the server remembers of deliveries: which it has had, and which orders it only knows by name."""

from __future__ import annotations

import hashlib
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from ..keys import ServerKeys
from ..ledger.database import execute
from ..ledger.lookup import rows_of
from .deliveries import Delivery
from .readings import Hint

EVENT_SIZE: Final = 16


def event_of(keys: ServerKeys, till_id: bytes, delivery: Delivery) -> bytes:
    """What a delivery is known by, keyed: its body, and in our own form the event's id.

    Square's id stands in the body. Shopify's and WooCommerce's stand in headers that nobody signs: whoever plays a
    delivery again under another id must not have it taken for a new one, nor a new one for an old.
    """
    state = hashlib.blake2b(digest_size=EVENT_SIZE, key=keys.digest_key, person=b"tillstream-event")
    event = delivery.event.encode(errors="surrogateescape") if delivery.kind == "generic" else b""
    state.update(b"".join((till_id, len(event).to_bytes(4, "big"), event)))
    state.update(delivery.body)
    return state.digest()


async def outcome_of(conn: AsyncConnection, till_id: bytes, event: bytes) -> str | None:
    """What became of an event; None where it is new."""
    rows = await rows_of(conn, "SELECT outcome FROM hook_event WHERE till_id = ? AND event = ?", till_id, event)
    return rows[0][0] if rows else None


async def note(conn: AsyncConnection, till_id: bytes, event: bytes, outcome: str, now_ms: int) -> None:
    """Remember what became of an event."""
    await execute(conn, _NOTE, till_id, event, outcome, now_ms)


async def note_hint(conn: AsyncConnection, till_id: bytes, hint: Hint, now_ms: int) -> None:
    """Remember the newest version of an order that was named."""
    await execute(conn, _HINT, till_id, hint.pos_id, hint.version, hint.state, hint.location, now_ms)


async def hinted(conn: AsyncConnection, till_id: bytes, limit: int) -> list[dict[str, object]]:
    """The orders that were named and never told, the newest first."""
    rows = await rows_of(conn, _HINTED, till_id, limit)
    return [dict(zip(("order", "version", "state", "location", "hinted_ms"), row, strict=True)) for row in rows]


async def explain(conn: AsyncConnection, till_id: bytes, epoch: bytes, seq: int, code: str, reason: str) -> None:
    """Say of a dead letter why its delivery could not be read."""
    await execute(conn, _EXPLAIN, code, reason, till_id, epoch, seq)


_NOTE: Final = """
INSERT INTO hook_event (till_id, event, outcome, received_ms) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING
"""

_HINT: Final = """
INSERT INTO hinted_order (till_id, pos_id, version, state, location, hinted_ms) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (till_id, pos_id) DO UPDATE SET version = excluded.version, state = excluded.state,
    location = excluded.location, hinted_ms = excluded.hinted_ms
WHERE excluded.version > hinted_order.version
"""

_HINTED: Final = """
SELECT pos_id, version, state, location, hinted_ms FROM hinted_order WHERE till_id = ?
ORDER BY hinted_ms DESC, pos_id LIMIT ?
"""

_EXPLAIN: Final = "UPDATE dead_letter SET code = ?, reason = ? WHERE till_id = ? AND epoch = ? AND seq = ?"
