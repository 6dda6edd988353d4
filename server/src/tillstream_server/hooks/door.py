"""`POST /hooks/…`: from a vendor's request to its answer, which is a success only for what is on the disk."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, cast

from aiohttp import web

from tillstream_protocol.errors import InvalidInput, TillstreamError, TooLarge
from tillstream_protocol.limits import DEFAULT

from ..clock import Clock
from ..events import Events
from ..gateway.requests import UnsupportedMedia
from ..keys import ServerKeys
from ..ledger.database import Database
from . import signatures, sources
from .deliveries import delivery_of, is_ping
from .intake import HookIntake, Taken, Unreadable
from .signatures import Kind

MAX_BODY: Final = DEFAULT.hook_body
_JSON: Final = "application/json"
_DOCUMENTS: Final = frozenset(
    {_JSON, "application/xml", "text/xml", "text/csv", "text/plain", "application/octet-stream"}
)
"""What a generic source may send: its adapter knows what it is."""
_NAMED: Final = frozenset(
    {"unknown_source", "bad_signature", "stale_delivery", "too_large", "unsupported_media", "busy"}
)


@dataclass(frozen=True, slots=True)
class HookDoor:
    """The door of every cloud POS."""

    database: Database
    keys: ServerKeys
    intake: HookIntake
    clock: Clock
    events: Events

    def routes(self) -> Iterable[web.RouteDef]:
        """A source that is called like its kind has a short address."""
        vendors = "|".join(kind for kind in signatures.KINDS if kind != "generic")
        return [
            web.post(f"/hooks/{{kind:{vendors}}}", self.post),
            web.post(f"/hooks/{{kind:{vendors}|generic}}/{{name}}", self.post),
        ]

    async def post(self, request: web.Request) -> web.Response:
        """One delivery in; what became of it out.

        A vendor is told that it need not send again what is kept, though nobody can read it: else it would give up the
        webhook altogether. A sender of our own format is told what is wrong with what it sent.
        """
        kind = cast("Kind", request.match_info["kind"])
        try:
            taken = await self._receive(request, kind)
        except TillstreamError as error:
            self.events.hook_refused(kind, _outcome(error), error.code)
            raise
        except Exception:
            self.events.hook_refused(kind, "failed", "unexpected_error")
            raise
        self.events.hook_taken(kind, taken.result)
        if taken.problem is not None:
            self.events.hook_unreadable(kind, taken.problem.code)
            if kind == "generic":
                raise Unreadable(taken.problem)
        return web.json_response({"outcome": taken.result, "transactions": taken.records})

    async def _receive(self, request: web.Request, kind: Kind) -> Taken:
        name = request.match_info.get("name", kind)
        now_ms = self.clock.now_ms()
        async with self.database.read() as conn:
            source = await sources.find(conn, self.keys, kind, name, now_ms)
        body = await _body_of(request)
        if is_ping(kind, request.content_type, body):
            return Taken("ping")
        _require_media(kind, request.content_type)
        signatures.require(kind, source.secrets, body, request.headers, source.url)
        delivery = delivery_of(kind, request.headers, request.content_type, body)
        delivery.require_fresh(now_ms)
        return await self.intake.take(source, delivery)


async def _body_of(request: web.Request) -> bytes:
    """The body as it came. Raises `TooLarge` before more than that is in memory."""
    limit = f"{MAX_BODY} bytes"
    if (request.content_length or 0) > MAX_BODY:
        raise TooLarge("the body is too large", field="body", limit=limit)
    body = bytearray()
    async for piece in request.content.iter_any():
        body += piece
        if len(body) > MAX_BODY:
            raise TooLarge("the body is too large", field="body", limit=limit)
    return bytes(body)


def _require_media(kind: Kind, media_type: str) -> None:
    taken = _DOCUMENTS if kind == "generic" else {_JSON}
    if media_type not in taken:
        raise UnsupportedMedia("is not taken here", field="Content-Type", limit=", ".join(sorted(taken)))


def _outcome(error: TillstreamError) -> str:
    if error.code in _NAMED:
        return error.code
    return "invalid_input" if isinstance(error, InvalidInput) else "failed"
