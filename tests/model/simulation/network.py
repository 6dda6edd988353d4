"""The wires between tills and the server: they delay, drop, repeat, overtake and break.

HTTP goes as whole requests; a WebSocket keeps the order of its messages, as TCP does, until it breaks.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Protocol

import aiohttp
from aiohttp import WSMsgType

from tillstream_agent.sync.transport import Response, Unreachable
from tillstream_protocol.messages import CONTENT_TYPE

from .chance import Chance

BATCHES: Final = "/till/v1/batches"
TIMEOUT_S: Final = 30.0
NOTICED_WITHIN_S: Final = 40.0
"""A dead connection is noticed after at most this long."""


@dataclass(slots=True)
class Weather:
    """What a link does. Shares of requests, seconds."""

    delay: float = 0.02
    lost_requests: float = 0.0
    lost_replies: float = 0.0
    repeated: float = 0.0
    stale_s: float = 60.0
    """A repeated request comes again within this time."""
    breaks: float = 0.0
    """Share of WebSocket messages with which the connection breaks."""
    cut: bool = False


class Host(Protocol):
    """Who answers at the other end."""

    async def answer(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Response:
        """Raises `ConnectionError` when the process is gone."""
        ...

    async def connect(self, path: str) -> ServerEnd:
        """A WebSocket's other end. Raises `ConnectionError`."""
        ...


class Link:
    """One till's way to the server."""

    def __init__(self, host: Host, chance: Chance) -> None:
        self._host = host
        self._chance = chance
        self.weather = Weather()
        self.sockets: list[Wire] = []
        self.sends: Callable[[bytes], None] = lambda _batch: None
        """Told of every batch that is sent."""

    def calm(self) -> None:
        """From now on it is a good link."""
        self.weather = Weather()

    def cut(self) -> None:
        """Nothing gets through any more; who is connected notices sooner or later."""
        self.weather.cut = True
        self.tear()

    def tear(self) -> None:
        """Break the connections that there are."""
        for wire in self.sockets:
            wire.tear(self._chance)
        self.sockets.clear()

    async def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> Response:
        """One request and its answer. Raises `Unreachable`."""
        if path == BATCHES:
            self.sends(body)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await self._exchange(path, body, headers)
        except (TimeoutError, ConnectionError) as error:
            raise Unreachable("the server cannot be reached", hint="check the network") from error

    async def _exchange(self, path: str, body: bytes, headers: Mapping[str, str]) -> Response:
        chance = self._chance
        await self._travel()
        if chance.happens(self.weather.lost_requests):
            await _never()
        if chance.happens(self.weather.repeated):
            late = chance.uniform(0, self.weather.stale_s)
            nobody = contextvars.Context()  # what is on its way does not die with the process that sent it
            asyncio.get_running_loop().call_later(late, self._again, path, body, dict(headers), context=nobody)
        reply = await self._host.answer("POST", path, body, headers)
        if chance.happens(self.weather.lost_replies):
            await _never()
        await self._travel()
        return reply

    def _again(self, path: str, body: bytes, headers: Mapping[str, str]) -> None:
        """A copy of a request arrives; nobody waits for its answer."""

        async def deliver() -> None:
            try:
                await self._host.answer("POST", path, body, headers)
            except ConnectionError:
                return

        asyncio.get_running_loop().create_task(deliver())

    async def connect(self, path: str) -> TillEnd:
        """Open a WebSocket. Raises `aiohttp.ClientConnectionError`."""
        try:
            await self._travel()
            server = await self._host.connect(path)
            await self._travel()
        except (ConnectionError, TimeoutError) as error:
            raise aiohttp.ClientConnectionError("the server cannot be reached") from error
        wire = server.wire
        wire.weather, wire.chance = self.weather, self._chance
        self.sockets.append(wire)
        return wire.till

    async def _travel(self) -> None:
        if self.weather.cut:
            if self._chance.happens(0.5):
                await _never()
            raise ConnectionRefusedError("the link is cut")
        await asyncio.sleep(self._chance.uniform(0, self.weather.delay))


async def _never() -> None:
    await asyncio.get_running_loop().create_future()


class SimTransport:
    """Stands where the agent's HTTP client stands."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def warm_up(self) -> None:
        """There is nothing to load."""

    async def post(self, path: str, body: bytes, headers: Mapping[str, str] | None = None) -> Response:
        """Send a msgpack body. Raises `Unreachable`."""
        return await self._link.post(path, body, {"Content-Type": CONTENT_TYPE, **(headers or {})})

    async def close(self) -> None:
        """Nothing is open."""


@dataclass(slots=True)
class _Mail:
    """What has arrived at one end and is not read yet."""

    messages: list[aiohttp.WSMessage] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    closed: aiohttp.WSMessage | None = None

    def put(self, message: aiohttp.WSMessage) -> None:
        self.messages.append(message)
        self.news.set()

    def end(self, message: aiohttp.WSMessage) -> None:
        self.closed = self.closed or message
        self.news.set()

    async def take(self) -> aiohttp.WSMessage:
        while not self.messages:
            if self.closed is not None:
                return self.closed
            self.news.clear()
            await self.news.wait()
        return self.messages.pop(0)


class Wire:
    """One WebSocket connection: two ends, and what is on its way between them."""

    def __init__(self, chance: Chance) -> None:
        self.chance = chance
        self.weather = Weather()
        self.torn = False
        self._last: dict[int, float] = {}
        self.till = TillEnd(self)
        self.server = ServerEnd(self)

    def carry(self, message: aiohttp.WSMessage, to: _Mail) -> None:
        """Bring a message to the other end, behind those before it."""
        if self.torn:
            return
        if self.chance.happens(self.weather.breaks):
            self.tear(self.chance)
            return
        loop = asyncio.get_running_loop()
        soonest = self._last.get(id(to), 0.0) + 1e-6  # timers of one moment come in no order
        when = max(soonest, loop.time() + self.chance.uniform(0, self.weather.delay))
        self._last[id(to)] = when
        loop.call_at(when, self._arrive, message, to)

    def _arrive(self, message: aiohttp.WSMessage, to: _Mail) -> None:
        if self.torn:
            return
        if message.type is WSMsgType.CLOSE:
            to.end(message)
        else:
            to.put(message)

    def tear(self, chance: Chance) -> None:
        """Break: either end notices in its own time."""
        if not self.torn:
            self.torn = True
            loop = asyncio.get_running_loop()
            for mail in (self.till.mail, self.server.mail):
                loop.call_later(chance.uniform(0, NOTICED_WITHIN_S), mail.end, _GONE)

    def reset(self) -> None:
        """One end's process died: the other hears of it at once."""
        self.torn = True
        self.till.mail.end(_GONE)
        self.server.mail.end(_GONE)


_GONE: Final = aiohttp.WSMessage(WSMsgType.CLOSED, None, None)


class TillEnd:
    """Stands where aiohttp's client socket stands. No subprotocol is agreed on here."""

    protocol: str | None = None

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self.mail = _Mail()
        self.close_code: int | None = None

    @property
    def closed(self) -> bool:
        """Whether this end knows of the end."""
        return self.close_code is not None or self.mail.closed is not None

    async def __aenter__(self) -> TillEnd:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def receive(self) -> aiohttp.WSMessage:
        """The next message, pings among them."""
        message = await self.mail.take()
        if message.type is WSMsgType.CLOSE:
            self.close_code = message.data
        elif message.type is WSMsgType.CLOSED:
            self.close_code = 1006
        return message

    async def send_bytes(self, data: bytes) -> None:
        """Raises `aiohttp.ClientConnectionResetError`."""
        self._send(aiohttp.WSMessage(WSMsgType.BINARY, data, None))

    async def ping(self, data: bytes = b"") -> None:
        """Ask whether the other end reads."""
        self._send(aiohttp.WSMessage(WSMsgType.PING, data, None))

    async def pong(self, data: bytes = b"") -> None:
        """The server's pings are answered by the wire; see `Wire`."""

    async def close(self, *, code: int = 1000) -> None:
        """Leave."""
        if self.close_code is None:
            self.close_code = code
            self._wire.carry(aiohttp.WSMessage(WSMsgType.CLOSE, code, ""), self._wire.server.mail)

    def exception(self) -> BaseException | None:
        """Why the connection ended, if it was an error."""
        return None

    def _send(self, message: aiohttp.WSMessage) -> None:
        if self.closed:
            raise aiohttp.ClientConnectionResetError("Cannot write to closing transport")
        self._wire.carry(message, self._wire.server.mail)


class ServerEnd:
    """Stands where aiohttp's server socket stands. As there, pings are answered by reading."""

    ws_protocol: str | None = None

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.mail = _Mail()
        self.closed = False

    async def prepare(self, _request: Any) -> None:
        """The handshake is behind it."""

    async def receive(self) -> aiohttp.WSMessage:
        """The next message that is no ping."""
        while True:
            message = await self.mail.take()
            if message.type is not WSMsgType.PING:
                self.closed = self.closed or message.type in (WSMsgType.CLOSE, WSMsgType.CLOSED)
                return message
            self.wire.carry(aiohttp.WSMessage(WSMsgType.PONG, message.data, None), self.wire.till.mail)

    async def send_bytes(self, data: bytes) -> None:
        """Raises `ConnectionResetError`."""
        if self.closed or self.mail.closed is not None:
            raise ConnectionResetError("Cannot write to closing transport")
        self.wire.carry(aiohttp.WSMessage(WSMsgType.BINARY, data, None), self.wire.till.mail)

    async def close(self, *, code: int = 1000, message: bytes = b"") -> None:
        """Leave, and say why."""
        if not self.closed:
            self.closed = True
            self.wire.carry(aiohttp.WSMessage(WSMsgType.CLOSE, code, message.decode()), self.wire.till.mail)
