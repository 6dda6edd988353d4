"""What was lost is noticed, and nothing else is: the server's gaps, losses and alarms against what really happened."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .fate import Doubt, Name, Violation
from .ledger import Ledger
from .world import World

_OF_COPIES: Final = frozenset({"forked", "restored_image", "journal_missing"})
_OF_ABSENCE: Final = frozenset({"tail_lost", "missing"})


@dataclass(frozen=True, slots=True)
class Stretch:
    """Seqs of an epoch from `first` on, up to `last` or without an end."""

    epoch: bytes
    first: int
    last: int | None

    def holds(self, name: Name) -> bool:
        """Whether a name lies in it."""
        epoch, seq = name
        return epoch == self.epoch and self.first <= seq and (self.last is None or seq <= self.last)


@dataclass(frozen=True, slots=True)
class Notices:
    """What the server has noticed, by itself or because a till said so."""

    lost: tuple[Stretch, ...]
    high_water: Mapping[bytes, int]
    alarms: tuple[tuple[bytes, str, Stretch, bool], ...]
    """Till, kind, what it is about, and whether it is settled."""


def read_notices(path: Path) -> Notices:
    """Read them as they lie on the disk."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        lost = tuple(Stretch(*row) for row in db.execute("SELECT epoch, first_seq, last_seq FROM lost"))
        waters: dict[bytes, int] = dict(db.execute("SELECT epoch, position FROM high_water").fetchall())
        alarms = tuple(
            (till, kind, Stretch(other, first, last), settled is not None)
            for till, kind, other, first, last, settled in db.execute(
                "SELECT till_id, kind, other, first_seq, last_seq, settled_ms FROM alarm"
            )
        )
    return Notices(lost, waters, alarms)


def check_notices(world: World, ledger: Ledger) -> None:
    """Raises `Violation`."""
    notices = read_notices(world.server.root / "ledger.db")
    for doubt in world.fate.doubts:
        record = doubt.record
        gone = record.told and not record.homes and record.name not in ledger.names
        if gone and doubt.how != "image put back" and not _noticed(doubt, ledger, notices):
            name = f"{record.name[0].hex()[:6]}/{record.name[1]}"
            raise Violation(
                f"sale {record.sale}, {name}, was lost ({doubt.how} of {doubt.machine}), and nobody notices"
            )
    _copies_are_noticed(world, notices)
    _nothing_is_imagined(world, notices)


def _noticed(doubt: Doubt, ledger: Ledger, notices: Notices) -> bool:
    epoch, seq = doubt.record.name
    gap = any(e == epoch and s > seq for e, s in ledger.received)
    said = any(stretch.holds(doubt.record.name) for stretch in notices.lost)
    alarmed = any(stretch.holds(doubt.record.name) for _, _, stretch, _ in notices.alarms)
    return gap or said or alarmed or notices.high_water.get(epoch, 0) > seq


def _copies_are_noticed(world: World, notices: Notices) -> None:
    for copy in world.copies:
        if copy.must_be_noticed(world.fate) and not any(till == copy.till_id for till, *_ in notices.alarms):
            raise Violation(f"{copy.machine} was copied as {copy.other}, both went on, and nobody notices")


def _nothing_is_imagined(world: World, notices: Notices) -> None:
    copied = {copy.till_id for copy in world.copies}
    for till, kind, stretch, settled in notices.alarms:
        if till in copied:
            continue
        about = f"{kind} of {stretch.epoch.hex()[:6]} from {stretch.first}"
        if kind in _OF_COPIES and stretch.epoch not in world.fate.beheaded:
            raise Violation(f"an alarm that is none, since there is no copy: {about}")
        lossy = any(doubt.record.name[0] == stretch.epoch for doubt in world.fate.doubts)
        if kind in _OF_ABSENCE and not settled and not lossy:
            raise Violation(f"an alarm that is none, since nothing was lost: {about}")
