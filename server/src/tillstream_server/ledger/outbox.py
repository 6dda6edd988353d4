"""What waits for each till: pushes, numbered by till, kept until the till has them or they are of no more use.

A till's numbers grow by one with every push, whatever becomes of it. The number is given in the same transaction
that writes the push, so that no later number can become visible before an earlier one and `after` misses nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, cast

from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from tillstream_protocol.codec import encode, message_decoder
from tillstream_protocol.errors import TillstreamError
from tillstream_protocol.messages import OfferPush, PackPush, Push, PushBody, SettingsPush
from tillstream_protocol.pack import MAX_PACK

from . import schema

_SLICE: Final = 500

_decode: Callable[[bytes], PushBody] = message_decoder(cast("Any", PushBody), limit=MAX_PACK)


class UnknownTill(TillstreamError):
    """A push for a till that is not there."""

    code = "unknown_till"


async def enqueue(
    conn: AsyncConnection, till_id: bytes, bodies: Sequence[tuple[PushBody, int]], now_ms: int
) -> list[Push]:
    """Number and keep what is for a till, each body with the time after which it is of no use.

    A pack takes the place of every older one that still waits, and so do settings. Raises `UnknownTill`.
    """
    if not bodies:
        return []
    for kind in (PackPush, SettingsPush):
        if any(isinstance(body, kind) for body, _ in bodies):
            await withdraw(conn, till_id, kind)
    rows = await conn.exec_driver_sql(
        "UPDATE till SET push_seq = push_seq + ? WHERE till_id = ? RETURNING push_seq", (len(bodies), till_id)
    )
    last = rows.scalar_one_or_none()
    if last is None:
        raise UnknownTill("there is no such till", field="till_id")
    first = int(last) - len(bodies) + 1
    pushes = [Push(first + index, expires_ms, body) for index, (body, expires_ms) in enumerate(bodies)]
    await conn.exec_driver_sql(
        "INSERT INTO push_outbox (till_id, seq, expires_ms, body, created_ms) VALUES (?, ?, ?, ?, ?)",
        [(till_id, push.seq, push.expires_ms, encode(push.body), now_ms) for push in pushes],
    )
    return pushes


async def withdraw(conn: AsyncConnection, till_id: bytes, kind: type[PackPush | SettingsPush]) -> None:
    """Drop what of one kind waits for a till."""
    outbox = schema.push_outbox.c
    rows = await conn.execute(
        select(outbox.seq, outbox.body).where(outbox.till_id == till_id, outbox.received_ms.is_(None))
    )
    older = [(till_id, seq) for seq, body in rows.all() if isinstance(_decode(body), kind)]
    if older:
        await conn.exec_driver_sql("DELETE FROM push_outbox WHERE till_id = ? AND seq = ?", older)


async def after(conn: AsyncConnection, till_id: bytes, seq: int, now_ms: int) -> list[Push]:
    """The pushes above `seq` that the till has not confirmed and that are still of use, in order."""
    outbox = schema.push_outbox.c
    rows = await conn.execute(
        select(outbox.seq, outbox.expires_ms, outbox.body)
        .where(outbox.till_id == till_id, outbox.seq > seq, outbox.received_ms.is_(None), outbox.expires_ms > now_ms)
        .order_by(outbox.seq)
    )
    return [Push(number, expires_ms, _decode(body)) for number, expires_ms, body in rows.all()]


async def receive(conn: AsyncConnection, till_id: bytes, seq: int, now_ms: int) -> None:
    """The till holds every push up to `seq`, or has no more use for it. Said again, it changes nothing.

    They are dropped: rows that stay would be read again by every later receipt.
    """
    outbox = schema.push_outbox
    rows = await conn.execute(
        delete(outbox)
        .where(outbox.c.till_id == till_id, outbox.c.seq <= seq)
        .returning(outbox.c.expires_ms, outbox.c.body)
    )
    useful = (_decode(body) for expires_ms, body in rows.all() if expires_ms > now_ms)
    offers = [body.decision.offer_id for body in useful if isinstance(body, OfferPush)]
    decision = schema.decision
    for start in range(0, len(offers), _SLICE):
        await conn.execute(
            update(decision)
            .where(decision.c.offer_id.in_(offers[start : start + _SLICE]), decision.c.received_ms.is_(None))
            .values(received_ms=now_ms)
        )
