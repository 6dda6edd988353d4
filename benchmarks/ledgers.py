"""Tills that only seal and send, and ledgers that have filled up."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec

from tillstream_protocol import messages, versions
from tillstream_protocol.codec import encode
from tillstream_protocol.events import KIND_NUMBERS, Record
from tillstream_protocol.framing import NO_EPOCH, NO_TAG, ChunkHeader, ClearHeader, Place, read_frame, seal_frame
from tillstream_protocol.limits import DEFAULT
from tillstream_protocol.messages import Batch, Token
from tillstream_protocol.sealing import RecordSeal, key_id, seal_key
from tillstream_protocol.signing import SignKey
from tillstream_protocol.transaction import Transaction
from tillstream_server.app import Parts
from tillstream_server.devices import Device
from tillstream_server.office import TokenCreate

from .campaigns import at_the_server
from .records import RETAILER, STORE, sale
from .stand import data, put

USUAL_BATCH = 400
"""Records of a till that drains: with usual baskets as many as the server asks for at once."""
CAMPAIGNS = 10
"""In force while ledgers fill up; they apply to nobody, so that looking at them is all that they cost."""
_MODELS = 1_000
_OPENED_MS = 1_769_000_000_000
"""When each till's first sale ended. The next ones follow: none of a till's sales is as old as its thousandth before.
"""


class Sealer:
    """One enrolled till: seals usual sales into one chunk, and says what it was that it sealed."""

    def __init__(self, device: Device, key: SignKey, parts: Parts) -> None:
        self.device = device
        self.key = key
        self._models = [msgspec.convert(sale(number, "-"), Transaction) for number in range(_MODELS)]
        self._seq = 0
        self._previous = NO_TAG
        self._epoch = os.urandom(16)
        data_key = os.urandom(32)
        self._seal = RecordSeal(data_key, limit=DEFAULT.record)
        server = parts.keys
        self._header = ChunkHeader(
            till=device.till_id,
            epoch=self._epoch,
            chunk=0,
            parent=NO_EPOCH,
            parent_position=0,
            first_seq=0,
            created=parts.office.clock.now_ms(),
            device_key_id=key.key_id,
            server_key_id=key_id(server.box_public),
            server_sealed_key=seal_key(data_key, server.box_public, os.urandom(32)),
            escrow_key_id=key_id(server.escrow_public),
            escrow_sealed_key=seal_key(data_key, server.escrow_public, os.urandom(32)),
        )
        self._encoded = self._header.encode(key)
        self._now_ms = parts.office.clock.now_ms

    def batch(self, count: int) -> Batch:
        """The next so many sales."""
        return Batch(self._encoded, b"".join(self._frame() for _ in range(count)), "backlog")

    def _frame(self) -> bytes:
        seq = self._seq
        model = self._models[seq % _MODELS]
        body = msgspec.structs.replace(
            model,
            end=msgspec.structs.replace(model.end, at=_OPENED_MS + seq),
            pos_id=f"{self._epoch.hex()[:8]}-{seq}",
            retailer=RETAILER,
            store=STORE,
            till=self.device.till,
        )
        clear = ClearHeader(seq, KIND_NUMBERS[Transaction], NO_TAG, self._previous)
        place = Place(self.device.till_id, self._epoch, 0)
        record = Record(body, captured_at=self._now_ms(), reconciles=True)
        sealed = seal_frame(self._seal, place, clear, encode(record), os.urandom(24))
        frame = read_frame(sealed, 0)
        assert frame is not None
        self._previous = frame.aead_tag
        self._seq += 1
        return sealed


async def join(parts: Parts, count: int) -> list[Sealer]:
    """So many tills, enrolled."""
    token = (await parts.office.run(TokenCreate(RETAILER, STORE, uses=count)))["token"]
    secret = Token.parse(str(token)).secret
    sealers = []
    for _ in range(count):
        key = SignKey(os.urandom(32))
        proof = key.sign(messages.proof_bytes(secret, key.public))
        await parts.enrolment.join(
            messages.EnrolRequest(secret, key.public, proof, versions.PROTOCOL, "0.1.0", "benchmark")
        )
        device = await parts.devices.find(key.key_id)
        assert device is not None
        sealers.append(Sealer(device, key, parts))
    return sealers


def portions(total: int, size: int) -> Iterator[int]:
    """A number in portions."""
    while total > 0:
        yield min(size, total)
        total -= size


async def filled(folder: Path, count: int) -> Path:
    """A data folder whose ledger took so many transactions through the pipeline; made once a run, whole or not."""
    place, unfinished = folder / f"ledger-{count}", folder / f"ledger-{count}.part"
    if place.exists():
        return place
    shutil.rmtree(unfinished, ignore_errors=True)
    async with data(unfinished) as parts:
        await put(parts, at_the_server(CAMPAIGNS))
        (sealer,) = await join(parts, 1)
        for size in portions(count, USUAL_BATCH):
            await parts.intake.pipeline.process(sealer.device, sealer.batch(size))
        await check_stored(parts, count)
    return unfinished.rename(place)


class NotStored(Exception):
    """The ledger does not hold what was acknowledged."""


async def stored(parts: Parts) -> int:
    """How many transactions the projections count."""
    async with parts.database.read() as conn:
        (count,) = (await conn.exec_driver_sql("SELECT coalesce(sum(transactions), 0) FROM sales_by_hour")).one()
    return int(count)


async def check_stored(parts: Parts, count: int) -> None:
    """See that ledger and projections count so many. Raises `NotStored`."""
    async with parts.database.read() as conn:
        (rows,) = (await conn.exec_driver_sql("SELECT count(*) FROM ledger")).one()
    counted = await stored(parts)
    if rows != count or counted != count:
        raise NotStored(f"of {count} transactions the ledger has {rows} and the projections count {counted}")


def counted_in(folder: Path) -> int:
    """How many transactions the projections in a data folder count, read beside its server."""
    with closing(sqlite3.connect(f"file:{folder / 'ledger.db'}?mode=ro", uri=True)) as database:
        (count,) = database.execute("SELECT coalesce(sum(transactions), 0) FROM sales_by_hour").fetchone()
    return int(count)
