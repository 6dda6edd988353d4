"""The HTTP server's frame: which door is where, how errors become answers, and what every answer carries."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
from aiohttp import web
from aiohttp.http import HttpProcessingError, HttpVersion11
from aiohttp.typedefs import Handler, Middleware
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from tillstream_protocol import versions
from tillstream_protocol.errors import Damaged, ErrorBody, InvalidInput, TillstreamError, TooLarge
from tillstream_protocol.limits import DEFAULT
from tillstream_protocol.signing import BadSignature, Unsigned

from . import auth
from .auth import Forbidden, TokenRefused, Unauthorised
from .campaigns.book import UnknownCampaign
from .events import Events
from .gateway.flow import Busy
from .gateway.requests import Revoked, UnknownDevice, UnsupportedMedia
from .gateway.rotation import DeviceTaken, TooManyKeys
from .hooks.deliveries import StaleDelivery
from .hooks.intake import Unreadable
from .hooks.signatures import BadHookSignature
from .hooks.sources import UnknownSource
from .ledger.alarms import UnknownAlarm
from .ledger.database import Database, is_current
from .remote import UnknownVersion
from .tills import UnknownTill
from .users import UnknownUser
from .watch import Watch

MAX_BODY: Final = DEFAULT.batch_body
RETRY_AFTER_SECONDS: Final = 5

_STATUS: Final[tuple[tuple[type[TillstreamError], int], ...]] = (
    (Unsigned, 401),
    (BadSignature, 401),
    (UnknownDevice, 401),
    (Unauthorised, 401),
    (BadHookSignature, 401),
    (StaleDelivery, 401),
    (Revoked, 403),
    (DeviceTaken, 403),
    (TokenRefused, 403),
    (Forbidden, 403),
    (UnknownCampaign, 404),
    (UnknownTill, 404),
    (UnknownAlarm, 404),
    (UnknownVersion, 404),
    (UnknownSource, 404),
    (UnknownUser, 404),
    (Unreadable, 422),
    (TooLarge, 413),
    (UnsupportedMedia, 415),
    (TooManyKeys, 429),
    (Busy, 503),
    (InvalidInput, 400),
    (Damaged, 400),
)
"""The first class that fits decides; VersionMismatch and what is unknown here are below."""

_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

_PROXIED: Final = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP", "Via")
"""What says that a proxy speaks for somebody else."""
_NOT_HTTP: Final = ErrorBody("invalid_input", "this is not HTTP as it is spoken here")
_FAILED: Final = ErrorBody("internal", "the server failed", retryable=True)
_SILENT: Final = logging.getLogger("tillstream.silent")
_SILENT.disabled = True


@dataclass(frozen=True, slots=True)
class Desk:
    """What needs no key: whether the server is well; and its metrics, that need one from elsewhere."""

    database: Database
    events: Events
    watch: Watch

    def routes(self) -> list[web.RouteDef]:
        """Their routes."""
        return [
            web.get("/healthz", self.healthz),
            web.get("/readyz", self.readyz),
            web.get("/metrics", self.metrics),
        ]

    async def healthz(self, _: web.Request) -> web.Response:
        """The process answers."""
        return web.json_response({"status": "ok"})

    async def readyz(self, _: web.Request) -> web.Response:
        """The database has this version's schema and can be written to."""
        try:
            async with self.database.read() as conn:
                current = await is_current(conn)
            async with self.database.write():
                pass
        except TillstreamError as error:
            return _error_response(error.body(), 503)
        if not current:
            return _error_response(ErrorBody("not_migrated", "the database has another version's schema"), 503)
        return web.json_response({"status": "ready"})

    async def metrics(self, request: web.Request) -> web.Response:
        """Every metric, in the text format of Prometheus: to this machine, or with a key that may see the fleet."""
        if not is_from_here(request):
            async with self.database.read() as conn:
                await auth.require(conn, request.headers.get("Authorization", ""), "fleet")
        try:
            await self.watch.look()
        except (TillstreamError, OSError) as error:  # the counters are wanted all the more
            self.events.unexpected("metrics", error)
        body = await asyncio.to_thread(generate_latest, self.events.metrics.registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})


def is_from_here(request: web.Request) -> bool:
    """Whether a request comes from this machine itself, as far as can be told: what a proxy passes on does not."""
    if any(name in request.headers for name in _PROXIED):
        return False
    # A proxy that says nothing of itself often passes the name on that was asked for, or speaks HTTP/1.0, as nginx did.
    if request.version < HttpVersion11 or not _is_asked_as_local(request):
        return False
    return _is_loopback(request.remote or "")


def _is_asked_as_local(request: web.Request) -> bool:
    """Whether the caller calls this machine by a name that leads nowhere else."""
    try:
        host = urlsplit(f"//{request.headers.get('Host', '')}").hostname or ""
    except ValueError:
        return False
    return host == "localhost" or _is_loopback(host)


def _is_loopback(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def application(routes: Iterable[web.RouteDef], events: Events) -> web.Application:
    """An aiohttp application of these routes, with bounded bodies and errors as JSON."""
    app = web.Application(client_max_size=MAX_BODY, middlewares=[_frame(events)])
    app.add_routes(list(routes))
    app.on_response_prepare.append(_add_headers)
    return app


class QuietRunner(web.AppRunner):
    """Runs an application, and lets neither aiohttp nor asyncio write what a caller sent into a log.

    aiohttp logs the bytes that it could not parse and sends them back; here they are counted, and quoted nowhere.
    While it runs, the event loop's own complaints go to `events` too.
    """

    def __init__(self, app: web.Application, events: Events, **options: Any) -> None:
        super().__init__(app, access_log=None, logger=_SILENT, auto_decompress=False, **options)
        self._events = events

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
        return _Server(await super()._make_server(), self._events, **self._kwargs)

    def _complained(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._events.unexpected("loop", context.get("exception") or RuntimeError())


class _Server(web.Server):
    def __init__(self, made: web.Server, events: Events, **options: Any) -> None:
        super().__init__(self._handle, request_factory=made.request_factory, **options)
        self._inner = made.request_handler
        self._events = events
        self._options = options

    def __call__(self) -> web.RequestHandler:
        return _Connection(self, self._events, loop=asyncio.get_running_loop(), **self._options)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await self._inner(request)
        except web.HTTPException as error:  # from before the middleware: an `Expect` that nobody knows
            return _malformed(self._events, error.status)


class _Connection(web.RequestHandler):
    __slots__ = ("_events",)

    def __init__(self, server: web.Server, events: Events, **options: Any) -> None:
        super().__init__(server, **options)
        self._events = events

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - it quotes
    ) -> web.StreamResponse:
        """Answer what did not parse, or failed outside the frame. Raises `ConnectionError` if nobody listens."""
        if isinstance(exc, ConnectionError):
            raise exc
        if isinstance(exc, HttpProcessingError):
            return _malformed(self._events, status)
        self._events.unexpected("connection", exc or TimeoutError())
        if request.writer.output_size > 0:
            raise ConnectionError
        return _last_word(_FAILED, status)

    def log_exception(self, *_args: Any, **about: Any) -> None:
        """A failure after the answer. A body that went wrong when nobody read it any more is not worth a word."""
        error = about.get("exc_info")
        if not isinstance(error, (web.RequestPayloadError, HttpProcessingError, ConnectionError)):
            self._events.unexpected("connection", error if isinstance(error, BaseException) else RuntimeError())


def status_of(error: TillstreamError) -> int:
    """The HTTP status that tells a sender whose fault an error is."""
    for kind, status in _STATUS:
        if isinstance(error, kind):
            return status
    if error.code == "version_mismatch":
        return 400
    return 503 if error.retryable else 500


def _frame(events: Events) -> Middleware:
    @web.middleware
    async def frame(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            _refuse_encodings(request)
            _refuse_subprotocols(request)
            return await handler(request)
        except Exception as error:
            if _is_gone(request) and isinstance(error, ConnectionError):
                events.malformed()
                raise
            if _has_begun(request):
                events.unexpected(_place(request), error)
                _break_off(request)
                raise ConnectionError from error
            return _answer(request, error, events)

    return frame


def _has_begun(request: web.Request) -> bool:
    """Whether some of the answer was sent. Nothing can stand in for it then: where it fails, the connection has to end
    without the last piece, so that what came does not look whole."""
    return request.writer.output_size > 0


def _break_off(request: web.Request) -> None:
    """To HTTP/1.0, which many a proxy speaks to us, the connection's end is the answer's: only a reset says that there
    was to be more."""
    if request.version < HttpVersion11 and request.transport is not None:
        connection = request.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.transport.abort()


def _answer(request: web.Request, error: Exception, events: Events) -> web.Response:
    """What a failure is told as."""
    match error:
        case TillstreamError():
            return _error_response(error.body(), status_of(error))
        case web.HTTPRequestEntityTooLarge():
            limit = f"{MAX_BODY} bytes"
            return _error_response(ErrorBody("too_large", "the body is too large", "body", limit), 413)
        case web.HTTPException():
            return _http_error(request, error)
        case web.RequestPayloadError():
            return _malformed(events, 400)
        case _:
            events.unexpected(_place(request), error)
            return _error_response(_FAILED, 500)


def _place(request: web.Request) -> str:
    """The route's pattern; an address itself may hold anything."""
    resource = request.match_info.route.resource
    return f"{request.method} {resource.canonical if resource is not None else ''}"


def _refuse_encodings(request: web.Request) -> None:
    encoding = request.headers.get("Content-Encoding", "identity")
    if encoding != "identity":
        raise UnsupportedMedia("a body is sent as it is", field="Content-Encoding", limit="none")


def _refuse_subprotocols(request: web.Request) -> None:
    """Where none of those offered is spoken here, aiohttp would log their names."""
    offered = request.headers.get("Sec-WebSocket-Protocol")
    if offered is None:
        return
    spoken = versions.subprotocols()
    if not {name.strip() for name in offered.split(",")} & set(spoken):
        limit = ", ".join(spoken)
        raise InvalidInput("no such sub-protocol is spoken here", field="Sec-WebSocket-Protocol", limit=limit)


def _is_gone(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


def _malformed(events: Events, status: int) -> web.Response:
    events.malformed()
    return _last_word(_NOT_HTTP, status)


def _last_word(body: ErrorBody, status: int) -> web.Response:
    """An answer after which nothing on the connection can be trusted. No signal of the application sees all of them."""
    response = _error_response(body, status)
    response.headers.update({**_HEADERS, "Server": "Tillstream"})
    response.force_close()
    return response


def _http_error(request: web.Request, error: web.HTTPException) -> web.Response:
    if error.status == 404:
        body = ErrorBody("not_found", f"there is nothing at {request.path}", hint="see /api/openapi.json")
    else:
        body = ErrorBody(error.reason.lower().replace(" ", "_"), error.reason)
    response = _error_response(body, error.status)
    if isinstance(error, web.HTTPMethodNotAllowed):
        response.headers["Allow"] = error.headers["Allow"]
    return response


def _error_response(body: ErrorBody, status: int) -> web.Response:
    response = web.Response(body=msgspec.json.encode({"error": body}), status=status, content_type="application/json")
    if status == 401:
        response.headers["WWW-Authenticate"] = "Bearer" if body.code == "unauthorised" else "Signature"
    elif status == 503:
        response.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return response


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers.pop("Server", None)
