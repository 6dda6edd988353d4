"""Receipts and heartbeats, written together; and what heartbeats give away of records that never came.

Each alone would cost a transaction with its own fsync. While one transaction runs, what arrives waits and goes into
the next: the more tills speak, the more share one. Losing the last moment's notes in a crash is harmless: a receipt
is said again at the next connection, a heartbeat comes again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from sqlalchemy.ext.asyncio import AsyncConnection

from tillstream_protocol.messages import Vitals

from .. import tills
from ..clock import Clock
from ..events import Events
from ..ledger import alarms, gaps, lineage, outbox
from ..ledger.alarms import Suspicion
from ..ledger.database import Database
from ..ledger.lineage import Mark


class Notes:
    """Collects what tills report on the push channel and writes it in turn."""

    def __init__(self, database: Database, clock: Clock, events: Events) -> None:
        self._database = database
        self._clock = clock
        self._events = events
        self._receipts: dict[bytes, int] = {}
        self._vitals: dict[bytes, tuple[Vitals, int]] = {}
        self._marks: dict[tuple[bytes, bytes], int] = {}
        self._looked_at: dict[bytes, tuple[bytes, int]] = {}
        self._just_come: set[bytes] = set()
        self._wake = asyncio.Event()
        self._closing = False

    def receipt(self, till_id: bytes, seq: int) -> None:
        """A till holds every push up to `seq`."""
        self._events.receipt()
        self._receipts[till_id] = max(seq, self._receipts.get(till_id, 0))
        self._wake.set()

    def present(self, till_id: bytes, last_push: int) -> None:
        """A till has come, and holds every push up to `last_push`."""
        self._looked_at.pop(till_id, None)
        self._just_come.add(till_id)
        if last_push > 0:
            self._receipts[till_id] = max(last_push, self._receipts.get(till_id, 0))
            self._wake.set()

    def vitals(self, vitals: Vitals) -> None:
        """A till said how it is."""
        self._events.heartbeat()
        self._vitals[vitals.till_id] = (vitals, self._clock.now_ms())
        place = vitals.till_id, vitals.epoch
        self._marks[place] = max(vitals.position, self._marks.get(place, 0))
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
        marks, self._marks = self._marks, {}
        if not receipts and not vitals:
            return
        now_ms = self._clock.now_ms()
        async with self._database.write() as conn:
            await tills.record_vitals(conn, vitals.values())
            heard = (Mark(till_id, epoch, position) for (till_id, epoch), position in marks.items())
            noticed = await lineage.hear(conn, heard, now_ms)
            if vitals:
                noticed += await self._watch(conn, [one for one, _ in vitals.values()], now_ms)
            for till_id, seq in receipts.items():
                await outbox.receive(conn, till_id, seq, now_ms)
                await tills.number_pushes_above(conn, till_id, seq)
        for alarm in noticed:
            self._events.alarm(alarm.kind, alarm.till_id, alarm.epoch)

    async def _watch(self, conn: AsyncConnection, beats: Iterable[Vitals], now_ms: int) -> list[Suspicion]:
        """Look for what is missing: once in every epoch of a connected till, then in its last while that grows.

        Not at the first heartbeat of a connection: the till may just be hearing what it has to send again.
        """
        noticed: list[Suspicion] = []
        noisy = await alarms.tills_with_absences(conn)
        for vitals in beats:
            till_id, place = vitals.till_id, (vitals.epoch, vitals.position)
            if till_id in self._just_come:
                self._just_come.discard(till_id)
                continue
            before = self._looked_at.get(till_id)
            if till_id in noisy or (not vitals.queued and before != place):
                first = before is None or before[0] != vitals.epoch
                noticed += await gaps.watch(conn, vitals, all_epochs=first, now_ms=now_ms)
            if not vitals.queued:
                self._looked_at[till_id] = place
        return noticed
