"""The previous customer is never shown: not with another basket, not with another card, not by a late offer."""

from __future__ import annotations

import os

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.agents import NOW_MS, offer, offer_push
from support.tills import TurnedClock
from tillstream_agent.display.board import Board
from tillstream_agent.display.cards import Card
from tillstream_protocol.decisions import Decision
from tillstream_protocol.effects import CustomerMessage, Prompt
from tillstream_protocol.messages import OfferPush
from tillstream_protocol.transaction import Identifier

EPOCH = b"e" * 16
ADA = (Identifier("loyalty", "9840007160042"),)
ADAS_PHONE = (Identifier("phone", "+4915112345678"),)
GRACE = (Identifier("loyalty", "9840007169999"),)


def new_board() -> Board:
    return Board(TurnedClock(NOW_MS), lambda _: True)


def titles(board: Board) -> list[str]:
    return [card.title for card in board.take().offers]


def asks(number: int, name: str = "nps") -> Decision:
    return msgspec.structs.replace(offer(number), effects=(Prompt("How was it?", name, ("Good", "Bad")),))


def edge(number: int, text: str) -> Decision:
    return msgspec.structs.replace(offer(number, text=text), decided_at="edge")


def question(board: Board) -> str | None:
    prompt = board.take().prompt
    return prompt.prompt.question if prompt is not None and prompt.prompt is not None else None


def test_the_board_says_who_is_there_by_a_key_and_a_strip() -> None:
    board = new_board()
    assert (board.take().basket, board.take().member, board.take().strip) == ("", "", None)
    board.begin((EPOCH, 0), "basket 1", "member_identified", [], ADA)
    view = board.take()
    assert view.basket
    assert view.member
    assert view.strip is not None
    assert (view.strip.scheme, view.strip.tail) == ("loyalty", "0042")
    assert "basket" not in view.basket


def test_more_about_the_same_basket_keeps_the_member() -> None:
    board = new_board()
    board.begin((EPOCH, 0), "b1", "member_identified", [offer(1)], ADA)
    before = board.take()
    board.revise("b1", [])
    board.begin((EPOCH, 2), "b1", "transaction", [], (*ADAS_PHONE, *ADA))
    board.begin((EPOCH, 3), "b1", "transaction", [], ADAS_PHONE)
    after = board.take()
    assert (after.basket, after.member, after.strip, after.offers) == (
        before.basket,
        before.member,
        before.strip,
        before.offers,
    )
    assert after.sequence > before.sequence


def test_another_member_in_the_same_basket_empties_the_board() -> None:
    board = new_board()
    board.begin((EPOCH, 0), "b1", "member_identified", [offer(1), asks(2)], ADA)
    board.note("in_a_hurry")
    before = board.take()
    board.begin((EPOCH, 1), "b1", "member_identified", [], GRACE)
    after = board.take()
    assert (after.offers, after.prompt, after.noted) == ((), None, frozenset())
    assert after.strip is not None
    assert after.strip.tail == "9999"
    assert (after.basket, after.member) != (before.basket, before.member)
    assert not board.is_at_hand(before.basket, before.member)
    assert board.is_at_hand(after.basket, after.member)


def test_two_baskets_without_an_id_are_two_customers() -> None:
    board = new_board()
    board.begin((EPOCH, 0), "", "transaction", [offer(1)])
    before = board.take()
    board.begin((EPOCH, 1), "", "transaction", [])
    assert not board.is_at_hand(before.basket, before.member)
    assert titles(board) == []


def test_a_late_offer_for_the_member_who_was_read_first_is_not_shown_to_the_second() -> None:
    board = new_board()
    board.begin((EPOCH, 7), "b1", "member_identified", [], ADA)
    board.begin((EPOCH, 8), "b1", "member_identified", [], GRACE)
    board.push(offer_push(1, EPOCH, 7, "b1", text="for Ada"))
    assert titles(board) == []
    board.push(offer_push(2, EPOCH, 8, "b1", text="for Grace"))
    assert titles(board) == ["for Grace"]


def test_an_offer_waits_for_its_basket_and_for_its_member() -> None:
    board = new_board()
    board.begin((EPOCH, 7), "b1", "member_identified", [], ADA)
    board.begin((EPOCH, 8), "b2", "member_identified", [], GRACE)
    board.push(offer_push(1, EPOCH, 7, "b1", text="for Ada"))
    assert titles(board) == []
    board.begin((EPOCH, 9), "b1", "transaction", [])
    assert titles(board) == [], "nobody was identified in the basket that was taken up again"
    board.begin((EPOCH, 10), "b1", "transaction", [], ADA)
    assert titles(board) == ["for Ada"]


def test_a_basket_that_is_left_empties_the_board_and_only_if_it_is_at_hand() -> None:
    board = new_board()
    board.begin((EPOCH, 0), "b1", "member_identified", [offer(1)], ADA)
    board.end("b2")
    assert titles(board) == ["A coffee on us"]
    board.end("b1")
    view = board.take()
    assert (view.offers, view.member, view.strip) == ((), "", None)
    assert board.basket == ""


def test_what_the_basket_no_longer_earns_goes_and_what_it_earns_stays() -> None:
    board = new_board()
    board.begin((EPOCH, 0), "b1", "member_identified", [edge(1, "for the member")], ADA)
    board.revise("b1", [edge(2, "for two"), edge(3, "for three")], ADA)
    board.push(offer_push(4, EPOCH, 0, "b1", text="from head office"))
    board.revise("b1", [edge(3, "for three")], ADA)
    assert titles(board) == ["for the member", "for three", "from head office"]


def test_what_was_answered_does_not_come_back_with_the_next_change_of_the_basket() -> None:
    board = new_board()
    board.revise("b1", [edge(1, "two for one")])
    board.answered(offer(1).offer_id)
    board.revise("b1", [edge(1, "two for one")])
    board.begin((EPOCH, 1), "b1", "transaction", [edge(1, "two for one")])
    assert titles(board) == []


def test_a_change_of_an_open_basket_turns_the_board_to_it_and_to_its_member() -> None:
    board = new_board()
    board.revise("b1", [edge(1, "two for one")], ADA)
    before = board.take()
    board.revise("b1", [edge(1, "two for one")], ADA)
    assert board.take() == before, "nothing changed, so no screen is woken"
    board.revise("b1", [edge(2, "three for two")], GRACE)
    view = board.take()
    assert [card.title for card in view.offers] == ["three for two"]
    assert view.member != before.member
    board.revise("b2", [])
    assert (titles(board), board.take().strip) == ([], None)


def test_a_question_is_not_among_the_offers_and_is_asked_once() -> None:
    board = new_board()
    board.revise("b1", [asks(1), offer(2), asks(3, "range")])
    assert titles(board) == ["A coffee on us"]
    assert question(board) == "nps"
    board.asked(offer(1).offer_id)
    assert question(board) == "range"
    board.revise("b1", [asks(1), asks(3, "range"), asks(4, "nps")])
    assert question(board) == "range", "nps was asked already, by another campaign"
    board.asked(offer(3).offer_id)
    assert question(board) is None
    board.revise("b2", [asks(1), asks(5, "range")])
    assert question(board) == "range", "the next customer is asked what was asked before, by an offer of their own"
    board.asked(bytes(16))


def test_a_decision_may_give_and_ask() -> None:
    both = msgspec.structs.replace(offer(1), effects=(CustomerMessage("A coffee on us"), Prompt("With milk?", "milk")))
    board = new_board()
    board.begin((EPOCH, 0), "b1", "transaction", [both])
    assert (titles(board), question(board)) == (["A coffee on us"], "milk")
    board.answered(both.offer_id)
    assert (titles(board), question(board)) == ([], "milk")
    assert not board.empty
    board.asked(both.offer_id)
    assert board.empty


def test_a_question_is_reported_as_shown_like_an_offer() -> None:
    shown: list[bytes] = []

    def report(card: Card) -> bool:
        shown.append(card.offer_id)
        return True

    board = Board(TurnedClock(NOW_MS), report)
    board.begin((EPOCH, 0), "b1", "transaction", [asks(1)])
    board.take()
    board.take()
    assert shown == [offer(1).offer_id]


@pytest.mark.parametrize("mode", ["kind", "none"])
def test_the_strip_says_no_more_than_the_setting_allows(mode: str) -> None:
    board = Board(TurnedClock(NOW_MS), lambda _: True, os.urandom, mode)  # type: ignore[arg-type]
    board.begin((EPOCH, 0), "b1", "member_identified", [], ADA)
    view = board.take()
    assert view.member
    assert view.strip is None or view.strip.tail == ""


STEP = st.tuples(
    st.sampled_from(["begin", "begin", "push", "end", "answer"]),
    st.sampled_from(["", "b1", "b2"]),
    st.sampled_from([None, "ada", "grace"]),
    st.integers(0, 12),
)
WHO = {None: (), "ada": ADA, "grace": GRACE}


@given(st.lists(STEP, max_size=40))
def test_no_interleaving_shows_one_customers_offer_to_another(steps: list[tuple[str, str, str | None, int]]) -> None:
    """A model beside the board: whose record caused an offer, and who is at the till."""
    board = new_board()
    causes: dict[int, tuple[str, str | None, int]] = {}  # seq → basket, member, occasion
    basket, member, occasion = "", None, 0
    for number, (step, its_basket, who, of) in enumerate(steps):
        if step == "begin":
            changed = who is not None and member is not None and who != member
            if not its_basket or its_basket != basket or changed:
                member, occasion = None, occasion + 1
            basket, member = its_basket, member or who
            causes[number] = (basket, member, occasion)
            made = offer(1000 + number, text=f"{number}")
            board.begin((EPOCH, number), its_basket, "transaction", [made], WHO[who])
        elif step == "push" and of in causes:
            pushed = offer(2000 + number, text=f"{of}")
            board.push(OfferPush(pushed, EPOCH, of, causes[of][0]))
        elif step == "end":
            if its_basket == basket:
                basket, member, occasion = "", None, occasion + 1
            board.end(its_basket)
        elif step == "answer":
            for card in board.cards()[:1]:
                board.answered(card.offer_id)
        for title in titles(board):
            of_basket, of_member, of_occasion = causes[int(title)]
            assert of_occasion == occasion or (of_basket and of_basket == basket and of_member in (None, member))
