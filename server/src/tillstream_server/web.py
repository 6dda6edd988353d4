"""The HTTP server's frame: which door is where, how errors become answers, and what every answer carries."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from tillstream_protocol.errors import Damaged, ErrorBody, InvalidInput, TillstreamError, TooLarge
from tillstream_protocol.limits import DEFAULT
from tillstream_protocol.signing import BadSignature, Unsigned

from .auth import Forbidden, TokenRefused, Unauthorised
from .campaigns.book import UnknownCampaign
from .events import Events
from .gateway.flow import Busy
from .gateway.requests import Revoked, UnknownDevice, UnsupportedMedia
from .ledger.database import Database, is_current
from .tills import UnknownTill

MAX_BODY: Final = DEFAULT.batch_body
RETRY_AFTER_SECONDS: Final = 5

_STATUS: Final[tuple[tuple[type[TillstreamError], int], ...]] = (
    (Unsigned, 401),
    (BadSignature, 401),
    (UnknownDevice, 401),
    (Unauthorised, 401),
    (Revoked, 403),
    (TokenRefused, 403),
    (Forbidden, 403),
    (UnknownCampaign, 404),
    (UnknownTill, 404),
    (TooLarge, 413),
    (UnsupportedMedia, 415),
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

_FRONT_PAGE: Final = """<!doctype html>
<html lang="en">
<title>Tillstream</title>
<h1>Tillstream</h1>
<p>This is a Tillstream server: it keeps the ledger of a retailer's tills and sends offers back to them.</p>
<ul>
<li><a href="/api/openapi.json">Head office's API</a>, as an OpenAPI description</li>
<li><a href="/healthz">Is it alive?</a> <a href="/readyz">Is it ready?</a></li>
<li><a href="/metrics">Metrics</a>, for Prometheus</li>
</ul>
"""


@dataclass(frozen=True, slots=True)
class Desk:
    """The pages that need no key: what this is, and whether it is well."""

    database: Database
    events: Events

    def routes(self) -> list[web.RouteDef]:
        """Their routes."""
        return [
            web.get("/", self.front),
            web.get("/healthz", self.healthz),
            web.get("/readyz", self.readyz),
            web.get("/metrics", self.metrics),
        ]

    async def front(self, _: web.Request) -> web.Response:
        """What this server is."""
        return web.Response(text=_FRONT_PAGE, content_type="text/html")

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

    async def metrics(self, _: web.Request) -> web.Response:
        """Every metric, in the text format of Prometheus."""
        body = generate_latest(self.events.metrics.registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})


def application(routes: Iterable[web.RouteDef], events: Events) -> web.Application:
    """An aiohttp application of these routes, with bounded bodies and errors as JSON."""
    app = web.Application(client_max_size=MAX_BODY, middlewares=[_frame(events)])
    app.add_routes(list(routes))
    app.on_response_prepare.append(_add_headers)
    return app


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
            return await handler(request)
        except TillstreamError as error:
            return _error_response(error.body(), status_of(error))
        except web.HTTPRequestEntityTooLarge:
            limit = f"{MAX_BODY} bytes"
            return _error_response(ErrorBody("too_large", "the body is too large", "body", limit), 413)
        except web.HTTPException as error:
            return _http_error(request, error)
        except Exception as error:  # noqa: BLE001 - the last resort: told as a fault of ours, and logged without text
            events.unexpected(_place(request), error)
            return _error_response(ErrorBody("internal", "the server failed", retryable=True), 500)

    return frame


def _place(request: web.Request) -> str:
    """The route's pattern; an address itself may hold anything."""
    resource = request.match_info.route.resource
    return f"{request.method} {resource.canonical if resource is not None else ''}"


def _refuse_encodings(request: web.Request) -> None:
    encoding = request.headers.get("Content-Encoding", "identity")
    if encoding != "identity":
        raise UnsupportedMedia("a body is sent as it is", field="Content-Encoding", limit="none")


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
