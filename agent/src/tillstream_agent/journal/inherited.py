"""What earlier runs left on disk: finished as their writers had no time to, and made to survive a power cut.

It is not in memory, so it is synced once before it is sent. Where that fails, a second try would prove nothing: the
file is written anew from what can be read. Where that fails too it is sent as it reads, since every frame has its
checksum and its seal, and the server's acknowledgement makes it safe; nobody is told that it is on the disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

from ..clock import Clock
from .chunks import Chunk
from .disk import Disk
from .errors import unsafe
from .mending import finish, keep_torn, renew
from .observer import JournalObserver
from .reading import Look
from .shelf import Shelf

A_PASS: Final = 8
"""How many chunks are synced in one pass, so that new records do not wait for all of them."""
RENEW_AFTER_S: Final = 30.0
TRIES: Final = 5
"""How often a file that cannot be opened is tried before it is sent all the same."""


class Inherited:
    """The chunks of earlier runs, until they are synced. `unfinished` are those that have no footer yet."""

    def __init__(
        self, disk: Disk, shelf: Shelf, clock: Clock, observer: JournalObserver, unfinished: Iterable[Look]
    ) -> None:
        self._disk = disk
        self._shelf = shelf
        self._clock = clock
        self._observer = observer
        self._unfinished = {one.chunk.number: one for one in unfinished}
        self._pending = {c.number: c for c in shelf if not c.done or c.number in self._unfinished}
        self._doubtful: dict[int, float] = {}
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
        doubtful = [self._shelf.get(number) for number in self._doubtful]
        return not any(not chunk.done for chunk in (*self._pending.values(), *doubtful) if chunk is not None)

    def put_away_tail(self, chunk: Chunk) -> None:
        """Keep a torn tail under another name and cut it, at the next pass."""
        self._torn.append(chunk)

    async def synced(self, epoch: bytes, seq: int) -> None:
        """Return when a record of an earlier run survives a power cut. Raises `JournalError` where that is in doubt."""
        chunk = self._shelf.holding(epoch, seq)
        if chunk is None or chunk.done:
            return
        if chunk.number in self._doubtful:
            raise unsafe()
        if chunk.number in self._pending:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.setdefault(chunk.number, []).append(waiter)
            await waiter

    async def step(self) -> None:
        """A few of them."""
        for chunk in [*self._torn]:
            self._torn.remove(chunk)
            await self._put_away(chunk)
        for chunk in list(self._pending.values())[:A_PASS]:
            await self._settle(chunk)
        for number, due in list(self._doubtful.items()):
            if due <= self._clock.monotonic():
                await self._renew_late(number)

    def end(self) -> None:
        """Nobody needs to wait any more."""
        for waiters in self._waiters.values():
            for waiter in waiters:
                waiter.cancel()

    async def _settle(self, chunk: Chunk) -> None:
        unfinished = self._unfinished.pop(chunk.number, None)
        if unfinished is not None:
            try:
                await finish(self._disk, unfinished)
            except OSError as error:
                self._observer.set_aside(chunk.name, f"it could not be finished: {error.strerror or error}")
        if not chunk.done:
            safe = await self._sync(chunk)
            if safe is None:
                return
            if not safe:
                self._doubtful[chunk.number] = self._clock.monotonic() + RENEW_AFTER_S
        chunk.synced_end = chunk.frames_end
        self._pending.pop(chunk.number, None)
        for waiter in self._waiters.pop(chunk.number, []):
            if waiter.done():
                continue
            if chunk.number in self._doubtful:
                waiter.set_exception(unsafe())
            else:
                waiter.set_result(None)

    async def _sync(self, chunk: Chunk) -> bool | None:
        """Whether it is on the disk now; None to try again, because the file could not even be opened."""
        try:
            file = self._disk.append_to(chunk.name)
        except OSError as error:
            self._observer.sync_failed(chunk.number, str(error))
            self._unopened[chunk.number] = self._unopened.get(chunk.number, 0) + 1
            return None if self._unopened[chunk.number] < TRIES else False
        try:
            await file.sync()
        except OSError as error:
            self._observer.sync_failed(chunk.number, str(error))
            return await self._renew(chunk)
        finally:
            file.close()
        return True

    async def _renew(self, chunk: Chunk) -> bool:
        try:
            await renew(self._disk, chunk)
        except OSError as error:
            self._observer.set_aside(chunk.name, f"it could not be written anew: {error.strerror or error}")
            return False
        return True

    async def _renew_late(self, number: int) -> None:
        chunk = self._shelf.get(number)
        if chunk is None or chunk.done or await self._renew(chunk):
            del self._doubtful[number]
        else:
            self._doubtful[number] = self._clock.monotonic() + RENEW_AFTER_S

    async def _put_away(self, chunk: Chunk) -> None:
        try:
            await keep_torn(self._disk, chunk)
        except OSError as error:
            self._observer.set_aside(chunk.name, f"its torn tail could not be put away: {error.strerror or error}")
