"""What of a till's records is not here: below the highest position known of an epoch, and neither received nor said to
be lost nor accounted for by an alarm that was settled.

A gap is nothing bad as long as its till has a queue. One that has nothing left to send will not fill it: that sets off
the alarm `missing`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from tillstream_protocol.framing import MAX_SEQ
from tillstream_protocol.messages import Range, Vitals
from tillstream_protocol.ranges import covers, merge

from . import alarms, received
from .alarms import ABSENT, Suspicion
from .lookup import among
from .received import without

Ranges = Mapping[bytes, tuple[Range, ...]]

ARRIVED: Final = "the records have arrived, or their till has said that it lost them"


@dataclass(frozen=True, slots=True)
class Gap:
    """Records of an epoch that are not here. `since_ms` is when something above them was first heard of; `alarm` says
    whether an unsettled alarm is about them."""

    epoch: bytes
    range: Range
    since_ms: int | None
    alarm: bool

    def plain(self) -> dict[str, object]:
        """The gap as JSON can hold it."""
        return {
            "epoch": self.epoch.hex(),
            "first": self.range.first,
            "last": self.range.last,
            "records": self.range.last - self.range.first + 1,
            "since_ms": self.since_ms,
            "alarm": self.alarm,
        }


async def of_till(conn: AsyncConnection, till_id: bytes) -> list[Gap]:
    """Every gap of a till, by epoch and seq."""
    missing = await _missing(conn, till_id, None)
    noisy = await _alarmed(conn, till_id)
    return [
        Gap(epoch, one, await _since(conn, till_id, epoch, one), covers(noisy.get(epoch, ()), one))
        for epoch, ranges in sorted(missing.items())
        for one in ranges
    ]


async def lost_of(conn: AsyncConnection, till_id: bytes) -> list[dict[str, object]]:
    """What a till says it has lost, the oldest statement first; `filled` where all of it has arrived after all."""
    rows = (await conn.exec_driver_sql(_LOST_OF, (till_id,))).all()
    held = await received.of_epochs(conn, till_id)
    return [
        {
            "epoch": epoch.hex(),
            "first": first,
            "last": last,
            "chunk": chunk,
            "reason": reason,
            "said_ms": said_ms,
            "filled": last is not None and covers(held.get(epoch, ()), Range(first, last)),
        }
        for epoch, first, last, chunk, reason, said_ms in map(tuple, rows)
    ]


async def watch(conn: AsyncConnection, vitals: Vitals, *, all_epochs: bool, now_ms: int) -> list[Suspicion]:
    """What a heartbeat gives away: alarms about records that a till should have sent, and the end of older ones.

    With `all_epochs` every epoch of the till is looked at, else the one that it writes now.
    """
    await _settle_arrived(conn, vitals.till_id, now_ms)
    if vitals.queued:
        return []
    till_id = vitals.till_id
    missing = await _missing(conn, till_id, None if all_epochs else [vitals.epoch])
    if sum(one.last - one.first + 1 for ranges in missing.values() for one in ranges) <= vitals.dead_letters:
        return []
    known = await _alarmed(conn, till_id)
    found = [
        Suspicion(till_id, "missing", epoch, epoch, one.first, one.last)
        for epoch, ranges in missing.items()
        for one in ranges
        if not covers(known.get(epoch, ()), one)
    ]
    return await alarms.sound(conn, found, now_ms)


async def _settle_arrived(conn: AsyncConnection, till_id: bytes, now_ms: int) -> None:
    unsettled = await alarms.open_absences(conn, till_id)
    if not unsettled:
        return
    missing = await _missing(conn, till_id, {alarm.about.other for alarm in unsettled})
    for alarm in unsettled:
        wanted = (alarm.about.range,)
        if without(wanted, missing.get(alarm.about.other, ())) == wanted:
            await alarms.settle(conn, till_id, alarm.id, ARRIVED, now_ms)


async def _missing(conn: AsyncConnection, till_id: bytes, epochs: Iterable[bytes] | None) -> Ranges:
    """What is missing by epoch, of some epochs or of all."""
    wanted = None if epochs is None else set(epochs)
    held = await received.of_epochs(conn, till_id, wanted)
    positions = await _positions(conn, till_id, wanted)
    accounted = await _accounted(conn, till_id)
    missing = {}
    for epoch in wanted if wanted is not None else positions.keys() | held.keys():
        here = held.get(epoch, ())
        end = max(positions.get(epoch, 0), here[-1].last + 1 if here else 0)
        gone = without((Range(0, end - 1),) if end else (), merge([*here, *accounted.get(epoch, ())]))
        if gone:
            missing[epoch] = gone
    return missing


async def _positions(conn: AsyncConnection, till_id: bytes, epochs: Iterable[bytes] | None) -> Mapping[bytes, int]:
    if epochs is None:
        return dict(map(tuple, (await conn.exec_driver_sql(_POSITIONS, (till_id,))).all()))
    return dict(map(tuple, await among(conn, f"{_POSITIONS} AND epoch IN (?)", epochs, till_id)))


async def _accounted(conn: AsyncConnection, till_id: bytes) -> Mapping[bytes, list[Range]]:
    """What nobody waits for any more: said to be lost, or settled."""
    rows = await conn.exec_driver_sql(_ACCOUNTED, (till_id, till_id, *ABSENT))
    return _by_epoch(rows.all())


async def _alarmed(conn: AsyncConnection, till_id: bytes) -> Ranges:
    """What unsettled alarms say is missing."""
    unsettled = await alarms.open_absences(conn, till_id)
    ranges = _by_epoch([(a.about.other, a.about.first, a.about.last) for a in unsettled])
    return {epoch: merge(some) for epoch, some in ranges.items()}


def _by_epoch(rows: Sequence[Sequence[object]]) -> Mapping[bytes, list[Range]]:
    found: defaultdict[bytes, list[Range]] = defaultdict(list)
    for epoch, first, last in rows:
        assert isinstance(epoch, bytes)
        assert isinstance(first, int)
        found[epoch].append(Range(first, last if isinstance(last, int) else MAX_SEQ))
    return found


async def _since(conn: AsyncConnection, till_id: bytes, epoch: bytes, gap: Range) -> int | None:
    """When the record after the gap came, or else when its position was heard."""
    after = (till_id, epoch, gap.last + 1)
    came = (await conn.exec_driver_sql(_CAME, after * 3)).scalar()
    if came is None:
        came = (await conn.exec_driver_sql(_HEARD, (till_id, epoch))).scalar()
    return came


_POSITIONS: Final = "SELECT epoch, position FROM high_water WHERE till_id = ?"

_ACCOUNTED: Final = """
SELECT epoch, first_seq, last_seq FROM lost WHERE till_id = ?
UNION ALL
SELECT other, first_seq, last_seq FROM alarm WHERE till_id = ? AND kind IN (?, ?) AND settled_ms IS NOT NULL
"""

_LOST_OF: Final = """
SELECT lost.epoch, lost.first_seq, lost.last_seq, lost.chunk, lost.reason, ledger.received_ms
FROM lost JOIN ledger ON ledger.id = lost.ledger_id WHERE lost.till_id = ? ORDER BY lost.ledger_id
"""

_CAME: Final = """
SELECT MIN(received_ms) FROM (
    SELECT received_ms FROM ledger WHERE till_id = ? AND epoch = ? AND seq = ?
    UNION ALL SELECT received_ms FROM duplicate WHERE till_id = ? AND epoch = ? AND seq = ?
    UNION ALL SELECT received_ms FROM dead_letter WHERE till_id = ? AND epoch = ? AND seq = ?
)
"""

_HEARD: Final = "SELECT at_ms FROM high_water WHERE till_id = ? AND epoch = ?"
