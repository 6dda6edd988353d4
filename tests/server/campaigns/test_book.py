"""What head office may write into the book, and what the book then gives."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from support.campaigning import NOW, RETAILER, Server, campaign
from tillstream_protocol.codec import encode
from tillstream_protocol.errors import InvalidInput, TooLarge
from tillstream_server.campaigns import book as books
from tillstream_server.campaigns.book import CampaignBook, UnknownCampaign, parse

FILE: dict[str, Any] = {
    "id": "welcome",
    "version": 1,
    "name": "Welcome back",
    "trigger": "transaction",
    "condition": {">=": [{"var": "sale.total"}, 1000]},
    "effects": [{"type": "points", "text": "50 points", "points": 50}],
}


def file(**changes: Any) -> bytes:
    return json.dumps({**FILE, **changes}).encode()


def test_a_campaign_file_becomes_a_campaign() -> None:
    assert parse(file(priority=5)).priority == 5


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"colour": "red"}, "colour"),
        ({"version": 0}, "version"),
        ({"trigger": "midnight"}, "trigger"),
        ({"effects": []}, "effects"),
        ({"effects": [{"type": "fireworks", "text": "!"}]}, "effects[0].type"),
        ({"effects": [{"type": "discount", "text": "-1"}]}, "effects[0]"),
        ({"effects": [{"type": "discount", "text": "-1", "amount": 1, "basis_points": 1}]}, "effects[0]"),
        ({"effects": [{"type": "discount", "text": "-1", "amount": 100}]}, "effects[0]"),
        (
            {"effects": [{"type": "discount", "text": "-1", "basis_points": 1, "currency": "USD"}]},
            "effects[0].currency",
        ),
        ({"effects": [{"type": "discount", "text": "-1", "basis_points": 100, "scope": "line"}]}, "effects[0].sku"),
        ({"effects": [{"type": "discount", "text": "-1", "basis_points": 100, "sku": "A"}]}, "effects[0].sku"),
        ({"condition": {">=": [{"var": "sale.mood"}, 1]}}, "condition.>=[0]"),
        ({"condition": {"var": "sale.total"}}, "condition"),
        ({"condition": {">=": [{"var": "sale.total"}, 2**60]}}, "condition.>=[1]"),
        ({"trigger": "member_identified"}, "condition"),
        ({"trigger": "basket", "condition": {">": [{"var": "member.visits"}, 3]}}, "condition"),
        ({"trigger": "basket", "once_per": "member"}, "once_per"),
        ({"budget": {"units": 5, "lease": 6}}, "budget.lease"),
        ({"stores": ["north", "north"]}, "stores"),
    ],
)
def test_what_is_not_sound_is_refused_by_its_place(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse(file(**changes))
    assert refused.value.field == field


def test_a_file_over_the_limit_is_refused() -> None:
    with pytest.raises(TooLarge):
        parse(file(name="x" * books.MAX_CAMPAIGN))


async def test_the_book_starts_at_version_1_and_grows_with_each_change(server: Server) -> None:
    assert server.book.version(RETAILER) == 1
    await server.puts(campaign("a"))
    await server.puts(campaign("b"))
    await server.ends("a")
    async with server.database.read() as conn:
        assert (await server.book.refresh(conn, RETAILER)).version == 4
    assert [rule.campaign.id for rule in server.book.rules(RETAILER)] == ["b"]


async def test_a_new_version_takes_the_place_of_the_old_one_which_stays_readable(server: Server) -> None:
    await server.puts(campaign(version=1), campaign(version=2, priority=1))
    async with server.database.read() as conn:
        shelf = await server.book.refresh(conn, RETAILER)
    assert [rule.campaign.version for rule in shelf.rules] == [2]
    assert set(shelf.every) == {("big-sale", 1), ("big-sale", 2)}


async def test_the_same_campaign_put_again_changes_nothing(server: Server) -> None:
    await server.puts(campaign())
    async with server.database.write() as conn:
        assert await server.book.put(conn, RETAILER, campaign(), NOW) is False
        assert (await server.book.refresh(conn, RETAILER)).version == 2


async def test_a_version_that_does_not_grow_is_refused(server: Server) -> None:
    await server.puts(campaign(version=3))
    with pytest.raises(InvalidInput, match="version 3") as refused:
        await server.puts(campaign(version=3, priority=1))
    assert (refused.value.field, refused.value.limit) == ("version", "at least 4")


async def test_a_campaign_that_ended_cannot_come_back_under_its_old_version(server: Server) -> None:
    await server.puts(campaign(version=1))
    await server.ends("big-sale")
    with pytest.raises(InvalidInput):
        await server.puts(campaign(version=1))
    await server.puts(campaign(version=2))


async def test_ending_what_is_not_active_is_refused(server: Server) -> None:
    with pytest.raises(UnknownCampaign):
        await server.ends("big-sale")


async def test_retailers_do_not_see_each_others_books(server: Server) -> None:
    await server.puts(campaign(), retailer="other")
    async with server.database.read() as conn:
        await server.book.load(conn)
        assert [entry.retailer for entry in await server.book.entries(conn)] == ["other"]
        assert await server.book.entries(conn, RETAILER) == []
    assert server.book.rules(RETAILER) == ()
    assert len(server.book.rules("other")) == 1


async def test_another_book_on_the_same_database_sees_the_change_in_its_next_transaction(server: Server) -> None:
    second = CampaignBook()
    await server.puts(campaign())
    async with server.database.read() as conn:
        await second.load(conn)
    await server.puts(campaign(version=2))
    async with server.database.read() as conn:
        shelf = await second.refresh(conn, RETAILER)
    assert [rule.campaign.version for rule in shelf.rules] == [2]


async def test_what_a_book_takes_is_known_without_reading_it(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, third = campaign("a", version=1), campaign("a", version=2, priority=7), campaign("b")
    await server.puts(first, second)
    async with server.database.write() as conn:
        await conn.exec_driver_sql("UPDATE campaign SET body = 'not to be read'")
    monkeypatch.setattr(books, "MAX_BOOK", len(encode(second)) + len(encode(third)))
    await server.puts(third)
    monkeypatch.setattr(books, "MAX_BOOK", books.MAX_BOOK - 1)
    with pytest.raises(TooLarge, match=f"{books.MAX_BOOK + 1} bytes of active campaigns"):
        await server.puts(msgspec.structs.replace(third, version=2))


async def test_a_book_that_tills_could_not_carry_is_refused(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    await server.puts(campaign("a"))
    monkeypatch.setattr(books, "MAX_ACTIVE", 1)
    with pytest.raises(TooLarge, match="2 active campaigns"):
        await server.puts(campaign("b"))
    monkeypatch.setattr(books, "MAX_ACTIVE", 10)
    monkeypatch.setattr(books, "MAX_BOOK", 100)
    with pytest.raises(TooLarge, match="bytes of active campaigns"):
        await server.puts(campaign("b"))
