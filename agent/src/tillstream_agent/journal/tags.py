"""Which record was captured under which idempotency tag, in about eight bytes a record.

The latest records are kept exactly. Of the others four bytes of the tag and three of the chunk's number are kept, in
shards by two more bytes of the tag; a match is confirmed in the chunk's own index on disk, so a false one costs a
look and no more. Tags are keyed digests: nobody can make them collide.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from tillstream_protocol.framing import FOOTER_ROW, NO_TAG

SHARDS: Final = 8192
EXACT: Final = 4096
"""How many of the latest records are kept exactly, at least."""
SHARDS_A_STEP: Final = 4
_ROW: Final = 7
_PRINT: Final = 4
_WRAP: Final = 1 << 24
_FIELDS: Final = struct.Struct(f">10x4sH{FOOTER_ROW - 16}x")
_NO_PRINT: Final = bytes(_PRINT)


@dataclass(frozen=True, slots=True)
class Name:
    """A record's name, together with the till's."""

    epoch: bytes
    seq: int


@dataclass(frozen=True, slots=True)
class Seen:
    """A record with this tag was captured as `name`. `check` is None if it is not among the latest of this run."""

    name: Name
    check: int | None


Confirm = Callable[[int, bytes], Name | None]
"""The record that a chunk, by number, holds under a tag. Raises `JournalError`."""


class Tags:
    """Tags of every chunk that is here."""

    def __init__(self, confirm: Confirm) -> None:
        self._confirm = confirm
        self._shards = [bytearray() for _ in range(SHARDS)]
        self._here: dict[int, int] = {}
        self._recent: dict[bytes, tuple[Seen, int]] = {}
        self._order: deque[bytes] = deque()
        self._unsettled: set[int] = set()
        self.untidy = 0
        """How many shards may still hold rows of forgotten chunks."""
        self._next_shard = 0

    def begin(self, chunk: int) -> None:
        """A chunk was opened: what is noted of it is kept exactly until it is settled."""
        self._here[chunk % _WRAP] = chunk
        self._unsettled.add(chunk)

    def note(self, tag: bytes, seen: Seen, chunk: int) -> None:
        """A record was written, or written again into another chunk."""
        if tag not in self._recent:
            self._order.append(tag)
        self._recent[tag] = (seen, chunk)
        shard = self._shards[(tag[14] << 8 | tag[15]) & (SHARDS - 1)]
        shard += tag[10:14] + (chunk % _WRAP).to_bytes(3, "big")
        if len(self._order) > EXACT:
            self._drop_oldest()

    def move(self, tag: bytes, chunk: int) -> None:
        """A record that is kept exactly was written again, into another chunk."""
        self.note(tag, self._recent[tag][0], chunk)

    def settle(self, chunk: int) -> None:
        """A chunk's own index on disk, or in memory, tells from now on what is in it."""
        self._unsettled.discard(chunk)

    def read(self, chunk: int, rows: bytes) -> None:
        """Take in the rows of a footer without spends."""
        self._here[chunk % _WRAP] = chunk
        number = (chunk % _WRAP).to_bytes(3, "big")
        shards, mask = self._shards, SHARDS - 1
        blank = False
        for print_, where in _FIELDS.iter_unpack(rows):
            if print_ == _NO_PRINT:
                blank = True
            else:
                shards[where & mask] += print_ + number
        if blank:
            tags = (rows[at : at + 16] for at in range(0, len(rows), FOOTER_ROW))
            self.take(chunk, (tag for tag in tags if tag[10:14] == _NO_PRINT))

    def take(self, chunk: int, tags: Iterable[bytes]) -> None:
        """Take in the tags of a chunk that has another index."""
        self._here[chunk % _WRAP] = chunk
        number = (chunk % _WRAP).to_bytes(3, "big")
        for tag in tags:
            if tag != NO_TAG:
                self._shards[(tag[14] << 8 | tag[15]) & (SHARDS - 1)] += tag[10:14] + number

    def find(self, tag: bytes) -> Seen | None:
        """The record that was captured under a tag. Raises `JournalError` where its chunk cannot be read."""
        recent = self._recent.get(tag)
        if recent is not None:
            return recent[0] if self._here.get(recent[1] % _WRAP) == recent[1] else None
        shard = self._shards[(tag[14] << 8 | tag[15]) & (SHARDS - 1)]
        at = shard.find(tag[10:14])
        while at >= 0:
            chunk = self._here.get(int.from_bytes(shard[at + _PRINT : at + _ROW], "big")) if at % _ROW == 0 else None
            name = self._confirm(chunk, tag) if chunk is not None else None
            if name is not None:
                return Seen(name, None)
            at = shard.find(tag[10:14], at + 1)
        return None

    def forget(self, chunk: int) -> None:
        """A chunk is gone. Its rows go in small steps, see `tidy`."""
        if self._here.get(chunk % _WRAP) == chunk:
            del self._here[chunk % _WRAP]
        self._unsettled.discard(chunk)
        self.untidy = SHARDS

    def tidy(self) -> None:
        """Drop the rows of forgotten chunks from a few shards."""
        for _ in range(min(SHARDS_A_STEP, self.untidy)):
            shard = self._shards[self._next_shard]
            rows = [shard[at : at + _ROW] for at in range(0, len(shard), _ROW)]
            kept = [row for row in rows if int.from_bytes(row[_PRINT:], "big") in self._here]
            if len(kept) < len(rows):
                self._shards[self._next_shard] = bytearray().join(kept)
            self._next_shard = (self._next_shard + 1) % SHARDS
            self.untidy -= 1

    def rows(self) -> int:
        """How many are kept."""
        return sum(map(len, self._shards)) // _ROW

    def _drop_oldest(self) -> None:
        """Keep exactly what is latest; two go for one that comes, and none whose chunk is not settled."""
        for _ in range(2):
            if len(self._order) <= EXACT or self._recent[self._order[0]][1] in self._unsettled:
                return
            del self._recent[self._order.popleft()]
