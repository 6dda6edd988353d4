"""The board shows the offers of the occasion at hand, at most three, and never those of an earlier customer."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.agents import HOUR_MS, NOW_MS, offer, offer_push
from support.tills import TurnedClock
from tillstream_agent.display import board as board_module
from tillstream_agent.display.board import Board
from tillstream_agent.display.cards import Card, card_of
from tillstream_protocol.effects import CashierMessage, CustomerMessage, Discount, ReceiptLine
from tillstream_protocol.messages import OfferPush

EPOCH = b"e" * 16


class Screen:
    """A board, and what it reported as shown."""

    def __init__(self) -> None:
        self.clock = TurnedClock(NOW_MS)
        self.reported: list[bytes] = []
        self.journal_is_full = False
        self.board = Board(self.clock, self._report)

    def _report(self, card: Card) -> bool:
        self.reported.append(card.offer_id)
        return not self.journal_is_full

    def titles(self) -> list[str]:
        return [card.title for card in self.board.take().offers]


def push(number: int, seq: int, basket: str = "", text: str = "pushed") -> OfferPush:
    return offer_push(number, EPOCH, seq, basket, text=text)


def test_offers_decided_at_the_till_are_shown() -> None:
    screen = Screen()
    screen.board.begin((EPOCH, 0), "b", "transaction", [offer(1, text="one"), offer(2, text="two")])
    assert screen.titles() == ["one", "two"]


def test_refusals_are_not_shown() -> None:
    screen = Screen()
    refused = msgspec.structs.replace(offer(1), outcome="refused", reason="stale", effects=())
    screen.board.begin((EPOCH, 0), "b", "transaction", [refused])
    screen.board.push(OfferPush(refused, EPOCH, 0))
    assert screen.titles() == []


def test_an_offer_pushed_for_the_occasion_at_hand_is_shown() -> None:
    screen = Screen()
    screen.board.begin((EPOCH, 7), "", "member_identified", [])
    screen.board.push(push(1, 7))
    assert screen.titles() == ["pushed"]


def test_an_offer_that_comes_when_the_next_customer_is_there_is_not_shown() -> None:
    screen = Screen()
    screen.board.begin((EPOCH, 7), "", "member_identified", [])
    screen.board.begin((EPOCH, 8), "", "member_identified", [])
    screen.board.push(push(1, 7))
    assert screen.titles() == []
    assert screen.reported == []


def test_the_next_customer_clears_the_board() -> None:
    screen = Screen()
    screen.board.begin((EPOCH, 7), "b1", "transaction", [offer(1)])
    screen.board.begin((EPOCH, 8), "b2", "transaction", [])
    assert screen.titles() == []
    assert screen.board.empty


def test_the_same_basket_keeps_its_offers() -> None:
    screen = Screen()
    screen.board.begin((EPOCH, 7), "b1", "member_identified", [offer(1, text="for the member")])
    screen.board.begin((EPOCH, 8), "b1", "transaction", [offer(2, text="for the sale")])
    screen.board.push(push(3, 7))
    assert screen.titles() == ["for the member", "for the sale", "pushed"]


def test_an_offer_kept_over_a_restart_is_shown_with_its_basket_only() -> None:
    screen = Screen()
    screen.board.push(offer_push(1, b"f" * 16, 3, "b1"))
    assert screen.titles() == []
    screen.board.begin((EPOCH, 0), "b2", "transaction", [])
    assert screen.titles() == []
    screen.board.begin((EPOCH, 1), "b1", "transaction", [])
    assert screen.titles() == ["A coffee on us"]


def test_at_most_three_are_shown() -> None:
    screen = Screen()
    screen.board.begin((EPOCH, 0), "b", "transaction", [offer(n, text=str(n)) for n in range(1, 6)])
    assert screen.titles() == ["1", "2", "3"]
    assert len(screen.reported) == 3


def test_an_expired_offer_goes_and_none_is_shown_after_its_time() -> None:
    screen = Screen()
    screen.board.begin((EPOCH, 0), "b", "transaction", [offer(1), offer(2, expires_ms=NOW_MS)])
    assert len(screen.titles()) == 1
    assert screen.board.next_expiry_s() == HOUR_MS / 1000
    screen.clock.turn(3600)
    assert screen.titles() == []
    assert screen.board.next_expiry_s() is None


def test_an_offer_is_reported_as_shown_once_when_a_screen_takes_it() -> None:
    screen = Screen()
    screen.board.begin((EPOCH, 0), "b", "transaction", [offer(1)])
    assert screen.reported == []
    for _ in range(3):
        screen.board.take()
    assert screen.reported == [offer(1).offer_id]


def test_what_could_not_be_reported_is_reported_again() -> None:
    screen = Screen()
    screen.board.begin((EPOCH, 0), "b", "transaction", [offer(1)])
    screen.journal_is_full = True
    screen.board.take()
    screen.journal_is_full = False
    screen.board.take()
    screen.board.take()
    assert len(screen.reported) == 2


def test_an_answered_offer_is_taken_down_but_still_known() -> None:
    screen = Screen()
    screen.board.begin((EPOCH, 0), "b", "transaction", [offer(1)])
    screen.board.answered(offer(1).offer_id)
    assert screen.titles() == []
    assert screen.board.find(offer(1).offer_id) is not None
    assert screen.board.find(bytes(16)) is None


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board_module, "REMEMBERED", 2)
    screen = Screen()
    for number in range(1, 5):
        screen.board.push(offer_push(number, basket=f"b{number}"))
    assert [screen.board.find(offer(n).offer_id) is not None for n in range(1, 5)] == [False, False, True, True]


async def test_a_waiting_screen_hears_of_each_change() -> None:
    screen = Screen()
    board = screen.board
    seen = board.version
    waiting = asyncio.create_task(board.changed(seen, 5.0))
    await asyncio.sleep(0)
    board.set_online(True)
    assert await waiting
    assert await board.changed(seen, 0.0)
    assert not await board.changed(board.version, 0.0)
    assert board.take().online


def test_the_same_badge_twice_is_no_change() -> None:
    board = Screen().board
    before = board.version
    board.set_online(False)
    assert board.version == before


def test_a_card_says_what_the_customer_gets_first_and_why() -> None:
    effects = (CashierMessage("ask"), ReceiptLine("printed"), Discount("2 off", amount=200), CustomerMessage("thanks"))
    card = card_of(msgspec.structs.replace(offer(1), effects=effects), "member_identified")
    assert (card.title, card.details, card.asides, card.for_staff) == ("2 off", ("thanks",), ("ask",), False)
    assert (card.trigger, card.campaign, card.decided_at) == ("member_identified", "campaign-1", "server")


def test_a_card_for_the_cashier_alone_is_on_no_screen_of_the_customers() -> None:
    screen = Screen()
    told = msgspec.structs.replace(offer(1), effects=(CashierMessage("ask for the card"), CashierMessage("politely")))
    screen.board.begin((EPOCH, 0), "b", "transaction", [told, offer(2)])
    assert [card.title for card in screen.board.take(staff=False).offers] == ["A coffee on us"]
    assert screen.reported == [offer(2).offer_id]
    card = screen.board.take().offers[0]
    assert (card.title, card.details, card.asides, card.for_staff) == ("ask for the card", (), ("politely",), True)


def test_a_card_of_a_receipt_line_alone_shows_it() -> None:
    card = card_of(msgspec.structs.replace(offer(1), effects=(ReceiptLine("printed"),)), "transaction")
    assert card.title == "printed"


@given(st.lists(st.tuples(st.sampled_from(["begin", "push"]), st.integers(0, 5), st.sampled_from(["", "b"]))))
def test_no_order_of_events_shows_what_belongs_to_another_occasion(steps: list[tuple[str, int, str]]) -> None:
    screen = Screen()
    at_hand: set[int] = set()
    basket = ""
    for number, (step, seq, its_basket) in enumerate(steps, start=1):
        if step == "begin":
            at_hand = at_hand | {seq} if its_basket and its_basket == basket else {seq}
            basket = its_basket
            screen.board.begin((EPOCH, seq), its_basket, "transaction", [])
        else:
            screen.board.push(push(number, seq, its_basket, text=f"{seq}/{its_basket}"))
        for title in screen.titles():
            caused_by, _, of_basket = title.partition("/")
            assert int(caused_by) in at_hand or (of_basket and of_basket == basket)
