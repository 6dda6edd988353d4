"""What does the till have for a basket, with ever more campaigns in its pack, and the line cut?

The deciding alone, in this process; and the whole way through an agent's socket, from a POS's bytes to the reply that
tells the offer. Every campaign is looked at, and the last applies.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from tillstream_agent.clock import SystemClock
from tillstream_agent.folder import Folder
from tillstream_agent.offers.edge import Edge
from tillstream_protocol.decisions import Campaign
from tillstream_protocol.facts import LazyFacts, sale_facts, sale_occasion_key
from tillstream_protocol.pack import Pack, sign_pack
from tillstream_protocol.signing import SignKey
from tillstream_protocol.transaction import Transaction

from .campaigns import at_the_till
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


async def run(folder: Path, sizes: Sizes) -> Answer:
    """The packs in turn, alone and through agents whose servers are gone."""
    rounds = Rounds.of(sizes.decisions)
    alone = await interleave(
        [_alone(count) for count in sizes.campaigns], ALONE, rounds, _basket, lambda: asyncio.sleep(0)
    )
    async with AsyncExitStack() as stack:
        agents = [await _agent(stack, folder / f"campaigns-{count}", count) for count in sizes.campaigns]
        subjects = [_through(doors, count) for doors, count in zip(agents, sizes.campaigns, strict=True)]
        through = await interleave(subjects, SOCKET, rounds, _basket, lambda: asyncio.sleep(0.002))
    timed = [*rows(QUESTION, alone), *rows(QUESTION, through)]
    return Answer(tuple(timed), conclusions=tuple(_conclusions(timed)))


def _basket(number: int) -> _Basket:
    made = given(number, "decide", 10, "os")
    body = msgspec.convert(made.basket.sale, Transaction)
    return _Basket(made, msgspec.structs.replace(body, retailer=RETAILER, store=STORE, till="1"))


def _name(count: int) -> str:
    return f"{count:,} campaigns"


def _alone(count: int) -> Subject[_Basket]:
    edge = _edge(count)
    nothing = _Spent({})

    async def decide(basket: _Basket) -> None:
        body = basket.body
        facts = LazyFacts(partial(sale_facts, body))
        decided = edge.decide("transaction", STORE, facts, sale_occasion_key(body), nothing)
        if len(decided) != 1:
            raise NothingDone(f"{len(decided)} decisions came of a pack of {count} campaigns")

    return Subject(_name(count), decide, "ours", "none")


def _edge(count: int) -> Edge:
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
        campaigns=_campaigns(count),
        leases=(),
        offer_key=os.urandom(32),
        box_public_key=os.urandom(32),
        escrow_public_key=os.urandom(32),
    )
    edge.accept(sign_pack(pack, key))
    return edge


async def _agent(stack: AsyncExitStack, folder: Path, count: int) -> Hook:
    """An agent with so many campaigns in a pack that its server signed, and its server gone."""
    folder.mkdir()
    async with server(folder) as standing:
        await enrol(folder / "till", standing)
    async with data(folder / "server") as parts:
        await give(Folder(folder / "till"), parts.keys.sign, _campaigns(count))
    return await stack.enter_async_context(hook(folder / "till", folder))


def _campaigns(count: int) -> tuple[Campaign, ...]:
    return tuple(msgspec.convert(one, Campaign) for one in at_the_till(count))


def _through(doors: Hook, count: int) -> Subject[_Basket]:
    async def sell(basket: _Basket) -> None:
        reply = await doors.sell_over_socket(basket.given.call)
        effects = reply["body"].get("effects", ())
        if len(effects) != 1:
            raise NothingDone(f"{len(effects)} effects came of a pack of {count} campaigns")

    return Subject(_name(count), sell, "ours", "process", sealed=True)


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
