"""What a POS tells of its baskets turns the cashier's page, and what is pressed there becomes records."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from support.agents import FAST, WELCOME, sale
from support.cashier import Till, till_with_page
from tillstream_agent.display.actions import Actions, Said
from tillstream_agent.display.board import BoardView
from tillstream_agent.display.page import BUTTONS
from tillstream_agent.journal import Name
from tillstream_protocol.codec import record_decoder
from tillstream_protocol.decisions import Campaign
from tillstream_protocol.effects import Discount, Prompt
from tillstream_protocol.events import Observation, OfferAnswered, Record, SurveyAnswer

BIG = Campaign(
    id="big",
    version=1,
    name="Five off a big basket",
    trigger="basket",
    condition={">=": [{"var": "sale.total"}, 5000]},
    effects=(Discount("5 off", amount=500, currency="USD"), Prompt("How was it?", "nps", ("Good", "Bad"))),
)
ADA = [{"scheme": "loyalty", "value": "9840007160042"}]
GRACE = [{"scheme": "loyalty", "value": "9840007169999"}]
BEARER = {"Authorization": "Bearer " + "k" * 43, "Content-Type": "application/json"}
decode = record_decoder(limit=FAST.record)


@dataclass
class Pos:
    """A POS that tells of its baskets, and the page beside it."""

    till: Till
    client: aiohttp.ClientSession

    async def puts(self, basket: str, revision: int, total: int = 0, state: str = "open", **more: Any) -> None:
        lines = [{"seq": 0, "amount": total, "sku": "1"}] if total else []
        body = msgspec.json.encode({"revision": revision, "state": state, "lines": lines, **more})
        async with self.client.put(f"{self.till.address}/v1/baskets/{basket}", data=body, headers=BEARER) as reply:
            assert reply.status in (200, 201), await reply.text()

    @property
    def view(self) -> BoardView:
        return self.till.behind.board.take()

    def titles(self) -> list[str]:
        return [card.title for card in self.view.offers]

    def tail(self) -> str:
        return self.view.strip.tail if self.view.strip is not None else ""

    def presses(self) -> tuple[Actions, Said]:
        board = self.till.behind.board
        actions = Actions(board, self.till.heard, frozenset(button.kind for button in BUTTONS))
        return actions, Said(basket=self.view.basket, member=self.view.member)

    async def records(self) -> list[Record]:
        behind = self.till.behind
        await behind.journal.synced(Name(behind.journal.position.epoch, behind.journal.position.seq - 1))
        return [decode(plain) for plain in behind.till.drain(behind.journal)]


@pytest.fixture
async def pos(tmp_path: Path) -> AsyncIterator[Pos]:
    async with till_with_page(tmp_path, WELCOME, BIG) as till, aiohttp.ClientSession() as client:
        yield Pos(till, client)


async def test_the_page_follows_an_open_basket_and_its_member(pos: Pos) -> None:
    await pos.puts("b1", 1, 5000)
    assert (pos.titles(), pos.tail()) == (["5 off"], "")
    await pos.puts("b1", 2, 5000, identifiers=ADA)
    assert (sorted(pos.titles()), pos.tail()) == (["5 off", "Nice to see you"], "0042")
    await pos.puts("b1", 3, 400, identifiers=ADA)
    assert (pos.titles(), pos.tail()) == (["Nice to see you"], "0042")


async def test_another_card_in_the_same_basket_is_another_customer(pos: Pos) -> None:
    await pos.puts("b1", 1, 400, identifiers=ADA)
    before = pos.view
    await pos.puts("b1", 2, 400, identifiers=GRACE)
    after = pos.view
    assert pos.tail() == "9999"
    assert before.member != after.member
    assert {card.offer_id for card in before.offers}.isdisjoint(card.offer_id for card in after.offers)


@pytest.mark.parametrize("state", ["suspended", "voided"])
async def test_a_basket_that_is_put_aside_or_voided_leaves_an_empty_page(pos: Pos, state: str) -> None:
    await pos.puts("b1", 1, 5000, identifiers=ADA)
    await pos.puts("b1", 2, state=state)
    assert (pos.titles(), pos.tail(), pos.view.prompt) == ([], "", None)


async def test_a_basket_that_is_taken_up_again_brings_its_member_back(pos: Pos) -> None:
    await pos.puts("b1", 1, 5000, identifiers=ADA)
    await pos.puts("b1", 2, 5000, state="suspended")
    await pos.puts("b2", 1, 5000, identifiers=GRACE)
    assert pos.tail() == "9999"
    await pos.puts("b1", 3, 5000)
    assert pos.tail() == "0042"
    assert "5 off" in pos.titles()


async def test_a_sale_keeps_the_member_of_its_basket(pos: Pos) -> None:
    await pos.puts("b1", 1, 5000, identifiers=ADA)
    told = msgspec.to_builtins(sale("b1", 5000))
    await pos.puts("b1", 2, state="closed", sale=told)
    assert pos.tail() == "0042"
    async with pos.client.post(
        pos.till.address + "/v1/transactions", data=msgspec.json.encode(sale("b2")), headers=BEARER
    ) as reply:
        assert reply.status == 201
    assert pos.tail() == ""


async def test_what_is_pressed_becomes_records_of_that_basket(pos: Pos) -> None:
    await pos.puts("b1", 1, 5000, identifiers=ADA)
    actions, said = pos.presses()
    actions.observe(msgspec.structs.replace(said, kind="in_a_hurry"))
    (big,) = (card for card in pos.view.offers if card.campaign == "big")
    offer = big.offer_id.hex()
    actions.survey(msgspec.structs.replace(said, offer=offer, question="nps", answer="Good"))
    actions.answer(offer, "accepted", said)
    bodies = [record.body for record in await pos.records()]
    (observation,) = (body for body in bodies if isinstance(body, Observation))
    (answer,) = (body for body in bodies if isinstance(body, SurveyAnswer))
    (answered,) = (body for body in bodies if isinstance(body, OfferAnswered))
    assert (observation.kind, observation.basket) == ("in_a_hurry", "b1")
    assert [identifier.value for identifier in observation.identifiers] == ["9840007160042"]
    assert (answer.question, answer.answer, answer.text, answer.offer_id) == ("nps", "Good", "", big.offer_id)
    assert (answered.offer_id, answered.answer) == (big.offer_id, "accepted")
    for kind in ("observation", "survey_answer", "offer_answered"):
        assert pos.till.behind.telling.counted("captures", door="display", kind=kind, ack="os") == 1
