"""Bringing packs to connected tills: at a connection, after a change of the book, and before they grow old.

A pack travels through the outbox like an offer, so a till that drops off meanwhile gets it at its next connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final

from tillstream_protocol.messages import PackPush, Push

from ..campaigns.packs import LIFETIME_MS, Packs
from ..clock import Clock
from ..devices import Device
from ..events import Events
from ..ledger import outbox
from ..ledger.database import Database
from .hub import Hub

_AT_ONCE: Final = 100
"""Packs signed in one transaction."""


class Deliveries:
    """Issues packs that are due and hands them to the hub.

    What was issued since the start is remembered by device: a till that connects again and again is not given the
    same pack each time.
    """

    def __init__(
        self,
        database: Database,
        packs: Packs,
        hub: Hub,
        clock: Clock,
        events: Events,
        *,
        refresh_seconds: float,
    ) -> None:
        self._database = database
        self._packs = packs
        self._hub = hub
        self._clock = clock
        self._events = events
        self._refresh_seconds = refresh_seconds
        self._issued: dict[bytes, tuple[int, float]] = {}

    def remember(self, device: Device) -> None:
        """A pack of the present book was just given to a device."""
        self._issued[device.key_id] = (self.version(device), self._clock.monotonic())

    def version(self, device: Device) -> int:
        """The version of the packs that the device gets now."""
        return self._packs.version(device.retailer)

    def is_due(self, device: Device) -> bool:
        """Whether the device's last pack is of an older book, too old, or unknown since the server's start."""
        version, issued = self._issued.get(device.key_id, (-1, 0.0))
        aged = self._clock.monotonic() - issued >= self._refresh_seconds
        return aged or version < self.version(device)

    async def bring(self, devices: Iterable[Device], *, lacking: bool = False) -> None:
        """Issue a pack to each device that is due one, or to all when they are known to lack it."""
        due = [device for device in devices if lacking or self.is_due(device)]
        for start in range(0, len(due), _AT_ONCE):
            for till_id, push in await self._issue(due[start : start + _AT_ONCE]):
                self._hub.send(till_id, push)

    async def announce(self, retailer: str) -> None:
        """A retailer's book has changed: its connected tills get new packs."""
        await self.bring(self._hub.connected(retailer))

    async def run(self, stop: asyncio.Event) -> None:
        """Renew ageing packs of connected tills until `stop` is set."""
        while not await _set_within(stop, self._refresh_seconds / 4):
            try:
                await self.bring(self._hub.connected())
            except Exception as error:  # noqa: BLE001 - the next round tries again
                self._events.unexpected("deliveries", error)

    async def _issue(self, devices: Sequence[Device]) -> list[tuple[bytes, Push]]:
        now_ms = self._clock.now_ms()
        pushes: list[tuple[bytes, Push]] = []
        async with self._database.write() as conn:
            for device in devices:
                body = PackPush(await self._packs.issue(conn, device, now_ms))
                queued = await outbox.enqueue(conn, device.till_id, [(body, now_ms + LIFETIME_MS)], now_ms)
                pushes += [(device.till_id, push) for push in queued]
        for device in devices:
            self.remember(device)
        self._events.pack_issued(len(devices))
        return pushes


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False
