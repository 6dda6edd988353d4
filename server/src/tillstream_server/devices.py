"""Tills and the devices that speak for them: who a request's key belongs to.

A till is a place and lasts; a device is one key pair that an agent made. A till has one device that is not revoked, or
two while it changes from one to the next: the former one speaks on until the next has been heard, and for a while
afterwards. Every request asks for its device by key id, so answers are cached, unknown keys apart.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from .clock import Clock
from .ledger.database import Database

OVERLAP_MS: Final = 24 * 3_600_000
"""So long a till's former device speaks on after the next one has been heard."""

_BY_KEY = """
SELECT d.key_id, d.public_key, t.revoked_ms IS NOT NULL, t.till_id, t.retailer, t.store, t.till, d.revoked_ms,
       EXISTS (SELECT 1 FROM device f WHERE f.till_id = d.till_id AND f.revoked_ms IS NULL
               AND f.created_ms < d.created_ms)
FROM device d JOIN till t ON t.till_id = d.till_id
"""


@dataclass(frozen=True, slots=True)
class Device:
    """One device and the till it speaks for. `till_id` has 16 bytes, `key_id` 8, `public_key` 32."""

    till_id: bytes
    retailer: str
    store: str
    till: str
    key_id: bytes
    public_key: bytes
    revoked: bool
    currency: str
    """The currency of a transaction that names none."""
    until_ms: int | None = None
    """When it stops to speak for its till, if it does."""
    follows: bool = False
    """Whether it is the next device of a till whose former one does not know yet that it was heard."""


class Devices:
    """Finds devices. `forget` after every change that commits, so that a revocation holds at once."""

    def __init__(self, database: Database, currency: str, clock: Clock) -> None:
        self._database = database
        self._currency = currency
        self._clock = clock
        self._known: dict[bytes, Device] = {}
        self._generation = 0

    async def find(self, key_id: bytes) -> Device | None:
        """The device of a key id, or None."""
        known = self._known.get(key_id)
        if known is not None:
            return self._now(known)
        generation = self._generation
        async with self._database.read() as conn:
            device = await self.read(conn, key_id)
        if device is not None and generation == self._generation:
            self._known[key_id] = device
        return device

    async def heard(self, device: Device) -> None:
        """A till's next device spoke: the former one has its time, and no more."""
        if not device.follows or device.revoked:
            return
        async with self._database.write() as conn:
            await conn.exec_driver_sql(
                "UPDATE device SET revoked_ms = ? WHERE till_id = ? AND revoked_ms IS NULL AND created_ms <"
                " (SELECT created_ms FROM device WHERE key_id = ?)",
                (self._clock.now_ms() + OVERLAP_MS, device.till_id, device.key_id),
            )
        self.forget()

    async def read(self, conn: AsyncConnection, key_id: bytes) -> Device | None:
        """The device as a transaction sees it, past the cache."""
        rows = (await conn.exec_driver_sql(_BY_KEY + "WHERE d.key_id = ?", (key_id,))).all()
        if not rows:
            return None
        key, public, revoked, till_id, retailer, store, till, until_ms, follows = tuple(rows[0])
        names = (till_id, retailer, store, till, key, public)
        return self._now(Device(*names, bool(revoked), self._currency, until_ms, bool(follows)))

    def _now(self, device: Device) -> Device:
        """The same as of now: a device whose time is over is revoked."""
        over = device.until_ms is not None and device.until_ms <= self._clock.now_ms()
        return replace(device, revoked=True) if over and not device.revoked else device

    def forget(self) -> None:
        """Drop what is cached: something changed."""
        self._generation += 1
        self._known.clear()
