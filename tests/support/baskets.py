"""A POS that tells a till's counter of baskets, and what comes of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from support.agents import FAST, Counter, sale
from tillstream_agent.hooks.counter import BasketBody, BasketReply
from tillstream_agent.journal import Name
from tillstream_protocol.codec import record_decoder
from tillstream_protocol.decisions import Campaign
from tillstream_protocol.effects import Discount
from tillstream_protocol.events import Record
from tillstream_protocol.transaction import Identifier, Line

BIG = Campaign(
    id="big",
    version=1,
    name="Five off a big basket",
    trigger="basket",
    condition={">=": [{"var": "sale.total"}, 5000]},
    effects=(Discount("5 off", amount=500, currency="USD"),),
)
CARD = (Identifier("loyalty", "4711"),)
OTHER_CARD = (Identifier("loyalty", "815"),)
decode = record_decoder(limit=FAST.record)


def lines(*amounts: int) -> tuple[Line, ...]:
    return tuple(Line(seq=n, amount=amount, sku=f"s{n}") for n, amount in enumerate(amounts))


def basket(revision: int, state: Any = "open", *amounts: int, **more: Any) -> BasketBody:
    """A basket with these amounts in it; a closed one is a sale of their sum."""
    if state == "closed" and "sale" not in more:
        more["sale"] = sale("b1", sum(amounts))
    return BasketBody(revision, state, lines(*amounts), **more)


def told(at: Counter, body: BasketBody, basket_id: str = "b1") -> BasketReply:
    """The reply to a change."""
    reply = at.desk.reply(at.desk.basket(basket_id, body), "os")
    assert isinstance(reply, BasketReply)
    return reply


def offers(reply: BasketReply) -> list[str]:
    return [outcome.campaign for outcome in reply.effects if outcome.outcome == "offered"]


def on_board(at: Counter) -> list[str]:
    return [card.campaign for card in at.board.cards()]


async def recorded(at: Counter) -> list[Record]:
    """Every record so far, in order."""
    epoch, seq = at.journal.position.epoch, at.journal.position.seq
    if seq:
        await at.journal.synced(Name(epoch, seq - 1))
    return [decode(plain) for plain in at.till.drain(at.journal)]


def bodies(records: Sequence[Record]) -> list[str]:
    return [type(record.body).__name__ for record in records]
