"""What does the till have for a basket, with ever more campaigns in its pack, and the line cut?

The deciding alone, in this process; and the whole way through an agent's socket, from a POS's bytes to the reply that
tells the offer. The last campaign alone applies. Each is for another group of articles, as campaigns are; and once more
with the most campaigns, all such that none can be left out before it is looked at.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from tillstream_agent.clock import SystemClock
from tillstream_agent.folder import Folder
from tillstream_agent.offers.edge import Edge
from tillstream_protocol.decisions import Campaign
from tillstream_protocol.facts import LazyFacts, sale_facts, sale_occasion_key
from tillstream_protocol.pack import Pack, sign_pack
from tillstream_protocol.signing import SignKey
from tillstream_protocol.transaction import Transaction

from .campaigns import all_visited, at_the_till
from .figures import Answer, Conclusion, Row
from .harness import Rounds, Subject, interleave, rows
from .records import RETAILER, STORE, Given, given
from .rivals import NothingDone
from .sizes import Sizes
from .stand import Hook, data, enrol, give, hook, server

QUESTION = "decide"
ALONE, SOCKET = "deciding alone, in process", "through the Unix socket, line cut"
PROMISED_MS = 5
_FAR_MS = 10**10


@dataclass(frozen=True, slots=True)
class _Spent:
    spent: Mapping[bytes, int]


@dataclass(frozen=True, slots=True)
class _Basket:
    given: Given
    body: Transaction


@dataclass(frozen=True, slots=True)
class _Book:
    """So many campaigns of one kind."""

    count: int
    make: Callable[[int], list[dict[str, Any]]]

    @property
    def name(self) -> str:
        return f"{self.count:,} campaigns" + (", all visited" if self.make is all_visited else "")

    def campaigns(self) -> tuple[Campaign, ...]:
        return tuple(msgspec.convert(one, Campaign) for one in self.make(self.count))


async def run(folder: Path, sizes: Sizes) -> Answer:
    """The packs in turn, alone and through agents whose servers are gone."""
    rounds = Rounds.of(sizes.decisions)
    books = [*(_Book(count, at_the_till) for count in sizes.campaigns), _Book(max(sizes.campaigns), all_visited)]
    alone = await interleave([_alone(book) for book in books], ALONE, rounds, _basket, lambda: asyncio.sleep(0))
    async with AsyncExitStack() as stack:
        agents = [await _agent(stack, folder / f"book-{number}", book) for number, book in enumerate(books)]
        subjects = [_through(doors, book) for doors, book in zip(agents, books, strict=True)]
        through = await interleave(subjects, SOCKET, rounds, _basket, lambda: asyncio.sleep(0.002))
    timed = [*rows(QUESTION, alone), *rows(QUESTION, through)]
    return Answer(tuple(timed), conclusions=tuple(_conclusions(timed)))


def _basket(number: int) -> _Basket:
    made = given(number, "decide", 10, "os")
    body = msgspec.convert(made.basket.sale, Transaction)
    return _Basket(made, msgspec.structs.replace(body, retailer=RETAILER, store=STORE, till="1"))


def _alone(book: _Book) -> Subject[_Basket]:
    edge = _edge(book)
    nothing = _Spent({})

    async def decide(basket: _Basket) -> None:
        body = basket.body
        facts = LazyFacts(partial(sale_facts, body))
        decided = edge.decide("transaction", STORE, facts, sale_occasion_key(body), nothing)
        if len(decided) != 1:
            raise NothingDone(f"{len(decided)} decisions came of a pack of {book.name}")

    return Subject(book.name, decide, "ours", "none")


def _edge(book: _Book) -> Edge:
    """A till with so many campaigns in its pack."""
    key, till, clock = SignKey(os.urandom(32)), os.urandom(16), SystemClock()
    edge = Edge(server_public_key=key.public, till_id=till, clock=clock)
    now = clock.now_ms()
    pack = Pack(
        version=1,
        retailer=RETAILER,
        store=STORE,
        till=till,
        issued_ms=now,
        expires_ms=now + _FAR_MS,
        campaigns=book.campaigns(),
        leases=(),
        offer_key=os.urandom(32),
        box_public_key=os.urandom(32),
        escrow_public_key=os.urandom(32),
    )
    edge.accept(sign_pack(pack, key))
    return edge


async def _agent(stack: AsyncExitStack, folder: Path, book: _Book) -> Hook:
    """An agent with so many campaigns in a pack that its server signed, and its server gone."""
    folder.mkdir()
    async with server(folder) as standing:
        await enrol(folder / "till", standing)
    async with data(folder / "server") as parts:
        await give(Folder(folder / "till"), parts.keys.sign, book.campaigns())
    return await stack.enter_async_context(hook(folder / "till", folder))


def _through(doors: Hook, book: _Book) -> Subject[_Basket]:
    async def sell(basket: _Basket) -> None:
        reply = await doors.sell_over_socket(basket.given.call)
        effects = reply["body"].get("effects", ())
        if len(effects) != 1:
            raise NothingDone(f"{len(effects)} effects came of a pack of {book.name}")

    return Subject(book.name, sell, "ours", "process", sealed=True)


def _conclusions(timed: Sequence[Row]) -> list[Conclusion]:
    slowest = max((row for row in timed if row.condition == SOCKET), key=lambda row: row.p99)
    says = "within" if slowest.p99 <= PROMISED_MS * 1000 else "not within"
    return [
        Conclusion(
            QUESTION,
            f"With {slowest.subject} and the line cut, the effects for a basket come {says} {PROMISED_MS} ms (p99"
            f" {slowest.p99 / 1000:.2f} ms).",
        )
    ]
