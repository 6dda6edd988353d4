"""Live sales, and stores: what is asked for is computed once, however many watch."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from datetime import date
from typing import Annotated, Any, Final

from aiohttp import web
from msgspec import Meta, Struct

from tillstream_protocol.errors import InvalidInput
from tillstream_protocol.messages import Name

from .. import users
from . import figures, queries
from .figures import Basis, Question, Sales
from .live import Feed
from .pages import HEADERS
from .queries import Filter
from .visit import Guard, NothingHere, Visit, query

SHARED_SECONDS: Final = 2.0
"""How often what is watched is computed anew, at the most."""
BEST: Final = 20
"""Stores that the live page names; the others are one line."""
PAGE: Final = 50
TILLS: Final = 50
CHECK_SECONDS: Final = 20.0
"""How often it is looked whether who watches is still signed in."""
_FIRST_YEAR: Final = 1971
_LAST_YEAR: Final = 9998


class SalesQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """What the address may ask for."""

    retailer: Name | None = None
    store: Name | None = None
    time: Basis = "office"
    day: date | None = None
    after: Annotated[str, Meta(max_length=512)] | None = None

    def question(self, visit: Visit, store: tuple[str, str] | None = None) -> Question:
        """The question that this user may ask. Raises `InvalidInput` for a day that no calendar here has."""
        if self.day is not None and not _FIRST_YEAR <= self.day.year <= _LAST_YEAR:
            raise InvalidInput("no such day", field="day", limit=f"a year from {_FIRST_YEAR} to {_LAST_YEAR}")
        asked = store or (visit.user.retailer or self.retailer, visit.user.store or self.store)
        return Question(*asked, self.time, self.day)


class SalesPages:
    """The pages of sales and stores."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        house = guard.house

        async def compute(question: Question, before: Sales | None) -> Sales:
            house.events.metrics.live_queries.inc()
            async with house.database.read() as conn:
                return (await figures.sales(conn, question, house.zone, house.clock.now_ms())).after(before)

        self.feed: Feed[Question, Sales] = Feed(compute, house.events.unexpected, seconds=SHARED_SECONDS)

    def routes(self) -> list[web.RouteDef]:
        """Their routes."""
        guard = self._guard
        return [
            web.get("/sales", guard.needs("sales", self.live)),
            web.get("/sales/stream", guard.needs("sales", self.stream)),
            web.get("/stores", guard.needs("sales", self.stores)),
            web.get("/stores/{retailer}/{store}", guard.needs("sales", self.store)),
        ]

    async def live(self, visit: Visit) -> web.Response:
        """Sales as they come."""
        asked = query(visit, SalesQuery)
        sales = await self.feed.latest(asked.question(visit))
        return visit.page("sales.html", **_shown(sales))

    async def stream(self, visit: Visit) -> web.StreamResponse:
        """The same again whenever it was computed anew, as server-sent events; only as of when, if nothing changed."""
        asked = query(visit, SalesQuery)
        question = asked.question(visit)
        response = web.StreamResponse(
            headers={**HEADERS, "Content-Type": "text/event-stream", "X-Accel-Buffering": "no"}
        )
        await response.prepare(visit.request)
        loop = asyncio.get_running_loop()
        look_at = loop.time() + CHECK_SECONDS
        told: Sales | None = None
        async with aclosing(self.feed.follow(question)) as values:
            async for sales in values:
                if loop.time() >= look_at:
                    if not await _still_in(visit):
                        break
                    look_at = loop.time() + CHECK_SECONDS
                changed = b"" if sales.tells_what(told) else _event(visit, sales)
                told = sales
                try:
                    await response.write(changed + _as_of(visit, sales))
                except ConnectionError:  # whoever watched has left, as everybody does in the end
                    break
        return response

    async def stores(self, visit: Visit) -> web.Response:
        """A page of stores, each with its tills and its sales."""
        asked = query(visit, SalesQuery)
        question = asked.question(visit)
        sales = await self.feed.latest(question)
        async with visit.house.database.read() as conn:
            rows = await queries.stores(
                conn,
                question.retailer,
                question.store,
                visit.house.heard_since_ms(),
                after=_store_key(asked.after),
                limit=PAGE + 1,
            )
        after = f"{rows[PAGE - 1].retailer}\n{rows[PAGE - 1].store}" if len(rows) > PAGE else None
        return visit.page(
            "stores.html",
            rows=[(row, sales.of(row.retailer, row.store)) for row in rows[:PAGE]],
            after=after,
            continued=asked.after is not None,
            **_shown(sales),
        )

    async def store(self, visit: Visit) -> web.Response:
        """One store: its day, its last weeks, its tills."""
        named = visit.request.match_info["retailer"], visit.request.match_info["store"]
        if not visit.user.sees(*named):
            raise NothingHere(f"there is no store {named[1]!r} of {named[0]!r}", hint="see the stores")
        asked = query(visit, SalesQuery)
        sales = await self.feed.latest(asked.question(visit, named))
        async with visit.house.database.read() as conn:
            days = await figures.history(conn, *named, sales.day)
            tills = await queries.tills(conn, Filter(*named), visit.house.heard_since_ms(), after=None, limit=TILLS + 1)
        if not days and not tills and not await self._is_known(named):
            raise NothingHere(f"there is no store {named[1]!r} of {named[0]!r}", hint="see the stores")
        return visit.page(
            "store.html",
            named=named,
            days=days,
            tills=tills[:TILLS] if visit.user.may("fleet") else [],
            more=len(tills) > TILLS,
            **_shown(sales),
        )

    async def _is_known(self, named: tuple[str, str]) -> bool:
        async with self._guard.house.database.read() as conn:
            return bool(await queries.stores(conn, *named, 0, after=None, limit=1))


def _event(visit: Visit, sales: Sales) -> bytes:
    """The figures, as an event: made once a language, whoever watches."""
    key = ("live", visit.words.language)
    made = sales.texts.get(key)
    if made is None:
        text = visit.house.pages.text("sales_live.html", {**visit.context(), **_shown(sales), "user": None})
        made = sales.texts[key] = b"".join(b"data: %b\n" % line for line in text.encode().splitlines()) + b"\n"
    return made


def _as_of(visit: Visit, sales: Sales) -> bytes:
    """As of when the figures of the last such event hold."""
    return f"event: as-of\ndata: {visit.showing.clock(sales.as_of_ms)}\n\n".encode()


def _shown(sales: Sales) -> dict[str, Any]:
    """What the templates show of sales. `given` is how the address of the same page is made."""
    rest: dict[str, figures.StoreSales] = {}
    for one in sales.stores[BEST:]:
        sums = rest.setdefault(one.currency, figures.StoreSales("", "", one.currency))
        sums.whole = [a + b for a, b in zip(sums.whole, one.whole, strict=True)]
        sums.part = [a + b for a, b in zip(sums.part, one.part, strict=True)]
    asked = sales.question
    given = {"retailer": asked.retailer, "store": asked.store, "day": asked.day, "time": _unless_default(asked.basis)}
    return {
        "sales": sales,
        "best": sales.stores[:BEST],
        "rest": list(rest.values()),
        "others": max(0, len(sales.stores) - BEST),
        "given": given,
        "basis": asked.basis,
    }


def _unless_default(basis: Basis) -> str | None:
    return None if basis == "office" else basis


def _store_key(after: str | None) -> tuple[str, str] | None:
    """Raises `InvalidInput`."""
    if after is None:
        return None
    retailer, separator, store = after.partition("\n")
    if not separator:
        raise InvalidInput("not the end of a page", field="after", hint="begin with the first page")
    return retailer, store


async def _still_in(visit: Visit) -> bool:
    assert visit.session is not None
    found = await users.find_session(visit.house.database, visit.session.id, visit.house.clock.now_ms())
    return found is not None and found.user == visit.user
