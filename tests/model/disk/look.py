"""Starting a journal on what is left of a disk, to see what it still holds."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Final

from nacl.public import PrivateKey

from model.simulation.chance import Clock
from model.simulation.loop import run
from support.simdisk import SimDisk
from support.tills import TillKeys, crash
from tillstream_agent.journal import Journal, Lane, Name, Slice
from tillstream_protocol.limits import DEFAULT, Limits
from tillstream_protocol.messages import Range

from .book import Book, Broken, Contents

SMALL: Final = replace(DEFAULT, chunk=4096, retain_bytes=16 * 1024, reserve=2048)
"""Chunks roll every few records, and acknowledged ones are swept soon."""
FOLDER: Final = Path("journal")
MOST: Final = 64 * 1024
"""Bytes read at a time."""
LANES: Final[tuple[Lane, ...]] = ("former", "backlog", "live")


def keys_of(random: Random) -> TillKeys:
    """A till's keys, from a seed."""
    return TillKeys(
        till_id=random.randbytes(16),
        tag_key=random.randbytes(32),
        server=PrivateKey(random.randbytes(32)),
        escrow=PrivateKey(random.randbytes(32)),
    )


def opened(keys: TillKeys, piece: Slice) -> list[tuple[Name, bytes]]:
    """A slice's records, as the server would open them."""
    records = [(Name(piece.epoch, seq), plain) for seq, plain in keys.open(piece)]
    if [name.seq for name, _ in records] != list(range(piece.first, piece.last + 1)):
        raise Broken(f"a slice of {piece.first} to {piece.last} holds {[name.seq for name, _ in records]}")
    return records


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads a till's disk to its end, by starting a journal there that knows of no acknowledgement.

    What it has opened once it need not open again: the same sealed bytes hold the same records.
    """

    keys: TillKeys
    limits: Limits
    book: Book
    off_ms: int = 0
    """How far the till's clock is off."""
    _opened: dict[tuple[bytes, bytes], list[tuple[Name, bytes]]] = field(default_factory=dict)

    def look(self, disk: SimDisk) -> Contents:
        """What is there. The disk is changed by the start, and by one capture that has to succeed."""
        return run(self._look(disk))

    async def _look(self, disk: SimDisk) -> Contents:
        clock = Clock(asyncio.get_running_loop().time)
        clock.off_ms = self.off_ms
        journal = await Journal.open(
            FOLDER,
            identity=self.keys.identity(),
            clock=clock,
            randomness=Random(len(self.book.attempts)).randbytes,
            settled=self.book.settled,
            limits=self.limits,
            disk=disk,
        )
        found = await self._read(journal)
        await asyncio.wait_for(journal.synced(journal.append(b"works", kind=1)), timeout=1)
        await crash(journal)
        await asyncio.sleep(0)
        return found

    async def _read(self, journal: Journal) -> Contents:
        spent = dict(journal.spent)
        attempts = [fact for facts in self.book.attempts.values() for fact in facts]
        told = {fact.tag: seen.name for fact in attempts if (seen := journal.find(fact.tag)) is not None}
        await asyncio.sleep(1)
        records: dict[Name, bytes] = {}
        for name, plain in self._drained(journal):
            if records.setdefault(name, plain) != plain:
                raise Broken(f"{name} is there twice, with two contents")
        if journal.queue().records:
            raise Broken(f"{journal.queue().records} records are queued, but cannot be sent")
        tags = {fact.tag: seen.name for fact in attempts if (seen := journal.find(fact.tag)) is not None}
        return Contents(records, tags, spent, journal.damage, told)

    def _drained(self, journal: Journal) -> Iterable[tuple[Name, bytes]]:
        for lane in LANES:
            while (piece := journal.next_slice(lane, MOST)) is not None:
                sealed = (piece.header, piece.frames)
                if sealed not in self._opened:
                    self._opened[sealed] = opened(self.keys, piece)
                yield from self._opened[sealed]
                journal.acknowledge(piece.epoch, [Range(piece.first, piece.last)])
