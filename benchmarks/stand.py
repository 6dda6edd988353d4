"""A real server, agents with their hooks, and tills inside this process: what is measured on."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import msgpack
import msgspec
import structlog
from prometheus_client import CollectorRegistry

from demo.processes import Program, Server, Till
from tillstream_agent import __version__
from tillstream_agent.capture import Capture
from tillstream_agent.capture import Enrolment as Where
from tillstream_agent.clock import SystemClock
from tillstream_agent.events import Events
from tillstream_agent.folder import Folder
from tillstream_agent.journal import Journal, JournalIdentity, Name
from tillstream_agent.letters import Letters
from tillstream_agent.metrics import AgentMetrics, LatencyWindow
from tillstream_agent.offers.edge import Edge
from tillstream_agent.state import State
from tillstream_agent.sync.asking import Asker
from tillstream_agent.sync.enrol import Enrolment
from tillstream_agent.sync.link import Link
from tillstream_agent.sync.transport import Transport
from tillstream_agent.sync.upload import Uploader, UploadFlow
from tillstream_protocol.codec import json_decoder
from tillstream_protocol.decisions import Campaign
from tillstream_protocol.events import KIND_NUMBERS
from tillstream_protocol.limits import DEFAULT
from tillstream_protocol.messages import Token
from tillstream_protocol.pack import open_pack, sign_pack
from tillstream_protocol.signing import SignKey
from tillstream_protocol.transaction import Transaction
from tillstream_server import app
from tillstream_server.campaigns.book import parse
from tillstream_server.clock import SystemClock as ServerClock
from tillstream_server.config import Config
from tillstream_server.events import Events as ServerEvents
from tillstream_server.events import json_logger
from tillstream_server.folder import Folder as ServerFolder
from tillstream_server.metrics import Metrics
from tillstream_server.office import TokenCreate

from .records import RETAILER, STORE, Given, sale

CURRENCY = "EUR"
_KIND = KIND_NUMBERS[Transaction]
_TOKEN_USES = 10_000
_BREATH = 500
"""Records between two waits for the disk: unsynced ones stay in memory."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A server that serves, and the token by which tills join it."""

    folder: Path
    server: Server
    token: str

    @property
    def pid(self) -> int:
        """The server's process."""
        return pid_of(self.server.program)


@asynccontextmanager
async def data(folder: Path) -> AsyncIterator[app.Parts]:
    """A server's parts in this process, on a data folder that is made if it is not there."""
    home = ServerFolder(folder)
    log = json_logger(io.StringIO())
    around = app.Surroundings(ServerClock(), os.urandom, ServerEvents(Metrics(CollectorRegistry()), log))
    if not folder.exists():
        await app.init(home, CURRENCY, os.urandom)
    async with app.opened(home, Config(), around) as parts:
        yield parts


@asynccontextmanager
async def as_served() -> AsyncIterator[None]:
    """With the garbage collector told what a server process tells it."""
    before = gc.get_threshold()
    app.spare_the_collector()
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


async def put(parts: app.Parts, campaigns: Sequence[dict[str, Any]]) -> None:
    """Put campaigns in force, all in one transaction; tills get them with their next pack."""
    now_ms = parts.office.clock.now_ms()
    async with parts.database.write() as conn:
        for campaign in campaigns:
            await parts.office.book.put(conn, RETAILER, parse(json.dumps(campaign).encode()), now_ms)
    async with parts.database.read() as conn:
        await parts.office.book.load(conn)


@asynccontextmanager
async def server(
    folder: Path, campaigns: Sequence[dict[str, Any]] = (), made: Path | None = None
) -> AsyncIterator[Standing]:
    """A server process with these campaigns in force; on the data folder `made`, if there is one already."""
    place = folder / "server" if made is None else made
    async with data(place) as parts:
        await put(parts, campaigns)
        token = str((await parts.office.run(TokenCreate(RETAILER, STORE, uses=_TOKEN_USES)))["token"])
    arguments = ["tillstream-server", "serve", "--data", str(place), "--port", "0"]
    running = Server(place, Program("server", arguments, folder))
    try:
        await running.start()
        yield Standing(folder, running, token)
    finally:
        await running.program.stop()


async def enrol(state: Path, standing: Standing) -> None:
    """Join a till, as the agent's command does."""
    client = Asker(standing.server.url, tls=None, timeout=30)
    try:
        joining = Enrolment(Folder(state), client, SystemClock(), os.urandom, __version__)
        await joining.join(standing.server.url, Token.parse(standing.token), replace=False)
    finally:
        await client.close()


@dataclass(frozen=True, slots=True)
class Hook:
    """An agent process, called as a POS calls it."""

    till: Till
    session: aiohttp.ClientSession
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    unpacker: msgpack.Unpacker

    @property
    def pid(self) -> int:
        """The agent's process."""
        return pid_of(self.till.program)

    async def sell_over_http(self, body: bytes, ack: str = "os") -> dict[str, Any]:
        """One call on a connection that is kept; the reply."""
        headers = {"Authorization": f"Bearer {self.till.token}", "Content-Type": "application/json"}
        url = f"{self.till.url}/v1/transactions?ack={ack}"
        async with self.session.post(url, data=body, headers=headers) as response:
            said = await response.read()
            assert response.status == 201, said
        reply: dict[str, Any] = json.loads(said)
        return reply

    async def sell_over_socket(self, call: bytes) -> dict[str, Any]:
        """One call on the Unix socket; the reply."""
        self.writer.write(call)
        while True:
            self.unpacker.feed(await self.reader.read(65536))
            for reply in self.unpacker:
                assert reply["status"] == 201, reply
                found: dict[str, Any] = reply
                return found

    async def call(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """Any call over HTTP on a connection that is kept: status and reply."""
        headers = {"Authorization": f"Bearer {self.till.token}", "Content-Type": "application/json"}
        async with self.session.request(method, self.till.url + path, data=body, headers=headers) as response:
            said = await response.read()
        reply: dict[str, Any] = json.loads(said)
        return response.status, reply

    async def status(self) -> dict[str, Any]:
        """What the agent says of itself."""
        headers = {"Authorization": f"Bearer {self.till.token}"}
        async with self.session.get(f"{self.till.url}/v1/status", headers=headers) as response:
            said: dict[str, Any] = await response.json()
            return said

    async def queued(self) -> int:
        """How many records wait on the till."""
        return int((await self.status())["queue"]["records"])


def pid_of(program: Program) -> int:
    """The number of a process that was started."""
    assert program.process is not None
    return program.process.pid


def agent(state: Path, folder: Path, *flags: str) -> Till:
    """An enrolled till whose agent has not been started."""
    arguments = ["tillstream-agent", "run", "--state", str(state), "--log-level", "error", "--hook-port", "0", *flags]
    return Till(STORE, state, Program(f"agent-{state.name}", arguments, folder))


@asynccontextmanager
async def calling(till: Till) -> AsyncIterator[Hook]:
    """Both doors of an agent that runs."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
        reader, writer = await asyncio.open_unix_connection(str(till.state / "hook.sock"))
        try:
            yield Hook(till, session, reader, writer, msgpack.Unpacker())
        finally:
            writer.close()


@asynccontextmanager
async def hook(state: Path, folder: Path, *flags: str) -> AsyncIterator[Hook]:
    """An enrolled till's agent process, with both doors open."""
    till = agent(state, folder, *flags)
    try:
        await till.start()
        async with calling(till) as doors:
            yield doors
    finally:
        await till.program.stop()


@dataclass(frozen=True, slots=True)
class InProcess:
    """A till's journal, capture path and uploader in this process."""

    journal: Journal
    capture: Capture
    uploader: Uploader
    decode: Callable[[bytes], Transaction]

    async def sell(self, body: bytes) -> None:
        """From a POS's bytes to the `os` acknowledgement."""
        self.capture.transaction(self.decode(body))

    async def sell_durably(self, body: bytes) -> None:
        """From a POS's bytes to the `disk` acknowledgement."""
        await self.capture.durable(self.capture.transaction(self.decode(body)))

    async def queue(self, given: Given) -> Name:
        """Only what a queue does: a record that was made before is sealed and written."""
        return self.journal.append(given.record, kind=_KIND, tag=given.tag)

    async def queue_durably(self, given: Given) -> None:
        """The same, until it survives a power cut."""
        await self.journal.synced(await self.queue(given))

    async def fill(self, count: int, prefix: str) -> None:
        """Capture so many usual sales as fast as it goes."""
        models = [msgspec.convert(sale(number, "-"), Transaction) for number in range(1000)]
        for number in range(count):
            name = f"{prefix}-{number}"
            captured = self.capture.transaction(msgspec.structs.replace(models[number % 1000], pos_id=name))
            if number % _BREATH == _BREATH - 1:
                await self.journal.synced(captured.name)
        if count:
            await self.journal.synced(captured.name)


@asynccontextmanager
async def in_process(state: Path, url: str) -> AsyncIterator[InProcess]:
    """An enrolled till in this process; its uploader does not run yet."""
    home, clock = Folder(state), SystemClock()
    identity = home.identity()
    device = home.device_key(identity)
    keys = JournalIdentity(identity.till_id, device, identity.box_public, identity.escrow_public)
    with home.locked():
        journal = await Journal.open(home.journal, identity=keys, clock=clock, randomness=os.urandom)
        edge = Edge(server_public_key=identity.server_public, till_id=identity.till_id, clock=clock)
        where = Where(identity.till_id, identity.retailer, identity.store, identity.till, identity.currency)
        capture = Capture(journal, edge, where, tag_key=home.tag_key(), clock=clock, randomness=os.urandom)
        transport = Transport(url, tls=None, timeout=30)
        flow = UploadFlow(journal, silent(), Link(clock, lambda _: None), random.random, DEFAULT, Letters(clock))
        uploader = Uploader(flow, transport, device, clock)
        journal.set_wakeup(uploader.wake)
        try:
            yield InProcess(journal, capture, uploader, json_decoder(Transaction, limit=DEFAULT.hook_body))
        finally:
            await journal.close()
            await transport.close()


def silent() -> Events:
    """What an agent has to say, unheard."""
    log = structlog.wrap_logger(structlog.ReturnLogger(), wrapper_class=structlog.make_filtering_bound_logger(50))
    return Events(log, AgentMetrics(CollectorRegistry()), LatencyWindow())


@asynccontextmanager
async def uploading(*tills: InProcess) -> AsyncIterator[None]:
    """These tills send what they have, meanwhile."""
    tasks = [asyncio.create_task(till.uploader.run()) for till in tills]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def until(condition: Callable[[], Awaitable[bool]], seconds: float, *, every: float = 0.05) -> None:
    """Wait for a condition, asked for again and again. Raises `TimeoutError`."""
    ends = time.monotonic() + seconds
    while not await condition():
        if time.monotonic() > ends:
            raise TimeoutError("what was waited for did not happen")
        await asyncio.sleep(every)


async def give(till: Folder, signer: SignKey, campaigns: Sequence[Campaign]) -> None:
    """Put campaigns into the pack that a till got when it joined, as its server would sign it."""
    identity = till.identity()
    state = await State.open(till.database, silent())
    try:
        first = await state.load_pack()
        assert first is not None
        pack = open_pack(first, identity.server_public, identity.till_id)
        await state.start_over(sign_pack(msgspec.structs.replace(pack, campaigns=tuple(campaigns)), signer))
    finally:
        await state.close()
