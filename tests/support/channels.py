"""A till with a push channel to a server that does as it is told."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from support.agents import NOW_MS, Telling
from support.gateways import TILL_ID, Gateway, gateway
from support.tills import TurnedClock
from tillstream_agent.config import Config, overlaid
from tillstream_agent.display.board import Board
from tillstream_agent.folder import Folder, Identity
from tillstream_agent.journal import Journal, JournalIdentity
from tillstream_agent.offers.edge import Edge
from tillstream_agent.remote import Remote
from tillstream_agent.state import State
from tillstream_agent.sync.keys import SealingKeys
from tillstream_agent.sync.link import Link
from tillstream_agent.sync.push import (
    Mailbox,
    PushChannel,
)
from tillstream_agent.sync.rewind import Rewind
from tillstream_protocol.framing import ChunkHeader
from tillstream_protocol.limits import DEFAULT
from tillstream_protocol.messages import (
    EpochRanges,
    HookLatency,
    Range,
    Vitals,
)
from tillstream_protocol.signing import SignKey

DEVICE = SignKey(b"d" * 32)
EPOCH = b"e" * 16
ACKED = (EpochRanges(EPOCH, (Range(0, 4), Range(8, 9))),)


@dataclass
class Till:
    """A till with an open channel to a stand-in server."""

    server: Gateway
    folder: Folder
    journal: Journal
    changes: list[str]
    returns: list[bool]
    """What the server answers to the requests to be taken back; no more when it is empty."""
    channel: PushChannel
    state: State
    board: Board
    edge: Edge
    link: Link
    telling: Telling
    clock: TurnedClock
    remote: Remote
    rotations: list[str]
    """What asked for another device key."""
    start: Callable[[], None]

    def rotate(self) -> None:
        """Another device key is asked for."""
        self.rotations.append("asked")

    async def hears(self, event: str) -> None:
        """Return when something was logged."""
        async with asyncio.timeout(10):
            while event not in self.telling.said():
                await asyncio.sleep(0.005)

    async def captures(self) -> ChunkHeader:
        """Capture a record, and have the server hold it: the header of the chunk that it went into."""
        name = self.journal.append(b"a record", kind=1)
        await self.journal.synced(name)
        lane = self.journal.next_slice("live", 1 << 20) or self.journal.next_slice("backlog", 1 << 20)
        assert lane is not None
        self.journal.acknowledge(name.epoch, [Range(lane.first, lane.last)])
        self.server.records[name.epoch, name.seq] = b""
        return ChunkHeader.decode(lane.header)

    def said(self, event: str) -> list[dict[str, object]]:
        return [line for line in self.telling.lines() if line["event"] == event]


@asynccontextmanager
async def channel(place: Path) -> AsyncIterator[Till]:
    """A till whose channel has not been started, and a server for it."""
    async with gateway() as server:
        server.device = DEVICE.public
        state = await State.open(place / "state.db")
        telling = Telling()
        clock = TurnedClock(NOW_MS)
        server.clock_ms = NOW_MS
        board = Board(clock, lambda _card: True)
        edge = Edge(server_public_key=server.key.public, till_id=TILL_ID, clock=clock)
        link = Link(clock, lambda _link: None)
        vitals = Vitals(TILL_ID, EPOCH, 5, 2, 9, HookLatency(1, 2, 3, 4), 10, NOW_MS, "1.0", "", 0, 0)
        folder = Folder(place)
        keys = (server.key.public, server.box_public, server.escrow_public)
        who = Identity(server.address, TILL_ID, "acme", "north", "1", "USD", DEVICE.key_id, *keys, enrolled_ms=0)
        folder.rewrite(who)
        journal = await Journal.open(
            folder.journal,
            identity=JournalIdentity(TILL_ID, DEVICE, server.box_public, server.escrow_public),
            clock=clock,
            randomness=os.urandom,
            limits=replace(DEFAULT, sync_interval=0.0, reserve=0),
        )
        changes: list[str] = []
        returns: list[bool] = []
        rotations: list[str] = []

        async def returning() -> bool:
            if not returns:
                return False
            server.device = DEVICE.public
            return returns.pop(0)

        remote = Remote.open(folder, who, lambda values: overlaid(Config(), values))
        channel = PushChannel(
            address=server.address,
            tls=None,
            till_id=TILL_ID,
            device=DEVICE,
            agent_version="1.0",
            state=state,
            mailbox=Mailbox(
                state,
                board,
                edge,
                SealingKeys(folder, who, journal, telling.events),
                link,
                telling.events,
                remote,
                lambda: till.rotate(),
            ),
            rewind=Rewind(journal, telling.events, lambda: changes.append("acked")),
            edge=edge,
            link=link,
            events=telling.events,
            clock=clock,
            vitals=lambda: vitals,
            returning=returning,
            uniform=lambda: 0.02,
            heartbeat_s=0.02,
        )
        tasks: list[asyncio.Task[None]] = []

        def start() -> None:
            tasks.append(asyncio.create_task(channel.run()))

        till = Till(
            server,
            folder,
            journal,
            changes,
            returns,
            channel,
            state,
            board,
            edge,
            link,
            telling,
            clock,
            remote,
            rotations,
            start,
        )
        yield till
        for task in tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await journal.close()
        await state.close()
