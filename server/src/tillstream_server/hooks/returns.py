"""Returns that were deleted. An order that lists its returns says with each delivery which of them there are.

What it lists no more is taken back: the same return once more, of the kind `cancel`, dated by the order's own change.
Deliveries overtake each other, so the other way round, too: a return that stands only in an older delivery than the
order that is known, and that nobody has, was deleted before; it is told as taken back at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace as with_changes
from sqlalchemy.ext.asyncio import AsyncConnection

from tillstream_protocol.adapters import Reading
from tillstream_protocol.transaction import Transaction, idempotency_key

from .. import tills
from ..keys import ServerKeys
from ..ledger.bodies import decode_transaction
from ..ledger.lookup import rows_of
from ..pipeline.opening import IdempotencyNames, fill
from ..tills import Place

DELETED: Final = "its order does not list it any more"
"""The reason that a return bears which was taken back so."""


async def settled(
    conn: AsyncConnection, keys: ServerKeys, till_id: bytes, readings: Sequence[Reading]
) -> list[Reading]:
    """Readings of one delivery, and after each order the returns of it that are to be taken back."""
    place = await tills.by_id(conn, till_id)
    assert place is not None
    names = IdempotencyNames(keys)
    found: list[Reading] = []
    for reading in readings:
        found.append(reading)
        if reading.returns is not None:
            found += await _of_order(conn, names, place, reading, readings)
    return _each_once(found)


def _each_once(readings: Sequence[Reading]) -> list[Reading]:
    """Of a return that is taken back, nothing else that the delivery tells."""
    gone = {one.transaction.pos_id for one in readings if one.transaction.reason == DELETED}
    return [one for one in readings if one.transaction.pos_id not in gone or one.transaction.reason == DELETED]


async def _of_order(
    conn: AsyncConnection, names: IdempotencyNames, place: Place, reading: Reading, readings: Sequence[Reading]
) -> list[Reading]:
    order = fill(reading.transaction, place.retailer, place.store, place.till, "")
    name = names.name(idempotency_key(order))
    held = _all(await rows_of(conn, _HELD, place.retailer, name))
    brought = _all(await rows_of(conn, _RETURNS, name, place.retailer))
    known = {one.pos_id: one for one in brought if _is_of(one, order)}
    told = [one for one in readings if one.returns is not None and one.transaction.pos_id == order.pos_id]
    newest = max((*held, *(one.transaction for one in told)), key=_said)
    listed = reading.returns or frozenset()
    if _said(newest) > _said(order):
        there = known.keys() | {id_ for one in told if one.transaction is newest for id_ in one.returns or ()}
        late = [one.transaction for one in readings if one.transaction.pos_id in listed - there]
        return [_taken_back(one, newest.changed_at) for one in late]
    known |= {one.transaction.pos_id: one.transaction for one in readings if _is_of(one.transaction, order)}
    gone = [one for one in known.values() if one.kind == "return" and one.pos_id not in listed]
    return [_taken_back(one, order.changed_at) for one in gone]


def _is_of(one: Transaction, order: Transaction) -> bool:
    """Whether a return is one that an order itself lists."""
    return one.pos_id.startswith(f"{order.pos_id}/")


def _said(order: Transaction) -> tuple[int, int]:
    return order.revision, order.changed_at or 0


def _taken_back(one: Transaction, changed_at: int | None) -> Reading:
    return Reading(with_changes(one, kind="cancel", changed_at=changed_at, reason=DELETED, customer=None), b"")


def _all(rows: Sequence[tuple[bytes]]) -> list[Transaction]:
    return [decode_transaction(body) for (body,) in rows]


_HELD: Final = """
SELECT l.body FROM ledger l JOIN sale s ON s.ledger_id = l.id WHERE l.retailer = ? AND l.idem = ?
"""
_RETURNS: Final = """
SELECT l.body FROM link k JOIN ledger l ON l.id = k.ledger_id JOIN sale s ON s.ledger_id = l.id
WHERE k.target = ? AND k.relation = 'original' AND l.retailer = ?
"""
