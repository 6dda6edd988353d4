"""What is found on disk at start. It always succeeds: damage is stepped over and named, and nothing is deleted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tillstream_protocol.framing import NO_EPOCH, DamagedChunk
from tillstream_protocol.messages import Range

from .chunks import DAMAGED_SUFFIX, HIGHEST, SUFFIX, Chunk, file_number
from .damage import Damage, Evidence, Piece, find_losses
from .disk import Disk
from .headless import Headless, place_headless, read_headless
from .mending import quarantine
from .observer import JournalObserver
from .overlaps import untangle
from .reading import Look, look
from .tags import Tags


@dataclass(slots=True)
class Found:
    """What the folder holds (`names` are its files), which place a new epoch follows, and what may be lost.

    `ends` tells of each epoch the number of its last chunk and the position after its last record on disk.
    `clean_end` is whether the newest chunk was closed by whoever wrote it.
    """

    names: list[str] = field(default_factory=list)
    chunks: list[Chunk] = field(default_factory=list)
    next_number: int = 1
    parent: bytes = NO_EPOCH
    parent_position: int = 0
    clean_end: bool = True
    ends: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    damage: list[Damage] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    unfinished: list[Look] = field(default_factory=list)
    """What is to be closed: nothing is lost at their ends."""


def recover(
    disk: Disk,
    observer: JournalObserver,
    *,
    till: bytes | None = None,
    acked: Mapping[bytes, Sequence[Range]] | None = None,
    tags: Tags | None = None,
) -> Found:
    """Look through the folder. Raises `OSError` only where the folder itself cannot be read.

    A new epoch follows the newest one of `till`; `acked` cannot be lost; tags that were seen go into `tags`.
    """
    survey = _Survey(disk, observer, Found(), acked or {}, tags)
    survey.found.names = sorted(disk.names())
    for name in survey.found.names:
        number = file_number(name)
        if number is not None:
            if number < HIGHEST:
                survey.found.next_number = max(survey.found.next_number, number + 1)
            survey.take(name, number)
    survey.conclude(till)
    return survey.found


@dataclass(slots=True)
class _Survey:
    disk: Disk
    observer: JournalObserver
    found: Found
    acked: Mapping[bytes, Sequence[Range]]
    tags: Tags | None
    looks: list[Look] = field(default_factory=list)
    headless: list[Headless] = field(default_factory=list)
    silent: list[int] = field(default_factory=list)

    def take(self, name: str, number: int) -> None:
        """Read one file, as far as that can be done."""
        if name.endswith(DAMAGED_SUFFIX):
            self.silent.append(number)
        if not name.endswith(SUFFIX):
            return
        try:
            self._look(name, number)
        except OSError as error:
            self.silent.append(number)
            self.found.unreadable.append(name)
            self.observer.set_aside(name, f"it cannot be read now, and is tried again at the next start: {error}")

    def conclude(self, till: bytes | None) -> None:
        """Put together what the files say."""
        found = self.found
        found.chunks = [one.chunk for one in self.looks]
        found.clean_end = not self.looks or self.looks[-1].footer
        untangle(self.disk, found.chunks)
        pieces = [one.piece() for one in self.looks]
        lost = [place_headless(one, found.chunks) for one in self.headless if not one.empty]
        self._name_losses([*pieces, *lost])
        found.unfinished = [one for one in self.looks if not one.footer and not (one.chunk.unreported and one.tail)]
        for bad in self.headless:
            if not any(damage.file == bad.name for damage in found.damage):
                self._put_away(bad.name)
        self._follow(till, lost)

    def _look(self, name: str, number: int) -> None:
        try:
            self.looks.append(look(self.disk, name, number, self.tags, self.observer))
        except DamagedChunk as error:
            self.headless.append(read_headless(self.disk, name, number))
            self.observer.set_aside(name, str(error))

    def _name_losses(self, pieces: list[Piece]) -> None:
        ends: dict[bytes, int] = {}
        for chunk in self.found.chunks:
            ends[chunk.header.parent] = max(ends.get(chunk.header.parent, 0), chunk.header.parent_position)
        empty = {one.number: one.name for one in self.headless if one.empty}
        self.found.damage = find_losses(Evidence(pieces, ends, self.acked, self.silent, empty))
        chunks = {chunk.name: chunk for chunk in self.found.chunks}
        for damage in self.found.damage:
            self.observer.lost(damage.chunk, damage.first, damage.last, damage.reason)
            hurt = chunks.get(damage.file) if damage.reason != "missing_chunk" else None
            if hurt is not None:
                hurt.unreported += 1
                hurt.damaged = hurt.damaged or damage.reason == "damaged_frame"

    def _put_away(self, name: str) -> None:
        try:
            quarantine(self.disk, name)
        except OSError as error:
            self.observer.set_aside(name, f"it could not be renamed: {error.strerror or error}")

    def _follow(self, till: bytes | None, lost: Sequence[Piece]) -> None:
        """Find the place that a new epoch follows."""
        found = self.found
        for chunk in found.chunks:
            end = found.ends.get(chunk.epoch, (0, 0))[1]
            found.ends[chunk.epoch] = (chunk.number, max(end, chunk.end))
        own = [chunk for chunk in found.chunks if till is None or chunk.header.till == till]
        newest: Chunk | Piece | None = own[-1] if own else None
        for piece in lost:
            if piece.epoch != NO_EPOCH and (newest is None or piece.number > newest.number):
                newest = piece
        if newest is not None:
            known = [newest.end, found.ends.get(newest.epoch, (0, 0))[1]]
            known.extend(part.last + 1 for part in self.acked.get(newest.epoch, ()))
            found.parent, found.parent_position = newest.epoch, max(known)
