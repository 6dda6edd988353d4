"""Receipts and heartbeats, written together.

Each alone would cost a transaction with its own fsync. While one transaction runs, what arrives waits and goes into
the next: the more tills speak, the more share one. Losing the last moment's notes in a crash is harmless: a receipt
is said again at the next connection, a heartbeat comes again.
"""

from __future__ import annotations

import asyncio

from tillstream_protocol.messages import Vitals

from .. import tills
from ..clock import Clock
from ..events import Events
from ..ledger import outbox
from ..ledger.database import Database


class Notes:
    """Collects what tills report on the push channel and writes it in turn."""

    def __init__(self, database: Database, clock: Clock, events: Events) -> None:
        self._database = database
        self._clock = clock
        self._events = events
        self._receipts: dict[bytes, int] = {}
        self._vitals: dict[bytes, tuple[Vitals, int]] = {}
        self._wake = asyncio.Event()
        self._closing = False

    def receipt(self, till_id: bytes, seq: int) -> None:
        """A till holds every push up to `seq`."""
        self._events.receipt()
        self._receipts[till_id] = max(seq, self._receipts.get(till_id, 0))
        self._wake.set()

    def present(self, till_id: bytes, last_push: int) -> None:
        """A till has come, and holds every push up to `last_push`."""
        if last_push > 0:
            self._receipts[till_id] = max(last_push, self._receipts.get(till_id, 0))
            self._wake.set()

    def vitals(self, vitals: Vitals) -> None:
        """A till said how it is."""
        self._events.heartbeat()
        self._vitals[vitals.till_id] = (vitals, self._clock.now_ms())
        self._wake.set()

    async def run(self) -> None:
        """Write until `close`."""
        while not self._closing:
            await self._wake.wait()
            try:
                await self.flush()
            except Exception as error:  # noqa: BLE001 - one failed write must not end all later ones
                self._events.unexpected("notes", error)

    def close(self) -> None:
        """Have `run` write what is left and return; no transaction is cut short."""
        self._closing = True
        self._wake.set()

    async def flush(self) -> None:
        """Write what has been collected, in one transaction."""
        self._wake.clear()
        receipts, self._receipts = self._receipts, {}
        vitals, self._vitals = self._vitals, {}
        if not receipts and not vitals:
            return
        now_ms = self._clock.now_ms()
        async with self._database.write() as conn:
            await tills.record_vitals(conn, vitals.values())
            for till_id, seq in receipts.items():
                await outbox.receive(conn, till_id, seq, now_ms)
                await tills.number_pushes_above(conn, till_id, seq)
