"""From what was found on disk to the names of the records that may be lost.

Every epoch counts its records from nought, so each seq below the epoch's end lies in a chunk, or was acknowledged, or
may be lost. The end is told by the chunk that comes next, by the epoch that followed, or by the last record there is.
Seqs are laid on the epoch's files by the first seq that each file is to hold.
"""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Literal

from tillstream_protocol.messages import Range
from tillstream_protocol.ranges import contains, merge

from .seqs import without

Reason = Literal["damaged_frame", "damaged_header", "torn_tail", "missing_chunk"]


@dataclass(frozen=True, slots=True)
class Damage:
    """Records of an epoch that may be lost: from `first` to `last`; without `last` it is not known how many.

    `file` is the journal's file that is damaged, or that the missing one should have followed; `chunk` is its number.
    """

    file: str
    chunk: int
    epoch: bytes
    first: int
    last: int | None
    reason: Reason


@dataclass(frozen=True, slots=True)
class Piece:
    """What one file says of its epoch. `first` is the seq that it begins with, `present` are those that it holds."""

    file: str
    number: int
    epoch: bytes
    first: int
    present: tuple[Range, ...]
    gaps: bool = False
    """Bytes between its frames hold nothing."""
    tail: bool = False
    """The bytes after its last frame are neither frame nor footer."""
    tail_last: int | None = None
    """The last seq that they held; None if that cannot be told."""
    headless: bool = False
    """Its header is lost, and so all that it holds."""

    @property
    def end(self) -> int:
        """The seq after the last one it holds."""
        return self.present[-1].last + 1 if self.present else self.first


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one start found, beside the pieces: `ends` are the positions at which later epochs followed, by epoch.

    `silent` are the numbers of files whose content cannot be told now or was told of before; `empty` are files, by
    number, that have neither a header nor a record.
    """

    pieces: Sequence[Piece]
    ends: Mapping[bytes, int]
    acked: Mapping[bytes, Sequence[Range]]
    silent: Sequence[int]
    empty: Mapping[int, str]


def find_losses(evidence: Evidence) -> list[Damage]:
    """Every record that may be lost, in the order of the files."""
    epochs: dict[bytes, list[Piece]] = {}
    for piece in evidence.pieces:
        epochs.setdefault(piece.epoch, []).append(piece)
    numbers = sorted(piece.number for piece in evidence.pieces)
    found: list[Damage] = []
    for epoch, pieces in epochs.items():
        pieces.sort(key=lambda piece: (piece.first, piece.number))
        acked = merge(evidence.acked.get(epoch, ()))
        found.extend(_before(pieces[0], acked, evidence, numbers))
        covered = merge([*acked, *(part for p in pieces if not p.headless for part in p.present)])
        for piece, following in zip_longest(pieces, pieces[1:]):
            found.extend(_within(piece, following, covered, evidence, numbers))
    return sorted(found, key=lambda one: (one.chunk, one.first))


def _before(piece: Piece, acked: Sequence[Range], evidence: Evidence, numbers: Sequence[int]) -> Iterable[Damage]:
    """What should lie before an epoch's first file; one without a header may belong to another epoch."""
    at = bisect_left(numbers, piece.number)
    low = numbers[at - 1] if at else 0
    for hole in without([] if piece.headless else [Range(0, piece.first - 1)], acked):
        yield from _missing(piece, hole, (low, piece.number), evidence)


def _within(
    piece: Piece, following: Piece | None, covered: Sequence[Range], evidence: Evidence, numbers: Sequence[int]
) -> Iterable[Damage]:
    """What should lie in a file, or between it and the one that follows."""
    limit = following.first if following is not None else max(piece.end, evidence.ends.get(piece.epoch, 0))
    for hole in without([Range(piece.first, limit - 1)], covered):
        if piece.headless:
            yield _damage(piece, hole, "damaged_header")
        elif hole.first < piece.end or piece.tail or piece.gaps:
            yield _damage(piece, hole, "damaged_frame")
        else:
            high = min((n for n in numbers if n > piece.number), default=sys.maxsize)
            yield from _missing(piece, hole, (piece.number, high), evidence)
    if following is not None or limit > piece.end or contains(covered, limit):
        return
    if piece.headless and not piece.present:
        yield Damage(piece.file, piece.number, piece.epoch, piece.first, None, "damaged_header")
    elif piece.tail and piece.tail_last is None:
        yield Damage(piece.file, piece.number, piece.epoch, limit, None, "torn_tail")
    elif piece.tail and piece.tail_last is not None:
        for hole in without([Range(limit, piece.tail_last)], covered):
            yield _damage(piece, hole, "torn_tail")


def _missing(piece: Piece, hole: Range, between: tuple[int, int], evidence: Evidence) -> Iterable[Damage]:
    low, high = between
    if any(low < number < high for number in evidence.silent):
        return
    for number, file in evidence.empty.items():
        if low < number < high:
            yield Damage(file, number, piece.epoch, hole.first, hole.last, "damaged_header")
            return
    yield _damage(piece, hole, "missing_chunk")


def _damage(piece: Piece, hole: Range, reason: Reason) -> Damage:
    return Damage(piece.file, piece.number, piece.epoch, hole.first, hole.last, reason)
