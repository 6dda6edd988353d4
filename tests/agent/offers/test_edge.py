"""The till decides by the newest pack that its own server signed for it, within its leases."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field

import msgspec
import pytest

from support.tills import TurnedClock
from tillstream_agent.offers.edge import Edge
from tillstream_protocol.decisions import Budget, Campaign, offer_id
from tillstream_protocol.effects import CustomerMessage
from tillstream_protocol.facts import LazyFacts
from tillstream_protocol.pack import ForeignPack, Lease, Pack, SignedPack, sign_pack
from tillstream_protocol.signing import BadSignature, SignKey

SERVER = SignKey(bytes(32))
TILL = b"t" * 16
KEYS = (b"o" * 32, b"b" * 32, b"e" * 32)
LEASE = Lease(b"l" * 16, "big", 2)
BIG = Campaign(
    id="big",
    version=1,
    name="A big basket",
    trigger="transaction",
    condition={">=": [{"var": "sale.total"}, 1000]},
    effects=(CustomerMessage("Thank you"),),
)
FACTS = LazyFacts(lambda: {"sale.total": 5000})


@dataclass
class Ledger:
    spent: dict[bytes, int] = field(default_factory=dict)


def pack(clock: TurnedClock, *campaigns: Campaign, version: int = 1, leases: tuple[Lease, ...] = ()) -> SignedPack:
    now = clock.now_ms()
    return sign_pack(Pack(version, "r", "s", TILL, now, now + 60_000, campaigns, leases, *KEYS), SERVER)


@pytest.fixture
def clock() -> TurnedClock:
    return TurnedClock()


@pytest.fixture
def edge(clock: TurnedClock) -> Edge:
    return Edge(server_public_key=SERVER.public, till_id=TILL, clock=clock)


def outcomes(edge: Edge, ledger: Ledger | None = None, key: bytes = b"sale") -> list[str]:
    decisions = edge.decide("transaction", "s", FACTS, key, ledger or Ledger())
    return [f"{d.outcome} {d.reason or d.decided_at}" for d in decisions]


def test_without_a_pack_nothing_is_decided(edge: Edge) -> None:
    assert outcomes(edge) == []
    assert edge.pack_version == 0


def test_with_one_the_campaign_applies(edge: Edge, clock: TurnedClock) -> None:
    assert edge.accept(pack(clock, BIG))
    assert outcomes(edge) == ["offered edge"]
    assert edge.decide("member_identified", "s", FACTS, b"k", Ledger()) == []


def test_a_pack_that_is_over_its_time_decides_nothing(edge: Edge, clock: TurnedClock) -> None:
    edge.accept(pack(clock, BIG))
    clock.turn(61)
    assert outcomes(edge) == []


def test_with_an_untrusted_clock_offers_are_off(clock: TurnedClock) -> None:
    edge = Edge(server_public_key=SERVER.public, till_id=TILL, clock=clock, trusted=lambda: False)
    edge.accept(pack(clock, BIG))
    assert outcomes(edge) == []


def test_a_lease_is_spent_to_its_end_and_no_further(edge: Edge, clock: TurnedClock) -> None:
    budgeted = msgspec.structs.replace(BIG, budget=Budget(10, 2))
    edge.accept(pack(clock, budgeted, leases=(LEASE,)))
    assert outcomes(edge, Ledger({LEASE.id: 1})) == ["offered edge"]
    assert outcomes(edge, Ledger({LEASE.id: 2})) == ["refused budget_exhausted"]


def test_a_budget_without_a_lease_is_refused_by_name(edge: Edge, clock: TurnedClock) -> None:
    edge.accept(pack(clock, msgspec.structs.replace(BIG, budget=Budget(10, 2))))
    assert outcomes(edge) == ["refused budget_exhausted"]


def test_an_older_pack_changes_nothing(edge: Edge, clock: TurnedClock) -> None:
    edge.accept(pack(clock, BIG, version=2))
    assert not edge.accept(pack(clock, version=1))
    assert outcomes(edge) == ["offered edge"]


def test_a_pack_of_another_till_or_server_is_refused_and_the_old_one_kept(edge: Edge, clock: TurnedClock) -> None:
    edge.accept(pack(clock, BIG))
    foreign = Pack(9, "r", "s", b"x" * 16, clock.now_ms(), clock.now_ms() + 1, (), (), *KEYS)
    with pytest.raises(ForeignPack):
        edge.accept(sign_pack(foreign, SERVER))
    with pytest.raises(BadSignature):
        edge.accept(sign_pack(foreign, SignKey(os.urandom(32))))
    assert edge.pack_version == 1


def test_a_pack_with_a_campaign_that_a_till_cannot_decide_is_refused(edge: Edge, clock: TurnedClock) -> None:
    central = msgspec.structs.replace(BIG, condition={">=": [{"var": "member.visits"}, 5]})
    with pytest.raises(ForeignPack, match="cannot decide"):
        edge.accept(pack(clock, central))


def test_the_same_occasion_always_gives_the_same_offer_id(edge: Edge, clock: TurnedClock) -> None:
    edge.accept(pack(clock, BIG))
    first, again, other = (edge.decide("transaction", "s", FACTS, key, Ledger())[0] for key in (b"a", b"a", b"b"))
    assert first.offer_id == again.offer_id != other.offer_id


def test_the_offer_id_depends_on_the_retailers_key_and_agrees_with_the_protocols(
    edge: Edge, clock: TurnedClock
) -> None:
    edge.accept(pack(clock, BIG))
    (decision,) = edge.decide("transaction", "s", FACTS, b"a", Ledger())
    assert decision.offer_id == offer_id(BIG, b"a", KEYS[0])
    assert decision.offer_id != offer_id(BIG, b"a", b"x" * 32)


def test_the_pack_in_use_is_the_newest(edge: Edge, clock: TurnedClock) -> None:
    for version in (1, 3, 2):
        edge.accept(pack(clock, version=version))
    assert edge.pack is not None
    assert (edge.pack.version, edge.pack.box_public_key) == (3, KEYS[1])


async def test_captures_have_their_turns_while_a_pack_is_taken(edge: Edge, clock: TurnedClock) -> None:
    several = [msgspec.structs.replace(BIG, id=f"c{number}") for number in range(50)]
    taking = asyncio.create_task(edge.take(pack(clock, *several)))
    turns = 0
    while not taking.done():
        assert outcomes(edge) == []
        await asyncio.sleep(0)
        turns += 1
    assert await taking
    assert turns > len(several)
    assert outcomes(edge) == ["offered edge"] * 3


async def test_of_two_packs_taken_at_once_the_newer_is_used(edge: Edge, clock: TurnedClock) -> None:
    older, newer = pack(clock, BIG, BIG, version=1), pack(clock, version=2)
    assert tuple(await asyncio.gather(edge.take(older), edge.take(newer))) == (False, True)
    assert (edge.pack_version, outcomes(edge)) == (2, [])


async def test_a_pack_that_is_refused_leaves_the_one_in_use(edge: Edge, clock: TurnedClock) -> None:
    edge.accept(pack(clock, BIG))
    central = msgspec.structs.replace(BIG, id="z", condition={">=": [{"var": "member.visits"}, 1]})
    with pytest.raises(ForeignPack):
        await edge.take(pack(clock, BIG, central, version=2))
    assert not await edge.take(pack(clock, version=1))
    assert (edge.pack_version, outcomes(edge)) == (1, ["offered edge"])
