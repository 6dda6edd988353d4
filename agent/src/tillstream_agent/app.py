"""The only place that builds the parts and connects them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import TextIO

from prometheus_client import CollectorRegistry

from tillstream_protocol.errors import TillstreamError
from tillstream_protocol.events import OfferShown
from tillstream_protocol.limits import DEFAULT

from . import __version__
from .capture import Capture, Enrolment
from .clock import Clock
from .config import Config
from .display.board import Board, Card
from .display.stream import Display
from .events import Events, JournalEvents, json_logger
from .folder import Folder, Identity, write_private
from .hooks.http import HttpDoor
from .hooks.requests import Desk
from .hooks.socket import SocketDoor
from .housekeeping import Housekeeping, keep_running
from .journal import Journal, JournalIdentity
from .metrics import AgentMetrics, LatencyWindow
from .offers.edge import Edge
from .state import State
from .status import Reporter
from .sync.link import Link
from .sync.push import Mailbox, PushChannel
from .sync.transport import Transport, server_address, tls_context
from .sync.upload import Uploader, UploadFlow


@dataclass(frozen=True, slots=True)
class World:
    """What the agent takes from outside: time, chance, and where it writes its log."""

    clock: Clock
    randomness: Callable[[int], bytes]
    uniform: Callable[[], float]
    """Numbers in [0, 1)."""
    log: TextIO


async def run(
    folder: Folder, config: Config, world: World, *, stop: asyncio.Event, started: Callable[[int], None] | None = None
) -> None:
    """Be an agent until `stop` is set. `started` is told the hook's port once the doors are open.

    Raises `NotEnrolled`, `AlreadyRunning`, `PortInUse`, `StateError`, `JournalError` or `InvalidInput`.
    """
    identity = folder.identity()
    with folder.locked():
        async with AsyncExitStack() as stack:
            core = await _core(stack, folder, identity, config, world)
            sync = await _sync(stack, core)
            port = await _doors(stack, core)
            core.events.started(version=__version__, port=port, queued=core.journal.queue().records)
            if started is not None:
                started(port)
            async with _background(core, sync):
                await stop.wait()
            core.events.stopping(queued=core.journal.queue().records)


@dataclass(slots=True)
class _Core:
    """What captures and shows; it needs no server."""

    folder: Folder
    identity: Identity
    config: Config
    world: World
    metrics: AgentMetrics
    events: Events
    state: State
    journal: Journal
    edge: Edge
    board: Board
    link: Link
    reporter: Reporter
    desk: Desk


@dataclass(slots=True)
class _Sync:
    """What speaks to the server."""

    uploader: Uploader
    channel: PushChannel
    housekeeping: Housekeeping


async def _core(stack: AsyncExitStack, folder: Folder, identity: Identity, config: Config, world: World) -> _Core:
    log = json_logger(world.log, config.log_level)
    metrics = AgentMetrics(CollectorRegistry())
    latency = LatencyWindow()
    events = Events(log, metrics, latency, world.clock.monotonic)
    state = await State.open(folder.database)
    stack.push_async_callback(state.close)
    journal = await _journal(folder, identity, config, world, state, JournalEvents(log, metrics, events))
    stack.push_async_callback(journal.close)
    edge = await _edge(identity, state, events, world)
    where = Enrolment(identity.till_id, identity.retailer, identity.store, identity.till, identity.currency)
    capture = Capture(journal, edge, where, tag_key=folder.tag_key(), clock=world.clock, randomness=world.randomness)
    board = Board(world.clock, _shown(capture, events))
    for kept in await state.load_offers(world.clock.now_ms()):
        board.push(kept.offer)
    link = Link(world.clock, _following(board, edge))
    reporter = Reporter(
        identity, __version__, folder.path, journal, edge, link, events, latency, world.clock, config.hook_port
    )
    desk = Desk(capture, board, events, till_id=identity.till_id, reports=reporter)
    return _Core(folder, identity, config, world, metrics, events, state, journal, edge, board, link, reporter, desk)


async def _journal(
    folder: Folder, identity: Identity, config: Config, world: World, state: State, observer: JournalEvents
) -> Journal:
    keys = JournalIdentity(
        till_id=identity.till_id,
        device=folder.device_key(identity),
        server_public=identity.box_public,
        escrow_public=identity.escrow_public,
    )
    return await Journal.open(
        folder.journal,
        identity=keys,
        clock=world.clock,
        randomness=world.randomness,
        acked=await state.load_acked(),
        settled=await state.load_settled(),
        limits=replace(DEFAULT, retain_age=config.journal_retain_s, retain_bytes=config.journal_retain_bytes),
        observer=observer,
    )


async def _edge(identity: Identity, state: State, events: Events, world: World) -> Edge:
    edge = Edge(server_public_key=identity.server_public, till_id=identity.till_id, clock=world.clock)
    pack = await state.load_pack()
    if pack is not None:
        try:
            edge.accept(pack)
        except TillstreamError as error:
            events.push_refused(error)
    return edge


def _shown(capture: Capture, events: Events) -> Callable[[Card], bool]:
    def report(card: Card) -> bool:
        try:
            captured = capture.event(OfferShown(card.offer_id, card.campaign))
        except TillstreamError as error:
            events.capture_failed("display", error)
            return False
        if not captured.repeat:
            events.shown()
        return True

    return report


def _following(board: Board, edge: Edge) -> Callable[[Link], None]:
    def changed(link: Link) -> None:
        board.set_online(link.online)
        edge.clock_trusted = link.clock_trusted

    return changed


async def _sync(stack: AsyncExitStack, core: _Core) -> _Sync:
    config, world, identity = core.config, core.world, core.identity
    address = server_address(identity.server)
    device = core.folder.device_key(identity)
    tls = tls_context(address, config.sync_ca_file)
    transport = Transport(address, tls=tls, timeout=config.sync_timeout_s)
    stack.push_async_callback(transport.close)
    flow = UploadFlow(core.journal, core.events, core.link, world.uniform, DEFAULT)
    uploader = Uploader(flow, transport, device, world.clock, core.events)
    core.journal.set_wakeup(uploader.wake)
    channel = PushChannel(
        address=address,
        tls=tls,
        till_id=identity.till_id,
        device=device,
        agent_version=__version__,
        state=core.state,
        mailbox=Mailbox(core.state, core.board, core.edge, core.link, core.events),
        edge=core.edge,
        link=core.link,
        events=core.events,
        clock=world.clock,
        vitals=core.reporter.vitals,
        uniform=world.uniform,
        heartbeat_s=config.sync_heartbeat_s,
    )
    housekeeping = Housekeeping(
        core.journal, core.state, world.clock, core.events, uploader.acknowledged, core.desk.take_answered
    )
    stack.push_async_callback(housekeeping.finish)
    return _Sync(uploader, channel, housekeeping)


async def _doors(stack: AsyncExitStack, core: _Core) -> int:
    """Open HTTP and the socket; closed first when the agent ends. Returns the HTTP port."""
    world = core.world
    http = HttpDoor(
        core.desk,
        Display(core.board),
        core.events,
        core.metrics,
        world.clock,
        token=core.folder.hook_token(),
        origins=core.config.hook_origins,
        limits=DEFAULT,
        gauges=core.reporter.gauges,
    )
    socket = SocketDoor(core.desk, core.events, world.clock, limits=DEFAULT)
    stack.push_async_callback(http.close)
    port = await http.open(core.config.hook_port)
    core.reporter.http_port = port
    stack.push_async_callback(socket.close)
    await socket.open(core.folder.socket)
    write_private(core.folder.port_file, f"{port}\n".encode())
    stack.callback(core.folder.port_file.unlink, missing_ok=True)
    return port


@asynccontextmanager
async def _background(core: _Core, sync: _Sync) -> AsyncIterator[None]:
    runs = {
        "upload": sync.uploader.run,
        "push": sync.channel.run,
        "acknowledgements": sync.housekeeping.keep_acknowledgements,
        "sweep": sync.housekeeping.sweep_for_ever,
    }
    tasks = [asyncio.create_task(keep_running(name, run, core.events), name=name) for name, run in runs.items()]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task
