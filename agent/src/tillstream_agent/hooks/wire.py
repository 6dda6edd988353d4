"""HTTP below the door: what does not parse is answered and counted, and quoted nowhere.

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
from .requests import Refusal

HEADERS: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
_SILENT: Final = logging.getLogger("tillstream.silent")
_SILENT.disabled = True


def not_http() -> InvalidInput:
    """The refusal of bytes that do not parse."""
    return InvalidInput(
        "this is not HTTP as it is spoken here", hint="encode what stands in the address and its headers"
    )


class QuietRunner(web.AppRunner):
    """Runs an application, and lets neither aiohttp nor asyncio write what a caller sent into a log.

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
        self._events.crashed("loop", context.get("exception") or RuntimeError())


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
        except web.HTTPRedirection:
            raise
        except web.HTTPException as error:  # from before the middlewares: an `Expect` that nobody knows
            return _refused(self._events, error.status)


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
