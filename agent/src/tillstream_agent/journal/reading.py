"""Reading one chunk's file back: at start, and to find the record that has a tag."""

from __future__ import annotations

from dataclasses import dataclass, field

from tillstream_protocol.framing import (
    FOOTER_ROW,
    FRAMES_START,
    HEADER_SIZE,
    ChunkHeader,
    Entry,
    Frame,
    footer_length,
    footer_rows,
    footer_torn,
    last_claimed,
    read_footer,
    scan,
)
from tillstream_protocol.messages import Range
from tillstream_protocol.ranges import collect, contains

from .chunks import Chunk, index_seq, index_tags, pack_index, sum_spends
from .damage import Piece
from .disk import Disk
from .errors import translate
from .observer import JournalObserver
from .tags import Name, Tags

MAX_FOOTER = 16 * 1024 * 1024


@dataclass(slots=True)
class Look:
    """One chunk as it was found: `rows` are its seqs and entries if it had to be scanned."""

    chunk: Chunk
    footer: bool = False
    """It has a valid one."""
    gaps: bool = False
    tail: bool = False
    """The bytes after its last frame are neither frame nor footer."""
    tail_last: int | None = None
    """The last seq that those bytes held; None if that cannot be told."""
    rows: list[tuple[int, Entry]] = field(default_factory=list)

    def piece(self) -> Piece:
        """What it says of its epoch."""
        chunk = self.chunk
        return Piece(
            file=chunk.name,
            number=chunk.number,
            epoch=chunk.epoch,
            first=chunk.header.first_seq,
            present=chunk.present,
            gaps=self.gaps,
            tail=self.tail,
            tail_last=self.tail_last,
        )


def look(disk: Disk, name: str, number: int, tags: Tags | None, observer: JournalObserver) -> Look:
    """Read a chunk's header, and its footer or all of it. Raises `DamagedChunk` without a header, and `OSError`."""
    head = disk.read(name, 0, FRAMES_START)
    header, encoded = ChunkHeader.read(head)
    found = Look(Chunk(number, header, encoded, size=disk.size(name), closed=True, next_seq=header.first_seq))
    if head[:HEADER_SIZE] != head[HEADER_SIZE:]:
        found.chunk.damaged = True
        observer.damaged(number, 0, FRAMES_START)
    found.footer = _read_footer(disk, found.chunk, tags)
    if not found.footer:
        _scan(disk, found, observer)
        if tags is not None and found.chunk.index is not None:
            tags.take(number, index_tags(found.chunk.index))
    return found


def _read_footer(disk: Disk, chunk: Chunk, tags: Tags | None) -> bool:
    length = footer_length(disk.read(chunk.name, chunk.size - 4, 4))
    if not 0 < length <= min(MAX_FOOTER, chunk.size - FRAMES_START):
        return False
    data = disk.read(chunk.name, chunk.size - length, length)
    plain = footer_rows(data)
    if plain is not None:
        first, count = plain[0], len(plain[1]) // FOOTER_ROW
        if tags is not None:
            tags.read(chunk.number, plain[1])
    else:
        footer = read_footer(data)
        if footer is None:
            return False
        first, count = footer.first_seq, len(footer.entries)
        chunk.spends = sum_spends(footer.entries)
        if tags is not None:
            tags.take(chunk.number, (entry.tag for entry in footer.entries))
    chunk.present = (Range(first, first + count - 1),) if count else ()
    chunk.frames_end = chunk.size - length
    return True


def _scan(disk: Disk, found: Look, observer: JournalObserver) -> None:
    """Find the frames of a chunk that has no valid footer, and what lies between and behind them."""
    chunk = found.chunk
    data = disk.read(chunk.name, 0, chunk.size)
    for part in scan(data, FRAMES_START):
        if isinstance(part, Frame):
            found.rows.append((part.header.seq, Entry(part.header.tag, part.header.spends)))
            chunk.frames_end = part.end
        elif part.end < len(data):
            found.gaps = chunk.damaged = True
            observer.damaged(chunk.number, part.start, part.end)
    chunk.present = collect(sorted({seq for seq, _ in found.rows}))
    chunk.spends = sum_spends(entry for _, entry in found.rows)
    chunk.index = pack_index(found.rows)
    rest = data[chunk.frames_end :]
    if rest:
        found.tail = not footer_torn(rest, chunk.header.first_seq, len(found.rows))
        found.tail_last = last_claimed(rest, chunk.end)
        observer.torn(chunk.number, len(rest))


def look_up(disk: Disk, chunk: Chunk | None, tag: bytes) -> Name | None:
    """The record that a closed chunk holds under a tag. Raises `JournalError` where it cannot be read."""
    if chunk is None or not chunk.closed:
        return None
    if chunk.index is None:
        try:
            seq = _seq_in_footer(disk, chunk, tag)
        except OSError as error:
            raise translate(error, f"{chunk.name} cannot be read") from error
    else:
        seq = index_seq(chunk.index, tag)
    return Name(chunk.epoch, seq) if seq is not None and contains(chunk.present, seq) else None


def _seq_in_footer(disk: Disk, chunk: Chunk, tag: bytes) -> int | None:
    """Look a tag up in a chunk's footer; one that was damaged since is replaced by an index in memory."""
    data = disk.read(chunk.name, chunk.frames_end, chunk.size - chunk.frames_end)
    plain = footer_rows(data)
    if plain is not None:
        first, rows = plain
        at = rows.find(tag)
        while at >= 0 and at % FOOTER_ROW:
            at = rows.find(tag, at + 1)
        return first + at // FOOTER_ROW if at >= 0 else None
    footer = read_footer(data)
    if footer is not None:
        return next((seq for seq, entry in enumerate(footer.entries, footer.first_seq) if entry.tag == tag), None)
    frames = scan(disk.read(chunk.name, FRAMES_START, chunk.frames_end - FRAMES_START))
    headers = [part.header for part in frames if isinstance(part, Frame)]
    chunk.index = pack_index((header.seq, Entry(header.tag, header.spends)) for header in headers)
    return index_seq(chunk.index, tag)
