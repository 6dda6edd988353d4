"""The server in the simulated world: the real parts on real databases, without threads and sockets.

Its HTTP is the real routes behind the real frame that turns errors into answers. It can be killed at any moment,
restarted, put back to an earlier backup, and made slow, sick or choosy.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final
from unittest.mock import patch

import msgspec
from aiohttp import web as aioweb
from multidict import CIMultiDict
from prometheus_client import CollectorRegistry

from tillstream_agent.sync.transport import Response
from tillstream_protocol.errors import ErrorBody, InvalidInput
from tillstream_protocol.framing import ChunkHeader, Frame, scan
from tillstream_protocol.messages import decode_batch
from tillstream_server import app, backup, web
from tillstream_server.config import Config
from tillstream_server.events import Events, json_logger
from tillstream_server.folder import Folder
from tillstream_server.gateway import push as gateway_push
from tillstream_server.keys import load
from tillstream_server.ledger.database import Database
from tillstream_server.metrics import Metrics

from .chance import Chance, Clock
from .history import History
from .inline import Connections
from .network import BATCHES, ServerEnd, Wire
from .nodes import Process

PUSH: Final = "/till/v1/push"
DATABASES: Final = ("ledger.db", "vault-keys.db")

Handler = Callable[[Any], Awaitable[aioweb.StreamResponse]]


@dataclass(slots=True)
class Mood:
    """What the server does to requests beside answering them. Shares of requests, seconds."""

    dies_before_reply: float = 0.0
    """Killed after it has done everything, before its answer is on the wire."""
    fails_before: float = 0.0
    fails_after: float = 0.0
    """Answers with a status of 5xx, before it has looked at a request or after it has committed."""
    slow_s: float = 0.0


class Request:
    """A request as the server's handlers look at it."""

    def __init__(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> None:
        self.method = method
        self.path = path
        self.headers = CIMultiDict(headers)
        self.content_type = self.headers.get("Content-Type", "application/octet-stream")
        self.match_info = SimpleNamespace(route=SimpleNamespace(resource=None))
        self.transport = None
        self.wire: Wire | None = None
        self._body = body

    async def read(self) -> bytes:
        """The body."""
        return self._body


@dataclass(slots=True)
class _Run:
    """One run of the server's program."""

    process: Process
    connections: Connections
    databases: tuple[Database, Database]
    parts: app.Parts
    handlers: Mapping[tuple[str, str], Handler]
    frame: Callable[[Any, Handler], Awaitable[aioweb.StreamResponse]]
    wires: list[Wire]


class Server:
    """The machine that the server runs on. It answers when it is up."""

    def __init__(self, root: Path, chance: Chance, clock: Clock, history: History) -> None:
        self.root = root
        self.clock = clock
        self.mood = Mood()
        self.poison: set[tuple[bytes, int]] = set()
        """Records whose batches it refuses, by epoch and seq."""
        self._chance = chance
        self._history = history
        self._run: _Run | None = None
        self._taken = asyncio.Event()
        self._backups = 0
        self._restores = 0

    @property
    def up(self) -> bool:
        """Whether it runs."""
        return self._run is not None

    @property
    def parts(self) -> app.Parts:
        """The connected parts of a server that is up."""
        assert self._run is not None
        return self._run.parts

    # Its life

    async def start(self) -> None:
        """Start the program."""
        process = Process("server", self)
        await process.spawn(self._start(process))

    async def _start(self, process: Process) -> None:
        connections = Connections()
        ledger, vault = [
            await Database.open(self.root / name, readers=2, connect=connections.connected) for name in DATABASES
        ]
        events = Events(Metrics(CollectorRegistry()), json_logger(self._history.log_of("server")))
        around = app.Surroundings(self.clock, self._chance.randbytes, events)
        folder = Folder(self.root)
        keys = load(folder.keys)
        parts = await app._connect(
            ledger, vault, keys, folder.settings(), self.config(), around, folder, _never_begun_again
        )
        process.spawn(parts.notes.run())
        process.spawn(parts.deliveries.run(asyncio.Event()))
        handlers = {(route.method, route.path): route.handler for route in parts.routes(events)}
        self._run = _Run(process, connections, (ledger, vault), parts, handlers, web._frame(events), [])

    @staticmethod
    def config() -> Config:
        """Small batches, so that there are many."""
        return Config(batch_bytes=2_048, pack_refresh_seconds=3_600.0)

    async def kill(self) -> None:
        """Kill the program; what it has committed stays."""
        run, self._run = self._run, None
        if run is None:
            return
        run.process.alive = False
        run.connections.lose()
        for wire in run.wires:
            wire.reset()
        await run.process.die()
        for database in run.databases:
            await database.close()

    def back_up(self) -> Path:
        """Back up the data folder; the program may run."""
        self._backups += 1
        to = self.root.with_name(f"{self.root.name}-backup-{self._backups}")
        backup.backup(Folder(self.root), to, self._copying())
        return to

    async def restore(self, source: Path) -> None:
        """Restore a backup into a new data folder, and start on that."""
        await self.kill()
        self._restores += 1
        self.root = self.root.with_name(f"server-restored-{self._restores}")
        await backup.restore(source, Folder(self.root), self._copying())
        await self.start()

    def _copying(self) -> backup.Copying:
        return backup.Copying(self.clock.now_ms, self._chance.randbytes, "1.0")

    # Its doors

    async def answer(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Response:
        """Answer a request. Raises `ConnectionError` when the program is not there, or no longer."""
        run = self._run
        if run is None:
            raise ConnectionRefusedError("nobody listens")
        task = run.process.spawn(self._answer(run, Request(method, path, body, headers)))
        await asyncio.wait([task])
        if task.cancelled() or not run.process.alive:
            raise ConnectionResetError("the server went away")
        return task.result()

    async def _answer(self, run: _Run, request: Request) -> Response:
        mood, chance = self.mood, self._chance
        if mood.slow_s:
            await asyncio.sleep(chance.uniform(0, mood.slow_s))
        if chance.happens(mood.fails_before):
            return _failure(503)
        if request.path == BATCHES and self._refuses(request):
            return _failure(400)
        self._taken.set()
        response = await self._handled(run, request)
        if chance.happens(mood.fails_after):
            return _failure(500)
        if request.path == BATCHES and chance.happens(mood.dies_before_reply):
            self._history.say("server", "dies between commit and reply")
            asyncio.get_running_loop().create_task(self.kill(), context=_nobody())
            await asyncio.get_running_loop().create_future()
        return response

    async def next_batch(self) -> None:
        """Return when a batch was taken, or after some seconds without."""
        self._taken.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(30.0):
                await self._taken.wait()

    async def _handled(self, run: _Run, request: Request) -> Response:
        handler = run.handlers[request.method, request.path]
        response = await run.frame(request, handler)
        assert isinstance(response, aioweb.Response)
        assert isinstance(response.body, bytes)
        retry_after = response.headers.get("Retry-After")
        return Response(response.status, response.body, float(retry_after) if retry_after else None)

    def _refuses(self, request: Request) -> bool:
        if not self.poison:
            return False
        try:
            batch = decode_batch(request._body)
            epoch = ChunkHeader.decode(batch.header).epoch
        except InvalidInput:
            return False
        return any(isinstance(part, Frame) and (epoch, part.header.seq) in self.poison for part in scan(batch.frames))

    async def connect(self, path: str) -> ServerEnd:
        """Open a WebSocket. Raises `ConnectionError`."""
        run = self._run
        if run is None or path != PUSH:
            raise ConnectionRefusedError("nobody listens")
        wire = Wire(self._chance)
        request = Request("GET", path, b"", {})
        request.wire = wire
        run.wires.append(wire)
        run.process.spawn(self._serve_socket(run, request))
        return wire.server

    async def _serve_socket(self, run: _Run, request: Request) -> None:
        assert request.wire is not None
        try:
            await run.handlers["GET", PUSH](request)
        finally:
            if request.wire in run.wires:
                run.wires.remove(request.wire)


class _Socket:
    """What the push channel makes before it knows whose connection it is."""

    def __new__(cls, **_options: object) -> Any:
        return _Unprepared()


class _Unprepared:
    """Becomes the server's end of the request's wire."""

    def __init__(self) -> None:
        self._end: ServerEnd | None = None

    async def prepare(self, request: Request) -> None:
        """Take over the connection that a request came on."""
        assert request.wire is not None
        self._end = request.wire.server

    def __getattr__(self, name: str) -> Any:
        return getattr(self._end, name)


def simulated_sockets() -> Any:
    """A patch: the server's push channel speaks over simulated wires."""
    namespace = SimpleNamespace(WebSocketResponse=_Socket, Request=aioweb.Request)
    return patch.object(gateway_push, "web", namespace)


def _nobody() -> contextvars.Context:
    """What is begun in it belongs to no process."""
    return contextvars.Context()


def _never_begun_again() -> None:
    raise AssertionError("nobody changes the server's keys in a simulation")


def _failure(status: int) -> Response:
    body = ErrorBody("planted", "the server is not well", retryable=status >= 500)
    return Response(status, msgspec.json.encode({"error": body}), None)
