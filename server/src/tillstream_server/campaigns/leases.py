"""Budgets: what of a campaign has been handed out, and what a lease has left.

A campaign's budget is handed out in leases, and the sum of its leases never passes it: that is why no offline till
can overspend it. A lease belongs to one device of one till, since what a till has spent lies in the journal that
device writes; its id begins with the device's key id. The server draws on a lease of its own, one a campaign, whose
units are the offers it has made. What is spent is counted from the decisions, never kept beside them.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Final

from sqlalchemy import Select, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from tillstream_protocol.decisions import Campaign

from ..devices import Device
from ..ledger import schema

SERVER: Final = bytes(16)
"""Stands for a till in the leases that the server itself draws on."""

_SLICE: Final = 500
_KEY_ID: Final = 8

Budgeted = tuple[str, str]
"""A retailer and the id of one of its campaigns."""


@dataclass(frozen=True, slots=True)
class Held:
    """A lease, and how much of it is known to be spent."""

    id: bytes
    retailer: str
    campaign: str
    till_id: bytes
    units: int
    spent: int


class Draws:
    """The server's draws within one transaction: taken from what is left, then written with the decisions."""

    def __init__(self, handed_out: Mapping[Budgeted, int]) -> None:
        self._handed_out = handed_out
        self._drawn: Counter[Budgeted] = Counter()

    @classmethod
    async def open(cls, conn: AsyncConnection, budgets: Collection[Budgeted]) -> Draws:
        """For these campaigns; what others ask for is refused."""
        return cls({budget: await handed_out(conn, *budget) for budget in budgets})

    def draw(self, retailer: str, campaign: Campaign) -> bytes | None:
        """One unit, or None when there is nothing left."""
        budget = (retailer, campaign.id)
        taken = self._handed_out.get(budget)
        if campaign.budget is None or taken is None or taken + self._drawn[budget] >= campaign.budget.units:
            return None
        self._drawn[budget] += 1
        return server_lease(retailer, campaign.id)

    async def write(self, conn: AsyncConnection, now_ms: int) -> None:
        """Book what was drawn onto the server's leases."""
        rows = [
            (server_lease(retailer, campaign), retailer, campaign, SERVER, units, now_ms)
            for (retailer, campaign), units in self._drawn.items()
        ]
        if rows:
            await conn.exec_driver_sql(
                "INSERT INTO lease (id, retailer, campaign, till_id, units, issued_ms) VALUES (?, ?, ?, ?, ?, ?)"
                " ON CONFLICT (id) DO UPDATE SET units = lease.units + excluded.units",
                rows,
            )


def server_lease(retailer: str, campaign: str) -> bytes:
    """The id of the lease that the server draws on for a campaign."""
    digest = hashlib.blake2b(digest_size=16, person=b"tillstream-lease")
    for part in (retailer.encode(), campaign.encode()):
        digest.update(len(part).to_bytes(4, "big"))
        digest.update(part)
    return digest.digest()


async def handed_out(conn: AsyncConnection, retailer: str, campaign: str) -> int:
    """The units of a campaign's budget that lie in leases, spent or not."""
    rows = await conn.exec_driver_sql(
        "SELECT COALESCE(SUM(units), 0) FROM lease WHERE retailer = ? AND campaign = ?", (retailer, campaign)
    )
    return int(rows.scalar_one())


async def find(conn: AsyncConnection, ids: Collection[bytes]) -> dict[bytes, Held]:
    """The leases of these ids, with what the decisions so far have spent of them."""
    held: dict[bytes, Held] = {}
    for some in slices(ids):
        rows = await conn.execute(_with_spent().where(schema.lease.c.id.in_(some)))
        held.update((row[0], Held(*row)) for row in rows.all())
    return held


async def of_device(conn: AsyncConnection, device: Device, campaigns: Collection[str]) -> list[Held]:
    """These campaigns' leases handed to this device, not to a former one of its till, in order of issue."""
    lease = schema.lease.c
    rows = await conn.execute(
        _with_spent()
        .where(lease.retailer == device.retailer, lease.campaign.in_(campaigns), lease.till_id == device.till_id)
        .order_by(lease.issued_ms)
    )
    return [held for held in (Held(*row) for row in rows.all()) if held.id[:_KEY_ID] == device.key_id]


async def grant(
    conn: AsyncConnection, device: Device, campaign: Campaign, now_ms: int, randomness: Callable[[int], bytes]
) -> Held | None:
    """Hand a lease of the campaign's budget to a device; None where nothing is left."""
    if campaign.budget is None:
        return None
    left = campaign.budget.units - await handed_out(conn, device.retailer, campaign.id)
    units = min(campaign.budget.lease, left)
    if units <= 0:
        return None
    name = device.key_id + randomness(16 - _KEY_ID)
    await conn.exec_driver_sql(
        "INSERT INTO lease (id, retailer, campaign, till_id, units, issued_ms) VALUES (?, ?, ?, ?, ?, ?)",
        (name, device.retailer, campaign.id, device.till_id, units, now_ms),
    )
    return Held(name, device.retailer, campaign.id, device.till_id, units, 0)


def _with_spent() -> Select[bytes, str, str, bytes, int, int]:
    lease, decision = schema.lease.c, schema.decision.c
    spent = (
        select(func.count())
        .where(decision.lease == lease.id, decision.till_id == lease.till_id, decision.outcome == "offered")
        .scalar_subquery()
    )
    return select(lease.id, lease.retailer, lease.campaign, lease.till_id, lease.units, spent)


def slices(ids: Iterable[bytes]) -> Iterator[list[bytes]]:
    """The ids in lists short enough for one statement each."""
    iterator = iter(ids)
    while some := list(islice(iterator, _SLICE)):
        yield some
