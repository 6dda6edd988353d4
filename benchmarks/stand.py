"""A real server, an agent process with its hook, and a till inside this process: what capture is measured on."""

from __future__ import annotations

import asyncio
import json
import os
import random
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import msgpack
import structlog
from prometheus_client import CollectorRegistry

from demo.processes import Server, Till, command
from tillstream_agent.capture import Capture, Enrolment
from tillstream_agent.clock import SystemClock
from tillstream_agent.events import Events
from tillstream_agent.folder import Folder
from tillstream_agent.journal import Journal, JournalIdentity
from tillstream_agent.letters import Letters
from tillstream_agent.metrics import AgentMetrics, LatencyWindow
from tillstream_agent.offers.edge import Edge
from tillstream_agent.sync.link import Link
from tillstream_agent.sync.transport import Transport
from tillstream_agent.sync.upload import Uploader, UploadFlow
from tillstream_protocol.codec import json_decoder
from tillstream_protocol.limits import DEFAULT
from tillstream_protocol.transaction import Transaction

LINES = 10


def basket(number: int, prefix: str) -> bytes:
    """One sale of ten lines as a POS sends it: JSON of about 1.7 KB. Every one is another sale."""
    lines = [
        {"seq": k, "sku": f"{1000000 + (number * 7 + k) % 90000}", "name": f"ARTICLE {k} OF GROUP {number % 13}",
         "quantity": "1", "price": f"{1 + k}.49", "amount": 149 + 100 * k, "hierarchy": ["GROCERY", f"GROUP {k}"]}
        for k in range(LINES)
    ]  # fmt: skip
    total = sum(149 + 100 * k for k in range(LINES))
    sale = {
        "source": {"system": "bench"}, "kind": "sale", "pos_id": f"{prefix}-{number}", "business_date": "2026-01-31",
        "end": {"at": 1_769_000_000_000 + number, "offset_minutes": 60, "text": "2026-01-31 12:00:00"},
        "currency": "EUR", "total": total, "lines": lines, "tenders": [{"type": "cash", "amount": total}],
        "customer": {"identifiers": [{"scheme": "loyalty", "value": f"M{number % 5000}"}]},
    }  # fmt: skip
    return json.dumps(sale).encode()


@dataclass
class InProcess:
    """A till's journal, capture path and uploader in this process."""

    journal: Journal
    capture: Capture
    uploader: Uploader
    decode: Callable[[bytes], Transaction]

    async def sell(self, body: bytes) -> None:
        """From a POS's bytes to the `os` acknowledgement."""
        self.capture.transaction(self.decode(body))


@dataclass
class Hook:
    """An agent process, called as a POS calls it."""

    till: Till
    session: aiohttp.ClientSession
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    unpacker: msgpack.Unpacker

    async def sell_over_http(self, body: bytes) -> None:
        """One call on a connection that is kept."""
        headers = {"Authorization": f"Bearer {self.till.token}", "Content-Type": "application/json"}
        async with self.session.post(f"{self.till.url}/v1/transactions", data=body, headers=headers) as response:
            await response.read()
            assert response.status == 201, await response.text()

    async def sell_over_socket(self, call: bytes) -> None:
        """One call on the Unix socket."""
        self.writer.write(call)
        while True:
            self.unpacker.feed(await self.reader.read(65536))
            for reply in self.unpacker:
                assert reply["status"] == 201, reply
                return

    async def queued(self) -> int:
        """How many records wait on the till."""
        headers = {"Authorization": f"Bearer {self.till.token}"}
        async with self.session.get(f"{self.till.url}/v1/status", headers=headers) as response:
            said = await response.json()
            return int(said["queue"]["records"])


@dataclass
class Floors:
    """What the same bytes cost without any of it."""

    file: int
    database: sqlite3.Connection

    async def write(self, body: bytes) -> None:
        """A bare `write()`: it survives the process, and nothing else is known of it."""
        os.write(self.file, body)

    async def insert(self, body: bytes) -> None:
        """A bare SQLite insert, committed: WAL, synchronous NORMAL, not sealed."""
        self.database.execute("INSERT INTO queue(body) VALUES (?)", (body,))
        self.database.commit()


@asynccontextmanager
async def server(folder: Path) -> AsyncIterator[Server]:
    """A server process."""
    running = await Server.set_up(folder)
    try:
        yield running
    finally:
        await running.program.stop()


@asynccontextmanager
async def hook(folder: Path, running: Server, number: int) -> AsyncIterator[Hook]:
    """An agent process, enrolled, with both doors open."""
    till = await Till.set_up(folder, running, "bench", number)
    try:
        async with aiohttp.ClientSession() as session:
            reader, writer = await asyncio.open_unix_connection(str(till.state / "hook.sock"))
            yield Hook(till, session, reader, writer, msgpack.Unpacker())
            writer.close()
    finally:
        await till.program.stop()


@asynccontextmanager
async def in_process(folder: Path, running: Server) -> AsyncIterator[InProcess]:
    """A till in this process, enrolled with the server."""
    state = folder / "inside"
    token = await running.token("bench", "inside")
    await command("tillstream-agent", "enroll", "--server", running.url, "--token", token, "--state", str(state))
    home = Folder(state)
    identity = home.identity()
    clock = SystemClock()
    device = home.device_key(identity)
    keys = JournalIdentity(identity.till_id, device, identity.box_public, identity.escrow_public)
    journal = await Journal.open(home.journal, identity=keys, clock=clock, randomness=os.urandom)
    edge = Edge(server_public_key=identity.server_public, till_id=identity.till_id, clock=clock)
    where = Enrolment(identity.till_id, identity.retailer, identity.store, identity.till, identity.currency)
    capture = Capture(journal, edge, where, tag_key=home.tag_key(), clock=clock, randomness=os.urandom)
    silent = structlog.wrap_logger(structlog.ReturnLogger(), wrapper_class=structlog.make_filtering_bound_logger(50))
    events = Events(silent, AgentMetrics(CollectorRegistry()), LatencyWindow())
    transport = Transport(running.url, tls=None, timeout=30)
    flow = UploadFlow(journal, events, Link(clock, lambda _: None), random.random, DEFAULT, Letters(clock))
    uploader = Uploader(flow, transport, device, clock)
    journal.set_wakeup(uploader.wake)
    try:
        yield InProcess(journal, capture, uploader, json_decoder(Transaction, limit=DEFAULT.hook_body))
    finally:
        await journal.close()
        await transport.close()


@asynccontextmanager
async def floors(folder: Path) -> AsyncIterator[Floors]:
    """A plain file and a plain database in the same file system."""
    file = os.open(folder / "floor.bin", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    database = sqlite3.connect(folder / "floor.db")
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=NORMAL")
    database.execute("CREATE TABLE queue(id INTEGER PRIMARY KEY, body BLOB NOT NULL)")
    try:
        yield Floors(file, database)
    finally:
        os.close(file)
        database.close()


async def until(condition: Callable[[], Awaitable[bool]], seconds: float) -> None:
    """Wait for a condition, asked for every 50 ms. Raises `TimeoutError`."""
    ends = time.monotonic() + seconds
    while not await condition():
        if time.monotonic() > ends:
            raise TimeoutError
        await asyncio.sleep(0.05)
