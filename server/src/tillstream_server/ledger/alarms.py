"""What does not fit together in a till's history, kept until somebody settles it. Nothing is refused or overwritten.

kind              what was seen                                              `epoch`      `other`   range
forked            two epochs follow one epoch: a clone, or an image put      the later    the       from where the
                  back twice                                                 one seen     earlier   later one begins
restored_image    an epoch begins before the end of the one it follows:      that epoch   its       what it does not
                  an old image was put back, or a clone runs on                           parent    know of
tail_lost         an epoch begins before the position that the one it        that epoch   its       what never came
                  follows had signed, and nothing of that has come                        parent
journal_missing   a device begins anew, though it has written before:        the later    the       all
                  its journal was lost or wiped                              beginning    earlier
missing           a till with nothing left to send signed for records        the epoch    the same  what never came
                  that are not here

The range is always one of seqs of `other`; but two siblings have the place in common where the later one begins.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from sqlalchemy.ext.asyncio import AsyncConnection

from tillstream_protocol.errors import TillstreamError
from tillstream_protocol.events import RecordsLost
from tillstream_protocol.framing import MAX_SEQ
from tillstream_protocol.messages import Range

Kind = Literal["forked", "restored_image", "tail_lost", "journal_missing", "missing"]

ABSENT: Final = ("tail_lost", "missing")
"""The kinds whose range is of records that are not here."""
DAMAGE: Final = frozenset({"damaged_frame", "damaged_header", "missing_chunk"})
"""The losses that may take what was on the disk already; a power cut never does."""


SAID: Final = "the till says that it lost these records: "
"""How the note begins of an alarm that a till's own statement settled."""


def takes_what_was_there(reason: str, last: int | None) -> bool:
    """Whether a loss that a till states may have taken what was on the disk already, and was sent.

    A torn tail may, as far as it says what it held: a last frame that was damaged later looks like one.
    """
    return reason in DAMAGE or (reason == "torn_tail" and last is not None)


class UnknownAlarm(TillstreamError):
    """The till has no such alarm."""

    code = "unknown_alarm"


class SettledAlready(TillstreamError):
    """The alarm was settled before: what was said of it then stays."""

    code = "settled_already"


@dataclass(frozen=True, slots=True)
class Suspicion:
    """What an alarm is about; `last` None means that the range has no known end."""

    till_id: bytes
    kind: Kind
    epoch: bytes
    other: bytes
    first: int
    last: int | None = None

    @property
    def range(self) -> Range:
        """The range as one of seqs."""
        return Range(self.first, MAX_SEQ if self.last is None else self.last)


@dataclass(frozen=True, slots=True)
class Alarm:
    """One alarm as it is kept; times are milliseconds. `note` is what whoever settled it has to say."""

    id: int
    about: Suspicion
    first_seen_ms: int
    settled_ms: int | None
    note: str | None

    def plain(self) -> dict[str, object]:
        """The alarm as JSON can hold it."""
        about = self.about
        return {
            "id": self.id,
            "till_id": about.till_id.hex(),
            "kind": about.kind,
            "epoch": about.epoch.hex(),
            "other": about.other.hex(),
            "first": about.first,
            "last": about.last,
            "first_seen_ms": self.first_seen_ms,
            "settled_ms": self.settled_ms,
            "note": self.note,
            "hint": HINTS[about.kind] if self.settled_ms is None else None,
        }


HINTS: Final[dict[Kind, str]] = {
    "forked": "two copies of this till run: at one of them tillstream-agent enroll --replace, then settle this",
    "restored_image": "an image put back, or a copy: at a copy tillstream-agent enroll --replace, then settle this",
    "tail_lost": "records of this till never came: look for its former disk or a power cut, then settle this",
    "journal_missing": "the till's journal was lost or wiped: look for the former folder, then settle this",
    "missing": "the till has nothing left to send: import an export of its queue if there is one, then settle this",
}


async def sound(conn: AsyncConnection, suspicions: Iterable[Suspicion], now_ms: int) -> list[Suspicion]:
    """Keep alarms; those that are new.

    One that a till's own statement had settled is new again when more is found than the statement explains.
    """
    new = []
    for one in suspicions:
        kept = await conn.exec_driver_sql(
            _KEEP, (one.till_id, one.kind, one.epoch, one.other, one.first, one.last, now_ms, SAID)
        )
        if kept.rowcount == 1:
            new.append(one)
    return new


async def of_till(conn: AsyncConnection, till_id: bytes) -> list[Alarm]:
    """Every alarm of a till, settled or not, the oldest first."""
    rows = await conn.exec_driver_sql(f"{_READ} WHERE till_id = ? ORDER BY id", (till_id,))
    return [_alarm(*tuple(row)) for row in rows.all()]


async def tills_with_absences(conn: AsyncConnection) -> frozenset[bytes]:
    """The tills of which some unsettled alarm says that records are not here."""
    rows = await conn.exec_driver_sql(
        "SELECT DISTINCT till_id FROM alarm WHERE settled_ms IS NULL AND kind IN (?, ?)", ABSENT
    )
    return frozenset(rows.scalars())


async def open_absences(conn: AsyncConnection, till_id: bytes) -> list[Alarm]:
    """The unsettled alarms of a till whose records are not here."""
    rows = await conn.exec_driver_sql(f"{_READ} WHERE till_id = ? AND settled_ms IS NULL", (till_id,))
    return [alarm for alarm in (_alarm(*tuple(row)) for row in rows.all()) if alarm.about.kind in ABSENT]


async def listing(
    conn: AsyncConnection, *, retailer: str | None = None, settled: bool = False, after: int = 0, limit: int = 1000
) -> list[dict[str, object]]:
    """Alarms in the order of their ids with the names of their tills, at most `limit` after the id `after`."""
    rows = await conn.exec_driver_sql(_LIST, (after, retailer, retailer, settled, limit))
    names = ("retailer", "store", "till")
    return [{**dict(zip(names, row, strict=False)), **_alarm(*tuple(row)[len(names) :]).plain()} for row in rows.all()]


async def settle(conn: AsyncConnection, till_id: bytes, alarm_id: int, note: str, now_ms: int) -> Alarm:
    """Put an alarm right, and say why. Its missing records count as accounted for.

    Raises `UnknownAlarm`, or `SettledAlready` with the note that was left then: it is never written over.
    """
    done = await conn.exec_driver_sql(
        "UPDATE alarm SET settled_ms = ?, note = ? WHERE id = ? AND till_id = ? AND settled_ms IS NULL",
        (now_ms, note, alarm_id, till_id),
    )
    rows = (await conn.exec_driver_sql(f"{_READ} WHERE id = ? AND till_id = ?", (alarm_id, till_id))).all()
    if not rows:
        raise UnknownAlarm(f"this till has no alarm {alarm_id}", field="alarm", hint="see: till alarms")
    alarm = _alarm(*tuple(rows[0]))
    if done.rowcount == 0:
        words = f"alarm {alarm_id} was settled already, with the note: {alarm.note}"
        raise SettledAlready(words, field="alarm", hint="nothing was changed; see: till alarms --settled")
    return alarm


async def settle_declared(conn: AsyncConnection, till_id: bytes, one: RecordsLost, now_ms: int) -> None:
    """Settle what a till's own statement of a loss explains."""
    lost = Range(one.first, MAX_SEQ if one.last is None else one.last)
    for alarm in await of_till(conn, till_id):
        about = alarm.about
        if alarm.settled_ms is None and about.other == one.epoch and await _explains(conn, one, lost, about):
            await settle(conn, till_id, alarm.id, SAID + one.reason, now_ms)


async def _explains(conn: AsyncConnection, one: RecordsLost, lost: Range, about: Suspicion) -> bool:
    if about.kind == "forked":
        return one.reason in DAMAGE
    within = lost.first <= about.range.first and about.range.last <= lost.last
    if about.kind == "restored_image":
        held = (await conn.exec_driver_sql(_HELD, (about.till_id, about.other))).scalar()
        return within and takes_what_was_there(one.reason, one.last) and (held is None or held <= lost.last)
    return within and about.kind in ABSENT


def _alarm(  # one parameter a column
    id_: int,
    till_id: bytes,
    kind: Kind,
    epoch: bytes,
    other: bytes,
    first: int,
    last: int | None,
    first_seen_ms: int,
    settled_ms: int | None,
    note: str | None,
) -> Alarm:
    return Alarm(id_, Suspicion(till_id, kind, epoch, other, first, last), first_seen_ms, settled_ms, note)


_READ: Final = "SELECT id, till_id, kind, epoch, other, first_seq, last_seq, first_seen_ms, settled_ms, note FROM alarm"

_KEEP: Final = """
INSERT INTO alarm (till_id, kind, epoch, other, first_seq, last_seq, first_seen_ms)
VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (till_id, kind, epoch, other, first_seq) DO UPDATE SET
    last_seq = excluded.last_seq, settled_ms = NULL, note = NULL
WHERE alarm.kind = 'restored_image' AND alarm.settled_ms IS NOT NULL AND excluded.last_seq > alarm.last_seq
    AND instr(alarm.note, ?) = 1
"""

_HELD: Final = "SELECT MAX(last_seq) FROM received WHERE till_id = ? AND epoch = ?"

_LIST: Final = """
SELECT t.retailer, t.store, t.till, a.id, a.till_id, a.kind, a.epoch, a.other, a.first_seq, a.last_seq,
    a.first_seen_ms, a.settled_ms, a.note
FROM alarm a JOIN till t ON t.till_id = a.till_id
WHERE a.id > ? AND (? IS NULL OR t.retailer = ?) AND (? OR a.settled_ms IS NULL) ORDER BY a.id LIMIT ?
"""
