"""Which records of an epoch have been received: merged ranges of seq, kept for ever.

They are what makes a repeat a repeat, so they change in the same transaction as everything a record causes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from tillstream_protocol.framing import MAX_SEQ
from tillstream_protocol.messages import Range
from tillstream_protocol.ranges import merge

from . import schema


@dataclass(frozen=True, slots=True)
class Stretch:
    """The ranges of one epoch that lie at or beside a batch; those further away are of no concern to it."""

    till_id: bytes
    epoch: bytes
    ranges: tuple[Range, ...]


async def near(conn: AsyncConnection, till_id: bytes, epoch: bytes, batch: Range) -> Stretch:
    """What has been received that overlaps or adjoins the seqs of a batch."""
    table = schema.received.c
    query = select(table.first_seq, table.last_seq).where(
        table.till_id == till_id,
        table.epoch == epoch,
        table.first_seq <= min(batch.last + 1, MAX_SEQ),
        table.last_seq >= batch.first - 1,
    )
    rows = (await conn.execute(query.order_by(table.first_seq))).all()
    return Stretch(till_id, epoch, tuple(Range(first, last) for first, last in rows))


async def add(conn: AsyncConnection, stretch: Stretch, ranges: Iterable[Range]) -> tuple[Range, ...]:
    """Note that these seqs have been received; the merged ranges that now hold them."""
    before = set(stretch.ranges)
    merged = merge([*stretch.ranges, *ranges])
    gone = [(stretch.till_id, stretch.epoch, r.first) for r in stretch.ranges if r not in merged]
    come = [(stretch.till_id, stretch.epoch, r.first, r.last) for r in merged if r not in before]
    if gone:
        await conn.exec_driver_sql("DELETE FROM received WHERE till_id = ? AND epoch = ? AND first_seq = ?", gone)
    if come:
        await conn.exec_driver_sql(
            "INSERT INTO received (till_id, epoch, first_seq, last_seq) VALUES (?, ?, ?, ?)", come
        )
    return merged


def spanning(seqs: Sequence[int]) -> Range:
    """The one range from the lowest to the highest of some seqs."""
    return Range(min(seqs), max(seqs))
