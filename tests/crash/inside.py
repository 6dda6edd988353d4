"""A till's own journal opened in this process: what would take a week at the till's pace is captured in minutes."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from crash.cashier import sale
from tillstream_agent.capture import Capture, Enrolment
from tillstream_agent.clock import SystemClock
from tillstream_agent.folder import Folder
from tillstream_agent.journal import Journal, JournalIdentity
from tillstream_agent.offers.edge import Edge
from tillstream_protocol.transaction import Transaction

_BREATH: Final = 500
"""Records between two waits for the disk: unsynced ones stay in memory."""


@dataclass(frozen=True, slots=True)
class Inside:
    """The real journal and capture path on a till's folder."""

    journal: Journal
    capture: Capture

    async def sells(self, count: int, prefix: str, seed: int = 1) -> None:
        """Capture so many sales."""
        chance = random.Random(seed)
        models = [msgspec.convert(sale("-", chance), Transaction) for _ in range(1000)]
        for number in range(count):
            body = msgspec.structs.replace(models[number % len(models)], pos_id=f"{prefix}-{number}")
            captured = self.capture.transaction(body)
            if number % _BREATH == _BREATH - 1:
                await self.journal.synced(captured.name)

    async def stores(self, size: int, record: int) -> int:
        """Append records of `record` random bytes, each with a tag, until they make up `size`; how many."""
        count = size // record
        for number in range(count):
            name = self.journal.append(os.urandom(record), kind=1, tag=os.urandom(16))
            if number % _BREATH == _BREATH - 1:
                await self.journal.synced(name)
        return count


@asynccontextmanager
async def inside(state: Path) -> AsyncIterator[Inside]:
    """Open the journal of an enrolled till whose agent does not run."""
    home = Folder(state)
    identity, clock = home.identity(), SystemClock()
    keys = JournalIdentity(identity.till_id, home.device_key(identity), identity.box_public, identity.escrow_public)
    with home.locked():
        journal = await Journal.open(home.journal, identity=keys, clock=clock, randomness=os.urandom)
        edge = Edge(server_public_key=identity.server_public, till_id=identity.till_id, clock=clock)
        where = Enrolment(identity.till_id, identity.retailer, identity.store, identity.till, identity.currency)
        capture = Capture(journal, edge, where, tag_key=home.tag_key(), clock=clock, randomness=os.urandom)
        try:
            yield Inside(journal, capture)
        finally:
            await journal.close()
            await asyncio.sleep(0)
