"""Chunk files of which both header copies are damaged: their records can be opened no more, only named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tillstream_protocol.framing import FRAMES_START, NO_EPOCH, Frame, claimed_places, scan
from tillstream_protocol.messages import Range
from tillstream_protocol.ranges import collect

from .chunks import Chunk
from .damage import Piece
from .disk import Disk


@dataclass(frozen=True, slots=True)
class Headless:
    """Such a file: what its header copies claim, and the seqs of its frames."""

    name: str
    number: int
    claims: tuple[tuple[bytes, int], ...]
    present: tuple[Range, ...]
    empty: bool
    """It never held a record: its writer ended while it was begun."""


def read_headless(disk: Disk, name: str, number: int) -> Headless:
    """Look for what names its records. Raises `OSError`."""
    data = disk.read(name, 0, disk.size(name))
    seqs = {part.header.seq for part in scan(data, FRAMES_START) if isinstance(part, Frame)}
    return Headless(name, number, tuple(claimed_places(data)), collect(sorted(seqs)), len(data) <= FRAMES_START)


def place_headless(found: Headless, chunks: Sequence[Chunk]) -> Piece:
    """Where its records belong: as both copies say, or else as the chunks before and after it do."""
    before = max((c for c in chunks if c.number < found.number), key=lambda c: c.number, default=None)
    after = min((c for c in chunks if c.number > found.number), key=lambda c: c.number, default=None)
    epoch = _epoch(found, chunks, before, after)
    firsts = {first for claimed, first in found.claims if claimed == epoch}
    lowest = found.present[0].first if found.present else None
    if len(firsts) == 1 and len(found.claims) == 2 and (lowest is None or min(firsts) <= lowest):
        (first,) = firsts
    elif before is not None and before.epoch == epoch:
        first = before.end
    else:
        first = lowest or 0
    return Piece(found.name, found.number, epoch, first, found.present, headless=True)


def _epoch(found: Headless, chunks: Sequence[Chunk], before: Chunk | None, after: Chunk | None) -> bytes:
    claims = {epoch for epoch, _ in found.claims}
    if len(claims) == 1 and len(found.claims) == 2:
        return claims.pop()
    implied = NO_EPOCH
    if after is not None:
        implied = after.epoch if after.header.first_seq > 0 else after.header.parent
    known = {chunk.epoch for chunk in chunks} | {chunk.header.parent for chunk in chunks}
    for epoch in (implied, *(claimed for claimed, _ in found.claims)):
        if epoch in claims & known:
            return epoch
    if implied != NO_EPOCH:
        return implied
    if before is not None and any(first == before.end > 0 for _, first in found.claims):
        return before.epoch
    first_claim = next((epoch for epoch, _ in found.claims), NO_EPOCH)
    return first_claim if first_claim != NO_EPOCH or before is None else before.epoch
