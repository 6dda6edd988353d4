"""The page in a real browser: it follows the till, and forgets whoever has left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from support.browsers import chromium, needs_chromium
from support.cashier import ADA, ASKS, ENGLISH, GRACE, LATE_MS, TITLES, Desk, a_desk, decision, question
from tillstream_agent.journal import JournalFull

if TYPE_CHECKING:
    from playwright.async_api import Browser, Route

pytestmark = [pytest.mark.system, pytest.mark.asyncio(loop_scope="module"), needs_chromium]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as started:
        yield started


@pytest_asyncio.fixture(loop_scope="module")
async def desk(browser: Browser, tmp_path: Path) -> AsyncIterator[Desk]:
    async with a_desk(browser, tmp_path) as opened:
        yield opened


async def test_it_follows_the_till_and_shows_the_member_by_kind_and_tail(desk: Desk) -> None:
    desk.till.behind.board.set_online(True)
    desk.till.serves("b1", *ENGLISH, ASKS, member=ADA)
    await desk.sees(*TITLES)
    text = await desk.text()
    assert "Loyalty card" in text
    assert "0042" in text
    assert "98400071" not in await desk.page.content()
    assert "For this member · coffee-week · decided at the till" in text
    assert "How was your visit today?" in text
    assert not await desk.page.get_by_text("Offline").is_visible()
    desk.till.behind.board.set_online(False)
    await desk.page.get_by_text("Offline").wait_for(state="visible")


async def test_the_next_customer_finds_an_empty_page(desk: Desk) -> None:
    desk.till.serves("b1", *ENGLISH, ASKS, member=ADA)
    await desk.sees(*TITLES)
    desk.till.serves("b2", member=GRACE)
    await desk.sees()
    text = await desk.text()
    assert "0042" not in text
    assert "How was" not in text
    assert "5679" in text


async def test_interleaved_baskets_and_late_offers_show_nobody_elses(desk: Desk) -> None:
    till = desk.till
    first = till.serves("b1", decision(1, "for Ada"), member=ADA)
    await desk.sees("for Ada")
    till.serves("b2", decision(2, "for Grace"), member=GRACE)
    till.pushes(3, first, "b1", "late for Ada")
    await desk.sees("for Grace")
    again = till.serves("b1", member=GRACE)
    till.pushes(4, first, "b1", "later still for Ada")
    till.pushes(5, again, "b1", "for Grace in b1")
    await desk.sees("for Grace in b1")
    assert "Ada" not in await desk.text()


async def test_a_message_that_is_late_is_dropped(desk: Desk) -> None:
    """An older sequence, and a message of another run of the agent, change nothing."""
    desk.till.serves("b1", decision(1, "for Ada"), member=ADA)
    await desk.sees("for Ada")
    before = await desk.page.evaluate("({...document.body.dataset})")
    desk.till.serves("b2", decision(2, "for Grace"), member=GRACE)
    await desk.sees("for Grace")
    old = {**before, "sequence": int(before["sequence"]), "online": True, "html": {"offers": "<li>for Ada</li>"}}
    newer = {**old, "run": "another", "sequence": 10**9}
    for message in (old, newer):
        await desk.page.evaluate(
            "m => listening.dispatchEvent(new MessageEvent('board', {data: JSON.stringify(m)}))", message
        )
    assert "Ada" not in await desk.text()


async def test_a_reply_that_comes_when_the_next_customer_is_there_says_nothing(desk: Desk) -> None:
    desk.till.serves("b1", member=ADA)
    await desk.sees()
    held: asyncio.Future[Route] = asyncio.get_running_loop().create_future()
    await desk.page.route("**/display/observations", lambda route: held.set_result(route))
    await desk.page.get_by_role("button", name="In a hurry").click()
    route = await held
    desk.till.serves("b2", decision(2, "for Grace"), member=GRACE)
    await desk.sees("for Grace")
    await route.continue_()
    await desk.page.wait_for_timeout(LATE_MS)
    assert desk.till.heard.calls == []
    assert await desk.page.inner_text("#said") == ""


async def test_it_is_emptied_when_the_agent_is_not_heard_and_comes_back_with_it(desk: Desk) -> None:
    desk.till.behind.board.set_online(True)
    desk.till.serves("b1", *ENGLISH, member=ADA)
    await desk.sees(*TITLES)
    await desk.till.door.close()
    await desk.sees()
    assert "0042" not in await desk.text()
    await desk.page.get_by_text("Offline").wait_for(state="visible")
    await desk.till.opens_again()
    await desk.sees(*TITLES)


async def test_a_screen_whose_pairing_was_ended_asks_for_a_code(desk: Desk) -> None:
    desk.till.serves("b1", *ENGLISH, member=ADA)
    await desk.sees(*TITLES)
    await desk.till.pairing.forget()
    await desk.page.get_by_label("Code").wait_for()
    assert "0042" not in await desk.text()


async def test_buttons_note_what_was_noticed_once(desk: Desk) -> None:
    desk.till.serves("b1")
    await desk.sees()
    button = desk.page.get_by_role("button", name="In a hurry")
    await button.click()
    await desk.page.get_by_text("Noted", exact=True).wait_for()
    await desk.page.locator("button.noted").wait_for()
    await button.click(force=True)
    await desk.has_heard("observed")
    desk.till.serves("b2")
    await desk.page.locator("button.noted").wait_for(state="detached")


async def test_what_could_not_be_captured_is_said_so_without_a_pop_up(desk: Desk) -> None:
    desk.till.heard.trouble = JournalFull("no room")
    desk.till.serves("b1", *ENGLISH)
    await desk.sees(*TITLES)
    await desk.page.get_by_role("button", name="With children").click()
    await desk.page.get_by_text("Not saved").wait_for()
    assert await desk.page.locator("dialog, [role=dialog], [role=alertdialog]").count() == 0


async def test_a_question_is_answered_by_a_button_or_in_words(desk: Desk) -> None:
    desk.till.serves("b1", ASKS, question(8, "What else?", name="else"))
    await desk.sees()
    await desk.page.get_by_role("button", name="So-so").click()
    await desk.page.get_by_label("Your answer").fill("Lamp oil 1 2 3")
    await desk.page.wait_for_timeout(LATE_MS)
    await desk.page.get_by_role("button", name="Send").click()
    await desk.has_heard("surveyed", "surveyed")
    assert [call[2] for call in desk.till.heard.calls] == ["So-so", "Lamp oil 1 2 3"]


async def test_what_is_being_typed_survives_a_change_of_the_board(desk: Desk) -> None:
    desk.till.serves("b1", question(8, "What else?", name="else"))
    field = desk.page.get_by_label("Your answer")
    await field.fill("Lamp")
    desk.till.serves("b1", decision(1, "more"), trigger="transaction")
    await desk.sees("more")
    assert await field.input_value() == "Lamp"
    assert await desk.page.evaluate("document.activeElement.name") == "answer"


async def test_two_presses_at_once_do_not_press_what_takes_the_place_of_the_first(desk: Desk) -> None:
    desk.till.serves("b1", *ENGLISH, member=ADA)
    await desk.sees(*TITLES)
    await desk.page.get_by_role("button", name="Accept").first.dblclick(delay=20)
    await desk.sees(*TITLES[1:])
    await desk.has_heard("accepted")


async def test_an_offer_that_comes_up_under_the_finger_is_not_pressed(desk: Desk) -> None:
    desk.till.serves("b1", *ENGLISH, member=ADA)
    await desk.sees(*TITLES)
    await desk.page.evaluate(
        """new MutationObserver(() => document.querySelector("#offers .accept")?.click())
             .observe(document.getElementById("offers"), {childList: true})"""
    )
    desk.till.serves("b2", decision(5, "for Grace"), member=GRACE)
    await desk.sees("for Grace")
    assert desk.till.heard.calls == []
