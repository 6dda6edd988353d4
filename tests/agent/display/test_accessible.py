"""WCAG 2.2, level AA, as far as axe can tell, in every language, light and dark; and what axe cannot tell."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from support.browsers import chromium, needs_chromium
from support.cashier import ADA, ASKS, ENGLISH, TITLES, Desk, a_desk, question, till_with_page
from tillstream_agent.config import LANGUAGES

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

AXE = Path(__file__).parents[2] / "support" / "npm" / "node_modules" / "axe-core" / "axe.min.js"
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
SCHEMES = ["light", "dark"]

pytestmark = [pytest.mark.system, pytest.mark.asyncio(loop_scope="module"), needs_chromium]
needs_axe = pytest.mark.skipif(
    not AXE.exists(), reason="there is no axe-core here: tests/support/browser.sh installs it"
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as started:
        yield started


async def violations(page: Page) -> list[str]:
    """What axe finds fault with, in a line each."""
    await page.evaluate(AXE.read_text(encoding="utf-8"))
    found: dict[str, Any] = await page.evaluate(
        "rules => axe.run(document, {runOnly: rules, resultTypes: ['violations']})", RULES
    )
    assert found["passes"], "axe looked at nothing"
    return [f"{one['id']}: {[node['html'] for node in one['nodes']]}" for one in found["violations"]]


async def fill(desk: Desk) -> None:
    """Everything at once: a member, three offers, a question, an observation made, the badge."""
    desk.till.serves("b1", *ENGLISH, ASKS, member=ADA)
    desk.till.behind.board.note("in_a_hurry")
    await desk.sees(*TITLES)


@needs_axe
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("language", LANGUAGES)
async def test_axe_finds_no_fault(browser: Browser, tmp_path: Path, language: str, scheme: str) -> None:
    options = {"locale": language, "color_scheme": scheme, "reduced_motion": "reduce"}
    async with a_desk(browser, tmp_path, **options) as desk:
        assert await violations(desk.page) == [], "empty"
        await fill(desk)
        assert await desk.page.get_attribute("html", "lang") == language
        assert await violations(desk.page) == [], "full"
        desk.till.serves("b2", question(7, "What were you looking for?", name="else"))
        await desk.page.locator("input[name=answer]").wait_for()
        assert await violations(desk.page) == [], "a question in words"


@needs_axe
async def test_axe_would_find_a_fault(browser: Browser, tmp_path: Path) -> None:
    async with a_desk(browser, tmp_path, reduced_motion="reduce") as desk:
        await fill(desk)
        await desk.page.evaluate(
            "document.querySelector('.reason').attributeStyleMap.set('color', '#aaa');"
            "document.querySelector('.away').replaceChildren()"
        )
        found = " ".join(await violations(desk.page))
        assert "color-contrast" in found


@needs_axe
@pytest.mark.parametrize("scheme", SCHEMES)
async def test_axe_finds_no_fault_with_more_contrast_or_the_systems_colours(
    browser: Browser, tmp_path: Path, scheme: str
) -> None:
    for number, more in enumerate(({"contrast": "more"}, {"forced_colors": "active"})):
        options = {"color_scheme": scheme, "reduced_motion": "reduce", **more}
        async with a_desk(browser, tmp_path / str(number), **options) as desk:
            await fill(desk)
            assert await violations(desk.page) == []


@needs_axe
@pytest.mark.parametrize("language", LANGUAGES)
async def test_axe_finds_no_fault_with_the_page_that_asks_for_a_code(
    browser: Browser, tmp_path: Path, language: str
) -> None:
    async with till_with_page(tmp_path) as till:
        context = await browser.new_context(locale=language)
        page = await context.new_page()
        await page.goto(till.address + "/display")
        await page.fill("#code", "WRONG")
        await page.press("#code", "Enter")
        await page.locator("#wrong").wait_for()
        assert await violations(page) == []
        await page.fill("#code", till.pairing.code().code.lower())
        await page.press("#code", "Enter")
        await page.locator("#offers").wait_for(state="attached")
        await context.close()


@pytest.mark.parametrize("language", ["en", "ar", "de"])
@pytest.mark.parametrize(("width", "height"), [(320, 640), (1280, 300), (400, 300)])
async def test_it_fits_without_scrolling_sideways(
    browser: Browser, tmp_path: Path, language: str, width: int, height: int
) -> None:
    viewport = {"width": width, "height": height}
    async with a_desk(browser, tmp_path, locale=language, viewport=viewport) as desk:
        await fill(desk)
        assert await desk.page.evaluate("document.documentElement.scrollWidth") <= width


async def test_nothing_moves_for_who_does_not_want_it(browser: Browser, tmp_path: Path) -> None:
    for number, (motion, moving) in enumerate((("reduce", False), ("no-preference", True))):
        async with a_desk(browser, tmp_path / str(number), reduced_motion=motion) as desk:
            await desk.page.evaluate(
                "window.moved = 0; document.addEventListener('animationstart', () => { window.moved += 1; })"
            )
            await fill(desk)
            await desk.page.wait_for_timeout(200)
            assert bool(await desk.page.evaluate("window.moved")) == moving


async def test_what_is_pressed_is_large_enough(browser: Browser, tmp_path: Path) -> None:
    async with a_desk(browser, tmp_path) as desk:
        await fill(desk)
        sizes = await desk.page.evaluate(
            "[...document.querySelectorAll('main button, #notes button')].map(b => b.getBoundingClientRect())"
            ".map(r => Math.min(r.width, r.height))"
        )
        assert min(sizes) >= 44


async def test_a_page_from_right_to_left_keeps_the_direction_of_campaigns(browser: Browser, tmp_path: Path) -> None:
    async with a_desk(browser, tmp_path, locale="ar") as desk:
        await fill(desk)
        direction = "getComputedStyle(document.querySelector({!r})).direction"
        assert await desk.page.evaluate(direction.format("h2")) == "rtl"
        assert await desk.page.evaluate(direction.format("#offers h2 span")) == "ltr"
        places = await desk.page.evaluate(
            "[...document.querySelectorAll('#offers li')].map(n => n.getBoundingClientRect().x)"
        )
        assert places == sorted(places, reverse=True)


async def test_it_works_where_scripts_do_not_run(browser: Browser, tmp_path: Path) -> None:
    async with a_desk(browser, tmp_path, java_script_enabled=False) as desk:
        desk.till.serves("b1", *ENGLISH, ASKS, member=ADA)
        await desk.page.get_by_text(TITLES[0]).wait_for(timeout=10_000)
        await desk.page.get_by_role("button", name="Accept").nth(1).click()
        await desk.page.get_by_role("button", name="So-so").click()
        await desk.page.get_by_role("button", name="In a hurry").click()
        await desk.has_heard("accepted", "surveyed", "observed")
        assert not await desk.page.get_by_text("Shortcut keys").is_visible()
        desk.till.serves("b2")
        await desk.page.get_by_text(TITLES[0]).wait_for(state="detached", timeout=10_000)
