"""Packs: what a till may decide by, with the leases it may spend and the keys it seals to, signed for it alone.

A pack's version grows with its retailer's book, and with the generation of the server's keys: `GENERATION` versions of
the book go into one. So a till that holds a pack of former keys is due a new one, and after a restore from a backup no
older book gives a version that a till has had.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from tillstream_protocol.decisions import Campaign
from tillstream_protocol.pack import Lease, Pack, SignedPack, sign_pack

from ..devices import Device
from ..keys import ServerKeys
from . import leases
from .book import CampaignBook, Shelf

DAY_MS: Final = 86_400_000
LIFETIME_MS: Final = 30 * DAY_MS
"""How long a till may decide by one pack, offline too."""
GENERATION: Final = 2**20


class Packs:
    """Makes packs. A new one is due when the book's version has grown, a lease is spent, or the old one ages."""

    def __init__(
        self,
        book: CampaignBook,
        keys: ServerKeys,
        randomness: Callable[[int], bytes],
        *,
        lifetime_ms: int = LIFETIME_MS,
    ) -> None:
        self._book = book
        self._keys = keys
        self._randomness = randomness
        self.lifetime_ms = lifetime_ms

    def version(self, retailer: str) -> int:
        """The version of the packs that a retailer's tills get now."""
        return self._numbered(self._book.version(retailer))

    async def issue(self, conn: AsyncConnection, device: Device, now_ms: int) -> SignedPack:
        """The pack for a device now, in a writing transaction: a budget it has nothing left of gives it a lease."""
        shelf = await self._book.refresh(conn, device.retailer)
        campaigns = _for_edge(shelf, device)
        open_leases, _ = await self._lease(conn, device, campaigns, now_ms)
        return self._seal(shelf.version, device, campaigns, open_leases, now_ms)

    async def renew(self, conn: AsyncConnection, device: Device, now_ms: int) -> SignedPack | None:
        """A pack with new leases where the device has spent one and the budget gives another; else None."""
        shelf = await self._book.refresh(conn, device.retailer)
        campaigns = _for_edge(shelf, device)
        open_leases, granted = await self._lease(conn, device, campaigns, now_ms)
        return self._seal(shelf.version, device, campaigns, open_leases, now_ms) if granted else None

    async def _lease(
        self, conn: AsyncConnection, device: Device, campaigns: Iterable[Campaign], now_ms: int
    ) -> tuple[list[leases.Held], int]:
        """The device's leases with something left, and how many of them were granted just now."""
        budgeted = {campaign.id: campaign for campaign in campaigns if campaign.budget is not None}
        if not budgeted:
            return [], 0
        held = [lease for lease in await leases.of_device(conn, device, budgeted) if lease.spent < lease.units]
        granted = 0
        for campaign_id in sorted(budgeted.keys() - {lease.campaign for lease in held}):
            lease = await leases.grant(conn, device, budgeted[campaign_id], now_ms, self._randomness)
            if lease is not None:
                held.append(lease)
                granted += 1
        return held, granted

    def _numbered(self, book_version: int) -> int:
        return self._keys.generation * GENERATION + book_version

    def _seal(
        self, version: int, device: Device, campaigns: tuple[Campaign, ...], held: Iterable[leases.Held], now_ms: int
    ) -> SignedPack:
        pack = Pack(
            version=self._numbered(version),
            retailer=device.retailer,
            store=device.store,
            till=device.till_id,
            issued_ms=now_ms,
            expires_ms=now_ms + self.lifetime_ms,
            campaigns=campaigns,
            leases=tuple(Lease(lease.id, lease.campaign, lease.units) for lease in held),
            offer_key=self._keys.offer_key(device.retailer),
            box_public_key=self._keys.box_public,
            escrow_public_key=self._keys.escrow_public,
        )
        return sign_pack(pack, self._keys.sign)


def _for_edge(shelf: Shelf, device: Device) -> tuple[Campaign, ...]:
    campaigns = (rule.campaign for rule in shelf.rules if rule.at_edge)
    return tuple(campaign for campaign in campaigns if not campaign.stores or device.store in campaign.stores)
