"""A server's ledger with tills and campaigns, for tests of what happens after a record was written."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from msgspec.structs import replace
from nacl.public import PrivateKey
from sqlalchemy import insert, select

from tillstream_protocol.decisions import Budget, Campaign, Decision, Occasion, Trigger, decide, ranked, ready
from tillstream_protocol.effects import CashierMessage
from tillstream_protocol.events import MemberIdentified, Record
from tillstream_protocol.facts import LazyFacts, identification_occasion_key, sale_facts, sale_occasion_key
from tillstream_protocol.messages import Push
from tillstream_protocol.pack import Pack, SignedPack, open_pack
from tillstream_protocol.rules import Condition, Fact
from tillstream_protocol.signing import SignKey
from tillstream_protocol.transaction import Customer, Identifier, Line, Moment, Source, Transaction
from tillstream_server.campaigns.book import CampaignBook
from tillstream_server.campaigns.packs import Packs
from tillstream_server.campaigns.triggers import Fired, Triggers
from tillstream_server.devices import Device
from tillstream_server.keys import ServerKeys
from tillstream_server.ledger import schema
from tillstream_server.ledger.database import Database, migrate

NOW: Final = 1_790_000_000_000
RETAILER: Final = "acme"
BIG_SALE: Final[Condition] = {">=": [{"var": "sale.total"}, 1000]}
REGULAR: Final[Condition] = {">=": [{"var": "member.visits"}, 3]}
EPOCH: Final = b"e" * 16


def campaign(
    id: str = "big-sale",  # noqa: A002 - the campaign file's own word
    *,
    version: int = 1,
    trigger: Trigger = "transaction",
    condition: Condition = BIG_SALE,
    budget: Budget | None = None,
    **fields: Any,
) -> Campaign:
    """A campaign that says thanks for a big sale, unless told otherwise."""
    effects = fields.pop("effects", (CashierMessage("Say thanks"),))
    return Campaign(
        id=id,
        version=version,
        name=id,
        trigger=trigger,
        condition=condition,
        effects=effects,
        budget=budget,
        **fields,
    )


def sale(number: int = 1, *, total: int = 2500, member: bool = False) -> Transaction:
    """A sale of one line at acme's store north."""
    return Transaction(
        source=Source("test-pos"),
        kind="sale",
        pos_id=str(number),
        business_date="2026-09-21",
        end=Moment(NOW),
        currency="USD",
        total=total,
        retailer=RETAILER,
        store="north",
        till="1",
        lines=(Line(seq=1, amount=total, sku="A", hierarchy=("food",)),),
        customer=Customer(identifiers=(Identifier("loyalty", "1234567"),)) if member else None,
    )


@dataclass(frozen=True, slots=True)
class Stored:
    """A decision row."""

    offer_id: bytes
    till_id: bytes
    ledger_id: int
    campaign: str
    outcome: str
    reason: str | None
    decided_at: str
    verdict: str | None
    lease: bytes | None
    pushed_ms: int | None
    received_ms: int | None
    shown_ms: int | None


def server_keys(sign: SignKey, *, generation: int = 0) -> ServerKeys:
    """A server's keys, the same in every run."""
    return ServerKeys(
        sign=sign,
        box_private=b"b" * 32,
        box_public=bytes(PrivateKey(b"b" * 32).public_key),
        escrow_public=bytes(PrivateKey(b"e" * 32).public_key),
        identifier_key=b"i" * 32,
        digest_key=b"d" * 32,
        vault_key=b"v" * 32,
        generation=generation,
    )


class Server:
    """The parts that decide, on a real database."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.key = SignKey(b"s" * 32)
        self.keys = server_keys(self.key)
        self.book = CampaignBook()
        self._counter = itertools.count(1)
        self.packs = Packs(self.book, self.keys, self.random)
        self.triggers = Triggers(self.book, self.packs)
        self._ledger_ids = itertools.count(1)

    def random(self, size: int) -> bytes:
        """Bytes that differ from call to call and not from run to run."""
        return hashlib.blake2b(next(self._counter).to_bytes(8, "big"), digest_size=size).digest()

    async def enrols(self, till: str = "1", *, store: str = "north", retailer: str = RETAILER) -> Device:
        """A new till with its device."""
        till_id = hashlib.blake2b(f"{retailer}/{store}/{till}".encode(), digest_size=16).digest()
        place = {"till_id": till_id, "retailer": retailer, "store": store, "till": till, "created_ms": NOW}
        async with self.database.write() as conn:
            await conn.execute(insert(schema.till).values(**place))
        return Device(till_id, retailer, store, till, till_id[:8], bytes(32), revoked=False, currency="USD")

    async def puts(self, *campaigns: Campaign, retailer: str = RETAILER) -> None:
        """Head office puts campaigns in force."""
        async with self.database.write() as conn:
            for one in campaigns:
                await self.book.put(conn, retailer, one, NOW)

    async def ends(self, campaign_id: str, retailer: str = RETAILER) -> None:
        """Head office ends a campaign."""
        async with self.database.write() as conn:
            await self.book.end(conn, retailer, campaign_id)

    async def issues(self, device: Device, now_ms: int = NOW) -> Pack:
        """The till's pack, opened as the till would."""
        async with self.database.write() as conn:
            return self.opens(await self.packs.issue(conn, device, now_ms), device)

    def opens(self, signed: SignedPack, device: Device) -> Pack:
        """A signed pack as the device reads it."""
        return open_pack(signed, self.key.public, device.till_id)

    async def processes(self, *fired: Fired) -> list[Push]:
        """One batch of records, written and decided on; the pushes that follow from it."""
        async with self.database.write() as conn:
            return [push for _, push in await self.triggers.fire(conn, fired)]

    def sells(
        self,
        device: Device,
        transaction: Transaction,
        *,
        subject: bytes | None = None,
        age_ms: int = 0,
        decisions: Sequence[Decision] = (),
        facts: Mapping[str, Fact] | None = None,
        received_ms: int = NOW,
    ) -> Fired:
        """A sale as the pipeline hands it on."""
        record = Record(transaction, captured_at=received_ms - age_ms, decisions=tuple(decisions))
        return Fired(
            ledger_id=next(self._ledger_ids),
            device=device,
            record=record,
            body=transaction,
            subject=subject,
            store=device.store,
            facts=LazyFacts(partial(sale_facts, transaction), facts),
            occasion_key=sale_occasion_key(transaction),
            offer_key=self.keys.offer_key(device.retailer),
            trigger="transaction",
            epoch=EPOCH,
            seq=0,
            received_ms=received_ms,
            age_ms=age_ms,
        )

    def identifies(self, device: Device, event_id: str, *, subject: bytes, basket: str = "") -> Fired:
        """A member at the till, as the pipeline hands it on."""
        body = MemberIdentified((Identifier("loyalty", "1234567"),), event_id=event_id, basket=basket)
        fired = self.sells(device, sale(), subject=subject)
        return replace(
            fired,
            record=Record(body, captured_at=NOW),
            body=body,
            facts=LazyFacts(lambda: {"member.known": True, "till.store": device.store, "member.visits": 5}),
            occasion_key=identification_occasion_key(body, device.till_id),
            trigger="member_identified",
        )

    async def decisions(self) -> list[Stored]:
        """Every decision, in the order they were written."""
        table = schema.decision
        columns = [table.c[name] for name in Stored.__slots__]
        async with self.database.read() as conn:
            rows = await conn.execute(select(*columns).order_by(table.c.ledger_id))
            return [Stored(*row) for row in rows.all()]

    async def leases(self) -> list[tuple[bytes, bytes, str, int]]:
        """Every lease: id, till, campaign, units."""
        lease = schema.lease.c
        async with self.database.read() as conn:
            rows = await conn.execute(select(lease.id, lease.till_id, lease.campaign, lease.units))
            return [(name, till, campaign_id, units) for name, till, campaign_id, units in rows.all()]


class Till:
    """A till that decides by the pack it was given, as an agent does."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._pack: Pack | None = None
        self._spent: dict[bytes, int] = {}

    def takes(self, pack: Pack) -> None:
        """Decide by this pack from now on."""
        self._pack = pack

    def decides(self, transaction: Transaction, now_ms: int = NOW) -> list[Decision]:
        """What the till decides on a sale, offline."""
        if self._pack is None:
            return []
        occasion = Occasion(
            trigger="transaction",
            store=self.device.store,
            facts=sale_facts(transaction),
            record_key=sale_occasion_key(transaction),
            member_key=None,
            offer_key=self._pack.offer_key,
            now_ms=now_ms,
            age_ms=0,
            side="edge",
        )
        return decide(ranked(map(ready, self._pack.campaigns)), occasion, draw=self._draw)

    def _draw(self, one: Campaign) -> bytes | None:
        leases = self._pack.leases if self._pack is not None else ()
        for lease in leases:
            if lease.campaign == one.id and self._spent.get(lease.id, 0) < lease.units:
                self._spent[lease.id] = self._spent.get(lease.id, 0) + 1
                return lease.id
        return None


@asynccontextmanager
async def server_at(path: Path) -> AsyncIterator[Server]:
    """A server on the database at `path`, made if it is not there."""
    if not path.exists():
        await migrate(path)
    database = await Database.open(path, readers=1)
    try:
        yield Server(database)
    finally:
        await database.close()
