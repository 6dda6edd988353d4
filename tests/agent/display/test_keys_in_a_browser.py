"""The page by keyboard: one key accepts, declines or puts away, a scanner presses none, and nothing takes the focus."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from support.browsers import chromium, needs_chromium
from support.cashier import ADA, ASKS, ENGLISH, GRACE, LATE_MS, TITLES, Desk, a_desk, decision, question
from tillstream_protocol.effects import CashierMessage

if TYPE_CHECKING:
    from playwright.async_api import Browser

pytestmark = [pytest.mark.system, pytest.mark.asyncio(loop_scope="module"), needs_chromium]
FOCUSED = "document.activeElement.textContent || document.activeElement.localName"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as started:
        yield started


@pytest_asyncio.fixture(loop_scope="module")
async def desk(browser: Browser, tmp_path: Path) -> AsyncIterator[Desk]:
    async with a_desk(browser, tmp_path) as opened:
        opened.till.serves("b1", *ENGLISH, ASKS, member=ADA)
        await opened.sees(*TITLES)
        yield opened


@pytest.mark.parametrize(("key", "heard", "number"), [("1", "accepted", 0), ("Digit3", "accepted", 2)])
async def test_a_digit_accepts_the_offer_of_that_number(desk: Desk, key: str, heard: str, number: int) -> None:
    await desk.page.keyboard.press(key)
    await desk.has_heard(heard)
    assert desk.till.heard.calls[0][1] == ENGLISH[number].offer_id.hex()
    await desk.sees(*(title for title in TITLES if title != TITLES[number]))


async def test_shift_and_a_digit_declines(desk: Desk) -> None:
    await desk.page.keyboard.press("Shift+Digit2")
    await desk.has_heard("declined")
    assert desk.till.heard.calls[0][1] == ENGLISH[1].offer_id.hex()


async def test_escape_puts_the_top_one_away_the_question_first(desk: Desk) -> None:
    await desk.page.keyboard.press("Escape")
    await desk.page.locator("#prompt section").wait_for(state="detached")
    await desk.sees(*TITLES)
    await desk.page.wait_for_timeout(LATE_MS)
    await desk.page.keyboard.press("Escape")
    await desk.sees(*TITLES[1:])
    assert desk.till.heard.calls == []


async def test_a_number_that_has_no_offer_does_nothing(desk: Desk) -> None:
    desk.till.serves("b2", decision(4, "only one"))
    await desk.sees("only one")
    await desk.page.keyboard.press("2")
    await desk.page.wait_for_timeout(LATE_MS)
    assert desk.till.heard.calls == []


async def test_a_scanner_that_types_a_number_accepts_nothing(desk: Desk) -> None:
    await desk.page.get_by_role("button", name="In a hurry").focus()
    await desk.page.evaluate(
        """for (const key of [..."1234567890123", "Enter"]) {
             const code = key === "Enter" ? key : `Digit${key}`;
             document.activeElement.dispatchEvent(new KeyboardEvent("keydown", {key, code, bubbles: true}));
           }"""
    )
    await desk.page.keyboard.type("4006381333931", delay=5)
    await desk.page.keyboard.press("Enter")
    await desk.page.wait_for_timeout(LATE_MS)
    assert desk.till.heard.calls == []
    await desk.page.keyboard.press("1")
    await desk.has_heard("accepted")


async def test_a_key_that_was_meant_for_the_last_customer_accepts_nothing_for_the_next(desk: Desk) -> None:
    desk.till.serves("b2", decision(5, "for Grace"), member=GRACE)
    await desk.sees("for Grace")
    await desk.page.evaluate(
        """document.dispatchEvent(new KeyboardEvent("keydown", {key: "1", code: "Digit1"}));
           show({...shown, basket: "next", sequence: shown.sequence + 1, html: {}})"""
    )
    await desk.page.wait_for_timeout(LATE_MS)
    assert desk.till.heard.calls == []


async def test_keys_that_are_typed_into_an_answer_are_text(desk: Desk) -> None:
    desk.till.serves("b2", *ENGLISH, question(8, "What else?", name="else"))
    await desk.page.get_by_label("Your answer").click()
    await desk.page.keyboard.press("2")
    await desk.page.wait_for_timeout(LATE_MS)
    assert await desk.page.get_by_label("Your answer").input_value() == "2"
    assert desk.till.heard.calls == []


@pytest.mark.parametrize("key", ["Control+Digit1", "Alt+Digit1", "Meta+Digit1", "Digit4", "a"])
async def test_other_keys_are_left_to_others(desk: Desk, key: str) -> None:
    await desk.page.keyboard.press(key)
    await desk.page.wait_for_timeout(LATE_MS)
    assert desk.till.heard.calls == []


async def test_the_keys_can_be_turned_off_and_stay_off(desk: Desk) -> None:
    await desk.page.get_by_role("button", name="Shortcut keys").click()
    for _ in range(2):
        for key in ("1", "Escape"):
            await desk.page.keyboard.press(key)
            await desk.page.wait_for_timeout(LATE_MS)
        await desk.sees(*TITLES)
        await desk.page.reload()
        await desk.sees(*TITLES)
    await desk.page.get_by_role("button", name="Shortcut keys").click()
    await desk.page.wait_for_timeout(LATE_MS)
    await desk.page.keyboard.press("1")
    await desk.has_heard("accepted")


async def test_the_customers_screen_has_no_keys_and_follows_the_till(desk: Desk) -> None:
    await desk.page.goto(desk.till.address + "/display?screen=customer")
    await desk.sees(*TITLES)
    desk.till.serves("b1", decision(4, CashierMessage("ask")), trigger="transaction", member=ADA)
    desk.till.serves("b1", decision(1, "one more"), trigger="transaction", member=ADA)
    for key in ("1", "Escape"):
        await desk.page.keyboard.press(key)
        await desk.page.wait_for_timeout(LATE_MS)
    await desk.sees(*TITLES)
    assert desk.till.heard.calls == []
    for hidden in ("In a hurry", "Shortcut keys", "Say so now"):
        assert not await desk.page.get_by_text(hidden).is_visible()


async def test_everything_is_reached_by_tab_and_pressed_by_enter(desk: Desk) -> None:
    reached: list[str] = []
    for _ in range(20):
        await desk.page.keyboard.press("Tab")
        reached.append(str(await desk.page.evaluate(FOCUSED)))
    wanted = ["Good", "So-so", "Not good", "Put away", *["Accept", "Decline", "Put away"] * 3]
    assert reached[: len(wanted)] == wanted
    assert reached[len(wanted) : len(wanted) + 5][-1] == "Shortcut keys"
    await desk.page.get_by_role("button", name="Accept").nth(1).focus()
    await desk.page.wait_for_timeout(LATE_MS)
    await desk.page.keyboard.press("Enter")
    await desk.has_heard("accepted")
    await desk.sees(TITLES[0], TITLES[2])


async def test_what_goes_leaves_the_focus_near_and_what_comes_takes_none(desk: Desk) -> None:
    await desk.page.get_by_role("button", name="Accept").first.focus()
    desk.till.behind.board.answered(ENGLISH[0].offer_id)
    await desk.sees(*TITLES[1:])
    assert await desk.page.evaluate("document.activeElement.localName") == "main", "no other button is pressed next"
    await desk.page.get_by_role("button", name="Accept").first.focus()
    desk.till.serves("b1", decision(7, "new"), trigger="transaction", member=ADA)
    await desk.sees(*TITLES[1:], "new")
    assert await desk.page.evaluate("document.activeElement.closest('li').dataset.key") == ENGLISH[1].offer_id.hex()
    desk.till.serves("b9")
    await desk.sees()
    assert await desk.page.evaluate("document.activeElement.localName") == "main"
    desk.till.serves("b9", decision(6, "newer"), trigger="transaction")
    await desk.sees("newer")
    assert await desk.page.evaluate("document.activeElement.localName") == "main"
