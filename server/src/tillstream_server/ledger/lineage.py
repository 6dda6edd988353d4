"""Which epoch follows which, how far each one went, and what of that cannot be true of one till.

A till's epochs are a chain: each names the one it follows and how many records that one had. So two followers of one
epoch, or an epoch that went on after another had followed it, show a copy of the till or an old image of its disk;
a chain that stops short of a position that was signed shows a lost tail; a second beginning shows a lost journal.
Epochs may come to be known in any order, since live records are sent before a backlog.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from tillstream_protocol.framing import MAX_SEQ, NO_EPOCH, ChunkHeader

from . import alarms
from .alarms import SAID, Suspicion, takes_what_was_there
from .database import execute, on_driver
from .lookup import Row, rows_of


@dataclass(frozen=True, slots=True)
class Mark:
    """A position of an epoch that its till's device has signed."""

    till_id: bytes
    epoch: bytes
    position: int


async def note(conn: AsyncConnection, header: ChunkHeader, now_ms: int) -> list[Suspicion]:
    """Note an epoch at first contact; the alarms that it sets off."""
    (found,) = await note_each(conn, [(header, None)], now_ms)
    return found


async def note_each(
    conn: AsyncConnection, headers: Sequence[tuple[ChunkHeader, int | None]], now_ms: int
) -> list[list[Suspicion]]:
    """Note the epochs of several tills; the alarms that each sets off.

    With each goes the position up to which records of it were received just now, if any were: it sets off alarms if
    another epoch followed before it.
    """
    seen = await on_driver(conn, lambda driver: [_see(driver, *one, now_ms) for one in headers])
    every = []
    for (header, position), (first_contact, outrun) in zip(headers, seen, strict=True):
        found = await _begun(conn, header, now_ms) if first_contact else []
        if position is not None and outrun:
            later = await _cut_off(conn, Mark(header.till, header.epoch, position), outrun)
            found += await alarms.sound(conn, later, now_ms)
        every.append(found)
    return every


def _see(driver: sqlite3.Connection, header: ChunkHeader, position: int | None, now_ms: int) -> tuple[bool, list[Row]]:
    """Note an epoch; whether it is new, and which epochs begin before the position."""
    place = (header.till, header.epoch, header.parent, header.parent_position)
    new = driver.execute(_NOTE, (*place, now_ms, header.device_key_id)).rowcount == 1
    return new, driver.execute(_OUTRUN, (header.till, header.epoch, position or 0)).fetchall()


async def _begun(conn: AsyncConnection, header: ChunkHeader, now_ms: int) -> list[Suspicion]:
    """The alarms that an epoch sets off by how it begins."""
    found = await _second_beginnings(conn, header)
    if header.parent != NO_EPOCH:
        found += await _sibling(conn, header)
        found += await _cut_short(conn, header)
        await _raise(conn, Mark(header.till, header.parent, header.parent_position), now_ms)
    return await alarms.sound(conn, found, now_ms)


async def hear(conn: AsyncConnection, marks: Iterable[Mark], now_ms: int) -> list[Suspicion]:
    """Keep positions that tills have signed; the alarms that they set off."""
    found: list[Suspicion] = []
    for mark in marks:
        if mark.position and await _raise(conn, mark, now_ms):
            found += await _outrun(conn, mark)
    return await alarms.sound(conn, found, now_ms)


async def _raise(conn: AsyncConnection, mark: Mark, now_ms: int) -> bool:
    """Keep a position if it is the highest of its epoch; whether it is."""
    return await execute(conn, _RAISE, mark.till_id, mark.epoch, mark.position, now_ms) == 1


async def _sibling(conn: AsyncConnection, header: ChunkHeader) -> list[Suspicion]:
    rows = await conn.exec_driver_sql(_SIBLING, (header.till, header.parent, header.epoch, SAID))
    return [Suspicion(header.till, "forked", header.epoch, row[0], header.parent_position) for row in rows.all()]


async def _cut_short(conn: AsyncConnection, header: ChunkHeader) -> list[Suspicion]:
    """Whether the epoch begins before what is known of its parent."""
    place, begins = (header.till, header.parent), header.parent_position
    last = (await conn.exec_driver_sql(_LAST_RECEIVED, place)).scalar()
    if last is not None and last >= begins:
        found = await _unless_damaged(conn, _restored(header.till, header.epoch, header.parent, begins, last + 1))
        if found:
            return found
        begins = last + 1
    signed = (await conn.exec_driver_sql(_SIGNED_END, place)).scalar() or 0
    if signed > begins:
        tail = Suspicion(header.till, "tail_lost", header.epoch, header.parent, begins, signed - 1)
        return [] if await _declared(conn, tail) else [tail]
    return []


async def _outrun(conn: AsyncConnection, mark: Mark) -> list[Suspicion]:
    """The epochs that begin before a position that the epoch they follow has reached."""
    return await _cut_off(conn, mark, await rows_of(conn, _OUTRUN, mark.till_id, mark.epoch, mark.position))


async def _cut_off(conn: AsyncConnection, mark: Mark, followers: Iterable[Row]) -> list[Suspicion]:
    """What is to be suspected of these followers of an epoch, each with where it begins, before the mark."""
    found: list[Suspicion] = []
    for child, begins in followers:
        found += await _unless_damaged(conn, _restored(mark.till_id, child, mark.epoch, begins, mark.position))
    return found


def _restored(till_id: bytes, epoch: bytes, parent: bytes, begins: int, end: int) -> Suspicion:
    return Suspicion(till_id, "restored_image", epoch, parent, begins, end - 1)


async def _unless_damaged(conn: AsyncConnection, one: Suspicion) -> list[Suspicion]:
    """Nothing if the till has said that a damage took what it does not know of."""
    said = await _declared(conn, one)
    return [] if any(takes_what_was_there(reason, last) for reason, last in said) else [one]


async def _declared(conn: AsyncConnection, one: Suspicion) -> list[tuple[str, int | None]]:
    """The losses that the till has stated of everything that is suspected: reason, and last seq where it is known."""
    rows = await rows_of(conn, _STATED, one.till_id, one.other, one.first, MAX_SEQ, one.range.last)
    return [(reason, last) for reason, last in rows]


async def _second_beginnings(conn: AsyncConnection, header: ChunkHeader) -> list[Suspicion]:
    """The beginnings of the header's device besides its first: its chains that end in an epoch without a parent."""
    rows = await conn.exec_driver_sql(_EPOCHS, (header.till,))
    parents: dict[bytes, bytes] = {}
    written: list[bytes] = []
    for epoch, parent, device in map(tuple, rows.all()):
        parents[epoch] = parent
        if device == header.device_key_id:
            written.append(epoch)
    known: dict[bytes, bytes | None] = {}
    beginnings = {_beginning(parents, epoch, known) for epoch in written}
    first, *others = [epoch for epoch in parents if epoch in beginnings] or [header.epoch]
    return [Suspicion(header.till, "journal_missing", one, first, 0) for one in others]


def _beginning(parents: Mapping[bytes, bytes], epoch: bytes, known: dict[bytes, bytes | None]) -> bytes | None:
    """The epoch without a parent that a chain begins with; None where a link is not known, or goes in a circle.

    `known` holds the answers so far and takes the new ones: a till has one epoch a start, so thousands in its years,
    and no link is followed twice.
    """
    passed: list[bytes] = []
    at: bytes | None = epoch
    while at is not None and at not in known:
        known[at] = None  # what a circle comes back to
        passed.append(at)
        parent = parents.get(at)
        if parent == NO_EPOCH:
            known[at] = at
        else:
            at = parent
    found = None if at is None else known[at]
    known.update(dict.fromkeys(passed, found))
    return found


_NOTE: Final = """
INSERT INTO epoch (till_id, epoch, parent, parent_position, first_seen_ms, device_key_id) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT DO NOTHING
"""

_RAISE: Final = """
INSERT INTO high_water (till_id, epoch, position, at_ms) VALUES (?, ?, ?, ?)
ON CONFLICT (till_id, epoch) DO UPDATE SET position = excluded.position, at_ms = excluded.at_ms
WHERE excluded.position > high_water.position
"""

_SIBLING: Final = """
SELECT epoch FROM epoch e WHERE till_id = ? AND parent = ? AND epoch <> ? AND NOT EXISTS (
    SELECT 1 FROM alarm a WHERE a.till_id = e.till_id AND a.kind = 'restored_image' AND a.epoch = e.epoch
    AND a.other = e.parent AND (a.settled_ms IS NULL OR instr(a.note, ?) <> 1)
) ORDER BY first_seen_ms, rowid LIMIT 1
"""
"""The first other follower of an epoch that has set off no alarm yet: once a copy was told of, the till that goes on
from its own end is no second one. An alarm that the till's own statement settled told of none."""

_LAST_RECEIVED: Final = """
SELECT last_seq FROM received WHERE till_id = ? AND epoch = ? ORDER BY first_seq DESC LIMIT 1
"""

_SIGNED_END: Final = "SELECT position FROM high_water WHERE till_id = ? AND epoch = ?"

_OUTRUN: Final = "SELECT epoch, parent_position FROM epoch WHERE till_id = ? AND parent = ? AND parent_position < ?"

_STATED: Final = """
SELECT reason, last_seq FROM lost
WHERE till_id = ? AND epoch = ? AND first_seq <= ? AND COALESCE(last_seq, ?) >= ?
"""

_EPOCHS: Final = "SELECT epoch, parent, device_key_id FROM epoch WHERE till_id = ? ORDER BY rowid"
