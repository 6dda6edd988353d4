"""What earlier runs left on disk: finished as their writers had no time to, and made to survive a power cut.

It is not in memory, so it is synced once before it is sent. Where that fails, a second try would prove nothing: the
file is written anew from what can be read. Where that fails too it is sent as it reads, since every frame has its
checksum and its seal, and the server's acknowledgement makes it safe; nobody is told that it is on the disk.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Final

from ..clock import Clock
from .chunks import Chunk
from .directory import Directory
from .disk import Disk, File
from .doubts import Doubts
from .errors import unsafe
from .mending import finish, keep_torn, renew
from .observer import JournalObserver
from .reading import Look
from .shelf import Shelf

LONGEST_STEP_S: Final = 0.2
"""After this many seconds new records have their turn."""
A_PASS: Final = 8
"""How many chunks are synced in one pass, so that new records do not wait for all of them."""
RENEW_AFTER_S: Final = 2.0
"""Seconds from one failed attempt to write a file anew to the next one, of whichever file."""
TRIES: Final = 5
"""How often a file that cannot be opened is tried before it is sent all the same."""


class Inherited:
    """The chunks of earlier runs, until they are synced. `unfinished` are those that have no footer yet."""

    def __init__(
        self,
        disk: Disk,
        directory: Directory,
        doubts: Doubts,
        shelf: Shelf,
        clock: Clock,
        observer: JournalObserver,
        unfinished: Iterable[Look],
    ) -> None:
        self._disk = disk
        self._directory = directory
        self._directory_entry = directory.enter(*(chunk.number for chunk in shelf if not chunk.done))
        self._doubts = doubts
        self._shelf = shelf
        self._clock = clock
        self._observer = observer
        self._unfinished = {one.chunk.number: one for one in unfinished}
        self._pending = {c.number: c for c in shelf if not c.done or c.number in self._unfinished}
        self._doubtful: dict[int, Chunk] = {}
        self._renew_at = 0.0
        self._unopened: dict[int, int] = {}
        self._torn: list[Chunk] = []
        self._waiters: dict[int, list[asyncio.Future[None]]] = {}

    @property
    def waiting(self) -> bool:
        """Whether a pass has something to do."""
        return bool(self._pending or self._torn)

    @property
    def safe(self) -> bool:
        """Whether a power cut would take nothing that the server does not hold."""
        return all(chunk.done for chunk in (*self._pending.values(), *self._doubtful.values()))

    @property
    def doubtful(self) -> bool:
        """Whether there are chunks to be written anew, `RENEW_AFTER_S` after the last attempt."""
        return bool(self._doubtful)

    def put_away_tail(self, chunk: Chunk) -> None:
        """Keep a torn tail under another name and cut it, at the next pass."""
        self._torn.append(chunk)

    def resume(self) -> None:
        """Take up again what was acknowledged, and so never synced, and is to be sent after all."""
        for chunk in self._shelf:
            if chunk.opened_at is None and not chunk.done and chunk.synced_end < chunk.frames_end:
                self._pending[chunk.number] = chunk

    async def synced(self, epoch: bytes, seq: int) -> None:
        """Return when a record of an earlier run survives a power cut. Raises `JournalError` if it failed again."""
        chunk = self._shelf.holding(epoch, seq)
        if chunk is None or chunk.done:
            return
        if chunk.number in self._pending or chunk.number in self._doubtful:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.setdefault(chunk.number, []).append(waiter)
            await waiter

    async def step(self, patience: Callable[[], AbstractContextManager[None]]) -> None:
        """A few of them, for as long as new records can wait; `patience` is kept with each."""
        began = self._clock.monotonic()
        for chunk in [*self._torn]:
            self._torn.remove(chunk)
            with patience():
                await self._put_away(chunk)
        for chunk in list(self._pending.values())[:A_PASS]:
            with patience():
                await self._settle(chunk)
            if self._clock.monotonic() - began > LONGEST_STEP_S:
                return
        for chunk in list(self._doubtful.values())[:A_PASS]:
            now = self._clock.monotonic()
            if now < self._renew_at or now - began > LONGEST_STEP_S:
                return
            with patience():
                await self._renew_late(chunk)

    def end(self) -> None:
        """Nobody needs to wait any more."""
        for waiters in self._waiters.values():
            for waiter in waiters:
                waiter.cancel()

    async def _settle(self, chunk: Chunk) -> None:
        """Sync it, and then finish it: a footer is believed about the frames before it."""
        safe: bool | None = chunk.number not in self._doubts  # what the server holds was synced, or sent in doubt
        if not chunk.done:
            safe = await self._sync(chunk)
            if safe is None:
                return
            if not safe:
                self._doubtful[chunk.number] = chunk
                self._renew_at = self._clock.monotonic() + RENEW_AFTER_S
            chunk.synced_end = chunk.frames_end
        if safe and self._shelf.get(chunk.number) is not None:
            await self._finish(chunk)
        self._pending.pop(chunk.number, None)
        self._release(chunk)

    async def _finish(self, chunk: Chunk) -> None:
        unfinished = self._unfinished.pop(chunk.number, None)
        if unfinished is not None:
            try:
                await finish(self._disk, self._directory, unfinished)
            except OSError as error:
                self._observer.set_aside(chunk.name, f"it could not be finished: {error.strerror or error}")

    async def _sync(self, chunk: Chunk) -> bool | None:
        """Whether it is on the disk now; None to try again, because the file could not even be opened."""
        try:
            file = self._disk.append_to(chunk.name)
        except OSError as error:
            self._observer.sync_failed(chunk.number, str(error))
            self._unopened[chunk.number] = self._unopened.get(chunk.number, 0) + 1
            return None if self._unopened[chunk.number] < TRIES else False
        try:
            return await self._make_safe(chunk, file)
        except asyncio.CancelledError:
            self._doubts.mark(chunk.number)  # how the sync ends is not known, and is told only once
            raise
        finally:
            with contextlib.suppress(OSError):
                file.close()

    async def _make_safe(self, chunk: Chunk, file: File) -> bool:
        if chunk.number not in self._doubts:
            try:
                await self._directory.sync(self._directory_entry)
                await file.sync()
            except OSError as error:
                self._observer.sync_failed(chunk.number, str(error))
                self._doubts.mark(chunk.number)
            else:
                return True
        if await self._renew(chunk):
            self._doubts.clear(chunk.number)
            return True
        with contextlib.suppress(OSError):
            await file.sync()  # it proves nothing, but may help: the file will be sent as it is
        return False

    async def _renew(self, chunk: Chunk) -> bool:
        try:
            await renew(self._disk, self._directory, chunk)
        except OSError as error:
            self._observer.set_aside(chunk.name, f"it could not be written anew: {error.strerror or error}")
            return False
        return True

    async def _renew_late(self, chunk: Chunk) -> None:
        if chunk.done or self._shelf.get(chunk.number) is None or await self._renew(chunk):
            self._doubts.clear(chunk.number)
            del self._doubtful[chunk.number]
            self._unfinished.pop(chunk.number, None)
        else:
            self._doubtful[chunk.number] = self._doubtful.pop(chunk.number)  # the others have their turn
            self._renew_at = self._clock.monotonic() + RENEW_AFTER_S
        self._release(chunk)

    def _release(self, chunk: Chunk) -> None:
        for waiter in self._waiters.pop(chunk.number, []):
            if waiter.done():
                continue
            if chunk.number in self._doubtful:
                waiter.set_exception(unsafe())
            else:
                waiter.set_result(None)

    async def _put_away(self, chunk: Chunk) -> None:
        try:
            await keep_torn(self._disk, self._directory, chunk)
        except OSError as error:
            self._observer.set_aside(chunk.name, f"its torn tail could not be put away: {error.strerror or error}")
