"""The page in a frame: of the origins that the settings name and of no other, and nothing by a page elsewhere."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from aiohttp import web

from support.browsers import chromium, needs_chromium
from support.cashier import ADA, ENGLISH, TITLES, Till, till_with_page
from tillstream_agent.hooks.pairing import TRIES

if TYPE_CHECKING:
    from playwright.async_api import Browser, BrowserContext, FrameLocator

pytestmark = [pytest.mark.system, pytest.mark.asyncio(loop_scope="module"), needs_chromium]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as started:
        yield started


class Around:
    """A page of somebody else's, with a frame in it."""

    def __init__(self) -> None:
        self.address = ""
        self.framed = ""

    async def page(self, _request: web.Request) -> web.Response:
        text = f'<!doctype html><title>POS</title><iframe src="{self.framed}" width=900 height=600></iframe>'
        return web.Response(text=text, content_type="text/html")


@asynccontextmanager
async def page_around() -> AsyncIterator[Around]:
    around = Around()
    app = web.Application()
    app.router.add_get("/", around.page)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        around.address = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield around
    finally:
        await runner.cleanup()


@asynccontextmanager
async def paired(browser: Browser, till: Till) -> AsyncIterator[BrowserContext]:
    """A browser in which the till's page was paired in a window before."""
    context = await browser.new_context(locale="en")
    try:
        page = await context.new_page()
        await page.goto(till.link())
        await page.close()
        yield context
    finally:
        await context.close()


async def frame_in(context: BrowserContext, around: str, till: Till) -> FrameLocator:
    till.serves("b1", *ENGLISH, member=ADA)
    page = await context.new_page()
    await page.goto(around)
    return page.frame_locator("iframe")


async def test_a_page_of_the_same_site_that_is_allowed_frames_it(browser: Browser, tmp_path: Path) -> None:
    async with page_around() as around, till_with_page(tmp_path, origins=(around.address,)) as till:
        around.framed = till.address + "/display"
        async with paired(browser, till) as context:
            frame = await frame_in(context, around.address, till)
            await frame.get_by_text(TITLES[0]).wait_for()
            await frame.get_by_role("button", name="Accept").first.click()
            await frame.get_by_text(TITLES[0]).wait_for(state="detached")
            assert [call[0] for call in till.heard.calls] == ["accepted"]


async def test_an_allowed_page_of_another_site_gets_a_frame_that_asks_for_a_code(
    browser: Browser, tmp_path: Path
) -> None:
    """`localhost` is another site than 127.0.0.1: the browser withholds the cookie."""
    async with page_around() as around:
        elsewhere = around.address.replace("127.0.0.1", "localhost")
        async with till_with_page(tmp_path, origins=(elsewhere,)) as till:
            around.framed = till.address + "/display"
            async with paired(browser, till) as context:
                frame = await frame_in(context, elsewhere, till)
                await frame.get_by_label("Code").wait_for()
                assert await frame.get_by_text(TITLES[0]).count() == 0


async def test_a_page_that_is_not_allowed_frames_nothing(browser: Browser, tmp_path: Path) -> None:
    async with page_around() as around, till_with_page(tmp_path) as till:
        around.framed = till.address + "/display"
        async with paired(browser, till) as context:
            frame = await frame_in(context, around.address, till)
            await frame.locator("body.neterror").wait_for(state="attached")
            assert await frame.get_by_text(TITLES[0]).count() == 0
            assert await frame.locator("#offers").count() == 0


async def test_a_page_elsewhere_uses_up_no_tries_of_a_code(browser: Browser, tmp_path: Path) -> None:
    """By frames and windows, as another site and as the same; then a person opens the link."""
    async with page_around() as around, till_with_page(tmp_path) as till:
        link = till.link()
        around.framed = "about:blank"
        context = await browser.new_context(locale="en")
        page = await context.new_page()
        for elsewhere in (around.address, around.address.replace("127.0.0.1", "localhost")):
            await page.goto(elsewhere)
            for number in range(TRIES):
                wrong = f"{till.address}/display?code=WRONG{number}"
                async with page.expect_response(wrong):
                    await page.evaluate("(url) => { document.querySelector('iframe').src = url; }", wrong)
                async with context.expect_page() as opening:
                    await page.evaluate("(url) => { window.open(url); }", wrong)
                opened = await opening.value
                await opened.get_by_label("Code").wait_for()
                assert await opened.get_by_role("alert").count() == 0
                await opened.close()
        await page.goto(link)
        await page.locator("#offers").wait_for(state="attached")
        await context.close()


async def test_a_page_elsewhere_presses_nothing_in_a_paired_browser(browser: Browser, tmp_path: Path) -> None:
    """Same site and allowed, so that the cookie goes along: the exact origin alone stops it."""
    async with page_around() as around, till_with_page(tmp_path, origins=(around.address,)) as till:
        around.framed = "about:blank"
        async with paired(browser, till) as context:
            till.serves("b1", *ENGLISH, member=ADA)
            view = till.behind.board.take()
            page = await context.new_page()
            await page.goto(around.address)
            fields = {"basket": view.basket, "member": view.member, "kind": "in_a_hurry"}
            for kind in ("application/json", "text/plain", "application/x-www-form-urlencoded"):
                await page.evaluate(
                    """([address, kind, fields]) => fetch(address + "/display/observations", {
                         method: "POST", mode: kind === "application/json" ? "cors" : "no-cors",
                         credentials: "include", headers: {"Content-Type": kind}, body: JSON.stringify(fields),
                       }).catch(() => "refused")""",
                    [till.address, kind, fields],
                )
            await page.evaluate(
                """([address, fields]) => {
                     const form = document.createElement("form");
                     form.method = "post";
                     form.action = address + "/display/observations";
                     for (const [name, value] of Object.entries(fields)) {
                       form.append(Object.assign(document.createElement("input"), {name, value}));
                     }
                     document.body.append(form);
                     form.submit();
                   }""",
                [till.address, fields],
            )
            await page.wait_for_url("**/display/observations")
            assert till.heard.calls == []
            assert "forbidden" in await page.content()
