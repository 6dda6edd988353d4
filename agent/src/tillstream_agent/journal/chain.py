"""The chunks of this run: the one that is written to, and those that were closed but are not synced yet."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from tillstream_protocol.limits import Limits

from ..clock import Clock
from .chunks import OpenChunk
from .errors import JournalError
from .observer import JournalObserver
from .shelf import Shelf
from .tags import Tags
from .writer import ChunkWriter


class Chain:
    """Opens a chunk, closes it, and opens the next. `next_seq` is what the next record will be called."""

    def __init__(
        self,
        writer: ChunkWriter,
        shelf: Shelf,
        tags: Tags,
        clock: Clock,
        limits: Limits,
        observer: JournalObserver,
        next_number: int,
    ) -> None:
        self._shelf = shelf
        self._tags = tags
        self._clock = clock
        self._limits = limits
        self._observer = observer
        self._next_number = next_number
        self.writer = writer
        self.next_seq = 0
        self.open: OpenChunk | None = None
        self.closing: list[OpenChunk] = []

    def target(self) -> OpenChunk:
        """Where the next record goes. Raises `JournalError`."""
        target = self.open
        if target is not None:
            chunk = target.chunk
            full = chunk.size >= self._limits.chunk
            old = self._clock.monotonic() - (chunk.opened_at or 0.0) >= self._limits.chunk_age
            follows = chunk.end == self.next_seq  # not while it takes what lost its file: a footer leaves no name out
            if follows and (not chunk.present or not (full or old)):
                return target
            self.close()
        return self.begin(self.next_seq)

    def begin(self, first_seq: int) -> OpenChunk:
        """Open a chunk for records from `first_seq` on. Raises `JournalError`."""
        number = self._next_number
        self._next_number += 1
        opened = self.writer.open(number, first_seq, created_ms=self._clock.now_ms(), opened=self._clock.monotonic())
        self._shelf.add(opened.chunk)
        self._tags.begin(number)
        self.open = opened
        self._observer.opened(number)
        return opened

    def close(self) -> None:
        """Write no more to the open chunk; it gets its footer once it is synced."""
        target = self.open
        if target is not None:
            target.wants_footer = True
            self.give_up(target)

    def give_up(self, target: OpenChunk) -> None:
        """Write no more to a chunk; what it holds is still synced and sent."""
        self.open = None
        target.chunk.closed = True
        self._shelf.settle(target.chunk)
        self.closing.append(target)

    def roll(self) -> None:
        """Open a fresh chunk that goes ahead of everything there is. Raises `JournalError`."""
        if self.open is not None and not self.open.chunk.present:
            self._shelf.live_from = self.open.chunk.number
            return
        self.close()
        self._shelf.live_from = self._next_number
        self.begin(self.next_seq)

    def use_keys(self, server_public: bytes, escrow_public: bytes) -> None:
        """Seal to these from now on: what is open was begun under others."""
        if self.writer.use_keys(server_public, escrow_public):
            self.close()
            with contextlib.suppress(JournalError):  # the next record tries again, and is told
                self.begin(self.next_seq)

    def unsynced(self) -> Iterable[OpenChunk]:
        """The chunks that hold what a power cut would take."""
        opened = [self.open] if self.open is not None else []
        return [target for target in (*self.closing, *opened) if target.unsynced]
