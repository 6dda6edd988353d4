"""Ledger facts on their way into the database: rows, and the statements that take them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncConnection

from tillstream_protocol.events import KIND_NUMBERS, RecordsLost
from tillstream_protocol.framing import ChunkHeader
from tillstream_protocol.transaction import Transaction

from ..devices import Device
from ..ledger import alarms
from ..ledger.database import Statement, execute_all
from ..ledger.lookup import look_up
from .opening import Opened, OpenedBatch, Refused


class Placed(Struct, frozen=True, gc=False):
    """A record with its name and its place in the ledger: a row of its own, or another name of a row that is there.

    `first_till` is the till under whose name the row is.
    """

    device: Device
    epoch: bytes
    opened: Opened
    ledger_id: int
    duplicate: bool
    first_till: bytes
    subject: bytes | None
    companions: tuple[bytes, ...]


async def known_contents(
    conn: AsyncConnection, retailer: str, idems: Iterable[bytes]
) -> tuple[dict[tuple[bytes, bytes], tuple[int, bytes]], int]:
    """(idempotency key, content) → ledger id and till, for everything the ledger holds under these keys.

    And the ledger id that is free; the writing transaction alone gives them out.
    """
    rows, ((highest,),) = await look_up(conn, (_READ_CONTENTS, idems, (retailer,)), (_HIGHEST, None, ()))
    return {
        (idem, content): (id_, till_id) for idem, content, id_, till_id in rows
    }, 1 if highest is None else highest + 1


async def write_records(
    conn: AsyncConnection, placed: Sequence[Placed], now_ms: int, caused: Sequence[Statement]
) -> None:
    """Append records to the ledger, and the further names of those that were there; then write what they `caused`."""
    new = [p for p in placed if not p.duplicate]
    rows = [_ledger_row(p, now_ms) for p in new]
    names = [
        (
            p.device.till_id,
            p.epoch,
            p.opened.seq,
            p.ledger_id,
            p.opened.digest,
            p.opened.record.captured_at,
            now_ms,
        )
        for p in placed
        if p.duplicate
    ]
    links = [(p.ledger_id, relation, target) for p in new for relation, target in p.opened.links]
    companions = [(p.ledger_id, subject) for p in new for subject in p.companions]
    facts = ((_APPEND, rows), (_APPEND_DUPLICATE, names), (_APPEND_LINK, links), (_APPEND_COMPANION, companions))
    await execute_all(conn, (*facts, *caused))


async def write_dead(
    conn: AsyncConnection, device: Device, opened: OpenedBatch, dead: Sequence[tuple[int, Refused]], now_ms: int
) -> None:
    """Keep frames whose records cannot be taken, sealed as they came."""
    header = opened.header
    rows = [
        (
            device.retailer,
            header.till,
            header.epoch,
            item.seq,
            item.code,
            item.reason,
            opened.batch.header,
            opened.frame_bytes(index),
            now_ms,
        )
        for index, item in dead
    ]
    await execute_all(conn, [(_KEEP_DEAD, rows)])


async def drop_dead(conn: AsyncConnection, header: ChunkHeader, seqs: Iterable[int]) -> None:
    """Forget dead letters that good copies have replaced."""
    rows = [(header.till, header.epoch, seq) for seq in seqs]
    await execute_all(conn, [("DELETE FROM dead_letter WHERE till_id = ? AND epoch = ? AND seq = ?", rows)])


async def write_conflicts(
    conn: AsyncConnection, opened: OpenedBatch, conflicts: Sequence[tuple[int, Opened]], now_ms: int
) -> None:
    """Keep records whose names the ledger holds with another content."""
    header = opened.header
    rows = [
        (header.till, header.epoch, item.seq, item.digest, opened.batch.header, opened.frame_bytes(index), now_ms)
        for index, item in conflicts
    ]
    await execute_all(conn, [(_KEEP_CONFLICT, rows)])


async def count_refusals(conn: AsyncConnection, counts: Iterable[tuple[str, int]]) -> None:
    """Add to the lasting counts of what was refused, by reason."""
    rows = [(reason, count) for reason, count in counts if count]
    await execute_all(conn, [(_COUNT, rows)])


async def write_lost(conn: AsyncConnection, device: Device, placed: Iterable[Placed], now_ms: int) -> tuple[str, ...]:
    """Keep what the till says it has lost, and settle the alarms that it explains; the reasons."""
    stated = [(p.ledger_id, p.opened.body) for p in placed if not p.duplicate]
    lost = [(ledger_id, body) for ledger_id, body in stated if isinstance(body, RecordsLost)]
    rows = [(id_, device.till_id, one.epoch, one.first, one.last, one.chunk, one.reason) for id_, one in lost]
    await execute_all(conn, [(_KEEP_LOST, rows)])
    for _, one in lost:
        await alarms.settle_declared(conn, device.till_id, one, now_ms)
    return tuple(one.reason for _, one in lost)


def _ledger_row(placed: Placed, now_ms: int) -> tuple[object, ...]:
    o, device = placed.opened, placed.device
    body = o.body
    date = currency = amount = None
    revision, training = 0, False
    if isinstance(body, Transaction):
        date, currency, amount = body.business_date, body.currency, body.total
        revision, training = body.revision, body.training or body.test
    return (
        placed.ledger_id,
        device.retailer,
        o.store,
        device.till_id,
        placed.epoch,
        o.seq,
        o.kind,
        _BODY_TYPES[type(body)],
        o.at_ms,
        date,
        o.record.captured_at,
        now_ms,
        o.idem,
        o.content,
        o.digest,
        revision,
        placed.subject,
        currency,
        amount,
        training,
        o.parts.encoded,
        o.reconciles,
    )


_BODY_TYPES: Final = {type_: str(type_.__struct_config__.tag) for type_ in KIND_NUMBERS}

_HIGHEST: Final = "SELECT MAX(id) FROM ledger"
_READ_CONTENTS: Final = "SELECT idem, content, id, till_id FROM ledger WHERE retailer = ? AND idem IN (?)"

_APPEND: Final = """
INSERT INTO ledger (id, retailer, store, till_id, epoch, seq, kind, body_type, at_ms, business_date, captured_ms,
    received_ms, idem, content, digest, revision, subject, currency, amount_minor, training, body, reconciles)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""

_APPEND_DUPLICATE: Final = """
INSERT INTO duplicate (till_id, epoch, seq, ledger_id, digest, captured_ms, received_ms)
VALUES (?, ?, ?, ?, ?, ?, ?)
"""

_APPEND_LINK: Final = "INSERT INTO link (ledger_id, relation, target) VALUES (?, ?, ?)"
_APPEND_COMPANION: Final = "INSERT INTO companion (ledger_id, subject) VALUES (?, ?)"

_KEEP_DEAD: Final = """
INSERT INTO dead_letter (retailer, till_id, epoch, seq, code, reason, header, frame, received_ms)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO NOTHING
"""

_KEEP_CONFLICT: Final = """
INSERT INTO conflict (till_id, epoch, seq, digest, header, frame, received_ms)
VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO NOTHING
"""

_KEEP_LOST: Final = """
INSERT INTO lost (ledger_id, till_id, epoch, first_seq, last_seq, chunk, reason) VALUES (?, ?, ?, ?, ?, ?, ?)
"""

_COUNT: Final = """
INSERT INTO refusal (reason, count) VALUES (?, ?) ON CONFLICT (reason) DO UPDATE SET count = count + excluded.count
"""
