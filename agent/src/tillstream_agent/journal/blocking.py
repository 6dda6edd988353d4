"""Calls that block, in threads of their own: the disk may hang, and the event loop must not.

The way back from a thread through the event loop takes as long as a good disk takes to sync. Where somebody waits for
the disk, the loop may therefore wait for the thread itself: for as long as a good disk takes and no longer, and not
where the disk took longer before.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import weakref
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import Final

SWIFT_S: Final = 0.001
"""How long the loop is held up at the most for somebody who waits: as the system keeps time, on Windows in ticks."""


class Threads:
    """Threads for blocking calls: as many as there are calls at a time. They end with this object."""

    def __init__(self) -> None:
        self._idle: list[SimpleQueue[_Call | None]] = []

    def begin(self, call: Callable[[], None]) -> _Call:
        """Have a thread make the call."""
        begun = _Call(call)
        (self._idle.pop() if self._idle else self._begin()).put(begun)
        return begun

    def _begin(self) -> SimpleQueue[_Call | None]:
        calls: SimpleQueue[_Call | None] = SimpleQueue()
        threading.Thread(target=_serve, args=(calls, self._idle), daemon=True).start()
        weakref.finalize(self, calls.put, None)
        return calls


class _Call:
    """A call, and what came of it: the `error` that it raised, and how many `seconds` it took."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call
        self._ended = threading.Lock()
        self._ended.acquire()
        self._over = False
        self.error: BaseException | None = None
        self._awaited: asyncio.Future[None] | None = None
        self._wake: Callable[[], None] | None = None
        self.seconds = 0.0

    def make(self) -> None:
        """Make it; in its thread."""
        began = time.perf_counter()
        try:
            self._call()
        except BaseException as error:  # noqa: BLE001 - it is raised where the call was asked for
            self.error = error
        self.seconds = time.perf_counter() - began

    def end(self) -> None:
        """Tell who waits that it was made; in its thread."""
        self._over = True
        self._ended.release()
        if self._wake is not None:
            self._wake()

    def hold(self, seconds: float) -> bool:
        """Hold up this thread until the call has ended, but not for longer; whether it has. Once."""
        return self._ended.acquire(timeout=seconds)

    async def result(self) -> None:
        """Wait until the call has ended. Raises what it raised."""
        if not self._over:
            await asyncio.shield(self._awaited or self._await())
        if self.error is not None:
            raise self.error

    def _await(self) -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()
        self._awaited = awaited = loop.create_future()
        self._wake = partial(_wake, loop, awaited)
        if self._over:  # it ended meanwhile, and may not have seen who is to be woken
            _end(awaited)
        return awaited


class OffTheLoop:
    """One blocking call at a time. If its caller goes away, the next one gets its failure: the system tells it once."""

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self._running: _Call | None = None
        self._swift = True

    async def run(self, call: Callable[[], None]) -> None:
        """Make a call."""
        await self.ended()
        self._running = self._threads.begin(call)
        await self.ended()

    @property
    def swift(self) -> bool:
        """Whether the loop may wait for a call: none is under way, and the last one was soon over."""
        return self._swift and self._running is None

    def run_now(self, call: Callable[[], None]) -> bool:
        """Make a call while the loop waits, `SWIFT_S` at the most; whether it has ended well. If not, `ended` tells.

        Only where calls are `swift`.
        """
        self._running = running = self._threads.begin(call)
        if not running.hold(SWIFT_S) or running.error is not None:
            return False
        self._note_end(running)
        return True

    async def ended(self) -> bool:
        """Wait for the call that is under way; whether there was one. Raises what it raised."""
        running = self._running
        if running is None:
            return False
        try:
            await running.result()
        except Exception:
            self._note_end(running)
            raise
        self._note_end(running)
        return True

    def _note_end(self, call: _Call) -> None:
        # A system with coarse timers may have held up the loop for longer.
        self._swift = call.seconds <= SWIFT_S
        if self._running is call:  # who waited for it too may have begun the next one
            self._running = None


def _serve(calls: SimpleQueue[_Call | None], idle: list[SimpleQueue[_Call | None]]) -> None:
    """Make calls until there is None, and be idle between them."""
    while (call := calls.get()) is not None:
        call.make()
        idle.append(calls)
        call.end()
        del call


def _wake(loop: asyncio.AbstractEventLoop, ended: asyncio.Future[None]) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits any more
        loop.call_soon_threadsafe(_end, ended)


def _end(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_result(None)
