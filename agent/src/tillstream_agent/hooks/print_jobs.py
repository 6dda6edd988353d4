"""Print jobs that were copied on their way: where one ends, and capturing what they hold.

A job ends where the paper is cut, where the connection ends, or after some silence. Silence alone proves little, since
some POS print each line as it is scanned: it ends a job only if what came so far is a receipt, and otherwise what
follows is taken to belong to it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from tillstream_protocol.adapters.escpos import MAX_JOB
from tillstream_protocol.adapters.printer_bytes import CUTS, last_cut
from tillstream_protocol.errors import InvalidInput

from ..clock import Clock
from ..events import Events
from ..journal import JournalError
from .payloads import Payloads, Sale

MOST_WAITING: Final = 8 * 1024 * 1024
"""Bytes of jobs that wait for a journal that takes nothing."""
FORGET_S: Final = 600.0
"""Silence after which what was no receipt so far has nothing to do with what follows."""
_OVERLAP: Final = 3
"""Bytes of the longest cut command, less one: it may come in pieces."""
_LONGEST_PAUSE_S: Final = 30.0


class JobCopy:
    """What came over one connection since its last job ended. It holds `limit` bytes at the most.

    `lost` is called for each job that was longer.
    """

    def __init__(self, limit: int = MAX_JOB, dialect: str = "", lost: Callable[[], object] = lambda: None) -> None:
        self._limit = limit
        self._dialect = dialect
        self._lost = lost
        self._bytes = bytearray()
        self._looked = 0
        self._maybe_cut = False
        self._last = 0.0
        self.overflown = False
        """Whether a job grew too long to be one: it is not kept, up to where the next begins."""

    def __len__(self) -> int:
        return len(self._bytes)

    def feed(self, data: bytes, now: float) -> None:
        """More bytes came, at a time of the monotonic clock."""
        if self._bytes and now - self._last > FORGET_S:
            self._forget()
        self._last = now
        self._bytes += data
        self._maybe_cut = self._maybe_cut or CUTS.search(self._bytes, self._looked) is not None
        self._looked = max(0, len(self._bytes) - _OVERLAP)
        if len(self._bytes) > self._limit and not self._maybe_cut:
            self._overflow()

    async def cut(self) -> bytes:
        """The job that a cut has ended, if there is one; what follows it stays."""
        if not self._maybe_cut:
            return b""
        seen = bytes(self._bytes)
        end = await asyncio.to_thread(last_cut, seen, dialect=self._dialect)
        self._maybe_cut = False
        job = self._take(end)
        if len(self._bytes) > self._limit:
            self._overflow()
        return job

    def so_far(self) -> bytes:
        """What came since the last job ended."""
        return bytes(self._bytes)

    def end(self) -> bytes:
        """The job that is over now, whatever came."""
        self._maybe_cut = False
        return self._take(len(self._bytes))

    def _take(self, end: int) -> bytes:
        if not end:
            return b""
        job = bytes(self._bytes[:end])
        del self._bytes[:end]
        self._looked = 0
        too_long, self.overflown = self.overflown or end > self._limit, False
        if too_long:
            self._lost()
            return b""
        return job

    def _forget(self) -> None:
        """What came belongs to nothing that comes now; what was no receipt so far will be none."""
        if self.overflown:
            self._lost()
        self._bytes.clear()
        self._looked = 0
        self._maybe_cut = self.overflown = False

    def _overflow(self) -> None:
        """Keep only what may be the beginning of a cut."""
        del self._bytes[:-_OVERLAP]
        self._looked = 0
        self.overflown = True


class PrintCapture:
    """Captures jobs one at a time, in the order in which they came; what the journal cannot take yet is kept."""

    def __init__(self, adapter: str, payloads: Payloads, events: Events, clock: Clock) -> None:
        self._adapter = adapter
        self._payloads = payloads
        self._events = events
        self._clock = clock
        self._waiting: deque[tuple[bytes, Sequence[Sale] | None, int]] = deque()
        self._size = 0
        self._more = asyncio.Event()
        self._done = asyncio.Event()
        self._done.set()

    async def receipts(self, job: bytes, *, dated: bool) -> Sequence[Sale]:
        """The receipts in a job that may go on, or only those with a date. What cannot be read has none.

        Nothing is raised: who asks has a job to print.
        """
        received_ms = None if dated else self._clock.now_ms()
        try:
            return await self._payloads.read(self._adapter, job, received_ms=received_ms)
        except InvalidInput:
            return ()
        except Exception as error:  # noqa: BLE001 (a defect: the job that is being printed must go on)
            self._events.crashed("printer", error)
            return ()

    def put(self, job: bytes, sales: Sequence[Sale] | None = None) -> None:
        """A job is over; `sales` are what it holds, where that is known. It is captured in its turn."""
        if not job:
            return
        if self._size + len(job) > MOST_WAITING:
            self._events.printed("lost")
            return
        self._waiting.append((job, sales, self._clock.now_ms()))
        self._size += len(job)
        self._done.clear()
        self._more.set()

    async def run(self) -> None:
        """Capture what comes, for ever."""
        failures = 0
        while True:
            await self._more.wait()
            try:
                await self._capture_all()
                failures = 0
            except JournalError as error:
                self._events.capture_failed("printer", error)
                failures += 1
                await asyncio.sleep(min(_LONGEST_PAUSE_S, 0.5 * 2 ** min(failures, 10)))

    async def captured(self) -> None:
        """Return when nothing waits."""
        await self._done.wait()

    async def finish(self) -> None:
        """Capture what waits once more, at the end."""
        try:
            await self._capture_all()
        except JournalError as error:
            self._events.capture_failed("printer", error)
            for _ in self._waiting:
                self._events.printed("lost")

    async def _capture_all(self) -> None:
        while self._waiting:
            job, sales, received_ms = self._waiting[0]
            try:
                await self._capture(job, sales, received_ms)
            except JournalError:
                raise
            except InvalidInput as error:
                self._events.print_refused(error)
            except Exception as error:  # noqa: BLE001 (a defect: one job must not hold up the others)
                self._events.crashed("printer", error)
                self._events.printed("refused")
            self._waiting.popleft()
            self._size -= len(job)
        self._more.clear()
        self._done.set()

    async def _capture(self, job: bytes, sales: Sequence[Sale] | None, received_ms: int) -> None:
        started = self._clock.monotonic()
        if sales is None:
            sales = await self._payloads.read(self._adapter, job, received_ms=received_ms)
        captured = await self._payloads.capture(sales)
        for one in captured:
            self._events.captured("printer", "transaction", "os", repeat=one.repeat)
        self._events.adapted("printer", self._clock.monotonic() - started)
        new = any(not one.repeat for one in captured)
        self._events.printed("captured" if new else "repeat" if captured else "nothing")
