"""Chunks as the journal keeps them in mind: small for those on disk, more for the one that is open."""

from __future__ import annotations

from dataclasses import dataclass, field

from tillstream_protocol.framing import FRAMES_START, ChunkHeader, Entry, Place
from tillstream_protocol.messages import Range
from tillstream_protocol.ranges import count, covers
from tillstream_protocol.sealing import RecordSeal

from .disk import File

SUFFIX = ".chunk"
DAMAGED_SUFFIX = ".damaged"


def file_name(number: int) -> str:
    """The name of a chunk's file: names sort as numbers do."""
    return f"{number:010d}{SUFFIX}"


def file_number(name: str) -> int | None:
    """The number in a chunk's or a damaged chunk's file name, or None for another file."""
    stem, _, suffix = name.partition(".")
    return int(stem) if f".{suffix}" in (SUFFIX, DAMAGED_SUFFIX) and stem.isdecimal() else None


@dataclass(slots=True)
class Chunk:
    """One chunk: what it holds, how much of it is synced, and from where it is still to be sent.

    `present` are the seqs in it. Offsets are in bytes: frames end at `frames_end`, those before `synced_end` survive a
    power cut, and those before `cursor` were acknowledged.
    """

    number: int
    header: ChunkHeader
    encoded_header: bytes
    entries: list[Entry] = field(default_factory=list)
    present: tuple[Range, ...] = ()
    size: int = FRAMES_START
    frames_end: int = FRAMES_START
    synced_end: int = FRAMES_START
    cursor: int = FRAMES_START
    closed: bool = False
    """Nothing more will come."""
    done: bool = False
    """It is closed, and everything in it was acknowledged."""

    @property
    def name(self) -> str:
        """Its file's name."""
        return file_name(self.number)

    @property
    def epoch(self) -> bytes:
        """The epoch that wrote it."""
        return self.header.epoch

    def records(self) -> int:
        """How many records it holds."""
        return count(self.present)

    def acknowledged_by(self, acked: tuple[Range, ...]) -> bool:
        """Whether every record in it lies in `acked`."""
        return all(covers(acked, part) for part in self.present)

    def unacknowledged(self, acked: tuple[Range, ...]) -> int:
        """How many of its records do not lie in `acked`."""
        overlap = 0
        for part in self.present:
            for given in acked:
                overlap += max(0, min(part.last, given.last) - max(part.first, given.first) + 1)
        return self.records() - overlap


@dataclass(slots=True)
class Unsynced:
    """A record that a power cut would still take."""

    seq: int
    kind: int
    entry: Entry
    plain: bytes


@dataclass(slots=True)
class OpenChunk:
    """The chunk that is being written, with the only copy of its key."""

    chunk: Chunk
    file: File
    seal: RecordSeal
    place: Place
    opened: float
    """By the monotonic clock, in seconds."""
    unsynced: list[Unsynced] = field(default_factory=list)
