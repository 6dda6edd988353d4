"""How long from an event at the till, through the server, to the offer on the till's screen, with many connected?

A sale is captured at an agent's hook; the server decides on an offer that only it can decide, pushes it, and the
agent's screen shows it. The clock runs from the POS's call until the screen's stream has the offer. Meanwhile so many
other tills are on the push channel.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from . import floors
from .campaigns import for_every_sale
from .crowd import crowd
from .figures import Answer, Conclusion, Measure, Row
from .harness import Rounds, Subject, interleave, rows
from .machine import weigh
from .records import Basket
from .rivals.jetstream import LOOPBACK
from .rivals.persistent import DISK_FLOOR
from .sizes import Sizes
from .stand import Hook, enrol, hook, server

QUESTION = "push"
SCREEN = "sale → offer on the screen, through the server"
PROMISED_MS, PROMISED_TILLS = 100, 1_000
PAUSE_S = 0.02
_PATIENCE_S = 20.0


@dataclass(slots=True)
class _Screen:
    """A cashier's page: what its stream said last."""

    response: aiohttp.ClientResponse
    seen: set[str] = field(default_factory=set)

    async def next_offer(self) -> str:
        """The next offer that was not on it before. Raises `TimeoutError`."""
        async with asyncio.timeout(_PATIENCE_S):
            while True:
                for offer in await self._next_board():
                    if offer not in self.seen:
                        self.seen.add(offer)
                        return offer

    async def _next_board(self) -> list[str]:
        while True:
            line = await self.response.content.readline()
            if not line:
                raise ConnectionError("the screen's stream has ended")
            if line.startswith(b"data: "):
                board: dict[str, Any] = msgspec.json.decode(line[6:])
                return [card["offer"] for card in board["offers"]]


@asynccontextmanager
async def _screen(doors: Hook) -> AsyncIterator[_Screen]:
    headers = {"Authorization": f"Bearer {doors.till.token}"}
    timeout = aiohttp.ClientTimeout(total=None)
    async with doors.session.get(f"{doors.till.url}/display/stream", headers=headers, timeout=timeout) as response:
        assert response.status == 200, response.status
        yield _Screen(response)


async def run(folder: Path, sizes: Sizes) -> Answer:
    """Ever more tills connect, and the same till sells."""
    timed: list[Row] = []
    measures: list[Measure] = []
    async with AsyncExitStack() as stack:
        standing = await stack.enter_async_context(server(folder, [for_every_sale()]))
        await enrol(folder / "till", standing)
        doors = await stack.enter_async_context(hook(folder / "till", folder))
        screen = await stack.enter_async_context(_screen(doors))
        file = await stack.enter_async_context(floors.file(folder))
        echo = await stack.enter_async_context(floors.echo(None))
        others = await stack.enter_async_context(crowd(standing.server.url, standing.token))
        await _first_offer(doors, screen)
        alone = weigh(standing.pid).resident
        for count in sizes.connected:
            await others.grow(count)
            each = (weigh(standing.pid).resident - alone) / count
            condition = f"{count:,} tills connected"
            measures.append(Measure(QUESTION, "server, for each connection", condition, round(each / 1024, 1), "KB"))
            subjects = _subjects(doors, screen, file, echo)
            rounds = Rounds.of(sizes.pushes)
            prepare = _baskets(condition)
            found = await interleave(subjects, condition, rounds, prepare, lambda: asyncio.sleep(PAUSE_S))
            timed += rows(QUESTION, found)
    return Answer(tuple(timed), tuple(measures), (), tuple(_conclusions(timed)))


def _baskets(condition: str) -> Callable[[int], Basket]:
    def prepare(number: int) -> Basket:
        basket = Basket(number, f"push-{condition}-{number}")
        _ = basket.body
        return basket

    return prepare


async def _first_offer(doors: Hook, screen: _Screen) -> None:
    """Wait until the agent is on the channel and an offer comes through at all."""
    await doors.sell_over_http(Basket(0, "push-first").body)
    await screen.next_offer()


def _subjects(doors: Hook, screen: _Screen, file: floors.File, echo: floors.Echo) -> list[Subject[Basket]]:
    async def sell(basket: Basket) -> None:
        await doors.sell_over_http(basket.body)
        await screen.next_offer()

    return [
        Subject(LOOPBACK, lambda basket: echo.round_trip(basket.body), "floor", "none"),
        Subject(DISK_FLOOR, lambda basket: file.sync(basket.body), "floor", "disk"),
        Subject(SCREEN, sell, "ours", "disk", True, DISK_FLOOR),
    ]


def _conclusions(timed: Sequence[Row]) -> list[Conclusion]:
    texts = []
    for row in timed:
        if row.role == "ours":
            kept = "within" if row.p99 <= PROMISED_MS * 1000 else "not within"
            texts.append(
                f"{row.condition}: p99 {row.p99 / 1000:.1f} ms, {kept} the {PROMISED_MS} ms that are promised"
                f" for {PROMISED_TILLS:,}"
            )
    return [Conclusion(QUESTION, text) for text in texts]
