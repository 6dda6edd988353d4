"""Serves the cashier's page and keeps it up to date with server-sent events."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec
from aiohttp import web

from ..config import Button
from .actions import Actions, Counter
from .board import Board
from .page import BUTTONS, Renderer, asset
from .words import Dictionary

MAX_STREAMS: Final = 16
KEEP_ALIVE_S: Final = 15.0
_ASSETS: Final = {"app.js": "text/javascript", "style.css": "text/css"}


def headers_of_a_page(origins: Sequence[str]) -> dict[str, str]:
    """What every answer to a screen carries. `origins` are those whose pages may frame it, besides itself.

    The referrer policy is what lets a form say where it came from: without it, its `Origin` is `null`.
    """
    policy = (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; "
        f"form-action 'self'; frame-ancestors {' '.join(origins) or chr(39) + 'none' + chr(39)}"
    )
    return {
        "Content-Security-Policy": policy,
        "Cache-Control": "no-store",
        "Referrer-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
    }


class Display:
    """The page's handlers. Who may see it is for the door to say."""

    def __init__(
        self,
        board: Board,
        counter: Counter,
        *,
        language: str = "auto",
        buttons: Sequence[Button] | None = None,
        origins: Sequence[str] = (),
    ) -> None:
        self._board = board
        self._dictionary = Dictionary(language)
        self._buttons = BUTTONS if buttons is None else tuple(buttons)
        self._streams = 0
        self._closing = False
        self._assets = {name: asset(name) for name in _ASSETS}
        self.actions = Actions(board, counter, frozenset(button.kind for button in self._buttons))
        self.headers: Mapping[str, str] = headers_of_a_page(origins)

    def page(self, request: web.Request, token: str) -> web.Response:
        """The page as it is now. `token` is for its forms."""
        renderer = self._renderer(request, token)
        text = renderer.page(self._board.take(staff=renderer.staff))
        return web.Response(text=text, content_type="text/html", headers=self.headers)

    def pairing_page(self, request: web.Request, *, wrong: bool = False) -> web.Response:
        """Asks a screen that is not paired for its code."""
        text = self._renderer(request, "").pairing_page(wrong=wrong)
        return web.Response(status=401, text=text, content_type="text/html", headers=self.headers)

    async def asset(self, request: web.Request) -> web.Response:
        """What the page loads."""
        name = request.match_info["name"]
        if name not in self._assets:
            raise web.HTTPNotFound
        return web.Response(body=self._assets[name], content_type=_ASSETS[name], charset="utf-8", headers=self.headers)

    async def stream(self, request: web.Request, token: str, is_paired: Callable[[], bool]) -> web.StreamResponse:
        """The board, now and after each change, until the page goes away, its pairing ends, or the agent."""
        if self._streams >= MAX_STREAMS:
            raise web.HTTPServiceUnavailable
        response = web.StreamResponse(headers={**self.headers, "Content-Type": "text/event-stream"})
        self._streams += 1
        try:
            await response.prepare(request)
            await self._follow(response, self._renderer(request, token), is_paired)
        except ConnectionResetError:
            pass  # the page went away
        finally:
            self._streams -= 1
        return response

    async def close(self, _app: web.Application) -> None:
        """End all streams, so that stopping need not wait for them."""
        self._closing = True
        self._board.wake()

    def _renderer(self, request: web.Request, token: str) -> Renderer:
        words = self._dictionary.words(request.headers.get("Accept-Language", ""))
        return Renderer(words, self._buttons, token, request.query.get("screen") != "customer")

    async def _follow(self, response: web.StreamResponse, renderer: Renderer, is_paired: Callable[[], bool]) -> None:
        board = self._board
        while not self._closing and is_paired():
            version = board.version
            message = renderer.message(board.take(staff=renderer.staff))
            await response.write(b"event: board\ndata: " + msgspec.json.encode(message) + b"\n\n")
            while not self._closing:
                expiry = board.next_expiry_s()
                if expiry is not None and expiry <= KEEP_ALIVE_S:
                    await board.changed(version, expiry + 0.01)
                    break
                if await board.changed(version, KEEP_ALIVE_S):
                    break
                await response.write(b": still here\n\n")
