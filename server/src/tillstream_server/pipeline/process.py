"""`Pipeline.process`: the heart of the server. A sealed batch goes in; ledger, projections and offers come out.

    a worker thread: verify the chunk's header · open and decode each record · split person from purchase
    one transaction: sort out repeats → subjects → dedupe by content → fold → write → vault → triggers
    then the caller acknowledges, and pushes

Whatever a batch causes is in one transaction, which batches of other tills may share, so that a repeat finds all of it
or nothing. What cannot be taken is dead-lettered and acknowledged, and never holds up its neighbours; nor does a
record that the server itself fails over, for whose sake a batch is taken in several transactions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Final

from tillstream_protocol.framing import ChunkHeader, verify_header
from tillstream_protocol.limits import DEFAULT, Limits
from tillstream_protocol.messages import Batch

from ..clock import Clock
from ..customers.identity import Identities
from ..customers.vault import Vault
from ..devices import Device
from ..keys import Randomness, ServerKeys
from ..ledger import lineage
from ..ledger.database import Database
from .grouping import Groups
from .isolation import take_apart
from .opening import CACHED_KEYS, ForeignChunk, OpenedBatch, Opener, Report, unheard
from .outcome import Outcome
from .room import Room
from .taking import Arrived, Campaigns, Taking

GROUP_RECORDS: Final = 4_096
"""How many records at the most share a transaction, unless one batch has more."""
AHEAD_BYTES: Final = 4 * 1024 * 1024
"""Frames of batches that are opened and not yet taken: two groups' worth, so that one is opened while the other is
written, and a hundred megabytes of records."""
SMALL_BYTES: Final = 16 * 1024
"""Frames of a batch that waits for no larger one: a till's live sale would wait for the backlogs of all others."""
ASIDE_BYTES: Final = 512 * 1024
"""Frames of small batches that are opened and not yet taken, beside the others."""


class Pipeline:
    """Takes batches. One instance a database; batches may come at the same time, and are written group by group."""

    def __init__(
        self,
        database: Database,
        vault: Vault,
        keys: ServerKeys,
        campaigns: Campaigns,
        clock: Clock,
        randomness: Randomness,
        *,
        limits: Limits = DEFAULT,
        report: Report = unheard,
    ) -> None:
        """`report` is told of the server's own defects that a record has set off."""
        self._database = database
        self._vault = vault
        self._keys = keys
        self._campaigns = campaigns
        self._clock = clock
        self._report = report
        self._opener = Opener(keys, limits, report)
        self._identities = Identities(randomness)
        self._bench = asyncio.Lock()
        """Held by what computes: two threads of Python would only take turns, and SQLite's lose theirs at every row."""
        self._room = Room(AHEAD_BYTES)
        self._aside = Room(ASIDE_BYTES)
        self._groups = Groups(self._take_together, _fits)

    async def process(self, device: Device, batch: Batch) -> Outcome:
        """Take a batch from the device that wrote its chunk; when this returns, all of it is on the disk.

        One without frames tells of an epoch in which nothing was captured: what it followed is noted. Raises
        `BadSignature`, `DamagedChunk`, `ForeignChunk`, `CannotOpen` or `DamagedBatch` for a batch that cannot be read
        as one, and `LedgerFault` when the database fails; then nothing was taken.
        """
        if not batch.frames:
            return await self._hear_of(_header(device, batch))
        size = len(batch.frames)
        async with (self._aside if size <= SMALL_BYTES else self._room).of(size):
            async with self._bench:
                opened = await asyncio.to_thread(self._open, device, batch)
            return await take_apart(partial(self._take, device), opened, self._report)

    def _open(self, device: Device, batch: Batch) -> OpenedBatch:
        return self._opener.open(device, _header(device, batch), batch)

    async def _hear_of(self, header: ChunkHeader) -> Outcome:
        async with self._database.write() as conn:
            alarms = await lineage.note(conn, header, self._clock.now_ms())
        return Outcome(
            (), 0, (), dict.fromkeys(("stored", "repeat", "duplicate", "dead", "conflict"), 0), (), alarms=tuple(alarms)
        )

    async def _take(self, device: Device, opened: OpenedBatch, alone: bool) -> Outcome:
        """In one transaction."""
        return await self._groups.take(Arrived(device, opened), alone=alone)

    async def _take_together(self, group: Sequence[Arrived]) -> Sequence[Outcome]:
        """One transaction."""
        async with self._database.write() as conn:
            now_ms = self._clock.now_ms()
            taking = Taking(self._vault, self._keys, self._campaigns, self._identities, conn, group, now_ms)
            async with self._bench:
                outcomes = await taking.run()
        self._identities.remember(taking.resolved, taking.names)
        return outcomes

    def forget(self) -> None:
        """Drop cached identities: an erasure changed them."""
        self._identities.forget()


def _header(device: Device, batch: Batch) -> ChunkHeader:
    """A batch's header, which this device signed for its own till. Raises `BadSignature` or `ForeignChunk`."""
    header = _signed(batch.header, device.public_key)
    if header.till != device.till_id:
        raise ForeignChunk("the chunk was written by another till", field="header.till")
    return header


@lru_cache(maxsize=CACHED_KEYS)
def _signed(encoded: bytes, public_key: bytes) -> ChunkHeader:
    """A header that the owner of the key has signed. Remembered, since every batch of a chunk comes with the same one:
    for a single record the signature costs more than opening it."""
    header = ChunkHeader.decode(encoded)
    verify_header(encoded, public_key)
    return header


def _fits(group: Sequence[Arrived], one: Arrived) -> bool:
    """Whether a batch may share its transaction: batches of one till follow one another."""
    records = sum(len(other.opened.items) for other in (*group, one))
    tills = {other.device.till_id for other in group}
    return (
        records <= GROUP_RECORDS and one.device.till_id not in tills and one.device.retailer == group[0].device.retailer
    )
