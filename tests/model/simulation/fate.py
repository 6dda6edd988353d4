"""What must become of each record: kept beside the simulated world, in plain lists.

A record is *required* as long as some machine's disk must still have it. A crash takes nothing. A power cut takes what
was neither confirmed by the disk nor old enough; an image that is put back takes what came after it; a flipped bit
takes the one record that it hits; a server that is put back takes what the tills have given up meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

Name = tuple[bytes, int]
"""Epoch and seq."""

WINDOW_S: Final = 0.020
"""What a power cut may take: what was captured within this time, and the write under way."""
HEALED_WITHIN_S: Final = 5.0
_FLIPPED: Final = "flipped bit"


@dataclass(slots=True)
class Kept:
    """One captured record. `homes` are the machines whose disks must have it."""

    name: Name
    sale: str
    machine: str
    at: float
    told: bool = False
    """Whether the POS heard of it."""
    on_disk: bool = False
    """Whether the disk confirmed it to the POS."""
    homes: dict[str, None] = field(default_factory=dict)


@dataclass(slots=True)
class Fault:
    """When a disk was unwell, or nobody was there to sync it, in seconds; and how long after that all is synced."""

    start: float
    end: float
    heals_s: float = HEALED_WITHIN_S

    def excuses(self, captured: float, lost: float, window: float) -> bool:
        """Whether what was captured then may still have been unsynced at `lost` because of it."""
        return self.start - window <= captured <= self.end and lost <= self.end + self.heals_s


@dataclass(slots=True)
class Doubt:
    """A record that a machine may have lost, and how."""

    record: Kept
    machine: str
    how: str
    at: float


@dataclass(frozen=True, slots=True)
class Copy:
    """A machine's disk was copied: to another machine, or to be put back on itself later."""

    till_id: bytes
    machine: str
    other: str
    at: float
    """When the image was taken."""
    used_at: float
    """When the copy began to run."""
    known: bool
    """Whether the server held records, as the copy began to run, that the copy knows nothing of."""

    def must_be_noticed(self, fate: Fate) -> bool:
        """Whether both went on, or the server knew better."""
        if self.machine == self.other:
            return self.known and fate.sold(self.machine, self.used_at)
        return fate.sold(self.machine, self.at) and fate.sold(self.other, self.used_at)


class Violation(AssertionError):
    """An invariant does not hold."""


class Fate:
    """Every record that was ever captured."""

    def __init__(self) -> None:
        self.records: dict[Name, Kept] = {}
        self.attempted: dict[str, None] = {}
        """Every sale that was ever rung up."""
        self.doubts: list[Doubt] = []
        self.beheaded: set[bytes] = set()
        """Epochs of which a chunk has no header any more: a till that forgot one may follow twice what came before."""

    def captured(self, name: Name, sale: str, machine: str, at: float, *, repeat: bool) -> Kept:
        """The journal took a record, or said under which name it has it. Raises `Violation`."""
        known = self.records.get(name)
        if known is not None and known.sale != sale:
            raise Violation(f"sale {sale} was given the name of sale {known.sale}")
        if known is not None and not repeat:
            raise Violation(f"the name of sale {sale} was given twice")
        if known is None:
            known = self.records[name] = Kept(name, sale, machine, at)
        if not any(one.record is known and one.machine == machine and one.how == _FLIPPED for one in self.doubts):
            known.homes[machine] = None  # a till may know a sale whose frame was damaged since
        return known

    def sold(self, machine: str, since: float) -> bool:
        """Whether a machine has captured anything since a moment that it still has."""
        return any(r.machine == machine and r.at > since and machine in r.homes for r in self.records.values())

    def required(self) -> list[Kept]:
        """What the POS was told of and some disk must have."""
        return [record for record in self.records.values() if record.told and record.homes]

    def at_home(self, machine: str) -> list[Kept]:
        """What a machine's disk must have."""
        return [record for record in self.records.values() if machine in record.homes]

    def power_cut(self, machine: str, at: float, *, window: float, faults: Sequence[Fault]) -> None:
        """What was captured within `window` seconds, or while the disk was unwell, may be lost."""
        for record in self.at_home(machine):
            if record.on_disk:
                continue
            if record.at >= at - window or any(fault.excuses(record.at, at, window) for fault in faults):
                self._doubt(record, machine, "power cut", at)

    def hit(self, machine: str, names: Iterable[Name], at: float) -> None:
        """These records were damaged on a machine's disk."""
        for name in names:
            record = self.records.get(name)
            if record is not None and machine in record.homes:
                self._doubt(record, machine, _FLIPPED, at)

    def forgotten(self, machine: str, names: Iterable[Name], at: float) -> None:
        """The server held these once, and the machine had given them up since, as it may."""
        for name in names:
            record = self.records.get(name)
            if record is not None and machine in record.homes:
                self._doubt(record, machine, "given up before the server was restored", at)

    def put_back(self, machine: str, names: Iterable[Name], at: float) -> frozenset[Name]:
        """A machine's disk has what it had when an image was taken; what it had beside that."""
        again = set(names)
        gone = [record for record in self.at_home(machine) if record.name not in again]
        for record in gone:
            self._doubt(record, machine, "image put back", at)
        for name, record in self.records.items():
            if name in again:
                record.homes[machine] = None
        return frozenset(record.name for record in gone)

    def _doubt(self, record: Kept, machine: str, how: str, at: float) -> None:
        del record.homes[machine]
        self.doubts.append(Doubt(record, machine, how, at))
