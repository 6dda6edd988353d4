"""The only place that builds the parts and connects them."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TextIO

from prometheus_client import CollectorRegistry

from tillstream_protocol.errors import TillstreamError
from tillstream_protocol.events import OfferShown
from tillstream_protocol.limits import DEFAULT
from tillstream_protocol.signing import SignKey

from . import __version__
from .aftermath import MARK, Aftermath, Runs
from .baskets import Baskets
from .boot import boot_id
from .capture import Capture, Enrolment
from .clock import Clock, CorrectedClock
from .config import Config, overlaid
from .display.board import Board
from .display.cards import Card
from .display.stream import Display
from .events import Events, JournalEvents, json_logger
from .folder import Folder, Identity, write_private
from .following import Following, begin_trial
from .hooks.counter import Counter
from .hooks.crowd import Caps
from .hooks.drop import DropDoor
from .hooks.http import HttpDoor
from .hooks.pairing import Pairing
from .hooks.payloads import Payloads
from .hooks.requests import Desk
from .hooks.screens import ByDesk
from .hooks.socket import SocketDoor
from .housekeeping import Housekeeping, keep_running
from .journal import Journal, JournalIdentity
from .letters import Letters
from .metrics import AgentMetrics, LatencyWindow
from .notify import NOBODY, NotTold, Supervisor
from .offers.edge import Edge
from .queue import QueueDesk
from .remote import Apply, Remote, recover, rolled_back
from .state import State
from .status import Reporter
from .sync.enrol import Return
from .sync.keys import SealingKeys, with_keys_of, write_down
from .sync.link import Link
from .sync.push import Mailbox, PushChannel
from .sync.rewind import Rewind
from .sync.rotate import Rotation
from .sync.transport import Transport, server_address, tls_context
from .sync.upload import Uploader, UploadFlow
from .trial import TrialTimes


@dataclass(frozen=True, slots=True)
class World:
    """What the agent takes from outside: time, chance, and where it writes its log."""

    clock: Clock
    randomness: Callable[[int], bytes]
    uniform: Callable[[], float]
    """Numbers in [0, 1)."""
    log: TextIO
    boot: Callable[[], str | None] = boot_id
    """Which boot of the machine this is, where the platform can tell."""
    supervisor: Supervisor = NOBODY
    """Who started the agent, if it wants to be told how it is."""
    trial: TrialTimes = field(default_factory=TrialTimes)


async def run(
    folder: Folder,
    config: Config,
    world: World,
    *,
    stop: asyncio.Event,
    started: Callable[[int], None] | None = None,
    settings: Apply | None = None,
) -> None:
    """Be an agent until `stop` is set. `started` is told the hook's port whenever the doors are opened.

    `settings` gives the configuration with what head office sets from afar; without it, that comes before `config`.
    When that changes, or the device key does, all parts are closed in order and built anew, in the same process and on
    the same port; the till goes back by itself where it is not well then. Raises `NotEnrolled`, `AlreadyRunning`,
    `PortInUse`, `StateError`, `JournalError`, `ConfigError` or `InvalidInput`.
    """
    identity = folder.identity()
    with folder.locked():
        remote = Remote.open(folder, identity, settings or partial(overlaid, config))
        await recover(remote, _events(world))
        port = 0
        while True:
            turn = _Turn(remote, stop, port, started or (lambda _: None))
            await _live(folder, world, turn)
            if stop.is_set():
                return
            port = turn.port


@dataclass(slots=True)
class _Turn:
    """One life of all parts, between two changes of what they are built from."""

    remote: Remote
    stop: asyncio.Event
    port: int
    """Where the hook was before; 0 for nowhere."""
    started: Callable[[int], None]
    over: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the parts are to be built anew, or the agent is to stop."""

    def config(self) -> Config:
        """The settings of this life. Any free port is the one it was before."""
        config = self.remote.config()
        return replace(config, hook_port=self.port) if config.hook_port == 0 else config

    async def wait(self) -> None:
        """Return when it is over."""
        ends = [asyncio.create_task(event.wait()) for event in (self.over, self.stop)]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in ends:
                task.cancel()


async def _live(folder: Folder, world: World, turn: _Turn) -> None:
    """Build all parts and let them work until the turn is over. Settings on trial that they cannot be built with are
    gone back from."""
    remote, before = turn.remote, _events(world)
    await begin_trial(remote, before)
    async with AsyncExitStack() as stack:
        try:
            core = await _core(stack, folder, folder.identity(), turn.config(), world, remote)
            sync = await _sync(stack, core)
            payloads = Payloads(core.desk, core.config.doors, currency=core.identity.currency)
            stack.callback(payloads.close)
            turn.port = await _doors(stack, core, payloads, sync.queue)
        except Exception as error:
            if not remote.trying:
                raise
            await rolled_back(remote, _why(error), before)
            return
        core.events.started(version=__version__, port=turn.port, queued=core.journal.queue().records)
        if core.config.lowered:
            core.events.settings_lowered(core.config.lowered)
        turn.started(turn.port)
        who = f"till {core.identity.till} of store {core.identity.store}, port {turn.port}"
        _tell(core, lambda: world.supervisor.ready(who))
        async with _background(core, sync, _drops(core, payloads), partial(core.following.run, turn.over)):
            await turn.wait()
        if turn.stop.is_set():
            _tell(core, world.supervisor.stopping)
        core.events.stopping(queued=core.journal.queue().records)


def _why(error: Exception) -> str:
    if isinstance(error, TillstreamError):
        return f"{error.code}: {error.message}"
    return f"{type(error).__name__}: {error}"


def _events(world: World) -> Events:
    """For what is to be told before the parts are there."""
    return Events(json_logger(world.log, "info"), AgentMetrics(CollectorRegistry()), LatencyWindow())


def _tell(core: _Core, tell: Callable[[], None]) -> None:
    """Tell whoever started the agent; if that fails, it serves its till all the same."""
    try:
        tell()
    except NotTold as error:
        core.events.housekeeping_failed("tell the service manager", error)


@dataclass(slots=True)
class _Core:
    """What captures and shows; it needs no server. Its identity has the keys that chunks are sealed to."""

    folder: Folder
    identity: Identity
    config: Config
    world: World
    time: CorrectedClock
    metrics: AgentMetrics
    events: Events
    state: State
    journal: Journal
    edge: Edge
    board: Board
    remote: Remote
    following: Following
    link: Link
    reporter: Reporter
    counter: Counter
    desk: Desk
    letters: Letters
    aftermath: Aftermath


@dataclass(slots=True)
class _Sync:
    """What speaks to the server."""

    uploader: Uploader
    channel: PushChannel
    housekeeping: Housekeeping
    queue: QueueDesk
    rotation: Rotation


async def _core(
    stack: AsyncExitStack, folder: Folder, identity: Identity, config: Config, world: World, remote: Remote
) -> _Core:
    log = json_logger(world.log, config.log_level)
    metrics = AgentMetrics(CollectorRegistry())
    latency = LatencyWindow()
    events = Events(log, metrics, latency, world.clock.monotonic)
    state = await State.open(folder.database, events)
    stack.push_async_callback(state.close)
    time = CorrectedClock(world.clock)
    edge = await _edge(identity, state, events, time)
    identity = await _with_newest_keys(folder, identity, edge, events)
    letters = Letters(world.clock, *await state.load_letters())
    found = asyncio.Event()
    observer = JournalEvents(log, metrics, events, found.set)
    journal = await _journal(folder, identity, config, world, state, letters, observer)
    runs = Runs(state, journal, world.boot(), events, folder.path / MARK)
    stack.push_async_callback(runs.finish)
    stack.push_async_callback(journal.close)
    await runs.begin()
    where = Enrolment(identity.till_id, identity.retailer, identity.store, identity.till, identity.currency)
    capture = Capture(journal, edge, where, tag_key=folder.tag_key(), clock=world.clock, randomness=world.randomness)
    board = Board(time, _shown(capture, events), world.randomness, config.display_member)
    for kept in await state.load_offers(time.past_ms()):
        board.push(kept.offer)
    link = Link(world.clock, lambda link: board.set_online(link.online), time)
    reporter = _reporter(folder, identity, config, world, remote, journal, edge, link, events, latency, letters)
    baskets = Baskets(world.clock, world.randomness)
    counter = Counter(capture, baskets, board, events, world.clock)
    desk = Desk(capture, counter, board, events, till_id=identity.till_id, reports=reporter)
    return _Core(
        folder,
        identity,
        config,
        world,
        time,
        metrics,
        events,
        state,
        journal,
        edge,
        board,
        remote,
        Following(remote, reporter, baskets, link, events, world.clock, world.trial, folder.hook_token),
        link,
        reporter,
        counter,
        desk,
        letters,
        Aftermath(journal, capture, runs, folder, events, found),
    )


def _reporter(
    folder: Folder,
    identity: Identity,
    config: Config,
    world: World,
    remote: Remote,
    journal: Journal,
    edge: Edge,
    link: Link,
    events: Events,
    latency: LatencyWindow,
    letters: Letters,
) -> Reporter:
    return Reporter(
        identity,
        __version__,
        folder.path,
        journal,
        edge,
        link,
        events,
        latency,
        world.clock,
        config.hook_port,
        letters,
        config.journal_reserve_bytes,
        remote.report,
    )


async def _with_newest_keys(folder: Folder, identity: Identity, edge: Edge, events: Events) -> Identity:
    """The identity with the keys of the stored pack, put down if that could not be done when the pack came."""
    newest = with_keys_of(identity, edge.pack)
    if newest != identity:
        await write_down(folder, newest, events)
    return newest


async def _journal(
    folder: Folder,
    identity: Identity,
    config: Config,
    world: World,
    state: State,
    letters: Letters,
    observer: JournalEvents,
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
        aside=letters.aside(),
        limits=replace(
            DEFAULT,
            retain_age=config.journal_retain_s,
            retain_bytes=config.journal_retain_bytes,
            reserve=config.journal_reserve_bytes,
        ),
        observer=observer,
    )


async def _edge(identity: Identity, state: State, events: Events, time: CorrectedClock) -> Edge:
    edge = Edge(
        server_public_key=identity.server_public,
        till_id=identity.till_id,
        clock=time,
        trusted=lambda: time.trusted,
    )
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


@dataclass(frozen=True, slots=True)
class _Line:
    """Where the server is, and as whom the agent speaks to it."""

    address: str
    tls: ssl.SSLContext | None
    transport: Transport
    device: SignKey
    returning: Return


def _line(core: _Core) -> _Line:
    address = server_address(core.identity.server)
    tls = tls_context(address, core.config.sync_ca_file)
    transport = Transport(address, tls=tls, timeout=core.config.sync_timeout_s)
    device = core.folder.device_key(core.identity)
    return _Line(address, tls, transport, device, Return(transport, device, core.identity.certificate, core.events))


async def _sync(stack: AsyncExitStack, core: _Core) -> _Sync:
    line = _line(core)
    stack.push_async_callback(line.transport.close)
    flow = UploadFlow(core.journal, core.events, core.link, core.world.uniform, DEFAULT, core.letters)

    async def taken_back() -> bool:
        known = await line.returning.ask()
        if known:
            channel.hurry()
        return known

    uploader = Uploader(
        flow,
        line.transport,
        line.device,
        core.world.clock,
        devices=core.folder.former_keys(),
        returning=taken_back,
    )
    core.journal.set_wakeup(uploader.wake)

    def acknowledgements_changed() -> None:
        uploader.acknowledged.set()
        uploader.wake()

    rotation = _rotation(core, line)
    channel = _channel(core, line, Rewind(core.journal, core.events, acknowledgements_changed), rotation)
    housekeeping = Housekeeping(
        core.journal,
        core.state,
        core.time.past_ms,
        core.events,
        uploader.acknowledged,
        core.desk.take_answered,
        core.letters,
        partial(core.counter.abandon, core.config.baskets_abandon_s),
    )
    stack.push_async_callback(housekeeping.finish)
    queue = QueueDesk(flow, core.journal, core.letters, core.events, acknowledgements_changed)
    return _Sync(uploader, channel, housekeeping, queue, rotation)


def _rotation(core: _Core, line: _Line) -> Rotation:
    return Rotation(
        folder=core.folder,
        identity=core.identity,
        device=line.device,
        transport=line.transport,
        link=core.link,
        clock=core.time,
        randomness=core.world.randomness,
        events=core.events,
        again=core.remote.changed.set,
    )


def _channel(core: _Core, line: _Line, rewind: Rewind, rotation: Rotation) -> PushChannel:
    keys = SealingKeys(core.folder, core.identity, core.journal, core.events)
    return PushChannel(
        address=line.address,
        tls=line.tls,
        till_id=core.identity.till_id,
        device=line.device,
        agent_version=__version__,
        state=core.state,
        mailbox=Mailbox(core.state, core.board, core.edge, keys, core.link, core.events, core.remote, rotation.ask),
        rewind=rewind,
        edge=core.edge,
        link=core.link,
        events=core.events,
        clock=core.time,
        vitals=core.reporter.vitals,
        returning=line.returning.ask,
        uniform=core.world.uniform,
        heartbeat_s=core.config.sync_heartbeat_s,
    )


async def _doors(stack: AsyncExitStack, core: _Core, payloads: Payloads, queue: QueueDesk) -> int:
    """Open HTTP and the socket; closed first when the agent ends. Returns the HTTP port."""
    world, config = core.world, core.config
    token = core.folder.hook_token()
    pairing = Pairing(core.folder.paired_file, token, world.clock, world.randomness, core.board.wake)
    display = Display(
        core.board,
        ByDesk(core.desk, core.events, world.clock),
        language=config.display_language,
        buttons=config.display_buttons,
        origins=config.hook_origins,
    )
    http = HttpDoor(
        core.desk,
        payloads,
        display,
        pairing,
        core.events,
        core.metrics,
        world.clock,
        token=token,
        origins=config.hook_origins,
        limits=DEFAULT,
        gauges=core.reporter.gauges,
        caps=Caps(core.config.hook_connections, core.config.hook_request_s, core.config.hook_calls_s),
    )
    socket = SocketDoor(core.desk, payloads, queue, pairing, core.events, world.clock, limits=DEFAULT)
    stack.push_async_callback(http.close)
    port = await http.open(config.hook_port)
    core.reporter.http_port = port
    await _printers(stack, core, payloads)
    stack.push_async_callback(socket.close)
    await socket.open(core.folder.socket)
    core.folder.port_file.unlink(missing_ok=True)
    stack.callback(core.folder.port_file.unlink, missing_ok=True)
    with suppress(OSError):  # a full disk has no room for it; the doors are open all the same, and `status` says where
        write_private(core.folder.port_file, f"{port}\n".encode())
    return port


async def _printers(stack: AsyncExitStack, core: _Core, payloads: Payloads) -> None:
    """Open the printers' ports; what reads receipts is imported for them alone."""
    doors = core.config.doors
    for setting in doors.printers:
        from .hooks.printer import PrinterPort

        reading = doors.reading(setting.adapter)
        dialect = str(reading.setting.options.get("dialect", "")) if reading is not None else ""
        port = PrinterPort(setting, payloads, core.events, core.world.clock, dialect=dialect)
        stack.push_async_callback(port.close)
        await port.open()


def _drops(core: _Core, payloads: Payloads) -> list[DropDoor]:
    """The doors that are looked at instead of knocked at."""
    return [DropDoor(setting, payloads, core.events, core.world.clock) for setting in core.config.doors.drops]


@asynccontextmanager
async def _background(
    core: _Core, sync: _Sync, drops: Sequence[DropDoor], follow: Callable[[], Awaitable[None]]
) -> AsyncIterator[None]:
    runs = {
        "upload": sync.uploader.run,
        "push": sync.channel.run,
        "acknowledgements": sync.housekeeping.keep_acknowledgements,
        "sweep": sync.housekeeping.sweep_for_ever,
        "aftermath": core.aftermath.run,
        "watchdog": core.world.supervisor.live,
        "rotation": sync.rotation.run,
        "settings": follow,
        **{f"drop {number}": drop.run for number, drop in enumerate(drops)},
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
