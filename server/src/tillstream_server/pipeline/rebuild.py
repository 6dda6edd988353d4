"""Drops every projection and folds the ledger into it again.

It runs through the fold that the pipeline uses, a page at a time, in one transaction: whoever reads meanwhile sees
the old figures, and a failure leaves them. It fires nothing: decisions are facts, and are not made again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from typing import Final

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from tillstream_protocol.events import KIND_NUMBERS
from tillstream_protocol.transaction import Transaction

from ..ledger import schema
from ..ledger.bodies import decode_transaction
from ..ledger.database import Database
from . import projections
from .sales import Entry, voided

PAGE: Final = 1_000

_LEDGER: Final = schema.ledger.c


async def rebuild(database: Database, *, page: int = PAGE) -> Mapping[str, object]:
    """Fold the whole ledger again; how many transactions of how many retailers that were.

    Raises `LedgerDamaged` for a row that does not decode, or `LedgerFault`; then nothing has changed.
    """
    async with database.write() as conn:
        for table in schema.PROJECTIONS:
            await conn.execute(delete(table))
        retailers = list((await conn.execute(select(_LEDGER.retailer).distinct())).scalars())
        folded = 0
        for retailer in retailers:
            async for entries in _pages(conn, retailer, page):
                projector = await projections.load(conn, retailer, entries)
                for entry in entries:
                    projector.take(entry)
                await projections.write(conn, projector)
                folded += len({entry.ledger_id for entry in entries})
    return {"transactions": folded, "retailers": len(retailers)}


async def _pages(conn: AsyncConnection, retailer: str, size: int) -> AsyncIterator[list[Entry]]:
    """The transactions of a retailer as entries, those that came under several names once for each."""
    after = 0
    query = select(
        _LEDGER.id,
        _LEDGER.idem,
        _LEDGER.captured_ms,
        _LEDGER.seq,
        _LEDGER.content,
        _LEDGER.till_id,
        _LEDGER.subject,
        _LEDGER.body,
    ).where(_LEDGER.retailer == retailer, _LEDGER.kind == KIND_NUMBERS[Transaction])
    while True:
        rows = (await conn.execute(query.where(_LEDGER.id > after).order_by(_LEDGER.id).limit(size))).all()
        if not rows:
            return
        links = await _links(conn, after, rows[-1].id)
        copies = await _copies(conn, after, rows[-1].id)
        after = rows[-1].id
        entries = []
        for id_, idem, captured_ms, seq, content, till_id, subject, encoded in rows:
            body = decode_transaction(encoded)
            targets = voided(body, links[id_])
            further = copies[id_] if body.changed_at is None else ()
            for captured, number, till in ((captured_ms, seq, till_id), *further):
                entries.append(Entry(idem, id_, captured, number, content, body, till, till_id, subject, targets))
        yield entries


async def _links(conn: AsyncConnection, after: int, last: int) -> Mapping[int, list[tuple[str, bytes]]]:
    table = schema.link.c
    found: defaultdict[int, list[tuple[str, bytes]]] = defaultdict(list)
    query = select(table.ledger_id, table.relation, table.target).where(table.ledger_id.between(after + 1, last))
    for ledger_id, relation, target in (await conn.execute(query)).all():
        found[ledger_id].append((relation, target))
    return found


async def _copies(conn: AsyncConnection, after: int, last: int) -> Mapping[int, list[tuple[int, int, bytes]]]:
    """Ledger id → the other names that its content came under: captured, seq, till."""
    table = schema.duplicate.c
    found: defaultdict[int, list[tuple[int, int, bytes]]] = defaultdict(list)
    query = select(table.ledger_id, table.captured_ms, table.seq, table.till_id)
    for ledger_id, captured_ms, seq, till_id in (
        await conn.execute(query.where(table.ledger_id.between(after + 1, last)))
    ).all():
        found[ledger_id].append((captured_ms, seq, till_id))
    return found
