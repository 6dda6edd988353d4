"""Baskets over the counter: effects while they are open, one record when they end, nothing twice and nothing stale."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support.agents import WELCOME, counter, member, sale
from support.baskets import BIG, CARD, OTHER_CARD, basket, bodies, lines, offers, on_board, recorded, told
from support.disks import FULL, TroubledDisk
from tillstream_agent.baskets import MOST, StaleRevision
from tillstream_agent.hooks.counter import BasketBody, SurveyBody, Taken
from tillstream_agent.journal import JournalError
from tillstream_protocol.decisions import Budget, Campaign
from tillstream_protocol.effects import CustomerMessage
from tillstream_protocol.errors import InvalidInput
from tillstream_protocol.events import (
    BasketChanged,
    MemberIdentified,
    Observation,
    OfferAnswered,
    SurveyAnswer,
    WishListEntry,
)
from tillstream_protocol.pack import Lease
from tillstream_protocol.transaction import Customer, Identifier, Line, Transaction


async def test_an_open_basket_is_answered_with_what_holds_for_it_now_and_captures_nothing(tmp_path: Path) -> None:
    async with counter(tmp_path, BIG) as at:
        assert offers(told(at, basket(1, "open", 4000))) == []
        assert offers(told(at, basket(2, "open", 4000, 1500))) == ["big"]
        assert on_board(at) == ["big"]
        reply = told(at, basket(3, "open", 4000))
        assert (offers(reply), on_board(at)) == ([], [])
        assert (reply.basket, reply.revision, reply.state) == ("b1", 3, "open")
        assert await recorded(at) == []


async def test_a_line_that_is_void_does_not_count(tmp_path: Path) -> None:
    async with counter(tmp_path, BIG) as at:
        voided = (*lines(4000), Line(seq=9, amount=1500, void=True))
        assert offers(told(at, BasketBody(1, "open", voided))) == []
        assert offers(told(at, BasketBody(2, "open", voided, total=5000))) == ["big"], "a total that is said counts"


async def test_closing_captures_the_sale_once_with_what_was_offered(tmp_path: Path) -> None:
    async with counter(tmp_path, BIG) as at:
        shown = told(at, basket(1, "open", 6000)).effects
        closed = told(at, basket(2, "closed", 6000))
        again = told(at, basket(2, "closed", 6000))
        (record,) = await recorded(at)
        assert isinstance(record.body, Transaction)
        assert [d.offer_id.hex() for d in record.decisions] == [one.offer for one in shown]
        assert (record.version, len(record.basket or b"")) == (2, 16)
        assert (closed.epoch, closed.seq) == (again.epoch, again.seq)
        assert closed.effects == again.effects
        assert (closed.till, closed.ack) == (at.till.keys.till_id.hex(), "os")
        assert on_board(at) == ["big"]


async def test_only_what_was_shown_and_still_holds_is_settled(tmp_path: Path) -> None:
    async with counter(tmp_path, BIG) as at:
        told(at, basket(1, "open", 1000))
        told(at, basket(2, "closed", 6000))
        told(at, basket(1, "open", 6000), "b2")
        told(at, basket(2, "closed", 1000, sale=sale("b2", 1000)), "b2")
        told(at, basket(1, "closed", 6000, sale=sale("b3", 6000)), "b3")
        assert [record.decisions for record in await recorded(at)] == [(), (), ()]


async def test_a_declined_offer_is_neither_made_again_nor_settled(tmp_path: Path) -> None:
    lease = Lease(b"l" * 16, "big", 1)
    campaign = Campaign(**{**_fields(BIG), "budget": Budget(10, 1)})
    async with counter(tmp_path, campaign, leases=(lease,)) as at:
        (offer,) = told(at, basket(1, "open", 6000)).effects
        at.desk.answer(offer.offer, "declined")
        assert offers(told(at, basket(2, "open", 7000))) == []
        told(at, basket(3, "closed", 7000))
        answered, sold = await recorded(at)
        assert isinstance(answered.body, OfferAnswered)
        assert sold.decisions == ()
        assert at.journal.spent == {}


async def test_a_lease_is_drawn_on_by_the_sale_alone(tmp_path: Path) -> None:
    lease = Lease(b"l" * 16, "big", 1)
    campaign = Campaign(**{**_fields(BIG), "budget": Budget(10, 1)})
    async with counter(tmp_path, campaign, leases=(lease,)) as at:
        told(at, basket(1, "open", 6000))
        told(at, basket(1, "open", 6000), "b2")
        assert at.journal.spent == {}
        told(at, basket(2, "closed", 6000))
        assert at.journal.spent == {lease.id: 1}
        (outcome,) = told(at, basket(2, "open", 6100), "b2").effects
        assert (outcome.outcome, outcome.reason) == ("refused", "budget_exhausted")


async def test_a_member_is_captured_once_and_stays_with_the_basket(tmp_path: Path) -> None:
    async with counter(tmp_path, WELCOME, BIG) as at:
        assert offers(told(at, basket(1, "open", 100, identifiers=CARD))) == ["welcome"]
        assert offers(told(at, basket(2, "open", 100, 5000, identifiers=CARD))) == ["welcome", "big"]
        told(at, basket(3, "closed", 5100))
        identified, sold = await recorded(at)
        assert isinstance(identified.body, MemberIdentified)
        assert isinstance(sold.body, Transaction)
        assert sold.body.customer == Customer(identifiers=CARD)
        assert identified.basket == sold.basket


async def test_a_sale_that_names_somebody_itself_keeps_that(tmp_path: Path) -> None:
    async with counter(tmp_path) as at:
        told(at, basket(1, "open", 100, identifiers=CARD))
        named = Transaction(**{**_fields(sale("b1", 100)), "customer": Customer(identifiers=OTHER_CARD)})
        told(at, basket(2, "closed", 100, sale=named))
        sold = (await recorded(at))[-1].body
        assert isinstance(sold, Transaction)
        assert sold.customer == Customer(identifiers=OTHER_CARD)


async def test_another_member_on_the_same_basket_sees_nothing_of_the_former_one(tmp_path: Path) -> None:
    async with counter(tmp_path, WELCOME) as at:
        (first,) = told(at, basket(1, "open", 100, identifiers=CARD)).effects
        (second,) = told(at, basket(2, "open", 100, identifiers=OTHER_CARD)).effects
        assert first.offer != second.offer
        assert [card.offer_id.hex() for card in at.board.cards()] == [second.offer]
        assert bodies(await recorded(at)) == ["MemberIdentified", "MemberIdentified"]


async def test_a_member_who_identified_beforehand_is_not_captured_again(tmp_path: Path) -> None:
    async with counter(tmp_path, WELCOME) as at:
        at.desk.identify(member(basket="b1"))
        assert offers(told(at, basket(1, "open", 100, identifiers=member().identifiers))) == ["welcome"]
        assert bodies(await recorded(at)) == ["MemberIdentified"]


async def test_a_card_number_identifies_nobody_and_does_no_harm(tmp_path: Path) -> None:
    async with counter(tmp_path, BIG) as at:
        number = (Identifier("card", "4111111111111111"),)
        assert offers(told(at, basket(1, "open", 6000, identifiers=number))) == ["big"]
        assert await recorded(at) == []


@pytest.mark.parametrize(("revision", "amount"), [(2, 100), (3, 200)])
async def test_a_stale_change_is_refused_by_name_and_changes_nothing(
    tmp_path: Path, revision: int, amount: int
) -> None:
    async with counter(tmp_path, BIG) as at:
        told(at, basket(3, "open", 6000))
        with pytest.raises(StaleRevision) as refused:
            at.desk.basket("b1", basket(revision, "open", amount))
        assert (refused.value.code, refused.value.field, refused.value.limit) == (
            "stale_revision",
            "revision",
            "more than 3",
        )
        assert on_board(at) == ["big"]


async def test_the_same_change_again_is_answered_alike(tmp_path: Path) -> None:
    async with counter(tmp_path, WELCOME, BIG) as at:
        body = basket(1, "open", 6000, identifiers=CARD)
        first = told(at, body)
        version = at.board.version
        assert told(at, body) == first
        assert at.board.version == version
        assert len(await recorded(at)) == 1


@pytest.mark.parametrize("state", ["suspended", "voided"])
async def test_a_basket_that_is_put_aside_or_voided_is_told_of_and_leaves_the_screen(
    tmp_path: Path, state: str
) -> None:
    async with counter(tmp_path, BIG) as at:
        told(at, basket(1, "open", 6000, identifiers=CARD, currency="USD"))
        reply = told(at, BasketBody(2, state))  # type: ignore[arg-type]
        assert (reply.effects, on_board(at)) == ((), [])
        record = (await recorded(at))[-1]
        change = record.body
        assert isinstance(change, BasketChanged)
        assert (change.state, change.lines, change.total, change.currency) == (state, 1, 6000, "USD")
        assert change.identifiers == CARD
        assert reply.seq == 1
        again = at.desk.basket("b1", BasketBody(2, state))  # type: ignore[arg-type]
        assert again.repeat
        assert await recorded(at) == []


async def test_a_suspended_basket_is_taken_up_again(tmp_path: Path) -> None:
    async with counter(tmp_path, BIG) as at:
        told(at, basket(1, "suspended", 6000))
        assert offers(told(at, basket(2, "open", 6000))) == ["big"]
        told(at, basket(3, "closed", 6000))
        records = await recorded(at)
        states = [record.body.state for record in records if isinstance(record.body, BasketChanged)]
        assert states == ["suspended", "resumed"]
        assert len({record.basket for record in records}) == 1


async def test_an_id_that_comes_again_is_another_basket(tmp_path: Path) -> None:
    async with counter(tmp_path, BIG) as at:
        (first,) = told(at, basket(1, "open", 6000)).effects
        told(at, basket(2, "closed", 6000))
        (second,) = told(at, basket(3, "open", 6000)).effects
        assert first.offer != second.offer
        assert on_board(at) == ["big"]


async def test_a_sale_by_the_plain_call_closes_the_basket_of_its_id(tmp_path: Path) -> None:
    async with counter(tmp_path, BIG) as at:
        (shown,) = told(at, basket(1, "open", 6000)).effects
        captured = at.desk.transaction(sale("b1", 6000))
        assert [d.offer_id.hex() for d in captured.decisions] == [shown.offer]
        (record,) = await recorded(at)
        assert record.basket is not None


async def test_a_basket_that_is_left_alone_is_given_up(tmp_path: Path) -> None:
    async with counter(tmp_path, BIG) as at:
        told(at, basket(1, "open", 6000))
        at.clock.turn(100)
        told(at, basket(1, "open", 6000), "b2")
        at.baskets.abandon(100)
        (record,) = await recorded(at)
        assert isinstance(record.body, BasketChanged)
        assert (record.body.basket, record.body.state) == ("b1", "abandoned")
        assert on_board(at) == ["big"], "another one stands at the till"
        at.clock.turn(100)
        at.baskets.abandon(100)
        assert on_board(at) == []


async def test_a_basket_without_a_change_is_given_up_without_a_word(tmp_path: Path) -> None:
    async with counter(tmp_path) as at:
        at.desk.identify(member(basket="b1"))
        at.clock.turn(100)
        at.baskets.abandon(100)
        assert bodies(await recorded(at)) == ["MemberIdentified"]


async def test_only_so_many_baskets_are_remembered(tmp_path: Path) -> None:
    async with counter(tmp_path) as at:
        for n in range(MOST + 1):
            told(at, basket(5, "open", 100), f"b{n}")
        assert told(at, basket(1, "open", 100), "b0").revision == 1
        with pytest.raises(StaleRevision):
            at.desk.basket(f"b{MOST}", basket(1, "open", 100))


async def test_an_open_basket_is_answered_while_the_disk_is_full(tmp_path: Path) -> None:
    disk = TroubledDisk(tmp_path / "journal")
    async with counter(tmp_path, BIG, disk=disk) as at:
        told(at, basket(1, "suspended", 6000))
        disk.trouble.write = disk.trouble.create = FULL
        assert offers(told(at, basket(2, "open", 6000, identifiers=CARD))) == ["big"]
        for state in ("suspended", "voided", "closed"):
            with pytest.raises(JournalError):
                at.desk.basket("b1", basket(3, state, 6000))
        at.clock.turn(1000)
        at.baskets.abandon(100)
        disk.trouble.write = disk.trouble.create = None
        assert offers(told(at, basket(3, "open", 6000, identifiers=CARD))) == ["big"]
        assert bodies(await recorded(at)) == ["BasketChanged", "MemberIdentified"]


@pytest.mark.parametrize(
    ("basket_id", "body", "field"),
    [
        ("", basket(1), "id"),
        ("b" * 129, basket(1), "id"),
        ("b1", BasketBody(1, "closed"), "sale"),
        ("b1", BasketBody(1, "open", sale=sale()), "sale"),
    ],
)
async def test_what_is_no_change_is_refused_by_name(
    tmp_path: Path, basket_id: str, body: BasketBody, field: str
) -> None:
    async with counter(tmp_path) as at:
        with pytest.raises(InvalidInput) as refused:
            at.desk.basket(basket_id, body)
        assert refused.value.field == field
        assert await recorded(at) == []


async def test_what_is_said_over_a_basket_lies_with_its_member(tmp_path: Path) -> None:
    async with counter(tmp_path) as at:
        told(at, basket(1, "open", 100, identifiers=CARD))
        at.desk.remark(Observation("other_bags", "two of a rival's", basket="b1"))
        at.desk.remark(SurveyBody("nps", "9", offer="ab" * 16, basket="b1"))
        at.desk.remark(WishListEntry("A2", "in blue", identifiers=OTHER_CARD, basket="b1"))
        at.desk.remark(Observation("in_a_hurry"))
        identified, seen, said, wished, alone = await recorded(at)
        assert isinstance(seen.body, Observation)
        assert isinstance(said.body, SurveyAnswer)
        assert isinstance(wished.body, WishListEntry)
        assert isinstance(alone.body, Observation)
        assert [r.body.identifiers for r in (seen, said, wished, alone)] == [CARD, CARD, OTHER_CARD, ()]  # type: ignore[union-attr]
        assert said.body.offer_id == b"\xab" * 16
        assert {r.basket for r in (identified, seen, said, wished)} == {identified.basket}
        assert (alone.basket, alone.body.at) == (None, at.clock.now_ms())
        assert alone.body.event_id, "the till names what the POS does not"


async def test_a_remark_with_an_id_comes_once(tmp_path: Path) -> None:
    async with counter(tmp_path) as at:
        first = at.desk.remark(Observation("other_bags", event_id="e1"))
        again = at.desk.remark(Observation("other_bags", event_id="e1"))
        assert (again.name, again.repeat) == (first.name, True)
        other = at.desk.remark(WishListEntry("A2", event_id="e1"))
        assert not other.repeat, "another kind has ids of its own"


async def test_a_card_number_in_a_remark_is_cut(tmp_path: Path) -> None:
    async with counter(tmp_path) as at:
        at.desk.remark(Observation("note", "pays with 4111 1111 1111 1111"))
        (record,) = await recorded(at)
        assert isinstance(record.body, Observation)
        assert "4111 1111 1111 1111" not in record.body.text
        assert record.redactions == 1
        assert at.telling.counted("redactions") == 1


@pytest.mark.parametrize(
    ("given", "field"),
    [(SurveyBody("nps"), "answer"), (WishListEntry(), "text"), (SurveyBody("q", "1", offer="x"), "offer")],
)
async def test_a_remark_that_says_nothing_is_refused(
    tmp_path: Path, given: SurveyBody | WishListEntry, field: str
) -> None:
    async with counter(tmp_path) as at:
        with pytest.raises(InvalidInput) as refused:
            at.desk.remark(given)
        assert refused.value.field == field


async def test_three_offers_are_the_most_whoever_they_are_for(tmp_path: Path) -> None:
    more = [Campaign(**{**_fields(BIG), "id": f"big-{n}"}) for n in range(4)]
    thanks = Campaign(
        id="thanks",
        version=1,
        name="Thanks",
        trigger="transaction",
        condition={"==": [1, 1]},
        effects=(CustomerMessage("Thank you"),),
    )
    async with counter(tmp_path, WELCOME, thanks, *more) as at:
        reply = told(at, basket(1, "open", 6000, identifiers=CARD))
        assert offers(reply) == ["welcome", "big-0", "big-1"]
        closed = told(at, basket(2, "closed", 6000))
        assert offers(closed) == ["welcome", "big-0", "big-1", "thanks"]
        assert len(at.board.cards()) == 3


async def test_a_taken_change_knows_whether_anything_was_captured(tmp_path: Path) -> None:
    async with counter(tmp_path) as at:
        taken = at.desk.basket("b1", basket(1, "open", 100))
        assert isinstance(taken, Taken)
        assert taken.repeat
        await at.desk.durable(taken)
        assert not at.desk.basket("b1", basket(2, "closed", 100)).repeat


def _fields(struct: Any) -> dict[str, Any]:
    return {name: getattr(struct, name) for name in struct.__struct_fields__}
