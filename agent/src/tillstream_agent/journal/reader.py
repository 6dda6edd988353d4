"""From chunks to batches: consecutive frames, as they lie on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tillstream_protocol.framing import MAX_FRAME, measure_frame
from tillstream_protocol.messages import Range
from tillstream_protocol.ranges import contains

from .chunks import Chunk
from .disk import Disk

Lane = Literal["live", "backlog"]


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


def cut_slice(disk: Disk, chunk: Chunk, acked: Sequence[Range], lane: Lane, max_bytes: int, upto: int) -> Slice | None:
    """The next frames of a chunk to send, below the offset `upto`; None when there are none.

    Moves the chunk's cursor past what was acknowledged or is damaged. Raises `OSError`.
    """
    while chunk.cursor < upto:
        data = disk.read(chunk.name, chunk.cursor, min(max(max_bytes, 4096), upto - chunk.cursor))
        start = _skip_acknowledged(data, acked)
        chunk.cursor += start
        first = measure_frame(data, start)
        if first is not None:
            return _slice(chunk, data[start:], acked, lane, max_bytes)
        if start == 0:
            data = disk.read(chunk.name, chunk.cursor, min(MAX_FRAME, upto - chunk.cursor))
            if measure_frame(data, 0) is not None:
                return _slice(chunk, data, acked, lane, max_bytes)
            chunk.cursor = min(upto, chunk.cursor + _next_frame(data))
    return None


def _skip_acknowledged(data: bytes, acked: Sequence[Range]) -> int:
    """Where the first frame starts that is not acknowledged, or is not whole."""
    start = 0
    while (measured := measure_frame(data, start)) is not None and contains(acked, measured[1]):
        start = measured[0]
    return start


def _slice(chunk: Chunk, data: bytes, acked: Sequence[Range], lane: Lane, max_bytes: int) -> Slice:
    """The frames at the start of `data`, as long as they follow each other and none was acknowledged."""
    first = measure_frame(data, 0)
    assert first is not None
    end, seq = first
    stop = min((r.first for r in acked if r.first > seq), default=None)
    last = seq
    while (following := measure_frame(data, end)) is not None:
        if following[1] != last + 1 or following[0] > max_bytes or following[1] == stop:
            break
        end, last = following
    return Slice(chunk.encoded_header, data[:end], chunk.epoch, seq, last, lane, chunk.number, chunk.cursor + end)


def _next_frame(data: bytes) -> int:
    """How far it is to where the next valid frame begins, or may begin and reach beyond `data`; at least one byte."""
    position = data.find(b"TSFR", 1)
    while position >= 0:
        length = int.from_bytes(data[position + 4 : position + 8], "big")
        if measure_frame(data, position) is not None or len(data) < position + length <= position + MAX_FRAME:
            return position
        position = data.find(b"TSFR", position + 1)
    return max(1, len(data) - len(b"TSFR"))
