"""What a power cut leaves of one file, and of one folder's names.

What is assumed of a real disk, and no more:

- A sector of 512 bytes is written whole or not at all, and writing one harms no other.
- Bytes survive once their file was synced, names once the folder was, and neither does the other's work.
- Until then every change may have reached the medium or not, in any order; a write also in part, or as zeros, when
  its length was recorded and its bytes were not.
- A failed sync leaves its changes readable and calls them clean: no later sync writes them, and a power cut may still
  take them. So it is on Linux.
- The death of a process takes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Literal, Protocol, Self, TypeVar

SECTOR = 512

Manner = Literal["dropped", "kept", "torn", "reordered"]
"""What a power cut does to unsynced changes: takes them all; takes none; takes those after a certain one, which is
itself torn; takes or tears any of them."""

State = Literal["dirty", "clean", "firm"]
"""Not synced yet; called clean by a sync that failed; synced, though a change before it may be missing."""


class Change(Protocol):
    """Something that was done to a file or a folder. Serials rise with time."""

    serial: int
    state: State

    def part(self, random: Random) -> Self:
        """What of it reached the medium if not all did."""


@dataclass(slots=True)
class Write:
    """Bytes that were written at `start`; with None, a cut to `start`.

    `sectors` are the numbers of the only sectors that reached the medium, with None all of them.
    """

    serial: int
    start: int
    data: bytes | None
    state: State = "dirty"
    sectors: frozenset[int] | None = None

    def apply(self, content: bytearray) -> None:
        """Do it to a file's content."""
        if self.data is None:
            _resize(content, self.start)
            return
        end = self.start + len(self.data)
        if self.sectors is None:
            if len(content) < self.start:
                _resize(content, self.start)
            content[self.start : end] = self.data
            return
        if len(content) < end:
            _resize(content, end)
        for sector in self.sectors:
            first, last = max(self.start, sector * SECTOR), min(end, (sector + 1) * SECTOR)
            content[first:last] = self.data[first - self.start : last - self.start]

    def part(self, random: Random) -> Write:
        """A prefix, some of its sectors with zeros between, or nothing but zeros."""
        if not self.data:
            return self
        choice = random.randrange(3)
        if choice == 0:
            return replace(self, data=self.data[: random.randrange(len(self.data))])
        touched = range(self.start // SECTOR, (self.start + len(self.data) - 1) // SECTOR + 1)
        chosen = [sector for sector in touched if random.random() < 0.5] if choice == 1 else []
        return replace(self, sectors=frozenset(chosen))

    def flip(self, byte: int, bit: int) -> None:
        """Turn one bit of the file round, if it is in here."""
        if self.data is not None and self.start <= byte < self.start + len(self.data):
            data = bytearray(self.data)
            data[byte - self.start] ^= 1 << bit
            self.data = bytes(data)


@dataclass(slots=True)
class Inode:
    """One file's content: `seen` as a reader finds it, `kept` as the medium has it, and the changes between."""

    seen: bytearray = field(default_factory=bytearray)
    kept: bytearray = field(default_factory=bytearray)
    waiting: list[Write] = field(default_factory=list)

    def change(self, change: Write) -> None:
        """Take a change up into the page cache."""
        change.apply(self.seen)
        self.waiting.append(change)

    def settle(self, before: int) -> None:
        """A sync succeeded that began when `before` was the next serial."""
        for change in _pop_firm(self.waiting, before):
            change.apply(self.kept)

    def flip(self, byte: int, bit: int) -> None:
        """Turn one bit round, wherever that byte is kept."""
        self.seen[byte] ^= 1 << bit
        if byte < len(self.kept):
            self.kept[byte] ^= 1 << bit
        for change in self.waiting:
            change.flip(byte, bit)

    def after_power_cut(self, manner: Manner, random: Random) -> bytes:
        """What is found there afterwards."""
        content = bytearray(self.kept)
        for change in _survivors(self.waiting, manner, random):
            change.apply(content)
        return bytes(content)


@dataclass(slots=True)
class Move:
    """A file lost the name `name`, or was given the name `to`, or both at once."""

    serial: int
    name: str | None
    to: str | None
    inode: Inode
    state: State = "dirty"

    def apply(self, names: dict[str, Inode]) -> None:
        """Do it to a folder's names."""
        if self.name is not None and names.get(self.name) is self.inode:
            del names[self.name]
        if self.to is not None:
            names[self.to] = self.inode

    def part(self, random: Random) -> Move:
        """A change of names is not done by halves."""
        return self


@dataclass(slots=True)
class Folder:
    """A folder's names: as a reader finds them, as the medium has them, and the changes between."""

    seen: dict[str, Inode] = field(default_factory=dict)
    kept: dict[str, Inode] = field(default_factory=dict)
    waiting: list[Move] = field(default_factory=list)

    def change(self, move: Move) -> None:
        """Take a change up."""
        move.apply(self.seen)
        self.waiting.append(move)

    def settle(self, before: int) -> None:
        """A sync succeeded that began when `before` was the next serial."""
        for move in _pop_firm(self.waiting, before):
            move.apply(self.kept)

    def after_power_cut(self, manner: Manner, random: Random) -> dict[str, Inode]:
        """What is found there afterwards."""
        names = dict(self.kept)
        for move in _survivors(self.waiting, manner, random):
            move.apply(names)
        return names


_Any = TypeVar("_Any", bound=Change)


def betray(waiting: Sequence[Change], before: int) -> None:
    """A sync failed that began when `before` was the next serial."""
    for change in waiting:
        if change.serial < before and change.state == "dirty":
            change.state = "clean"


def _pop_firm(waiting: list[_Any], before: int) -> list[_Any]:
    """Make firm what a sync reached; take out what nothing uncertain precedes."""
    for change in waiting:
        if change.serial < before and change.state == "dirty":
            change.state = "firm"
    firm = next((i for i, change in enumerate(waiting) if change.state != "firm"), len(waiting))
    done = waiting[:firm]
    del waiting[:firm]
    return done


def _survivors(waiting: Sequence[_Any], manner: Manner, random: Random) -> Iterator[_Any]:
    """What of the changes reached the medium: the firm ones, and of the others what the manner leaves."""
    unsure = sum(change.state != "firm" for change in waiting)
    torn = random.randrange(unsure) if manner == "torn" and unsure else 0
    index = -1
    for change in waiting:
        if change.state == "firm":
            yield change
            continue
        index += 1
        if manner == "kept" or (manner == "torn" and index < torn):
            yield change
        elif manner == "torn" and index == torn:
            yield change.part(random)
        elif manner == "reordered" and random.random() < 0.5:
            yield change.part(random) if random.random() < 0.5 else change


def _resize(content: bytearray, size: int) -> None:
    if size <= len(content):
        del content[size:]
    else:
        content.extend(bytes(size - len(content)))
