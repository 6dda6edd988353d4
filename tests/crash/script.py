"""A short script over the real journal and capture path, in a process that is meant to be killed at any call of it.

It opens the journal, captures a dozen sales (every third waits for the disk), has a server acknowledge the first ones,
begins a fresh chunk, sweeps, and closes. Chunks are so small that every few sales begin one. What it promised goes to
standard output, one line each, written through: `os ID`, `disk ID`, and `server ID` before the journal is told that a
server holds a sale.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, cast

import msgspec
from nacl.public import PrivateKey

from support.agents import sale
from support.dying import Death, DyingDisk, Moment
from support.tills import TestTill, TillKeys
from tillstream_agent.capture import Capture, Enrolment
from tillstream_agent.clock import SystemClock
from tillstream_agent.journal import Disk, FolderDisk, Journal
from tillstream_agent.offers.edge import Edge
from tillstream_protocol.codec import record_decoder
from tillstream_protocol.limits import DEFAULT
from tillstream_protocol.messages import Range
from tillstream_protocol.signing import SignKey
from tillstream_protocol.transaction import Transaction

ENTRY: Final = "crash.script:main"
SALES: Final = 12
DRAIN_S: Final = 30.0
SMALL: Final = replace(DEFAULT, chunk=1500, sync_interval=0.001, retain_age=0, retain_bytes=0, reserve=0)


class Keys(msgspec.Struct, frozen=True):
    """Everything secret of the script's till, 32 bytes each, so that another process can open what it wrote."""

    device: bytes
    server: bytes
    escrow: bytes
    tag: bytes
    till_id: bytes

    @classmethod
    def make(cls, file: Path) -> Keys:
        """New ones, kept in a file."""
        keys = cls(os.urandom(32), os.urandom(32), os.urandom(32), os.urandom(32), os.urandom(16))
        file.write_bytes(msgspec.msgpack.encode(keys))
        return keys

    def till(self) -> TillKeys:
        """As the tests' tills have them."""
        return TillKeys(SignKey(self.device), PrivateKey(self.server), PrivateKey(self.escrow), self.till_id, self.tag)


def main(arguments: Sequence[str]) -> int:
    """`FOLDER KEYS RUN [CALL MOMENT]`: with the last two it dies at that call of its disk. 0 once it is through."""
    folder, file, run, *death = arguments
    keys = msgspec.msgpack.decode(Path(file).read_bytes(), type=Keys)
    disk: Disk = FolderDisk(Path(folder))
    if death:
        disk = DyingDisk(Path(folder), Death(int(death[0]), cast("Moment", death[1])))
    asyncio.run(_script(disk, Path(folder), keys, run))
    return 0


def _say(what: str, pos_id: str) -> None:
    os.write(1, f"{what} {pos_id}\n".encode())


async def _script(disk: Disk, folder: Path, keys: Keys, run: str) -> None:
    clock, till = SystemClock(), keys.till()
    journal = await Journal.open(
        folder, identity=till.identity(), clock=clock, randomness=os.urandom, limits=SMALL, disk=disk
    )
    edge = Edge(server_public_key=bytes(32), till_id=keys.till_id, clock=clock)
    where = Enrolment(keys.till_id, "acme", "north", "1", "USD")
    capture = Capture(journal, edge, where, tag_key=keys.tag, clock=clock, randomness=os.urandom)
    for number in range(SALES):
        pos_id = f"{run}-{number}"
        captured = capture.transaction(sale(pos_id))
        _say("os", pos_id)
        if number % 3 == 0:
            await capture.durable(captured)
            _say("disk", pos_id)
        if number == SALES // 2:
            _acknowledge(journal, run)
            journal.roll()
            journal.discard(journal.sweep())
    await journal.close()


def _acknowledge(journal: Journal, run: str) -> None:
    """The server holds the first few sales of this run."""
    for seq in range(SALES // 3):
        _say("server", f"{run}-{seq}")
    journal.acknowledge(journal.position.epoch, [Range(0, SALES // 3 - 1)])


@dataclass
class Promises:
    """What all runs on a folder promised so far."""

    captured: set[str]
    handed_over: set[str]

    def take(self, said: str) -> None:
        """One run's standard output. A last line that was cut short promised nothing."""
        for line in said.splitlines(keepends=True):
            what, _, pos_id = line.rstrip("\n").partition(" ")
            if line.endswith("\n"):
                (self.handed_over if what == "server" else self.captured).add(pos_id)


async def broken(folder: Path, keys: Keys, promises: Promises) -> dict[str, list[str]]:
    """Which sales a journal lost, or has more than once. It is recovered by this, so give it a copy."""
    till = TestTill(folder, SMALL)
    till.keys = keys.till()
    journal = await till.start()
    found: Counter[str] = Counter()
    decode = record_decoder(limit=DEFAULT.record)
    try:
        async with asyncio.timeout(DRAIN_S):
            while journal.queue().records:
                for plain in till.drain(journal):
                    body = decode(plain).body
                    assert isinstance(body, Transaction)
                    found[body.pos_id] += 1
                await asyncio.sleep(0.001)
    finally:
        await journal.close()
    lost = sorted(promises.captured - promises.handed_over - set(found))
    return {"lost": lost, "twice": sorted(name for name, times in found.items() if times > 1)}
