"""Tills and the devices that speak for them: who a request's key belongs to.

A till is a place and lasts; a device is one key pair that an agent made. A till has one device that is not revoked.
Every request asks for its device by key id, so answers are cached, unknown keys apart.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection

from .ledger.database import Database

_BY_KEY = """
SELECT d.key_id, d.public_key, d.revoked_ms IS NOT NULL OR t.revoked_ms IS NOT NULL,
       t.till_id, t.retailer, t.store, t.till
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


class Devices:
    """Finds devices. `forget` after every change that commits, so that a revocation holds at once."""

    def __init__(self, database: Database, currency: str) -> None:
        self._database = database
        self._currency = currency
        self._known: dict[bytes, Device] = {}
        self._generation = 0

    async def find(self, key_id: bytes) -> Device | None:
        """The device of a key id, or None."""
        known = self._known.get(key_id)
        if known is not None:
            return known
        generation = self._generation
        async with self._database.read() as conn:
            device = await self.read(conn, key_id)
        if device is not None and generation == self._generation:
            self._known[key_id] = device
        return device

    async def read(self, conn: AsyncConnection, key_id: bytes) -> Device | None:
        """The device as a transaction sees it, past the cache."""
        rows = (await conn.exec_driver_sql(_BY_KEY + "WHERE d.key_id = ?", (key_id,))).all()
        if not rows:
            return None
        key, public, revoked, till_id, retailer, store, till = tuple(rows[0])
        return Device(till_id, retailer, store, till, key, public, bool(revoked), self._currency)

    def forget(self) -> None:
        """Drop what is cached: something changed."""
        self._generation += 1
        self._known.clear()
