"""Records that lie in two chunks: after a failed sync they were sealed anew, and the file not trusted is still there.

The later copy counts. Without this a restart would count their spends twice.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from tillstream_protocol.framing import FRAMES_START, Entry, Frame, scan
from tillstream_protocol.ranges import collect

from .chunks import Chunk, pack_index, sum_spends
from .disk import Disk
from .seqs import common


def untangle(disk: Disk, chunks: Sequence[Chunk]) -> None:
    """Leave out of every chunk the records at its end that a later chunk of the same epoch holds too."""
    epochs: dict[bytes, list[Chunk]] = {}
    for chunk in chunks:
        epochs.setdefault(chunk.epoch, []).append(chunk)
    for family in epochs.values():
        for at, chunk in enumerate(family):
            for later in family[at + 1 :]:
                twice = common(chunk.present, later.present)
                if twice and twice[-1].last == chunk.present[-1].last:
                    with contextlib.suppress(OSError):
                        _leave_out(disk, chunk, twice[0].first)


def _leave_out(disk: Disk, chunk: Chunk, first: int) -> None:
    """A chunk ends before the seq `first`. Raises `OSError`."""
    data = disk.read(chunk.name, 0, chunk.size)
    rows: list[tuple[int, Entry]] = []
    end = FRAMES_START
    for part in scan(data, FRAMES_START):
        if not isinstance(part, Frame):
            continue
        if part.header.seq >= first:
            break
        rows.append((part.header.seq, Entry(part.header.tag, part.header.spends)))
        end = part.end
    chunk.present = collect(sorted({seq for seq, _ in rows}))
    chunk.spends = sum_spends(entry for _, entry in rows)
    chunk.index = pack_index(rows)
    chunk.frames_end = end
