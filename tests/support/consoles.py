"""Head office before the console: who asks for pages over HTTP as a browser does, with cookies and forms."""

from __future__ import annotations

import html
import re
import sqlite3
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp

from support.serving import Server
from tillstream_server.ledger.quarters import HOUR_MS, QUARTER_MS, QUARTERS
from tillstream_server.users import UserCreate

PASSWORD: Final = "umbrella kettle marmot violin"


def count_quarter(
    conn: sqlite3.Connection, at_ms: int, store: str, currency: str, transactions: int, amount: int
) -> None:
    """Sales of a quarter of an hour, as the projections hold them."""
    quarter = at_ms % HOUR_MS // QUARTER_MS
    key = (at_ms - at_ms % HOUR_MS, store, currency)
    nothing = ", ".join(["0"] * 2 * QUARTERS)
    conn.execute(f"INSERT INTO sales_by_quarter VALUES (?, 'acme', ?, ?, {nothing}) ON CONFLICT DO NOTHING", key)
    conn.execute(
        f"UPDATE sales_by_quarter SET transactions_{quarter} = transactions_{quarter} + ?,"
        f" amount_minor_{quarter} = amount_minor_{quarter} + ? WHERE (hour_ms, store, currency) = (?, ?, ?)",
        (transactions, amount, *key),
    )


@dataclass(frozen=True)
class Page:
    """What came back."""

    status: int
    path: str
    """Where the visitor is now, redirects followed, with the query."""
    text: str
    headers: Mapping[str, str]

    @property
    def words(self) -> str:
        """What it says, without its tags."""
        return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", self.text)).split())

    @property
    def form_token(self) -> str:
        found = re.search(r'name="form_token" value="([^"]*)"', self.text)
        assert found is not None, "there is no form here"
        return found[1]

    def links(self, begins: str) -> list[str]:
        """The addresses of its links that begin so."""
        return [html.unescape(found) for found in re.findall(r'href="([^"]*)"', self.text) if found.startswith(begins)]


@dataclass
class Visitor:
    """Somebody with a browser of their own."""

    server: Server
    http: aiohttp.ClientSession
    headers: dict[str, str] = field(default_factory=dict)

    async def goes(self, path: str, **headers: str) -> Page:
        """Ask for a page."""
        async with self.http.get(self.server.address + path, headers={**self.headers, **headers}) as response:
            return await _page(response)

    async def posts(self, path: str, fields: Mapping[str, str], **headers: str) -> Page:
        """Send a form as it is."""
        given = {**self.headers, **headers}
        async with self.http.post(self.server.address + path, data=fields, headers=given) as response:
            return await _page(response)

    async def fills(self, path: str, action: str = "", **fields: str) -> Page:
        """Open a page, fill in its form and send it."""
        page = await self.goes(path)
        return await self.posts(action or path, {"form_token": page.form_token, **fields})

    async def signs_in(self, name: str, password: str = PASSWORD) -> Page:
        """By the form."""
        return await self.fills("/sign-in", name=name, password=password)

    async def comes_in(self, name: str, role: Any, retailer: str | None = None, store: str | None = None) -> None:
        """Be made a user, and sign in."""
        await self.server.order(UserCreate(name, role, retailer, store, PASSWORD))
        page = await self.signs_in(name)
        assert (page.status, page.path) == (200, "/sales")


async def _page(response: aiohttp.ClientResponse) -> Page:
    where = response.url.path_qs
    return Page(response.status, where, await response.text(), response.headers.copy())


@asynccontextmanager
async def visitor(server: Server) -> AsyncIterator[Visitor]:
    """A browser without cookies."""
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as http:
        yield Visitor(server, http)
