"""Tells a batch's new records from repeats, conflicts and dead letters, by what has been received under their names.

A name is taken once. The same name with the same content is a repeat, with another content a conflict: kept aside,
never taken. A dead letter's name is still free for a good copy.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sqlalchemy import Table, select
from sqlalchemy.ext.asyncio import AsyncConnection

from tillstream_protocol.messages import Range
from tillstream_protocol.ranges import contains

from ..ledger import schema
from ..ledger.received import Stretch, spanning
from .opening import Opened, OpenedBatch, Refused


@dataclass(slots=True)
class Sorted:
    """A batch's frames by what is to be done with them; numbers are places in the batch."""

    new: list[Opened] = field(default_factory=list)
    dead: list[tuple[int, Refused]] = field(default_factory=list)
    conflicts: list[tuple[int, Opened]] = field(default_factory=list)
    repeated: int = 0
    still_dead: list[Refused] = field(default_factory=list)
    superseded: list[int] = field(default_factory=list)
    """Seqs whose dead letters a good copy replaces."""


async def sort(conn: AsyncConnection, opened: OpenedBatch, stretch: Stretch) -> Sorted:
    """Sort a batch by what the database has under the names of its records."""
    seqs = [item.seq for item in opened.items]
    batch = spanning(seqs)
    touched = [one for one in stretch.ranges if one.first <= batch.last and one.last >= batch.first]
    repeats = [seq for seq in seqs if contains(touched, seq)] if touched else []
    digests: dict[int, bytes] = {}
    dead: set[int] = set()
    if repeats:
        span = spanning(repeats)
        digests |= await _digests(conn, schema.ledger, stretch, span)
        digests |= await _digests(conn, schema.duplicate, stretch, span)
        dead = await _dead(conn, stretch, span)
    return _sort(opened, digests, dead)


def _sort(opened: OpenedBatch, digests: dict[int, bytes], dead: set[int]) -> Sorted:
    result = Sorted()
    for index, item in enumerate(opened.items):
        known = digests.get(item.seq)
        if isinstance(item, Refused):
            _sort_refused(result, index, item, known is not None, dead)
        elif known is None:
            digests[item.seq] = item.digest
            result.new.append(item)
            if item.seq in dead:
                result.superseded.append(item.seq)
        elif known == item.digest:
            result.repeated += 1
        else:
            result.conflicts.append((index, item))
    return result


def _sort_refused(result: Sorted, index: int, item: Refused, stored: bool, dead: set[int]) -> None:
    if stored:
        result.repeated += 1
    elif item.seq in dead:
        result.repeated += 1
        result.still_dead.append(item)
    else:
        dead.add(item.seq)
        result.dead.append((index, item))


async def _digests(conn: AsyncConnection, table: Table, stretch: Stretch, span: Range) -> dict[int, bytes]:
    columns = table.c
    query = select(columns.seq, columns.digest).where(
        columns.till_id == stretch.till_id,
        columns.epoch == stretch.epoch,
        columns.seq.between(span.first, span.last),
    )
    return {row.seq: row.digest for row in await conn.execute(query)}


async def _dead(conn: AsyncConnection, stretch: Stretch, span: Range) -> set[int]:
    columns = schema.dead_letter.c
    query = select(columns.seq).where(
        columns.till_id == stretch.till_id,
        columns.epoch == stretch.epoch,
        columns.seq.between(span.first, span.last),
    )
    return set((await conn.execute(query)).scalars())
