"""A till's queue outlives the keys it was sealed to: rotation, and the loss of the online key.

A real journal is filled in three parts while the server's keys change under it, and is then taken by the real
pipeline:

    sealed to the first box key, which is then rotated, twice
    sealed to the third, whose file is then lost with every copy: only the escrow key opens these
    sealed to the one of the recovery; after all of it was read, the escrow key is forgotten again

    PYTHONPATH=tests python -m model.key_loss [--records 100000]      prints JSON
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from nacl.public import PrivateKey

from support.pipelining import NOW, RETAILER, sale, server_at
from support.tills import TestTill
from tillstream_agent.journal import Lane
from tillstream_protocol.codec import encode
from tillstream_protocol.events import Record
from tillstream_protocol.framing import ChunkHeader
from tillstream_protocol.limits import DEFAULT
from tillstream_protocol.messages import Batch, Range
from tillstream_server import keys
from tillstream_server.customers.vault import create_keys
from tillstream_server.devices import Device
from tillstream_server.keys import ServerKeys
from tillstream_server.ledger.database import migrate
from tillstream_server.pipeline.opening import ForeignChunk, Opened, Opener

LANES: Final[tuple[Lane, ...]] = ("backlog", "live")
SLICE: Final = 256 * 1024


@dataclass(frozen=True)
class Figures:
    """Records of the queue: all, those stored by the recovered server, and those that open where the escrow key is
    not at hand. `keys_used` are the ids of the box keys that the queue was sealed to."""

    queued: int
    stored: int
    opening_without_escrow: int
    keys_used: tuple[str, ...]


class Stand:
    """A server's folder, and a till with a queue that learns of new keys before its next run."""

    def __init__(self, root: Path, server_keys: ServerKeys, escrow: bytes) -> None:
        self.root = root
        self.keys = server_keys
        self.escrow = escrow
        self.till = TestTill(root / "journal")
        self.till.keys.server = PrivateKey(server_keys.box_private)
        self.till.keys.escrow = PrivateKey(escrow)
        self.queued = 0

    @classmethod
    async def set_up(cls, root: Path) -> Stand:
        """Make keys and empty databases, in a folder that must be empty."""
        server_keys, escrow = keys.create(root / "keys", os.urandom)
        await migrate(root / "ledger.db")
        await create_keys(root / "vault-keys.db")
        return cls(root, server_keys, escrow)

    @property
    def device(self) -> Device:
        """The till as the server knows it."""
        one = self.till.keys
        name = one.device.key_id
        return Device(one.till_id, RETAILER, "s1", "1", name, one.device.public, revoked=False, currency="USD")

    def change(self, server_keys: ServerKeys) -> None:
        """The server has other keys, and the till hears of it."""
        self.keys = server_keys
        self.till.keys.server = PrivateKey(server_keys.box_private)

    async def captures(self, count: int) -> None:
        """One run of the agent, with the server out of reach."""
        journal = await self.till.start()
        for _ in range(count):
            body = encode(Record(sale(str(self.queued), 100 + self.queued % 900), captured_at=NOW))
            journal.append(body, kind=1)
            self.queued += 1
            if self.queued % 1_000 == 0:
                await asyncio.sleep(0)
        await journal.close()

    async def batches(self) -> AsyncIterator[Batch]:
        """The whole queue as it would travel. Nothing of it is given up: it can be had again and again."""
        journal = await self.till.start()
        try:
            while journal.queue().records:
                for lane in LANES:
                    while (piece := journal.next_slice(lane, SLICE)) is not None:
                        yield Batch(piece.header, piece.frames)
                        journal.acknowledge(piece.epoch, [Range(piece.first, piece.last)])
                await asyncio.sleep(0.001)  # what a former run left is sent once it has been synced
        finally:
            await journal.close()

    async def stored(self) -> int:
        """How many records the server stores of it, with the keys that it has now."""
        count = 0
        async with server_at(self.root, server_keys=keys.load(self.root / "keys")) as server:
            async for batch in self.batches():
                count += (await server.pipeline.process(self.device, batch)).counts["stored"]
        return count

    async def opening(self) -> int:
        """How many records of it open with the keys that the server has now; the ledger is left alone."""
        opener = Opener(keys.load(self.root / "keys"), DEFAULT, fail)
        count = 0
        async for batch in self.batches():
            try:
                opened = opener.open(self.device, ChunkHeader.decode(batch.header), batch)
            except ForeignChunk:
                continue
            count += sum(isinstance(item, Opened) for item in opened.items)
        return count


def fail(where: str, error: BaseException) -> None:
    """The server has failed over a record."""
    raise AssertionError(where) from error


async def run(root: Path, records: int) -> Figures:
    """Go through it in a folder that must be empty, with so many records queued."""
    stand = await Stand.set_up(root)
    folder = root / "keys"

    await stand.captures(records // 3)
    for _ in range(2):
        stand.change(keys.rotate_box(folder, os.urandom, NOW))
    await stand.captures(records // 3)

    (folder / "box.key").unlink()
    stand.change(keys.recover(folder, stand.escrow, os.urandom, NOW))
    await stand.captures(records - stand.queued)

    stored = await stand.stored()
    used = [ChunkHeader.decode(batch.header).server_key_id.hex() async for batch in stand.batches()]
    keys.forget_escrow(folder)
    return Figures(records, stored, await stand.opening(), tuple(sorted(set(used))))


def main(argv: Sequence[str] | None = None) -> int:
    """Run it and print the figures as JSON; 1 if a record could not be read."""
    parser = argparse.ArgumentParser(description="Rotate and lose the server's keys while a till's queue is full.")
    parser.add_argument("--records", type=int, default=100_000)
    given = parser.parse_args(argv)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as root:
        figures = asyncio.run(run(Path(root), given.records))
    print(json.dumps({**asdict(figures), "seconds": round(time.monotonic() - began, 1)}))
    return 0 if figures.stored == figures.queued else 1


if __name__ == "__main__":
    raise SystemExit(main())
