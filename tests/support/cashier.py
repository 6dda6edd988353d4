"""The cashier's page behind a real door, and a browser before it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from support.agents import HOUR_MS, NOW_MS, Counter, counter
from support.doors import http_door, pairing_of
from tillstream_agent.config import Button
from tillstream_agent.display.actions import Answer
from tillstream_agent.hooks.http import HttpDoor
from tillstream_agent.hooks.pairing import Pairing
from tillstream_agent.hooks.screens import ByDesk
from tillstream_protocol.decisions import Campaign, Decision
from tillstream_protocol.effects import CashierMessage, CustomerMessage, Discount, Effect, Points, Prompt
from tillstream_protocol.errors import TillstreamError
from tillstream_protocol.messages import OfferPush
from tillstream_protocol.transaction import Identifier

if TYPE_CHECKING:
    from playwright.async_api import Browser, BrowserContext, Page

EPOCH = b"e" * 16
LATE_MS = 400
"""Longer than a key waits to see whether a scanner typed it, and than a button is too new to be pressed."""
ADA = (Identifier("loyalty", "9840007160042"),)
GRACE = (Identifier("phone", "+4915112345679"),)


@dataclass
class Heard:
    """What was captured for the page: told on to the real desk, and noted."""

    desk: ByDesk
    calls: list[tuple[object, ...]] = field(default_factory=list)
    trouble: TillstreamError | None = None

    def _hear(self, *call: object) -> None:
        if self.trouble is not None:
            raise self.trouble
        self.calls.append(call)

    def observe(self, kind: str, basket: str) -> None:
        self._hear("observed", kind, basket)
        self.desk.observe(kind, basket)

    def survey(self, question: str, answer: str, text: str, basket: str, offer: str) -> None:
        self._hear("surveyed", question, answer or text, basket, offer)
        self.desk.survey(question, answer, text, basket, offer)

    def answer(self, offer: str, answer: Answer) -> None:
        self._hear(answer, offer)
        self.desk.answer(offer, answer)


@dataclass
class Till:
    """A till whose page can be opened."""

    behind: Counter
    pairing: Pairing
    heard: Heard
    door: HttpDoor
    port: int
    seq: int = 0

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def link(self) -> str:
        """What `tillstream-agent display` prints."""
        return f"{self.address}/display?code={self.pairing.code().code}"

    def serves(
        self, basket: str, *decisions: Decision, member: Sequence[Identifier] = (), trigger: Any = "member_identified"
    ) -> int:
        """A customer is at the till, or does something there: the seq of the record."""
        self.seq += 1
        self.behind.board.begin((EPOCH, self.seq), basket, trigger, decisions, member)
        return self.seq

    async def opens_again(self) -> None:
        """The door is served again, at the same port, after it was closed."""
        self.door = http_door(self.behind, self.pairing, page_calls=self.heard)
        await self.door.open(self.port)

    def pushes(self, number: int, seq: int, basket: str, text: str) -> None:
        """Head office sends an offer for the record with this seq."""
        self.behind.board.push(OfferPush(decision(number, text), EPOCH, seq, basket))


def decision(number: int, *effects: Effect | str, edge: bool = False, campaign: str = "") -> Decision:
    """An offer that does this; texts are for the customer."""
    made = tuple(CustomerMessage(effect) if isinstance(effect, str) else effect for effect in effects)
    side: Any = "edge" if edge else "server"
    name = campaign or f"campaign-{number}"
    offer_id = number.to_bytes(16, "big")
    return Decision(offer_id, name, 1, "offered", side, NOW_MS, NOW_MS + HOUR_MS, effects=made)


def question(number: int, text: str, *choices: str, name: str = "nps") -> Decision:
    """A question that a campaign asks."""
    return decision(number, Prompt(text, name, choices), campaign=f"{name}-survey")


ENGLISH = (
    decision(1, Discount("20 % off your next pour-over set", basis_points=2000), edge=True, campaign="coffee-week"),
    decision(2, Points("Double points today", points=240), CashierMessage("Say so now"), campaign="double"),
    decision(3, "A free tote for your third visit this month", campaign="third-visit"),
)
TITLES = tuple(made.effects[0].text for made in ENGLISH)
ASKS = question(9, "How was your visit today?", "Good", "So-so", "Not good", name="visit")


@asynccontextmanager
async def till_with_page(
    folder: Path,
    *campaigns: Campaign,
    origins: tuple[str, ...] = (),
    language: str = "auto",
    buttons: Sequence[Button] | None = None,
) -> AsyncIterator[Till]:
    """A till with its door open on a free port."""
    async with counter(folder, *campaigns) as behind:
        pairing = pairing_of(behind, folder)
        heard = Heard(ByDesk(behind.desk, behind.telling.events, behind.clock))
        door = http_door(behind, pairing, origins=origins, language=language, buttons=buttons, page_calls=heard)
        port = await door.open(0)
        till = Till(behind, pairing, heard, door, port)
        try:
            yield till
        finally:
            await till.door.close()


@asynccontextmanager
async def window(browser: Browser, till: Till, **options: Any) -> AsyncIterator[Page]:
    """A window of its own that shows the till's page, paired."""
    context: BrowserContext = await browser.new_context(**options)
    try:
        page = await context.new_page()
        await page.goto(till.link())
        yield page
    finally:
        await context.close()


@dataclass
class Desk:
    """A cashier before a page."""

    till: Till
    browser: Browser
    page: Page

    async def sees(self, *titles: str) -> None:
        """Wait until these offers are there, and no others, and have been there long enough to be pressed."""
        shown = "JSON.stringify([...document.querySelectorAll('#offers h2')].map(n => n.textContent))"
        wanted = msgspec.json.encode(titles).decode()
        await self.page.wait_for_function(f"wanted => {shown} === wanted", arg=wanted, timeout=5000)
        await self.page.wait_for_timeout(LATE_MS)

    async def has_heard(self, *calls: str) -> None:
        """Wait until the till has captured just this."""
        async with asyncio.timeout(5):
            while [call[0] for call in self.till.heard.calls] != list(calls):
                await asyncio.sleep(0.01)

    async def text(self) -> str:
        return await self.page.inner_text("body")


@asynccontextmanager
async def a_desk(browser: Browser, folder: Path, **options: Any) -> AsyncIterator[Desk]:
    """A till, and its page in a window. The page's script must not fail."""
    options = {"locale": "en-GB", "viewport": {"width": 1200, "height": 700}, **options}
    async with till_with_page(folder) as till, window(browser, till, **options) as page:
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        yield Desk(till, browser, page)
        assert errors == []
