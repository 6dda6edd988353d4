"""A pipeline on a ledger of its own, and tills that seal records for it."""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncConnection

from tillstream_protocol.codec import encode
from tillstream_protocol.events import KIND_NUMBERS, Body, Record
from tillstream_protocol.framing import NO_EPOCH, NO_TAG, ChunkHeader, ClearHeader, Place, seal_frame
from tillstream_protocol.limits import DEFAULT
from tillstream_protocol.messages import Batch, Push
from tillstream_protocol.sealing import RecordSeal, key_id, seal_key
from tillstream_protocol.signing import SignKey
from tillstream_protocol.transaction import (
    Customer,
    Identifier,
    Line,
    Link,
    Moment,
    Source,
    Tender,
    Transaction,
)
from tillstream_server import keys
from tillstream_server.campaigns.triggers import Fired, Marked
from tillstream_server.customers.identity import Namer, normalise
from tillstream_server.customers.vault import Item, Vault, create_keys
from tillstream_server.devices import Device
from tillstream_server.keys import Randomness, ServerKeys
from tillstream_server.ledger import schema
from tillstream_server.ledger.database import Database, migrate
from tillstream_server.pipeline.outcome import Outcome
from tillstream_server.pipeline.process import Pipeline
from tillstream_server.pipeline.projections import member_number, place_number

NOW: Final = 1_790_000_000_000
HOUR: Final = 3_600_000
DAY: Final = 24 * HOUR
RETAILER: Final = "acme"


class SetClock:
    """A clock that stands still until it is turned."""

    def __init__(self) -> None:
        self.ms = NOW

    def now_ms(self) -> int:
        return self.ms

    def monotonic(self) -> float:
        return self.ms / 1000


class Listener:
    """Stands where campaigns stand, and keeps what it was told."""

    def __init__(self) -> None:
        self.fired: list[Fired] = []
        self.marked: list[Marked] = []
        self.told: list[str] = []
        self.error: Exception | None = None
        self.poison: str | None = None
        """The POS id of a sale that `error` is for; None is for every one."""

    async def fire(self, conn: AsyncConnection, facts: Sequence[Fired]) -> list[tuple[bytes, Push]]:
        names = {getattr(one.body, "pos_id", None) for one in facts}
        if self.error is not None and (self.poison is None or self.poison in names):
            raise self.error
        self.told.append("fire")
        self.fired += facts
        return []

    async def mark(self, conn: AsyncConnection, events: Sequence[Marked]) -> None:
        self.told.append("mark")
        self.marked += events


class Till:
    """Seals records into one chunk, as an agent would. Seqs count from 0 unless they are given."""

    def __init__(self, server: ServerKeys, name: str = "1", *, epoch: bytes | None = None, **header: Any) -> None:
        self.key = SignKey(os.urandom(32))
        self.till_id = name.encode().rjust(16, b"t")
        self.device = Device(
            till_id=self.till_id,
            retailer=RETAILER,
            store="s1",
            till=name,
            key_id=self.key.key_id,
            public_key=self.key.public,
            revoked=False,
            currency="USD",
        )
        self.epoch = os.urandom(16) if epoch is None else epoch
        self._server = server
        self._seqs = itertools.count()
        self.open_chunk(**header)

    def follows(self, epoch: bytes, parent: bytes, position: int) -> None:
        """Start anew: an epoch that follows a place, with seqs from 0."""
        self.epoch = epoch
        self._seqs = itertools.count()
        self.open_chunk(epoch=epoch, parent=parent, parent_position=position)

    def open_chunk(self, **changes: Any) -> None:
        """Begin a chunk; `changes` are fields of its header."""
        data_key = os.urandom(32)
        server = changes.pop("server", self._server)
        fields: dict[str, Any] = {
            "till": self.till_id,
            "epoch": self.epoch,
            "chunk": 1,
            "parent": NO_EPOCH,
            "parent_position": 0,
            "first_seq": 0,
            "created": NOW,
            "device_key_id": self.key.key_id,
            "server_key_id": key_id(server.box_public),
            "server_sealed_key": seal_key(data_key, server.box_public, os.urandom(32)),
            "escrow_key_id": key_id(server.escrow_public),
            "escrow_sealed_key": seal_key(data_key, server.escrow_public, os.urandom(32)),
        }
        self.header = ChunkHeader(**(fields | changes))
        self.seal = RecordSeal(data_key, limit=DEFAULT.record)

    def frame(self, record: Record | bytes, *, seq: int | None = None, kind: int | None = None) -> bytes:
        """One sealed frame; bytes are sealed as they are."""
        seq = next(self._seqs) if seq is None else seq
        if kind is None:
            kind = 1 if isinstance(record, bytes) else KIND_NUMBERS[type(record.body)]
        place = Place(self.header.till, self.header.epoch, self.header.chunk)
        plain = record if isinstance(record, bytes) else encode(record)
        return seal_frame(self.seal, place, ClearHeader(seq, kind, NO_TAG, NO_TAG), plain, os.urandom(24))

    def batch(self, *records: Record | Body | bytes) -> Batch:
        """Records sealed under the next seqs."""
        return self.frames(*(self.frame(self._record(record)) for record in records))

    def frames(self, *frames: bytes) -> Batch:
        """A batch of frames as they are."""
        return Batch(self.header.encode(self.key), b"".join(frames))

    @staticmethod
    def _record(given: Record | Body | bytes) -> Record | bytes:
        return given if isinstance(given, (Record, bytes)) else Record(given, captured_at=NOW)


@dataclass
class Server:
    """The parts under test."""

    database: Database
    vault_keys: Database
    vault: Vault
    keys: ServerKeys
    listener: Listener
    clock: SetClock
    pipeline: Pipeline
    tills: dict[str, Till] = field(default_factory=dict)
    defects: list[tuple[str, BaseException]] = field(default_factory=list)

    def till(self, name: str = "1") -> Till:
        """A till that keeps its epoch between calls."""
        return self.tills.setdefault(name, Till(self.keys, name))

    async def take(self, *records: Record | Body | bytes, till: str = "1") -> Outcome:
        """What becomes of a batch of these records."""
        sender = self.till(till)
        return await self.pipeline.process(sender.device, sender.batch(*records))

    async def rows(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """The answer of the database."""
        async with self.database.read() as conn:
            return [tuple(row) for row in await conn.exec_driver_sql(statement, values)]

    async def subject_of(self, identifier: Identifier) -> bytes:
        """The subject that an identifier has by now."""
        normal = normalise(identifier.scheme, identifier.value)
        name = Namer(self.keys.identifier_key, RETAILER).name(identifier, normal)
        ((subject,),) = await self.rows("SELECT subject FROM identifier WHERE hash = ?", name.hash)
        assert isinstance(subject, bytes)
        return subject

    async def reveal(self, identifier: Identifier) -> tuple[Item, ...]:
        """What the vault holds about the subject of an identifier."""
        subject = await self.subject_of(identifier)
        async with self.database.read() as conn:
            return await self.vault.reveal(conn, subject)

    async def projections(self) -> Mapping[str, list[str]]:
        """Every projection's rows as text, without what depends on the order of arrival: ledger ids stand for what
        the ledger has there, and subjects are named by their identifiers' hashes."""
        names: dict[object, object] = dict(await self.rows("SELECT subject, hash FROM identifier"))
        dump: dict[str, list[str]] = {}
        for table in schema.PROJECTIONS:
            rows = await self.rows(_SALES if table is schema.sale else f"SELECT * FROM {table.name}")
            if table is schema.sale:
                rows = [(*row, *_numbered(*numbers)) for *row, numbers in ((*row[:5], row[4:]) for row in rows)]
            dump[table.name] = sorted(repr([names.get(value, value) for value in row]) for row in rows)
        return dump


_SALES: Final = """
SELECT l.retailer, l.idem, l.content, s.counted_ms, l.subject, s.member, l.till_id, l.store, s.place
FROM sale s JOIN ledger l ON l.id = s.ledger_id
"""


def _numbered(subject: bytes, member: int | None, till_id: bytes, store: str, place: int | None) -> list[bool | None]:
    """Whether the numbers in a row of `sale` are those of what the ledger says, where there are some."""
    return [
        None if member is None else member == member_number(subject),
        None if place is None else place == place_number(till_id, store),
    ]


async def prepare(folder: Path) -> ServerKeys:
    """Make keys and empty databases."""
    folder.mkdir(parents=True, exist_ok=True)
    server_keys, _ = keys.create(folder / "keys", os.urandom)
    await migrate(folder / "ledger.db")
    await create_keys(folder / "vault-keys.db")
    return server_keys


@asynccontextmanager
async def server_at(
    folder: Path, *, server_keys: ServerKeys | None = None, randomness: Randomness = os.urandom
) -> AsyncIterator[Server]:
    """A pipeline on the databases in a folder, which are made unless their keys are given."""
    if server_keys is None:
        server_keys = await prepare(folder)
    database = await Database.open(folder / "ledger.db")
    vault_keys = await Database.open(folder / "vault-keys.db", readers=1)
    clock, listener = SetClock(), Listener()
    vault = Vault(vault_keys, server_keys.vault_key, clock, os.urandom)
    defects: list[tuple[str, BaseException]] = []

    def report(where: str, error: BaseException) -> None:
        defects.append((where, error))

    pipeline = Pipeline(database, vault, server_keys, listener, clock, randomness, report=report)
    try:
        yield Server(database, vault_keys, vault, server_keys, listener, clock, pipeline, defects=defects)
    finally:
        await vault_keys.close()
        await database.close()


def member(value: str = "4711") -> Customer:
    """A customer known by a loyalty number."""
    return Customer(identifiers=(Identifier("loyalty", value),))


def sale(pos_id: str = "1", *prices: int, **fields: Any) -> Transaction:
    """A sale of one line for each price in cents, the till's own names filled in."""
    lines = tuple(
        Line(seq=i, amount=price, sku=f"sku-{i}", hierarchy=("FOOD" if i % 2 == 0 else "HOME",))
        for i, price in enumerate(prices or (1000,))
    )
    defaults: dict[str, Any] = {
        "source": Source("pos"),
        "kind": "sale",
        "pos_id": pos_id,
        "business_date": "2026-09-20",
        "end": Moment(NOW),
        "currency": "USD",
        "total": sum(line.amount for line in lines),
        "retailer": RETAILER,
        "store": "s1",
        "till": "1",
        "lines": lines,
        "tenders": (Tender("cash", sum(line.amount for line in lines)),),
    }
    return Transaction(**(defaults | fields))


def void(pos_id: str, *targets: str, **fields: Any) -> Transaction:
    """A transaction that voids others."""
    links = tuple(Link("voids", target) for target in targets)
    return sale(pos_id, kind="void", lines=(), tenders=(), total=0, links=links, **fields)
