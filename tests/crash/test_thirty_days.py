"""Thirty days without a server that takes anything: nothing is dropped by its age, or by how often it was tried."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from support.agents import Telling
from support.tills import TestTill, crash
from tillstream_agent.journal import Journal
from tillstream_agent.letters import Letters
from tillstream_agent.sync.answers import Failure, Outcome
from tillstream_agent.sync.flow import Send, UploadFlow
from tillstream_agent.sync.link import Link
from tillstream_protocol.limits import DEFAULT

DAY_S: Final = 86_400.0
TRYING_S: Final = 3 * 3600.0
"""The part of each day in which the flow tries as often as it would; the rest passes at once."""
DAYS: Final = 30
SALES_A_DAY: Final = 5
WAIT_S: Final = 30
LIMITS: Final = replace(DEFAULT, sync_interval=0.0, retain_age=3600, retain_bytes=0)


class Outage:
    """A till that sells on for days, while every batch is answered in the same bad way."""

    def __init__(self, folder: Path) -> None:
        self.till = TestTill(folder, LIMITS)
        self.sold: list[bytes] = []
        self.tried = 0
        self._journal: Journal
        self._flow: UploadFlow

    async def starts(self) -> None:
        """Begin an epoch on what is there."""
        self._journal = await self.till.start()
        link = Link(self.till.clock, lambda _: None)
        letters = Letters(self.till.clock)
        self._flow = UploadFlow(self._journal, Telling().events, link, lambda: 0.99, LIMITS, letters)

    async def crashes(self) -> None:
        """End as SIGKILL would."""
        await crash(self._journal)

    async def lasts_a_day(self, failure: Failure) -> None:
        """Sell, try whenever the flow would, and keep house."""
        for _ in range(SALES_A_DAY):
            self.sold.append(f"sale {len(self.sold)}".encode())
            name = self._journal.append(self.sold[-1], kind=1)
        await self._journal.synced(name)
        ends = self.till.clock.monotonic() + TRYING_S
        while (now := self.till.clock.monotonic()) < ends:
            step = self._flow.next(now)
            if isinstance(step, Send):
                self.tried += 1
                self._flow.failed(step.slice, failure, now)
            else:
                self.till.clock.turn(max(0.5, min(step.seconds or DAY_S, ends - now)))
        self.till.clock.turn(DAY_S - TRYING_S)
        self._journal.discard(self._journal.sweep())

    async def ends(self) -> list[bytes]:
        """Everything that a server gets once it listens again."""
        self._journal.append(b"the end", kind=1)
        drained: list[bytes] = []
        async with asyncio.timeout(WAIT_S):
            while self._journal.queue().records:
                drained.extend(self.till.drain(self._journal))
                await asyncio.sleep(0.001)
        await self._journal.close()
        return drained


@pytest.mark.parametrize("outcome", ["unavailable", "authentication", "revoked", "version", "confused"])
async def test_nothing_is_dropped_by_age_or_by_attempts(tmp_path: Path, outcome: Outcome) -> None:
    outage = Outage(tmp_path)
    await outage.starts()
    for day in range(DAYS):
        await outage.lasts_a_day(Failure(outcome, outcome, "planted"))
        if day % 7 == 6:
            await outage.crashes()
            await outage.starts()
    assert outage.tried > DAYS * 8
    assert Counter(await outage.ends()) == Counter([*outage.sold, b"the end"])
