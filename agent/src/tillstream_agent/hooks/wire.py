"""HTTP below the door: what does not parse is answered and counted, and quoted nowhere; connections are bounded.

aiohttp logs the bytes that it could not parse and sends them back. They may hold a card or a phone number.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

import msgspec
from aiohttp import web
from aiohttp.http import HttpProcessingError

from tillstream_protocol.errors import InvalidInput, TillstreamError

from ..events import Events
from .crowd import Caps, Crowd, TooManyConnections, TooSlow
from .requests import Refusal

HEADERS: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
_LINGER_S: Final = 2.0
"""How long the rest of a refused body is taken in, so that its sender can read why."""
_SILENT: Final = logging.getLogger("tillstream.silent")
_SILENT.disabled = True


def not_http() -> InvalidInput:
    """The refusal of bytes that do not parse."""
    return InvalidInput(
        "this is not HTTP as it is spoken here", hint="encode what stands in the address and its headers"
    )


def vouch(request: web.BaseRequest) -> None:
    """Say of a request's connection that who is behind it has shown a token."""
    if isinstance(request.protocol, _Connection):
        request.protocol.trusted = True


class QuietRunner(web.AppRunner):
    """Runs an application, and lets neither aiohttp nor asyncio write what a caller sent into a log.

    While it runs, the event loop's own complaints go to `events` too.
    """

    def __init__(self, app: web.Application, events: Events, caps: Caps, **options: Any) -> None:
        super().__init__(
            app, access_log=None, logger=_SILENT, auto_decompress=False, lingering_time=_LINGER_S, **options
        )
        self._events = events
        self._caps = caps

    async def setup(self) -> None:
        """Start the application."""
        await super().setup()
        asyncio.get_running_loop().set_exception_handler(self._complained)

    async def cleanup(self) -> None:
        """End it, and give the event loop its complaints back."""
        try:
            await super().cleanup()
        finally:
            asyncio.get_running_loop().set_exception_handler(None)

    async def _make_server(self) -> web.Server:
        return _Server(await super()._make_server(), self._events, self._caps, **self._kwargs)

    def _complained(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._events.crashed("loop", context.get("exception") or RuntimeError())


class _Server(web.Server):
    def __init__(self, made: web.Server, events: Events, caps: Caps, **options: Any) -> None:
        super().__init__(self._handle, request_factory=made.request_factory, **options)
        self._inner = made.request_handler
        self._events = events
        self._options = options
        self._crowd = Crowd(caps)
        self._sweeping: asyncio.TimerHandle | None = None

    def __call__(self) -> web.RequestHandler:
        return _Connection(self, self._events, loop=asyncio.get_running_loop(), **self._options)

    def enter(self, connection: _Connection) -> None:
        """Let a new connection in, or close it at once."""
        if not self._crowd.enter(connection):
            self._events.refused("http", TooManyConnections("too many callers are connected"))
            connection.leave()
        elif self._sweeping is None:
            self._sweep_later()

    def left(self, connection: _Connection) -> None:
        """A connection is closed."""
        self._crowd.left(connection)

    def _sweep_later(self) -> None:
        loop = asyncio.get_running_loop()
        self._sweeping = loop.call_later(self._crowd.sweep_s, self._sweep, loop)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        self._sweeping = None
        for _ in range(self._crowd.sweep(loop.time())):
            self._events.refused("http", TooSlow("no whole request came in time"))
        if len(self._crowd):
            self._sweep_later()

    async def shutdown(self, timeout: float | None = None) -> None:
        """Close every connection."""
        if self._sweeping is not None:
            self._sweeping.cancel()
        await super().shutdown(timeout)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = request.protocol
        assert isinstance(connection, _Connection)
        try:
            connection.begin(request)
            return await self._inner(request)
        except web.HTTPRedirection:
            raise
        except web.HTTPException as error:  # from before the middlewares: an `Expect` that nobody knows
            return _refused(self._events, error.status)
        finally:
            connection.end()


class _Connection(web.RequestHandler):
    __slots__ = ("_doorkeeper", "_events", "_request", "_socket", "served", "since", "trusted")

    def __init__(self, server: _Server, events: Events, **options: Any) -> None:
        super().__init__(server, **options)
        self._doorkeeper = server
        self._events = events
        self._request: web.BaseRequest | None = None
        self._socket: asyncio.BaseTransport | None = None
        self.trusted = False
        self.served = False
        self.since = self._loop.time()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        super().connection_made(transport)
        self._socket = transport
        self._doorkeeper.enter(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Called by the loop."""
        self._doorkeeper.left(self)
        super().connection_lost(exc)

    def begin(self, request: web.BaseRequest) -> None:
        """A request's head has arrived."""
        self._request, self.served, self.since = request, True, self._loop.time()

    def end(self) -> None:
        """A request is answered."""
        self._request, self.served, self.since = None, False, self._loop.time()

    def whole(self) -> bool:
        """Whether the request being answered has arrived to its end."""
        return self._request is None or self._request.content.is_eof()

    def leave(self) -> None:
        """Close at once, without waiting for the other side."""
        if isinstance(self._socket, asyncio.Transport):
            self._socket.abort()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 (it quotes)
    ) -> web.StreamResponse:
        """Answer what did not parse, or what failed outside the door. Raises `ConnectionError` if nobody listens."""
        if isinstance(exc, ConnectionError):
            raise exc
        if isinstance(exc, HttpProcessingError):
            return _refused(self._events, status)
        self._events.crashed("http", exc or TimeoutError())
        if request.writer.output_size > 0:
            raise ConnectionError
        return _answer(TillstreamError("the agent failed on this call"), status)

    def log_exception(self, *_args: Any, **about: Any) -> None:
        """A failure after the answer. A body that went wrong when nobody read it any more is not worth a word."""
        error = about.get("exc_info")
        if not isinstance(error, (web.RequestPayloadError, HttpProcessingError, ConnectionError)):
            self._events.crashed("http", error if isinstance(error, BaseException) else RuntimeError())


def _refused(events: Events, status: int) -> web.Response:
    error = not_http()
    events.refused("http", error)
    return _answer(error, status)


def _answer(error: TillstreamError, status: int) -> web.Response:
    body = msgspec.json.encode(Refusal(error.body()))
    response = web.Response(status=status, body=body, content_type="application/json", headers=HEADERS)
    response.force_close()
    return response
