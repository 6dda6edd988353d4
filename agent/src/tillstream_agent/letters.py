"""The records that the server would not take, and why: the agent's book of dead letters.

A letter is kept `here` when the server refused the record as it was: it stays in the journal, set aside, until the
server takes it. It is kept at the `server` when that acknowledged the record as a dead letter of its own.

What is in the book can be lost without loss: a record whose letter is gone is sent again, and refused again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from tillstream_protocol.messages import Range
from tillstream_protocol.ranges import collect, contains, count

from .clock import Clock

MOST_HERE: Final = 10_000
"""More records than this are not set aside: then something else is wrong than a record."""
MOST_AT_SERVER: Final = 10_000
"""So many of the server's dead letters are remembered by name, the newest; all are counted."""
MAX_REASON: Final = 500

Kept = Literal["here", "server"]
Key = tuple[bytes, int]
"""Epoch and seq."""


@dataclass(frozen=True, slots=True)
class Letter:
    """One record that was not taken. `tries` counts refusals of the record alone; `since_ms` is the first of them."""

    epoch: bytes
    seq: int
    kind: int
    """As the frame's clear header has it; 0 where that was not seen."""
    kept: Kept
    code: str
    reason: str
    tries: int
    since_ms: int

    @property
    def key(self) -> Key:
        """Epoch and seq."""
        return self.epoch, self.seq


@dataclass(frozen=True, slots=True)
class Changes:
    """What is to be saved: letters as they are now, names without a letter, and how many names were let go in all."""

    put: tuple[Letter, ...]
    drop: tuple[Key, ...]
    unnamed: int

    def __bool__(self) -> bool:
        return bool(self.put or self.drop)


class Letters:
    """The book, in memory; whoever keeps house saves what changed."""

    def __init__(self, clock: Clock, known: Iterable[Letter] = (), unnamed: int = 0) -> None:
        self._clock = clock
        self._here: dict[Key, Letter] = {}
        self._server: dict[Key, Letter] = {}
        self._unsaved: dict[Key, None] = {}
        self.refusals = 0
        """How many were noted since the start."""
        self.unnamed = unnamed
        """Dead letters of the server whose names were let go, since they were too many."""
        for letter in known:
            self._shelf(letter.kept)[letter.key] = letter

    @property
    def here(self) -> Mapping[Key, Letter]:
        """Records that this till keeps, oldest letter first."""
        return self._here

    @property
    def at_server(self) -> Mapping[Key, Letter]:
        """Records that the server keeps, as far as they are remembered by name, oldest letter first."""
        return self._server

    @property
    def server_total(self) -> int:
        """How many dead letters the server has told of."""
        return len(self._server) + self.unnamed

    @property
    def full(self) -> bool:
        """Whether no further record should be set aside."""
        return len(self._here) >= MOST_HERE

    def aside(self) -> dict[bytes, tuple[Range, ...]]:
        """The names of what is kept here, by epoch."""
        return by_epoch(self._here)

    def refused(self, key: Key, kind: int, code: str, reason: str, *, counts: bool) -> Letter:
        """The server refused a record that came alone. `counts`: it was the record, as far as that can be told."""
        self.refusals += 1
        known = self._here.get(key)
        tries = (known.tries if known else 0) + int(counts)
        since = known.since_ms if known else self._clock.now_ms()
        letter = Letter(*key, kind, "here", code, reason[:MAX_REASON], tries, since)
        self._here[key] = letter
        self._unsaved[key] = None
        return letter

    def dead(self, key: Key, kind: int, code: str, reason: str) -> bool:
        """The server keeps this record as a dead letter of its own; False if that was known."""
        new = key not in self._server
        known = self._server.pop(key, None)
        letter = Letter(*key, kind, "server", code, reason[:MAX_REASON], 1, self._clock.now_ms())
        self._server[key] = replace(letter, since_ms=known.since_ms) if known else letter
        self._unsaved[key] = None
        while len(self._server) > MOST_AT_SERVER:
            oldest = next(iter(self._server))
            del self._server[oldest]
            self._unsaved[oldest] = None
            self.unnamed += 1
        return new

    def taken(self, epoch: bytes, ranges: Sequence[Range], dead: Collection[int] = ()) -> list[Key]:
        """The server acknowledged these seqs, `dead` as dead letters: what letters they had are settled.

        Returns those that were kept here.
        """
        here = self._inside(self._here, epoch, ranges)
        there = [key for key in self._inside(self._server, epoch, ranges) if key[1] not in dead]
        self.forget((*here, *there))
        return here

    def forget(self, keys: Iterable[Key]) -> None:
        """These are tried anew, as if they had never been refused."""
        for key in keys:
            if self._here.pop(key, None) or self._server.pop(key, None):
                self._unsaved[key] = None

    def changes(self) -> Changes:
        """What was not saved yet; from now on it counts as saved, unless it is given back."""
        keys, self._unsaved = self._unsaved, {}
        put = tuple(letter for key in keys if (letter := self._here.get(key) or self._server.get(key)) is not None)
        kept = {letter.key for letter in put}
        return Changes(put, tuple(key for key in keys if key not in kept), self.unnamed)

    def give_back(self, changes: Changes) -> None:
        """They could not be saved after all."""
        for key in (*(letter.key for letter in changes.put), *changes.drop):
            self._unsaved[key] = None

    @staticmethod
    def _inside(shelf: Mapping[Key, Letter], epoch: bytes, ranges: Sequence[Range]) -> list[Key]:
        """The shelf's keys in some ranges, found by going through whichever is shorter."""
        if count(ranges) < len(shelf):
            names = ((epoch, seq) for part in ranges for seq in range(part.first, part.last + 1))
            return [key for key in names if key in shelf]
        return [key for key in shelf if key[0] == epoch and contains(ranges, key[1])]

    def _shelf(self, kept: Kept) -> dict[Key, Letter]:
        return self._here if kept == "here" else self._server


def by_epoch(keys: Iterable[Key]) -> dict[bytes, tuple[Range, ...]]:
    """Names as ranges of seqs by epoch."""
    seqs: dict[bytes, list[int]] = {}
    for epoch, seq in keys:
        seqs.setdefault(epoch, []).append(seq)
    return {epoch: collect(sorted(found)) for epoch, found in seqs.items()}
