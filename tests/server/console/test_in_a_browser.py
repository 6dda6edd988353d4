"""The console as people meet it: first run, a till that joins, a sale that arrives; for everybody, in every mode."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from support.browsers import chromium, needs_chromium
from support.consoles import PASSWORD
from support.serving import Server, Till, sale, serving
from tillstream_server.console.pages import VENDORED, Pages

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

AXE = Path(__file__).parents[2] / "support" / "npm" / "node_modules" / "axe-core" / "axe.min.js"
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
PAGES = (
    "/sales",
    "/sales?time=store",
    "/stores",
    "/stores/acme/north",
    "/fleet",
    "/tills/acme/north/till-1",
    "/account",
)

pytestmark = [pytest.mark.system, pytest.mark.asyncio(loop_scope="module"), needs_chromium]
needs_axe = pytest.mark.skipif(
    not AXE.exists(), reason="there is no axe-core here: tests/support/browser.sh installs it"
)
needs_assets = pytest.mark.skipif(
    not set(VENDORED) <= Pages().assets.keys(), reason="htmx and uPlot are not here: make assets fetches them"
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as started:
        yield started


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    async with serving(tmp_path_factory.mktemp("console") / "data") as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shop(server: Server, browser: Browser) -> Till:
    """The first run by the form, a till that joins while the fleet is looked at, and some sales."""
    code = (server.folder.root / "console-setup-code").read_text(encoding="ascii")
    async with window(browser, server, signed_in=False) as page:
        await page.goto(server.address)
        await page.get_by_label("Code").fill(code)
        await page.get_by_label("Name").fill("ada")
        await page.get_by_label("Password", exact=True).fill(PASSWORD)
        await page.get_by_label("The password again").fill(PASSWORD)
        await page.keyboard.press("Enter")
        await page.get_by_role("heading", name="Live sales").wait_for()
        await page.get_by_role("link", name="Fleet").click()
        await page.get_by_text("No till is like that.").wait_for()
        till = await server.till("till-1")
        await page.reload()
        await page.get_by_role("link", name="till-1").click()
        await page.get_by_text("Device enrolled").wait_for()
    await till.sends(*(sale(number, total=1000 + number) for number in range(1, 8)))
    return till


@asynccontextmanager
async def window(browser: Browser, server: Server, *, signed_in: bool = True, **options: Any) -> AsyncIterator[Page]:
    """A window in which nothing may fail, nor be forbidden by the policy, nor ask anybody else for anything."""
    context = await browser.new_context(**{"locale": "en-GB", "reduced_motion": "reduce", **options})
    try:
        page = await context.new_page()
        complaints: list[str] = []
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda said: complaints.append(said.text) if "Content Security" in said.text else None)
        page.on("request", lambda asked: _own(asked.url, server, complaints))
        if signed_in:
            await page.goto(f"{server.address}/sign-in")
            await page.fill("#name", "ada")
            await page.fill("#password", PASSWORD)
            await page.press("#password", "Enter")
            await page.wait_for_url("**/sales")
        yield page
        assert complaints == []
    finally:
        await context.close()


def _own(url: str, server: Server, complaints: list[str]) -> None:
    if not url.startswith(server.address):
        complaints.append(f"it asked for {url}")


async def violations(page: Page) -> list[str]:
    """What axe finds fault with, in a line each."""
    await page.evaluate(AXE.read_text(encoding="utf-8"))
    found: dict[str, Any] = await page.evaluate(
        "rules => axe.run(document, {runOnly: rules, resultTypes: ['violations']})", RULES
    )
    assert found["passes"], "axe looked at nothing"
    return [f"{one['id']}: {[node['html'] for node in one['nodes']]}" for one in found["violations"]]


async def test_a_sale_arrives_on_the_open_page(server: Server, browser: Browser, shop: Till) -> None:
    async with window(browser, server) as page:
        live = page.locator("#live")
        await live.get_by_text("USD").first.wait_for()
        await shop.sends(sale(100, total=9_876_543))
        await live.get_by_text(re.compile(r"98,8\d\d\.\d\d\sUSD")).first.wait_for(timeout=20_000)
        await live.evaluate("live => live.firstElementChild.dataset.kept = 'yes'")
        server.clock.turn(10)
        await live.locator(".as-of", has_text=re.compile(r":30$")).first.wait_for(timeout=20_000)
        assert await live.locator("[data-kept]").count() == 1, "nothing was sold, and the figures were exchanged"
        await page.get_by_role("button", name="Pause").click()
        assert await page.get_attribute("#pause", "aria-pressed") == "true"


@needs_assets
async def test_charts_are_drawn_from_their_tables_and_filters_exchange_the_list(
    server: Server, browser: Browser, shop: Till
) -> None:
    async with window(browser, server) as page:
        await page.locator(".chart.drawn canvas").first.wait_for()
        table = page.locator("#hours-USD tbody")
        assert not await table.is_visible()
        await page.emulate_media(media="print")
        assert await table.is_visible()
        await page.emulate_media(media="screen")
        await page.goto(f"{server.address}/fleet")
        await page.get_by_label("Till begins with").fill("nothing")
        await page.keyboard.press("Enter")
        await page.get_by_text("No till is like that.").wait_for()
        assert "name=nothing" in page.url
        await page.go_back()
        await page.get_by_role("link", name="till-1").wait_for()


async def test_the_live_page_outlasts_a_restart_behind_a_proxy_and_a_session_that_ended(
    server: Server, browser: Browser, shop: Till
) -> None:
    async with window(browser, server) as page:
        await page.route("**/sales/stream*", lambda route: route.fulfill(status=502, body="bad gateway"))
        await page.reload()
        await page.get_by_text("The connection is lost").wait_for()
        await page.unroute("**/sales/stream*")
        await page.locator("#line:empty").wait_for(state="attached", timeout=20_000)
        await page.route("**/sales/stream*", lambda route: route.fulfill(status=502, body="bad gateway"))
        await page.reload()
        await page.get_by_text("The connection is lost").wait_for()
        await page.context.clear_cookies()
        await page.wait_for_url("**/sign-in", timeout=20_000)


@needs_axe
@pytest.mark.parametrize(("locale", "scheme"), [("en-GB", "light"), ("de-DE", "dark")])
async def test_axe_finds_no_fault(server: Server, browser: Browser, shop: Till, locale: str, scheme: str) -> None:
    async with window(browser, server, locale=locale, color_scheme=scheme) as page:
        for path in (*PAGES, "/tills/acme/north/till-1/revoke", "/tills/no/such/till"):
            await page.goto(server.address + path)
            assert await violations(page) == [], path
    async with window(browser, server, signed_in=False, locale=locale, color_scheme=scheme) as page:
        await page.goto(f"{server.address}/sign-in")
        await page.fill("#name", "eve")
        await page.fill("#password", "whatever it is")
        await page.press("#password", "Enter")
        await page.locator("#problem").wait_for()
        assert await violations(page) == []


async def test_it_fits_a_narrow_screen_works_without_scripts_and_by_keys_alone(
    server: Server, browser: Browser, shop: Till
) -> None:
    options: dict[str, Any] = {"viewport": {"width": 320, "height": 640}, "java_script_enabled": False}
    async with window(browser, server, **options) as page:
        for path in PAGES:
            await page.goto(server.address + path)
            width = await page.locator("html").bounding_box()
            assert width is not None
            main = await page.locator("main").bounding_box()
            assert main is not None
            assert main["width"] <= 320, path
        await page.goto(f"{server.address}/fleet")
        await page.keyboard.press("Tab")
        await page.keyboard.press("Enter")
        await page.wait_for_url("**/fleet#main")
        await page.get_by_label("Till begins with").fill("till-1")
        await page.keyboard.press("Enter")
        await page.get_by_role("link", name="till-1").wait_for()
        assert "name=till-1" in page.url


async def test_a_till_is_revoked_only_after_its_name_was_typed(server: Server, browser: Browser, shop: Till) -> None:
    await server.till("till-9")
    async with window(browser, server) as page:
        await page.goto(f"{server.address}/tills/acme/north/till-9")
        await page.get_by_role("link", name="Revoke").click()
        await page.get_by_label(re.compile("Type the till's name")).fill("till-9")
        await page.get_by_role("button", name="Revoke").click()
        await page.get_by_role("button", name="Allow again").click()
        await page.get_by_role("link", name="Revoke").wait_for()
