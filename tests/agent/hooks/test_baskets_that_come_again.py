"""Ids that come again, calls that are said again, members that change: what a till must not mix up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from support.agents import WELCOME, Counter, counter, sale
from support.baskets import BIG, CARD, OTHER_CARD, basket, bodies, offers, on_board, recorded, told
from support.disks import FULL, TroubledDisk
from tillstream_agent.baskets import MOST, RECENT_S, StaleRevision
from tillstream_agent.hooks.counter import SurveyBody
from tillstream_agent.journal import JournalError
from tillstream_protocol.decisions import Budget, Campaign
from tillstream_protocol.effects import Discount
from tillstream_protocol.events import BasketChanged, Observation, Record, SurveyAnswer
from tillstream_protocol.pack import Lease
from tillstream_protocol.transaction import Customer, Identifier, Transaction

FOR_MEMBERS = Campaign(
    id="known",
    version=1,
    name="One off for members",
    trigger="basket",
    condition={"var": "member.known"},
    effects=(Discount("1 off", amount=100, currency="USD"),),
)
LEASE = Lease(b"l" * 16, "big", 1)


async def sales(at: Counter) -> list[Record]:
    return [record for record in await recorded(at) if isinstance(record.body, Transaction)]


def member_of(record: Record) -> Customer | None:
    assert isinstance(record.body, Transaction)
    return record.body.customer


# An id that comes again


async def test_a_sale_is_captured_whatever_is_known_under_its_baskets_id(tmp_path: Path) -> None:
    async with counter(tmp_path) as at:
        told(at, basket(5, "closed", 6000))
        told(at, basket(1, "closed", 900, sale=msgspec.structs.replace(sale("b1", 900), business_date="2026-01-02")))
        assert len(await sales(at)) == 2


async def test_an_open_basket_may_begin_anew_once_the_one_before_it_is_long_over(tmp_path: Path) -> None:
    async with counter(tmp_path, BIG) as at:
        told(at, basket(5, "closed", 6000))
        with pytest.raises(StaleRevision):
            at.desk.basket("b1", basket(1, "open", 6000))
        at.clock.turn(RECENT_S)
        assert offers(told(at, basket(1, "open", 6000))) == ["big"]


async def test_the_next_customers_sale_is_not_the_former_members(tmp_path: Path) -> None:
    async with counter(tmp_path) as at:
        told(at, basket(1, "open", 100, identifiers=CARD))
        told(at, basket(2, "closed", 100))
        told(at, basket(3, "closed", 700, sale=sale("other", 700)))
        first, second = await sales(at)
        assert (member_of(first), member_of(second)) == (Customer(identifiers=CARD), None)
        assert first.basket != second.basket


async def test_a_sale_that_is_corrected_stays_with_its_basket(tmp_path: Path) -> None:
    async with counter(tmp_path) as at:
        told(at, basket(1, "open", 100, identifiers=CARD))
        told(at, basket(2, "closed", 100))
        told(at, basket(3, "closed", 200, sale=msgspec.structs.replace(sale("b1", 200), revision=1)))
        first, second = await sales(at)
        assert member_of(second) == Customer(identifiers=CARD)
        assert first.basket == second.basket


@pytest.mark.parametrize(
    "changes", [{"business_date": "2025-12-31"}, {"training": True}, {"test": True}, {"store": "south"}, {"till": "9"}]
)
async def test_a_sale_that_is_not_rung_up_here_and_now_closes_nothing(tmp_path: Path, changes: dict[str, Any]) -> None:
    campaign = msgspec.structs.replace(BIG, budget=Budget(10, 1))
    async with counter(tmp_path, campaign, leases=(LEASE,)) as at:
        told(at, basket(1, "open", 6000))
        at.desk.transaction(
            msgspec.structs.replace(sale("b1", 6000), **changes), at_hand="business_date" not in changes
        )
        assert at.journal.spent == {}
        told(at, basket(2, "closed", 6000, sale=sale("b1", 6001)))
        assert at.journal.spent == {LEASE.id: 1}


async def test_an_old_sale_said_again_ends_no_basket(tmp_path: Path) -> None:
    async with counter(tmp_path, BIG) as at:
        at.desk.transaction(sale("b1", 100))
        told(at, basket(1, "open", 6000))
        assert at.desk.transaction(sale("b1", 100)).repeat
        assert offers(told(at, basket(2, "open", 6100))) == ["big"]


# What is said again


async def test_a_closing_said_again_after_a_remark_is_a_repeat(tmp_path: Path) -> None:
    async with counter(tmp_path) as at:
        told(at, basket(1, "open", 100, identifiers=CARD))
        told(at, basket(2, "closed", 100))
        at.desk.remark(Observation("bags", basket="b1"))
        told(at, basket(2, "closed", 100))
        assert len(await sales(at)) == 1


@pytest.mark.parametrize("arrived", [True, False])
async def test_a_closing_that_comes_after_the_next_basket_began_is_captured_and_ends_nothing(
    tmp_path: Path, *, arrived: bool
) -> None:
    async with counter(tmp_path, BIG) as at:
        closed = basket(2, "closed", 6000)
        if arrived:
            told(at, closed)
        told(at, basket(3, "open", 6100))
        assert told(at, closed).state == "closed"
        assert offers(told(at, basket(4, "open", 6200))) == ["big"]
        assert len(await sales(at)) == 1


@pytest.mark.parametrize("plain_first", [True, False])
async def test_a_sale_by_both_calls_is_one_and_has_its_member(tmp_path: Path, *, plain_first: bool) -> None:
    async with counter(tmp_path, FOR_MEMBERS) as at:
        told(at, basket(1, "open", 100, identifiers=CARD))
        for plain in (plain_first, not plain_first):
            if plain:
                at.desk.transaction(sale("b1", 100))
            else:
                told(at, basket(2, "closed", 100))
        (record,) = await sales(at)
        assert member_of(record) == Customer(identifiers=CARD)
        assert [decision.campaign for decision in record.decisions] == ["known"]


@pytest.mark.parametrize("meanwhile", ["identified", "closed"])
async def test_a_remark_said_again_is_a_repeat_whatever_became_of_its_basket(tmp_path: Path, meanwhile: str) -> None:
    async with counter(tmp_path) as at:
        told(at, basket(1, "open", 100, identifiers=CARD if meanwhile == "closed" else ()))
        at.desk.remark(Observation("bags", event_id="e1", basket="b1"))
        told(at, basket(2, "closed", 100) if meanwhile == "closed" else basket(2, "open", 100, identifiers=CARD))
        assert at.desk.remark(Observation("bags", event_id="e1", basket="b1")).repeat


async def test_what_is_said_after_the_sale_lies_with_its_member_too(tmp_path: Path) -> None:
    async with counter(tmp_path) as at:
        told(at, basket(1, "open", 100, identifiers=CARD))
        told(at, basket(2, "closed", 100))
        at.desk.remark(SurveyBody("nps", text="my number is …", basket="b1"))
        *_, sold, said = await recorded(at)
        assert isinstance(said.body, SurveyAnswer)
        assert (said.body.identifiers, said.basket) == (CARD, sold.basket)


# Offers


async def test_a_declined_greeting_does_not_come_back(tmp_path: Path) -> None:
    async with counter(tmp_path, WELCOME) as at:
        (offer,) = told(at, basket(1, "open", 100, identifiers=CARD)).effects
        at.desk.answer(offer.offer, "declined")
        assert offers(told(at, basket(2, "open", 200, identifiers=CARD))) == []


async def test_a_greeting_expires(tmp_path: Path) -> None:
    async with counter(tmp_path, WELCOME) as at:
        told(at, basket(1, "open", 100, identifiers=CARD))
        at.clock.turn(2 * 86_400)
        assert offers(told(at, basket(2, "open", 200, identifiers=CARD))) == []


async def test_a_customer_may_think_better_of_it(tmp_path: Path) -> None:
    async with counter(tmp_path, BIG) as at:
        (offer,) = told(at, basket(1, "open", 6000)).effects
        at.desk.answer(offer.offer, "declined")
        at.desk.answer(offer.offer, "accepted")
        assert offers(told(at, basket(2, "closed", 6000))) == ["big"]


async def test_a_decline_holds_though_it_cannot_be_captured(tmp_path: Path) -> None:
    disk = TroubledDisk(tmp_path / "journal")
    async with counter(tmp_path, BIG, disk=disk) as at:
        (offer,) = told(at, basket(1, "open", 6000)).effects
        disk.trouble.write = disk.trouble.create = FULL
        with pytest.raises(JournalError):
            at.desk.answer(offer.offer, "declined")
        disk.trouble.write = disk.trouble.create = None
        assert offers(told(at, basket(2, "closed", 6000))) == []


async def test_the_page_drops_what_the_sale_did_not_settle(tmp_path: Path) -> None:
    async with counter(tmp_path, BIG) as at:
        told(at, basket(1, "open", 6000))
        assert offers(told(at, basket(2, "closed", 100))) == []
        assert on_board(at) == []


# Members


async def test_nobody_sees_anothers_offers_while_the_disk_is_full(tmp_path: Path) -> None:
    disk = TroubledDisk(tmp_path / "journal")
    async with counter(tmp_path, WELCOME, disk=disk) as at:
        told(at, basket(1, "open", 100, identifiers=CARD))
        disk.trouble.write = disk.trouble.create = FULL
        assert offers(told(at, basket(2, "open", 200, identifiers=OTHER_CARD))) == []
        assert on_board(at) == []
        disk.trouble.write = disk.trouble.create = None
        told(at, basket(3, "closed", 200))
        (record,) = await sales(at)
        assert member_of(record) == Customer(identifiers=OTHER_CARD)


async def test_a_member_is_the_same_in_whatever_order_the_names_come(tmp_path: Path) -> None:
    async with counter(tmp_path) as at:
        names = (CARD[0], Identifier("phone", "123456"))
        told(at, basket(1, "open", 100, identifiers=names))
        told(at, basket(2, "open", 100, identifiers=names[::-1]))
        assert bodies(await recorded(at)) == ["MemberIdentified"]


# Many


async def test_a_basket_that_is_put_aside_is_known_after_many_customers(tmp_path: Path) -> None:
    async with counter(tmp_path, BIG) as at:
        told(at, basket(1, "suspended", 6000), "aside")
        for n in range(MOST):
            told(at, basket(1, "closed", 100, sale=sale(f"n{n}", 100)), f"n{n}")
        assert told(at, basket(2, "open", 6000), "aside").state == "open"
        changes = [r.body.state for r in await recorded(at) if isinstance(r.body, BasketChanged)]
        assert changes == ["suspended", "resumed"]


async def test_the_oldest_of_too_many_open_baskets_is_given_up_with_a_word(tmp_path: Path) -> None:
    async with counter(tmp_path) as at:
        for n in range(MOST + 1):
            told(at, basket(1, "open", 100), f"b{n}")
        (record,) = await recorded(at)
        assert isinstance(record.body, BasketChanged)
        assert (record.body.basket, record.body.state) == ("b0", "abandoned")
