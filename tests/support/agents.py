"""An agent's real parts, or a whole agent in this process, for tests."""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
from prometheus_client import CollectorRegistry

from support.gateways import Gateway
from support.tills import TestTill, TurnedClock
from tillstream_agent.app import World, run
from tillstream_agent.baskets import Baskets
from tillstream_agent.capture import Capture, Enrolment
from tillstream_agent.clock import Clock, SystemClock
from tillstream_agent.config import Config
from tillstream_agent.config_doors import Doors
from tillstream_agent.display.board import Board
from tillstream_agent.display.cards import Card
from tillstream_agent.events import Events, json_logger
from tillstream_agent.folder import Folder, Identity
from tillstream_agent.hooks.counter import Counter as BasketCounter
from tillstream_agent.hooks.payloads import Payloads
from tillstream_agent.hooks.requests import Desk
from tillstream_agent.journal import Disk, Journal
from tillstream_agent.letters import Letters
from tillstream_agent.metrics import AgentMetrics, LatencyWindow
from tillstream_agent.offers.edge import Edge
from tillstream_agent.queue import QueueDesk
from tillstream_agent.remote import Apply
from tillstream_agent.status import Reporter
from tillstream_agent.sync import enrol
from tillstream_agent.sync.asking import Asker
from tillstream_agent.sync.link import Link
from tillstream_agent.sync.upload import UploadFlow
from tillstream_agent.trial import TrialTimes
from tillstream_protocol.decisions import Campaign, Decision
from tillstream_protocol.effects import CustomerMessage
from tillstream_protocol.events import MemberIdentified
from tillstream_protocol.limits import DEFAULT
from tillstream_protocol.messages import OfferPush, Token
from tillstream_protocol.pack import Lease, Pack, sign_pack
from tillstream_protocol.settings import SettingsReport
from tillstream_protocol.signing import SignKey
from tillstream_protocol.transaction import Identifier, Line, Moment, Source, Transaction

QUICK = TrialTimes(watch_s=1.5, ill_s=0.2, every_s=0.05)
NOW_MS = 1_700_000_000_000
HOUR_MS = 3_600_000
SERVER = SignKey(bytes(32))
FAST = replace(DEFAULT, sync_interval=0.0)

WELCOME = Campaign(
    id="welcome",
    version=1,
    name="Welcome",
    trigger="member_identified",
    condition={"var": "member.known"},
    effects=(CustomerMessage("Nice to see you"),),
)


def sale(pos_id: str = "1", total: int = 500) -> Transaction:
    """A sale of one line."""
    return Transaction(
        source=Source("pos"),
        kind="sale",
        pos_id=pos_id,
        business_date="2026-01-01",
        end=Moment(NOW_MS),
        total=total,
        lines=(Line(seq=0, amount=total, sku="1"),),
    )


def member(event_id: str = "", basket: str = "") -> MemberIdentified:
    """Somebody with a loyalty card."""
    return MemberIdentified((Identifier("loyalty", "4711"),), event_id=event_id, basket=basket)


def offer(number: int = 1, *, text: str = "A coffee on us", expires_ms: int = NOW_MS + HOUR_MS) -> Decision:
    """An offer that the server decided."""
    name = number.to_bytes(16, "big")
    effects = (CustomerMessage(text),)
    return Decision(name, f"campaign-{number}", 1, "offered", "server", NOW_MS, expires_ms, effects=effects)


def offer_push(number: int = 1, epoch: bytes = bytes(16), seq: int = 0, basket: str = "", **about: object) -> OfferPush:
    """The same, as it is pushed."""
    return OfferPush(offer(number, **about), epoch, seq, basket)  # type: ignore[arg-type]


@dataclass
class Telling:
    """An agent's events with what they wrote and counted."""

    stream: io.StringIO = field(default_factory=io.StringIO)
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    latency: LatencyWindow = field(default_factory=LatencyWindow)

    def __post_init__(self) -> None:
        self.metrics = AgentMetrics(self.registry)
        self.events = Events(json_logger(self.stream, "debug"), self.metrics, self.latency)

    def counted(self, name: str, **labels: str) -> float:
        """A counter's value."""
        value = self.registry.get_sample_value(f"tillstream_agent_{name}_total", labels)
        assert value is not None, f"there is no {name} {labels}"
        return value

    def lines(self) -> list[dict[str, object]]:
        """What was logged."""
        return [msgspec.json.decode(line) for line in self.stream.getvalue().splitlines()]

    def said(self) -> list[object]:
        """The events that were logged."""
        return [line["event"] for line in self.lines()]


@dataclass
class Counter:
    """What stands behind the doors: real journal, edge, capture and board."""

    telling: Telling
    till: TestTill
    clock: TurnedClock
    journal: Journal
    edge: Edge
    board: Board
    link: Link
    desk: Desk
    baskets: BasketCounter
    payloads: Payloads
    reporter: Reporter
    shown: list[Card]
    letters: Letters
    flow: UploadFlow
    queue: QueueDesk


@asynccontextmanager
async def counter(
    folder: Path,
    *campaigns: Campaign,
    disk: Disk | None = None,
    leases: tuple[Lease, ...] = (),
    doors: Doors | None = None,
) -> AsyncIterator[Counter]:
    """The parts behind the doors, on a journal in `folder`."""
    till = TestTill(folder / "journal", FAST, disk)
    telling = Telling()
    journal = await till.start()
    till_id = till.keys.till_id
    edge = Edge(server_public_key=SERVER.public, till_id=till_id, clock=till.clock)
    sealed_to = (till.keys.identity().server_public, till.keys.identity().escrow_public)
    pack = Pack(1, "acme", "north", till_id, NOW_MS, NOW_MS + HOUR_MS, campaigns, leases, bytes(32), *sealed_to)
    edge.accept(sign_pack(pack, SERVER))
    capture = Capture(
        journal,
        edge,
        Enrolment(till_id, "acme", "north", "1", "USD"),
        tag_key=till.keys.tag_key,
        clock=till.clock,
        randomness=os.urandom,
    )
    shown: list[Card] = []

    def report(card: Card) -> bool:
        shown.append(card)
        return True

    board = Board(till.clock, report)
    link = Link(till.clock, lambda link: board.set_online(link.online))
    key = bytes(32)
    who = Identity("http://127.0.0.1:1", till_id, "acme", "north", "1", "USD", bytes(8), key, key, key, NOW_MS)
    letters = Letters(till.clock)
    reporter = Reporter(
        who,
        "1.0",
        folder,
        journal,
        edge,
        link,
        telling.events,
        telling.latency,
        till.clock,
        8710,
        letters,
        0,
        lambda: SettingsReport(0, 0, "none"),
    )
    baskets = BasketCounter(capture, Baskets(till.clock, os.urandom), board, telling.events, till.clock)
    desk = Desk(capture, baskets, board, telling.events, till_id=till_id, reports=reporter)
    payloads = Payloads(desk, doors or Doors(), currency="USD")
    flow = UploadFlow(journal, telling.events, link, lambda: 0.5, FAST, letters)
    queue = QueueDesk(flow, journal, letters, telling.events, lambda: None)
    try:
        yield Counter(
            telling,
            till,
            till.clock,
            journal,
            edge,
            board,
            link,
            desk,
            baskets,
            payloads,
            reporter,
            shown,
            letters,
            flow,
            queue,
        )
    finally:
        payloads.close()
        await journal.close()


async def enrolled(folder: Path, server: Gateway, *, replace: bool = False) -> Folder:
    """A state folder that has joined a server."""
    state = Folder(folder)
    client = Asker(server.address, tls=None, timeout=5)
    try:
        joining = enrol.Enrolment(state, client, SystemClock(), os.urandom, "1.0")
        await joining.join(server.address, Token.parse(server.token()), replace=replace)
    finally:
        await client.close()
    return state


@asynccontextmanager
async def running_agent(
    folder: Folder,
    config: Config | None = None,
    clock: Clock | None = None,
    boot: str | None = "this boot",
    trial: TrialTimes = QUICK,
    apply: Apply | None = None,
) -> AsyncIterator[tuple[int, io.StringIO]]:
    """A whole agent on a free port: the port, and what it logs. It waits little between tries. `apply` stands for
    settings that are read anew."""
    log = io.StringIO()
    world = World(clock or SystemClock(), os.urandom, lambda: 0.02, log, lambda: boot, trial=trial)
    stop = asyncio.Event()
    ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    settings = config or Config(hook_port=0)

    def opened(port: int) -> None:
        if not ready.done():
            ready.set_result(port)

    task = asyncio.create_task(run(folder, settings, world, stop=stop, started=opened, settings=apply))
    try:
        await asyncio.wait((task, asyncio.shield(ready)), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        yield ready.result(), log
    finally:
        stop.set()
        await asyncio.wait({task})
    task.result()
