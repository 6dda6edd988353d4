"""From chunks to batches: consecutive frames, as they lie on disk."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tillstream_protocol.framing import FRAMES_START, MAX_FRAME, MAX_SEQ, measure_frame, measure_run
from tillstream_protocol.messages import Range
from tillstream_protocol.ranges import contains

from .chunks import Chunk
from .disk import Disk

_MAGIC = re.compile(b"TSFR")
Lane = Literal["live", "backlog", "former"]
"""What is new, what waits behind it, and what an earlier enrolment of this till left."""


@dataclass(frozen=True, slots=True)
class Slice:
    """Frames of one chunk with the seqs `first` to `last`, as they travel; `end` is their end in the file."""

    header: bytes
    frames: bytes
    epoch: bytes
    first: int
    last: int
    lane: Lane
    chunk: int
    end: int


@dataclass(frozen=True, slots=True)
class Cut:
    """The next frames to send, if there are any, and the seqs whose frames were found to be gone on the way."""

    slice: Slice | None
    lost: tuple[Range, ...]


def cut_slice(disk: Disk, chunk: Chunk, passed: Sequence[Range], lane: Lane, max_bytes: int, upto: int) -> Cut:
    """The next frames of a chunk to send, below the offset `upto`, that are not in `passed`.

    Moves the chunk's cursor past what is in `passed` or damaged. Raises `OSError`.
    """
    lost: list[Range] = []
    while chunk.cursor < upto:
        data = disk.read(chunk.name, chunk.cursor, min(max(max_bytes, 4096), upto - chunk.cursor))
        if not data:
            chunk.cursor = upto
            break
        start = _skip(chunk, data, passed, lost)
        first = measure_frame(data, start)
        if first is None and start == 0:
            data = disk.read(chunk.name, chunk.cursor, min(MAX_FRAME, upto - chunk.cursor))
            first = measure_frame(data, 0)
            if first is None:
                chunk.cursor = min(upto, chunk.cursor + _next_frame(data))
        if first is not None:
            _meet(chunk, first[1], lost)
            if not contains(passed, first[1]):
                return Cut(_slice(chunk, data[start:], passed, lane, max_bytes), tuple(lost))
    if upto == chunk.frames_end:
        _meet(chunk, chunk.end, lost)
    return Cut(None, tuple(lost))


def find_frame(disk: Disk, chunk: Chunk, seq: int, lane: Lane, upto: int) -> Slice | None:
    """One record of a chunk. Raises `OSError`."""
    data = disk.read(chunk.name, FRAMES_START, upto - FRAMES_START)
    at = 0
    while at < len(data):
        measured = measure_frame(data, at)
        if measured is None:
            at += _next_frame(data[at:])
        elif measured[1] == seq:
            end = measured[0]
            frame = data[at:end]
            return Slice(chunk.encoded_header, frame, chunk.epoch, seq, seq, lane, chunk.number, FRAMES_START + end)
        else:
            at = measured[0]
    return None


def _skip(chunk: Chunk, data: bytes, passed: Sequence[Range], lost: list[Range]) -> int:
    """Move the cursor to the first frame that is to be sent, or is not whole; returns how far that is."""
    start = 0
    while (measured := measure_frame(data, start)) is not None and contains(passed, measured[1]):
        _meet(chunk, measured[1], lost)
        chunk.next_seq = max(chunk.next_seq, measured[1] + 1)
        start = measured[0]
    chunk.cursor += start
    return start


def _meet(chunk: Chunk, seq: int, lost: list[Range]) -> None:
    """Note the seqs that should have come before the one that did."""
    if seq > chunk.next_seq:
        lost.append(Range(chunk.next_seq, seq - 1))
        chunk.next_seq = seq


def _slice(chunk: Chunk, data: bytes, passed: Sequence[Range], lane: Lane, max_bytes: int) -> Slice:
    """The frames at the start of `data`, as long as they follow each other and none is in `passed`."""
    first = measure_frame(data, 0)
    assert first is not None
    end, seq = first
    stop = min((r.first for r in passed if r.first > seq), default=MAX_SEQ)
    end, after = measure_run(data, end, range(seq + 1, stop), max_bytes)
    frames = data[:end]
    return Slice(chunk.encoded_header, frames, chunk.epoch, seq, after - 1, lane, chunk.number, chunk.cursor + end)


def _next_frame(data: bytes) -> int:
    """How far it is to where the next valid frame begins, or may begin and reach beyond `data`; at least one byte."""
    for found in _MAGIC.finditer(data, 1):
        position = found.start()
        length = int.from_bytes(data[position + 4 : position + 8])
        if measure_frame(data, position) is not None or len(data) < position + length <= position + MAX_FRAME:
            return position
    return max(1, len(data) - len(b"TSFR"))
