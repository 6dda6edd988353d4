"""Chunks as the journal keeps them in mind: a few numbers for those on disk, more for the one that is open."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from tillstream_protocol.framing import FRAMES_START, NO_TAG, ChunkHeader, Entry, Place
from tillstream_protocol.messages import Range
from tillstream_protocol.ranges import count
from tillstream_protocol.sealing import RecordSeal

from .disk import File
from .seqs import common

SUFFIX: Final = ".chunk"
DAMAGED_SUFFIX: Final = ".damaged"
TORN_SUFFIX: Final = ".torn"
HIGHEST: Final = 2**32 - 2**20
"""A file whose name says a higher number was not named by a journal; the numbers of new chunks do not follow it."""
_TAG: Final = 16
_ROW: Final = _TAG + 8


def file_name(number: int, suffix: str = SUFFIX) -> str:
    """The name of a chunk's file: names sort as numbers do."""
    return f"{number:010d}{suffix}"


def file_number(name: str) -> int | None:
    """The number in the name of a chunk's file or of what was kept of it, or None for another file."""
    stem, _, suffix = name.partition(".")
    known = f".{suffix}" in (SUFFIX, DAMAGED_SUFFIX, TORN_SUFFIX)
    return int(stem) if known and stem.isascii() and stem.isdecimal() else None


@dataclass(slots=True)
class Chunk:
    """One chunk: what it holds, how much of it is synced, and from where it is still to be sent.

    `present` are the seqs in it. Offsets are in bytes: frames end at `frames_end`, those before `synced_end` survive a
    power cut, and those before `cursor` need no second look; the next frame there should have the seq `next_seq`.
    """

    number: int
    header: ChunkHeader
    encoded_header: bytes
    present: tuple[Range, ...] = ()
    spends: dict[bytes, int] = field(default_factory=dict)
    """Units drawn in it, by lease."""
    index: bytes | None = None
    """Its tags and seqs, packed, where its footer cannot tell them."""
    size: int = FRAMES_START
    frames_end: int = FRAMES_START
    synced_end: int = FRAMES_START
    cursor: int = FRAMES_START
    next_seq: int = 0
    closed: bool = False
    """Nothing more will come."""
    done: bool = False
    """It is closed, and everything in it was acknowledged."""
    done_at: float | None = None
    """When that came about, by the monotonic clock; None if that was in an earlier run, or has not been yet."""
    opened_at: float | None = None
    """By the monotonic clock; None if an earlier run opened it."""
    damaged: bool = False
    """Some of its bytes hold nothing: it is kept when its time is over."""
    unreported: int = 0
    untold: bool = False
    """Its epoch holds no record, and nobody has told the server of it."""
    """How many findings of damage in it nobody has taken up yet."""
    unreadable_until: float = 0.0
    """By the monotonic clock: when to try again to read it."""

    @property
    def name(self) -> str:
        """Its file's name."""
        return file_name(self.number)

    @property
    def epoch(self) -> bytes:
        """The epoch that wrote it."""
        return self.header.epoch

    @property
    def end(self) -> int:
        """The seq after its last record."""
        return self.present[-1].last + 1 if self.present else self.header.first_seq

    def records(self) -> int:
        """How many records it holds."""
        return count(self.present)

    def extend(self, seq: int) -> None:
        """It holds one more record, after all others."""
        *before, last = self.present or (Range(seq, seq),)
        self.present = (*before, Range(last.first, seq)) if last.last >= seq - 1 else (*before, last, Range(seq, seq))

    def unacknowledged(self, acked: Sequence[Range]) -> int:
        """How many of its records do not lie in `acked`."""
        return self.records() - count(common(self.present, acked))

    def rewind(self) -> None:
        """Look at all of it again when sending."""
        self.cursor = FRAMES_START
        self.next_seq = self.header.first_seq


def add_spends(spends: dict[bytes, int], entry: Entry) -> None:
    """Count what one record drew on leases."""
    for spend in entry.spends:
        spends[spend.lease] = spends.get(spend.lease, 0) + spend.amount


def sum_spends(entries: Iterable[Entry]) -> dict[bytes, int]:
    """Units drawn, by lease."""
    spends: dict[bytes, int] = {}
    for entry in entries:
        if entry.spends:
            add_spends(spends, entry)
    return spends


def pack_index(rows: Iterable[tuple[int, Entry]]) -> bytes:
    """Seqs and their entries as a chunk's index."""
    return b"".join(entry.tag + seq.to_bytes(8, "big") for seq, entry in rows if entry.tag != NO_TAG)


def index_tags(index: bytes) -> Iterable[bytes]:
    """The tags in an index."""
    return (index[at : at + _TAG] for at in range(0, len(index), _ROW))


def index_seq(index: bytes, tag: bytes) -> int | None:
    """The seq of a tag in an index."""
    at = index.find(tag)
    while at >= 0:
        if at % _ROW == 0:
            return int.from_bytes(index[at + _TAG : at + _ROW], "big")
        at = index.find(tag, at + 1)
    return None


@dataclass(slots=True)
class Unsynced:
    """A record that a power cut would still take."""

    seq: int
    kind: int
    entry: Entry
    plain: bytes


@dataclass(slots=True)
class OpenChunk:
    """The chunk that is being written, with the only copy of its key, and what its footer will say."""

    chunk: Chunk
    file: File
    seal: RecordSeal
    place: Place
    directory_entry: int = 0
    entries: list[Entry] = field(default_factory=list)
    unsynced: list[Unsynced] = field(default_factory=list)
    changes: int = 1
    """How often the file was changed: begun, written to, or cut after a write that failed."""
    synced_changes: int = 0
    """How many of them survive a power cut, and the file's name with them."""
    wants_footer: bool = False
    """It was closed whole, and gets its footer once its frames are on the disk."""
