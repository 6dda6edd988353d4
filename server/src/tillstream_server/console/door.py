"""Every page of the console, put together."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from tillstream_protocol.errors import TillstreamError

from . import entrance
from .fleet import Fleet
from .sales import SalesPages
from .visit import Guard, House


class Console:
    """Head office's pages. `close` ends what is watched."""

    def __init__(self, house: House, status_of: Callable[[TillstreamError], int]) -> None:
        guard = Guard(house, status_of)
        self._house = house
        self.fleet = Fleet(guard)
        self.sales = SalesPages(guard)
        self._routes = [
            *entrance.routes(guard),
            *self.fleet.routes(),
            *self.sales.routes(),
            *house.pages.routes(),
        ]

    def routes(self) -> list[web.RouteDef]:
        """Every route."""
        return self._routes

    async def prepare(self) -> None:
        """Leave a code for the first user where there is none, and say so. Raises `FolderError`."""
        if await self._house.first_run.prepare():
            self._house.events.to_be_set_up(str(self._house.first_run.file))

    def close(self) -> None:
        """Let go of everybody who watches."""
        self.sales.feed.close()
        self.fleet.counts.close()
