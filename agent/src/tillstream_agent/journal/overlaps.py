"""Records that lie in two chunks: after a failed sync they were sealed anew, and the file not trusted is still there.

The later copy counts. Without this a restart would count their spends twice.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from tillstream_protocol.framing import FRAMES_START, Entry, Frame, scan
from tillstream_protocol.messages import Range
from tillstream_protocol.ranges import collect, contains, merge

from .chunks import Chunk, pack_index, sum_spends
from .disk import Disk
from .seqs import without


def untangle(disk: Disk, chunks: Sequence[Chunk]) -> None:
    """Leave out of every chunk the records that later chunks of the same epoch hold too."""
    later: dict[bytes, tuple[Range, ...]] = {}
    for chunk in reversed(chunks):
        held = later.get(chunk.epoch, ())
        later[chunk.epoch] = merge([*chunk.present, *held])
        alone = without(chunk.present, held)
        if alone != chunk.present:
            with contextlib.suppress(OSError):
                _keep(disk, chunk, alone)


def _keep(disk: Disk, chunk: Chunk, seqs: Sequence[Range]) -> None:
    """A chunk holds these seqs and no others. Raises `OSError`."""
    data = disk.read(chunk.name, 0, chunk.size)
    rows: list[tuple[int, Entry]] = []
    end = FRAMES_START
    for part in scan(data, FRAMES_START):
        if isinstance(part, Frame) and contains(seqs, part.header.seq):
            rows.append((part.header.seq, Entry(part.header.tag, part.header.spends)))
            end = part.end
    chunk.present = collect(sorted({seq for seq, _ in rows}))
    chunk.spends = sum_spends(entry for _, entry in rows)
    chunk.index = pack_index(rows)
    chunk.frames_end = end
