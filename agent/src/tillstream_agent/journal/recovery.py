"""What is found on disk at start. It always succeeds: damage is stepped over, reported, and nothing is deleted."""

from __future__ import annotations

from dataclasses import dataclass, field

from tillstream_protocol.framing import (
    FRAMES_START,
    NO_EPOCH,
    ChunkHeader,
    DamagedChunk,
    Entry,
    Footer,
    Frame,
    Gap,
    footer_length,
    read_footer,
    scan,
)
from tillstream_protocol.messages import Range
from tillstream_protocol.ranges import collect

from .chunks import DAMAGED_SUFFIX, SUFFIX, Chunk, file_number
from .disk import Disk
from .observer import JournalObserver

MAX_FOOTER = 16 * 1024 * 1024


@dataclass(slots=True)
class Found:
    """What the folder holds, and which place a new epoch follows."""

    chunks: list[Chunk] = field(default_factory=list)
    next_number: int = 1
    parent: bytes = NO_EPOCH
    parent_position: int = 0


def recover(disk: Disk, observer: JournalObserver) -> Found:
    """Look through the folder. Raises `OSError` only where the folder itself cannot be read."""
    found = Found()
    for name in sorted(disk.names()):
        number = file_number(name)
        if number is None:
            continue
        found.next_number = max(found.next_number, number + 1)
        if name.endswith(SUFFIX):
            chunk = _read_or_set_aside(disk, name, number, observer)
            if chunk is not None:
                found.chunks.append(chunk)
    if found.chunks:
        last = found.chunks[-1]
        found.parent = last.epoch
        found.parent_position = max(
            (part.last + 1 for chunk in found.chunks if chunk.epoch == last.epoch for part in chunk.present),
            default=last.header.first_seq,
        )
    return found


def _read_or_set_aside(disk: Disk, name: str, number: int, observer: JournalObserver) -> Chunk | None:
    try:
        return _read(disk, name, number, observer)
    except OSError as error:
        observer.set_aside(name, f"it cannot be read now, and is tried again at the next start: {error}")
        return None
    except DamagedChunk as error:
        observer.set_aside(name, str(error))
    try:
        disk.rename(name, name.removesuffix(SUFFIX) + DAMAGED_SUFFIX)
    except OSError as error:
        observer.set_aside(name, f"it could not be renamed: {error}")
    return None


def _read(disk: Disk, name: str, number: int, observer: JournalObserver) -> Chunk:
    header, encoded = ChunkHeader.read(disk.read(name, 0, FRAMES_START))
    chunk = Chunk(number, header, encoded, size=disk.size(name), closed=True)
    footer = _footer(disk, chunk)
    if footer is not None:
        chunk.entries = list(footer.entries)
        count = len(footer.entries)
        chunk.present = (Range(footer.first_seq, footer.first_seq + count - 1),) if count else ()
    else:
        _scan(disk, chunk, observer)
    return chunk


def _footer(disk: Disk, chunk: Chunk) -> Footer | None:
    length = footer_length(disk.read(chunk.name, max(0, chunk.size - 4), 4))
    if not 0 < length <= min(MAX_FOOTER, chunk.size - FRAMES_START):
        return None
    footer = read_footer(disk.read(chunk.name, chunk.size - length, length))
    if footer is not None:
        chunk.frames_end = chunk.size - length
    return footer


def _scan(disk: Disk, chunk: Chunk, observer: JournalObserver) -> None:
    data = disk.read(chunk.name, 0, chunk.size)
    seqs: list[int] = []
    gaps: list[Gap] = []
    for part in scan(data, FRAMES_START):
        if isinstance(part, Frame):
            seqs.append(part.header.seq)
            chunk.entries.append(Entry(part.header.tag, part.header.spends))
            chunk.frames_end = part.end
        else:
            gaps.append(part)
    chunk.present = collect(sorted(set(seqs)))
    for gap in gaps:
        if gap.end == len(data):
            _cut_tail(disk, chunk, observer)
        else:
            observer.damaged(chunk.number, gap.start, gap.end)
    if not gaps or (len(gaps) == 1 and gaps[0].end == len(data)):
        _close(disk, chunk, seqs)


def _cut_tail(disk: Disk, chunk: Chunk, observer: JournalObserver) -> None:
    file = disk.append_to(chunk.name)
    try:
        file.cut(chunk.frames_end)
    finally:
        file.close()
    observer.torn(chunk.number, chunk.size - chunk.frames_end)
    chunk.size = chunk.frames_end


def _close(disk: Disk, chunk: Chunk, seqs: list[int]) -> None:
    """Give a whole chunk the footer that its writer had no time for, so that the next start need not scan it."""
    if chunk.size != chunk.frames_end or seqs != list(range(seqs[0], seqs[0] + len(seqs)) if seqs else []):
        return
    footer = Footer(seqs[0] if seqs else chunk.header.first_seq, tuple(chunk.entries)).encode()
    try:
        file = disk.append_to(chunk.name)
        try:
            file.write(footer)
            chunk.size += len(footer)
        finally:
            file.close()
    except OSError:
        chunk.size = disk.size(chunk.name)  # without room for a footer the next start scans again
