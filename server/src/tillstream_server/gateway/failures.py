"""Who was not let in, written down: without it a failed enrolment shows only in the server's log.

Anybody can fail as often as they like, so nothing is written while they wait: what failed is counted in memory, the
same attempt from the same place as one, and written at most once a second. What does not fit meanwhile is only in the
log and the metric.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

from .. import fleet
from ..clock import Clock
from ..events import Events
from ..fleet import Failure, Tries
from ..ledger.database import Database

MAX_WAITING: Final = 200
"""Different failures held in memory; of those with a token that is not ours, half as many."""
EVERY_S: Final = 1.0


class Failures:
    """Collects failed enrolments and writes them in turn."""

    def __init__(self, database: Database, clock: Clock, events: Events) -> None:
        self._database = database
        self._clock = clock
        self._events = events
        self._waiting: dict[Failure, Tries] = {}
        self._wake = asyncio.Event()

    def note(self, failure: Failure) -> None:
        """Somebody was not let in."""
        now_ms = self._clock.now_ms()
        before = self._waiting.get(failure)
        most = MAX_WAITING if failure.retailer else MAX_WAITING // 2
        if before is None and len(self._waiting) >= most:
            return
        count, first_ms = (before.count, before.first_ms) if before is not None else (0, now_ms)
        self._waiting[failure] = Tries(count + 1, first_ms, now_ms)
        self._wake.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Write until `stop` is set, and then what is left."""
        while not stop.is_set():
            ending = asyncio.create_task(stop.wait())
            waking = asyncio.create_task(self._wake.wait())
            await asyncio.wait({ending, waking}, return_when=asyncio.FIRST_COMPLETED)
            for task in (ending, waking):
                task.cancel()
            await self._write()
            with suppress(TimeoutError):
                async with asyncio.timeout(EVERY_S):
                    await stop.wait()
        await self._write()

    async def flush(self) -> None:
        """Write what has been collected, in one transaction."""
        self._wake.clear()
        waiting, self._waiting = self._waiting, {}
        if waiting:
            async with self._database.write() as conn:
                await fleet.note_failures(conn, waiting)

    async def _write(self) -> None:
        try:
            await self.flush()
        except Exception as error:  # noqa: BLE001 - one failed write must not end all later ones
            self._events.unexpected("failures", error)
