"""Draws the docs' pictures of the console, part of `make screenshots`: a made-up shop with a morning's sales."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from msgspec.structs import replace

from support.consoles import PASSWORD, count_quarter
from support.serving import NOW, Server, sale, serving
from tillstream_server.users import UserCreate

if TYPE_CHECKING:
    from playwright.async_api import Browser

STORES: Final = ("Kreuzberg", "Altona", "Schwabing", "Ehrenfeld", "Südstadt")
HOUR_MS, DAY_MS = 3_600_000, 86_400_000
VERSIONS: Final = ("0.1.0", "0.1.0", "0.1.0", "0.0.9")
ERRORS: Final = {7: "the disk is nearly full", 16: "the server's certificate has expired"}


async def draw_console(browser: Browser, state: Path, folder: Path) -> None:
    """Write the pictures into a folder."""
    async with serving(state / "data", time_zone="Europe/Berlin") as server:
        await server.order(UserCreate("ada", "admin", password=PASSWORD))
        till = await server.till("till-1")
        async with till.on_push() as pushes:
            sales = (replace(sale(number, total=900 + 130 * number), currency="EUR") for number in range(8))
            await till.sends(*sales)
            await pushes.says(till.heartbeat(8))
        await till.asks_in(b"never made here!")
        _fill(server)
        pictures: tuple[tuple[str, str, Literal["light", "dark"], int], ...] = (
            ("console-sales", "/sales", "light", 980),
            ("console-fleet", "/fleet", "dark", 760),
            ("console-till", "/tills/acme/north/till-1", "light", 900),
        )
        for name, path, scheme, height in pictures:
            context = await browser.new_context(
                locale="en-GB",
                color_scheme=scheme,
                viewport={"width": 1180, "height": height},
            )
            page = await context.new_page()
            await page.goto(f"{server.address}/sign-in")
            await page.fill("#name", "ada")
            await page.fill("#password", PASSWORD)
            await page.press("#password", "Enter")
            await page.wait_for_url("**/sales")
            await page.goto(server.address + path)
            await page.wait_for_timeout(500)
            await page.screenshot(path=folder / f"{name}.png")
            await context.close()


def _fill(server: Server) -> None:
    """Eight days of five stores until now, and four tills in each."""
    chance = random.Random(6)
    today = NOW - NOW % DAY_MS
    with closing(sqlite3.connect(server.folder.ledger)) as conn, conn:
        for rank, store in enumerate(STORES):
            conn.execute("INSERT INTO store VALUES ('acme', ?, 0)", (store,))
            for quarter in range(-8 * 96, 96):
                at = today + quarter * HOUR_MS // 4
                if 6 <= at % DAY_MS // HOUR_MS < 18 and at <= NOW:
                    count = chance.randint(2, 9 - rank)
                    count_quarter(conn, at, store, "EUR", count, count * chance.randint(1200, 2600))
            for number in range(4):
                _add_till(conn, rank * 4 + number, store, f"till-{number + 1}")


def _add_till(conn: sqlite3.Connection, number: int, store: str, till: str) -> None:
    till_id = number.to_bytes(16, "big")
    seen = NOW - (HOUR_MS if number == 11 else number * 700)
    conn.execute(
        "INSERT INTO till VALUES (?, 'acme', ?, ?, ?, ?, 0)", (till_id, store, till, 1, 5 if number == 13 else None)
    )
    waiting = 40 if number in ERRORS else 0
    row = (till_id, bytes(16), 900, waiting, waiting * 9000, 90, 210, 900, 10**10, seen + number * 13)
    conn.execute(
        "INSERT INTO till_status VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, 0)",
        (*row, VERSIONS[number % 4], ERRORS.get(number, ""), seen),
    )
