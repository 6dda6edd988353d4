"""Builds the parts of the server and connects them; nothing else does.

init     a data folder: keys, databases, and the escrow key for the operator to take away
opened   all parts on one data folder, whose only writer this process then is
serve    the same, with tills, head office and the admin socket let in, until told to stop
"""

from __future__ import annotations

import asyncio
import errno
import gc
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

from aiohttp import web as aioweb
from msgspec.structs import replace

from tillstream_protocol.errors import TillstreamError

from . import admin, certificates, keys, web
from .api.handlers import Api
from .auth import Randomness
from .campaigns.book import CampaignBook
from .campaigns.packs import Packs
from .campaigns.triggers import Triggers
from .clock import Clock
from .config import Config, opening_hours, proxies
from .console.door import Console
from .console.first_run import FILE, FirstRun
from .console.pages import Pages
from .console.throttle import Throttle
from .console.visit import House
from .console.words import Dictionary
from .customers.originals import Originals
from .customers.vault import Vault, create_keys
from .devices import Devices
from .events import Events
from .folder import FORMAT, Folder, Settings
from .gateway.batches import Intake
from .gateway.deliveries import Deliveries
from .gateway.enrol import Enrolment
from .gateway.failures import Failures
from .gateway.flow import Flow
from .gateway.hub import Hub
from .gateway.notes import Notes
from .gateway.push import PushChannel
from .gateway.returning import Returns
from .gateway.rotation import Rotations
from .gateway.settings import SettingsDesk
from .hooks.door import HookDoor
from .hooks.intake import HookIntake
from .keys import ServerKeys
from .ledger.database import Database, migrate
from .office import Office
from .office_fleet import FleetOffice
from .office_settings import SettingsOffice
from .pipeline.process import Pipeline
from .pipeline.rebuild import rebuild
from .watch import Watch

SHUTDOWN_SECONDS: Final = 5.0


class CannotListen(TillstreamError):
    """The address is taken or not ours, or the certificate cannot be used."""

    code = "cannot_listen"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the server takes from outside, so that tests can pass in their own."""

    clock: Clock
    random: Randomness
    events: Events


@dataclass(frozen=True, slots=True)
class Parts:
    """The connected parts of a server."""

    database: Database
    vault: Vault
    keys: ServerKeys
    devices: Devices
    hub: Hub
    notes: Notes
    deliveries: Deliveries
    settings: SettingsDesk
    failures: Failures
    office: Office
    enrolment: Enrolment
    returns: Returns
    rotations: Rotations
    intake: Intake
    channel: PushChannel
    hook_door: HookDoor
    watch: Watch
    console: Console

    def runs(self, over: asyncio.Event) -> list[Coroutine[Any, Any, None]]:
        """What goes on beside requests, until `over` is set and notes are closed."""
        return [self.notes.run(), self.settings.run(), self.deliveries.run(over), self.failures.run(over)]

    def routes(self, events: Events) -> list[aioweb.RouteDef]:
        """Every door of the server."""
        return [
            aioweb.post("/till/v1/hello", self.enrolment.hello),
            aioweb.post("/till/v1/enrol", self.enrolment.enrol),
            aioweb.post("/till/v1/return", self.returns.post),
            aioweb.post("/till/v1/rotate", self.rotations.post),
            aioweb.post("/till/v1/batches", self.intake.post),
            aioweb.get("/till/v1/push", self.channel.connect),
            *self.hook_door.routes(),
            *Api(self.database, self.office).routes(),
            *self.console.routes(),
            *web.Desk(self.database, events, self.watch).routes(),
        ]


_COLLECT_AFTER: Final = (20_000, 20, 20)
"""A batch makes tens of thousands of objects and no cycles: looking for some every 700 costs a twentieth of it all."""


def spare_the_collector() -> None:
    """For a process that is a server: what was built at the start stays, so no collection looks at it again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT_AFTER)


async def init(folder: Folder, currency: str, random: Randomness) -> ServerKeys:
    """Make a data folder. Raises `FolderError` or `KeysUnusable`; a half-made one is never taken for a whole."""
    settings = Settings(FORMAT, currency)
    folder.prepare()
    with folder.writing():
        server, escrow_private = keys.create(folder.keys, random)
        await migrate(folder.ledger)
        await create_keys(folder.vault_keys)
        folder.write_escrow(escrow_private)
        folder.finish(settings)
    return server


@asynccontextmanager
async def opened(
    folder: Folder, config: Config, around: Surroundings, *, begin_again: Callable[[], None] = lambda: None
) -> AsyncIterator[Parts]:
    """Every part, on a data folder that is held for writing meanwhile. Raises `TillstreamError`.

    `begin_again` is called by commands after which everything has to be read anew.
    """
    settings = folder.settings()
    server = keys.load(folder.keys)
    with folder.writing():
        await migrate(folder.ledger)
        database = await Database.open(folder.ledger)
        try:
            vault_keys = await Database.open(folder.vault_keys)
            try:
                yield await _connect(database, vault_keys, server, settings, config, around, folder, begin_again)
            finally:
                await vault_keys.close()
        finally:
            await database.close()


async def serve(
    folder: Folder, config: Config, around: Surroundings, *, ready: Callable[[str], None], stop: asyncio.Event
) -> None:
    """Serve until `stop` is set; `ready` is told the address that was bound. Raises `TillstreamError`.

    After a command that changes what is read at the start alone, as the keys are, everything begins again at the same
    port; tills find it a moment later.
    """
    over = asyncio.Event()
    ending = asyncio.create_task(_set_after(stop, over))
    try:
        address = await _serve_once(folder, config, around, ready=ready, over=over)
        config = replace(config, port=int(address.rpartition(":")[2]))

        async def again() -> None:
            await _serve_once(folder, config, around, ready=lambda _: None, over=over)

        while not stop.is_set():
            over.clear()
            await admin.wait_to_serve(folder, again)
    finally:
        ending.cancel()


async def _set_after(first: asyncio.Event, then: asyncio.Event) -> None:
    await first.wait()
    then.set()


async def _serve_once(
    folder: Folder, config: Config, around: Surroundings, *, ready: Callable[[str], None], over: asyncio.Event
) -> str:
    """Serve until `over` is set; the address that was bound."""
    events = around.events
    async with (
        opened(folder, config, around, begin_again=over.set) as parts,
        admin.listening(folder, parts.office, events),
    ):
        app = web.application(parts.routes(events), events)

        async def say_goodbye(_: aioweb.Application) -> None:
            parts.hub.close()
            parts.console.close()

        app.on_shutdown.append(say_goodbye)
        runner = web.QuietRunner(app, events, handle_signals=False, shutdown_timeout=SHUTDOWN_SECONDS)
        await runner.setup()
        background = [asyncio.create_task(run) for run in parts.runs(over)]
        try:
            address = await _listen(runner, config)
            events.certificate(_certificate_end(config))
            events.serving(address, tls=bool(config.tls_certificate))
            await parts.console.prepare()
            ready(address)
            await over.wait()
            events.stopping()
        finally:
            await runner.cleanup()
            over.set()
            parts.notes.close()
            parts.settings.close()
            await asyncio.gather(*background)
    return address


async def _connect(
    database: Database,
    vault_keys: Database,
    server: ServerKeys,
    settings: Settings,
    config: Config,
    around: Surroundings,
    folder: Folder,
    begin_again: Callable[[], None],
) -> Parts:
    clock, random, events = around.clock, around.random, around.events
    book = CampaignBook()
    async with database.read() as conn:
        await book.load(conn)
    packs = Packs(book, server, random)
    vault = Vault(vault_keys, server.vault_key, clock, random)
    triggers = Triggers(book, packs)
    pipeline = Pipeline(database, vault, server, triggers, clock, random, report=events.unexpected)

    devices, hub = Devices(database, settings.currency, clock), Hub()
    notes = Notes(database, clock, events)
    deliveries = Deliveries(database, packs, hub, clock, events, refresh_seconds=config.pack_refresh_seconds)
    flow = Flow(max_bytes=config.batch_bytes, max_waiting=config.batches_waiting, clock=clock, metrics=events.metrics)
    intake = Intake(database, devices, pipeline, hub, flow, clock, events)
    failures = Failures(database, clock, events)
    known = (clock, random, events, proxies(config))
    enrolment = Enrolment(database, devices, packs, deliveries, failures, server, settings.currency, *known)
    desk = SettingsDesk(database, hub, server.sign, clock, events)
    async with database.read() as conn:
        await desk.refresh(conn)
    returns = Returns(database, devices, server.sign, clock, events)
    rotations = Rotations(database, devices, server.sign, clock, events)
    channel = PushChannel(
        database, devices, hub, notes, deliveries, desk, clock, random, events, ping_seconds=config.ping_seconds
    )
    hooks = HookIntake(database, devices, intake, server, clock, random, report=events.unexpected)
    hook_door = HookDoor(database, server, hooks, clock, events)
    settings_office = SettingsOffice(database, desk, server.sign, clock, events, config.silent_seconds)
    office = Office(
        database,
        devices,
        book,
        deliveries,
        intake,
        hooks,
        FleetOffice(database, devices, intake, hub, settings_office, clock, events, config.silent_seconds),
        lambda: rebuild(database),
        Originals(vault, server.identifier_key),
        server,
        clock,
        random,
        events,
        folder,
        begin_again,
    )
    watch = _watch(database, settings, config, around)
    console = _console(database, office, config, around, folder)
    gate = (enrolment, returns, rotations, intake, channel, hook_door, watch, console)
    return Parts(database, vault, server, devices, hub, notes, deliveries, desk, failures, office, *gate)


def _watch(database: Database, settings: Settings, config: Config, around: Surroundings) -> Watch:
    metrics = around.events.metrics
    metrics.know_currency(settings.currency)
    return Watch(database, around.clock, metrics.gauges, opening_hours(config), config.silent_seconds)


def _console(database: Database, office: Office, config: Config, around: Surroundings, folder: Folder) -> Console:
    clock, random = around.clock, around.random
    first_run = FirstRun(database, folder.root / FILE, random)
    zone = ZoneInfo(config.time_zone)
    parts = (
        Throttle(clock),
        Pages(),
        Dictionary(),
        clock,
        random,
        around.events,
        zone,
        proxies(config),
        config.silent_seconds,
    )
    made = House(database, office, first_run, *parts)
    return Console(made, web.status_of)


async def _listen(runner: aioweb.AppRunner, config: Config) -> str:
    """Bind and give the address as a URL. Raises `CannotListen`."""
    site = aioweb.TCPSite(runner, config.host, config.port, ssl_context=_tls(config))
    try:
        await site.start()
    except OSError as error:
        where = f"{config.host}:{config.port}"
        if error.errno == errno.EADDRINUSE:
            hint = "stop what listens there, or choose another port with --port"
            raise CannotListen(f"the port {where} is in use", field="port", hint=hint) from error
        raise CannotListen(f"cannot listen on {where}: {error.strerror}", field="host") from error
    host, port, *_ = runner.addresses[0]
    scheme = "https" if config.tls_certificate else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _certificate_end(config: Config) -> int | None:
    if not config.tls_certificate:
        return None
    return certificates.ends_at(Path(config.tls_certificate).read_text(encoding="ascii", errors="replace"))


def _tls(config: Config) -> ssl.SSLContext | None:
    if not config.tls_certificate:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(config.tls_certificate, config.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise CannotListen(f"cannot use {config.tls_certificate}: {error}", field="tls_certificate") from error
    return context
