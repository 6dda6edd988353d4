"""Which records of an epoch have been received: merged ranges of seq, kept for ever.

They are what makes a repeat a repeat, so they change in the same transaction as everything a record causes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from tillstream_protocol.framing import MAX_SEQ
from tillstream_protocol.messages import EpochRanges, Range
from tillstream_protocol.ranges import merge

from .database import execute_all
from .lookup import among, rows_of_each


@dataclass(frozen=True, slots=True)
class Stretch:
    """The ranges of one epoch that lie at or beside a batch; those further away are of no concern to it."""

    till_id: bytes
    epoch: bytes
    ranges: tuple[Range, ...]


async def near(conn: AsyncConnection, till_id: bytes, epoch: bytes, batch: Range) -> Stretch:
    """What has been received that overlaps or adjoins the seqs of a batch."""
    (stretch,) = await near_each(conn, [(till_id, epoch, batch)])
    return stretch


async def near_each(conn: AsyncConnection, batches: Sequence[tuple[bytes, bytes, Range]]) -> list[Stretch]:
    """What has been received that overlaps or adjoins the seqs of each batch, named by till and epoch."""
    many = [(till_id, epoch, min(span.last + 1, MAX_SEQ), span.first - 1) for till_id, epoch, span in batches]
    found = await rows_of_each(conn, _NEAR, many)
    return [
        Stretch(till_id, epoch, tuple(Range(first, last) for first, last in rows))
        for (till_id, epoch, _), rows in zip(batches, found, strict=True)
    ]


async def add_each(
    conn: AsyncConnection, batches: Iterable[tuple[Stretch, Iterable[Range]]]
) -> list[tuple[Range, ...]]:
    """Note what has been received of several epochs; the merged ranges of each that now hold it."""
    gone: list[tuple[object, ...]] = []
    come: list[tuple[object, ...]] = []
    every = []
    for stretch, ranges in batches:
        before, merged = set(stretch.ranges), merge([*stretch.ranges, *ranges])
        gone += [(stretch.till_id, stretch.epoch, r.first) for r in stretch.ranges if r not in merged]
        come += [(stretch.till_id, stretch.epoch, r.first, r.last) for r in merged if r not in before]
        every.append(merged)
    await execute_all(conn, [(_DROP, gone), (_PUT, come)])
    return every


async def of_epochs(
    conn: AsyncConnection, till_id: bytes, epochs: Iterable[bytes] | None = None
) -> Mapping[bytes, tuple[Range, ...]]:
    """What has been received of some epochs of a till, or of all; an epoch of which there is nothing is left out."""
    if epochs is None:
        rows: Sequence[Sequence[object]] = (await conn.exec_driver_sql(_OF_TILL, (till_id,))).all()
    else:
        rows = await among(conn, _OF_EPOCHS, epochs, till_id)
    found: defaultdict[bytes, set[Range]] = defaultdict(set)
    for epoch, first, last in rows:
        assert isinstance(epoch, bytes)
        assert isinstance(first, int)
        assert isinstance(last, int)
        found[epoch].add(Range(first, last))
    return {epoch: merge(ranges) for epoch, ranges in found.items()}


async def lacking(conn: AsyncConnection, till_id: bytes, claimed: Iterable[EpochRanges]) -> tuple[EpochRanges, ...]:
    """What of these ranges has not been received, though the till believes so."""
    claims = [(one.epoch, merge(one.ranges)) for one in claimed]
    held = await of_epochs(conn, till_id, {epoch for epoch, _ in claims})
    missing = ((epoch, without(ranges, held.get(epoch, ()))) for epoch, ranges in claims)
    return tuple(EpochRanges(epoch, ranges) for epoch, ranges in missing if ranges)


def without(ranges: Sequence[Range], taken: Sequence[Range]) -> tuple[Range, ...]:
    """What of merged ranges is left when other merged ranges are taken away."""
    left: list[Range] = []
    cuts = iter(taken)
    cut = next(cuts, None)
    for one in ranges:
        first = one.first
        while cut is not None and cut.last < first:
            cut = next(cuts, None)
        while cut is not None and cut.first <= one.last:
            if cut.first > first:
                left.append(Range(first, cut.first - 1))
            first = cut.last + 1
            if cut.last >= one.last:
                break
            cut = next(cuts, None)
        if first <= one.last:
            left.append(Range(first, one.last))
    return tuple(left)


def spanning(seqs: Sequence[int]) -> Range:
    """The one range from the lowest to the highest of some seqs."""
    return Range(min(seqs), max(seqs))


_NEAR: Final = """
SELECT first_seq, last_seq FROM received WHERE till_id = ? AND epoch = ? AND first_seq <= ? AND last_seq >= ?
ORDER BY first_seq
"""
_DROP: Final = "DELETE FROM received WHERE till_id = ? AND epoch = ? AND first_seq = ?"
_PUT: Final = "INSERT INTO received (till_id, epoch, first_seq, last_seq) VALUES (?, ?, ?, ?)"
_OF_TILL: Final = "SELECT epoch, first_seq, last_seq FROM received WHERE till_id = ?"
_OF_EPOCHS: Final = "SELECT epoch, first_seq, last_seq FROM received WHERE till_id = ? AND epoch IN (?)"
