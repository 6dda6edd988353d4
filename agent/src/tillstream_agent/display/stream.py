"""Serves the cashier's page and keeps it up to date with server-sent events."""

from __future__ import annotations

from typing import Final

import msgspec
from aiohttp import web

from .board import Board
from .page import CONTENT_SECURITY_POLICY, asset, page

MAX_STREAMS: Final = 16
KEEP_ALIVE_S: Final = 15.0
_ASSETS: Final = {"app.js": "text/javascript", "style.css": "text/css"}
_HEADERS: Final = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Display:
    """The page's handlers. Who may see it is the hook's guard to say."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._streams = 0
        self._closing = False
        self._assets = {name: asset(name) for name in _ASSETS}

    async def page(self, _request: web.Request) -> web.Response:
        """The page as it is now."""
        return web.Response(text=page(self._board.take()), content_type="text/html", headers=_HEADERS)

    async def asset(self, request: web.Request) -> web.Response:
        """What the page loads."""
        name = request.match_info["name"]
        if name not in self._assets:
            raise web.HTTPNotFound
        return web.Response(body=self._assets[name], content_type=_ASSETS[name], charset="utf-8", headers=_HEADERS)

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """The board, now and after each change, until the page goes away or the agent ends."""
        if self._streams >= MAX_STREAMS:
            raise web.HTTPServiceUnavailable
        response = web.StreamResponse(headers={**_HEADERS, "Content-Type": "text/event-stream"})
        self._streams += 1
        try:
            await response.prepare(request)
            await self._follow(response)
        except ConnectionResetError:
            pass  # the page went away
        finally:
            self._streams -= 1
        return response

    async def close(self, _app: web.Application) -> None:
        """End all streams, so that stopping need not wait for them."""
        self._closing = True
        self._board.wake()

    async def _follow(self, response: web.StreamResponse) -> None:
        board = self._board
        while not self._closing:
            version = board.version
            await response.write(b"event: board\ndata: " + msgspec.json.encode(board.take()) + b"\n\n")
            while not self._closing:
                expiry = board.next_expiry_s()
                if expiry is not None and expiry <= KEEP_ALIVE_S:
                    await board.changed(version, expiry + 0.01)
                    break
                if await board.changed(version, KEEP_ALIVE_S):
                    break
                await response.write(b": still here\n\n")
