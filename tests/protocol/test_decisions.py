"""Offers are decided once, under one name on both sides, and never more of them than may be shown."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tillstream_protocol.decisions import (
    EDGE_VARIABLES,
    Budget,
    Campaign,
    Decision,
    Occasion,
    Rule,
    decide,
    due,
    offer_id,
    ranked,
    ready,
)
from tillstream_protocol.effects import CustomerMessage, Discount
from tillstream_protocol.errors import InvalidInput
from tillstream_protocol.facts import sale_facts, sale_occasion_key
from tillstream_protocol.limits import MAX_OFFERS_SHOWN
from tillstream_protocol.rules import VARIABLES
from tillstream_protocol.transaction import Moment, Source, Transaction

NOW = 1_767_349_800_000
KEY = b"k" * 32
SALE = Transaction(
    source=Source(system="pos"),
    kind="sale",
    pos_id="1",
    business_date="2026-01-02",
    end=Moment(at=NOW),
    currency="EUR",
    total=2000,
    retailer="r1",
    store="s1",
    till="t1",
)


def campaign(name: str = "c1", **changes: Any) -> Campaign:
    fields: dict[str, Any] = {
        "id": name,
        "version": 1,
        "name": "A campaign",
        "trigger": "transaction",
        "condition": {">=": [{"var": "sale.total"}, 1000]},
        "effects": (CustomerMessage("Thank you"),),
    }
    return Campaign(**{**fields, **changes})


def occasion(**changes: Any) -> Occasion:
    fields: dict[str, Any] = {
        "trigger": "transaction",
        "store": "s1",
        "facts": sale_facts(SALE),
        "record_key": sale_occasion_key(SALE),
        "member_key": None,
        "offer_key": KEY,
        "now_ms": NOW,
        "age_ms": 0,
        "side": "edge",
    }
    return Occasion(**{**fields, **changes})


def nothing_left(_: Campaign) -> bytes | None:
    return None


def decided(*campaigns: Campaign, at: Occasion | None = None, **more: Any) -> list[Decision]:
    rules = ranked(ready(one) for one in campaigns)
    return decide(rules, at or occasion(), **{"draw": lambda _: b"l" * 16, **more})


def test_an_offer_is_made_when_the_condition_is_true() -> None:
    [decision] = decided(campaign(valid_for_s=60))
    assert decision == Decision(
        offer_id=offer_id(campaign(), sale_occasion_key(SALE), KEY),
        campaign="c1",
        campaign_version=1,
        outcome="offered",
        decided_at="edge",
        decided_ms=NOW,
        expires_ms=NOW + 60_000,
        effects=(CustomerMessage("Thank you"),),
    )


@given(total=st.integers(0, 5000), name=st.text("abc", min_size=1, max_size=5), pos_id=st.text(min_size=1, max_size=10))
def test_edge_and_server_name_one_offer_alike(total: int, name: str, pos_id: str) -> None:
    sale = Transaction(
        source=Source(system="pos"),
        kind="sale",
        pos_id=pos_id,
        business_date="2026-01-02",
        end=Moment(at=NOW),
        total=total,
        store="s1",
        till="t1",
    )
    here = occasion(facts=sale_facts(sale), record_key=sale_occasion_key(sale))
    there = replace(
        here,
        facts={**sale_facts(sale), "member.visits": 7},
        member_key=b"subject",
        now_ms=NOW + 5000,
        age_ms=5000,
        side="server",
    )
    edge, server = decided(campaign(name), at=here), decided(campaign(name), at=there)
    assert [one.offer_id for one in edge] == [one.offer_id for one in server]
    assert decided(campaign(name), at=there, decided={one.offer_id for one in edge}) == []


def test_another_campaign_or_another_occasion_is_another_offer() -> None:
    ids = {
        offer_id(campaign(name), key, KEY)
        for name in ("c1", "c", "c11")
        for key in (b"sale\0x", b"1sale\0x", sale_occasion_key(SALE), b"")
    }
    assert len(ids) == 12
    assert {len(one) for one in ids} == {16}
    assert offer_id(campaign(version=2), b"x", KEY) == offer_id(campaign(), b"x", KEY)


def test_nobody_without_the_offer_key_can_name_an_offer() -> None:
    assert offer_id(campaign(), b"x", KEY) not in (offer_id(campaign(), b"x", b""), offer_id(campaign(), b"x", KEY[1:]))


def test_the_most_important_come_first_and_there_are_three_at_the_most() -> None:
    many = [campaign(f"c{n}", priority=10 - n) for n in range(6)] + [campaign("a", priority=5)]
    assert [one.campaign for one in decided(*many)] == ["a", "c5", "c4", "c3"][:MAX_OFFERS_SHOWN]


def test_offers_that_the_occasion_has_already_count() -> None:
    many = [campaign(f"c{n}") for n in range(6)]
    assert len(decided(*many, made=2)) == 1
    assert decided(*many, made=3) == decided(*many, made=4) == []


def test_refusals_do_not_count_as_offers() -> None:
    spent = [campaign(f"a{n}", budget=Budget(units=1, lease=1)) for n in range(4)]
    outcomes = [one.outcome for one in decided(*spent, campaign("b"), draw=nothing_left)]
    assert outcomes == ["refused"] * 4 + ["offered"]


def test_what_is_decided_is_left_alone() -> None:
    first, second = campaign("c1"), campaign("c2")
    gone = {offer_id(first, sale_occasion_key(SALE), KEY)}
    assert [one.campaign for one in decided(first, second, decided=gone)] == ["c2"]


@pytest.mark.parametrize(
    "changes",
    [
        {"trigger": "member_identified"},
        {"stores": ("s2", "s3")},
        {"once_per": "member"},
        {"condition": {">=": [{"var": "sale.total"}, 9999]}},
        {"condition": {">=": [{"var": "member.visits"}, 1]}},
    ],
    ids=["another trigger", "other stores", "nobody known", "false", "unknown"],
)
@pytest.mark.parametrize("side", ["edge", "server"])
def test_no_offer_is_made_where_the_campaign_does_not_apply(changes: dict[str, Any], side: str) -> None:
    rule = ready(campaign(**changes))
    assert due(rule, occasion(side=side)) is None
    assert decided(campaign(**changes), at=occasion(side=side)) == []


def test_a_campaign_may_be_for_some_stores() -> None:
    assert len(decided(campaign(stores=("s2", "s1")))) == 1


@pytest.mark.parametrize("name", sorted(VARIABLES))
def test_what_only_the_server_knows_is_left_to_the_server(name: str) -> None:
    rule = ready(campaign(condition={"==": [{"var": name}, {"var": name}]}))
    assert rule.at_edge is (name in EDGE_VARIABLES)


def test_what_is_once_per_member_is_the_servers_and_named_by_the_member() -> None:
    once = campaign(once_per="member")
    assert not ready(once).at_edge
    assert decided(once, at=occasion(member_key=b"m")) == []
    [first] = decided(once, at=occasion(member_key=b"m", side="server"))
    [again] = decided(once, at=occasion(member_key=b"m", side="server", record_key=b"another sale"))
    assert first.offer_id == again.offer_id
    assert first.decided_at == "server"


def test_a_late_record_gets_a_refusal_that_draws_nothing() -> None:
    drawn: list[Campaign] = []

    def draw(one: Campaign) -> bytes | None:
        drawn.append(one)
        return b"l" * 16

    limited = campaign(fresh_for_s=10, budget=Budget(units=1, lease=1))
    [late] = decided(limited, at=occasion(age_ms=10_001), draw=draw)
    assert (late.outcome, late.reason, late.effects, late.lease) == ("refused", "stale", (), None)
    assert drawn == []
    [fresh] = decided(limited, at=occasion(age_ms=10_000), draw=draw)
    assert (fresh.outcome, fresh.reason, fresh.lease) == ("offered", None, b"l" * 16)
    assert drawn == [limited]


def test_a_budget_that_is_spent_gives_a_refusal() -> None:
    limited = campaign(budget=Budget(units=1, lease=1))
    [refused] = decided(limited, draw=nothing_left)
    assert (refused.outcome, refused.reason, refused.effects) == ("refused", "budget_exhausted", ())


def test_a_campaign_without_a_budget_draws_nothing() -> None:
    [made] = decided(campaign(), draw=nothing_left)
    assert (made.outcome, made.lease) == ("offered", None)


def test_ready_refuses_a_bad_condition() -> None:
    with pytest.raises(InvalidInput) as refused:
        ready(campaign(condition={"==": [1, "1"]}))
    assert refused.value.field == "condition.==[1]"


@pytest.mark.parametrize(
    ("discount", "clear"),
    [
        (Discount("1 € off", amount=100, currency="EUR"), True),
        (Discount("10 % off", basis_points=1000), True),
        (Discount("something off"), False),
        (Discount("1 off", amount=100), False),
        (Discount("both", amount=100, currency="EUR", basis_points=1000), False),
        (Discount("both", amount=100, basis_points=1000), False),
    ],
)
def test_a_discount_says_clearly_what_it_takes_off(discount: Discount, clear: bool) -> None:
    both = campaign(effects=(CustomerMessage("Thank you"), discount))
    if clear:
        assert isinstance(ready(both), Rule)
        return
    with pytest.raises(InvalidInput) as refused:
        ready(both)
    assert (refused.value.field, refused.value.limit) == ("effects[1]", "amount and currency, or basis_points")


def test_the_vector_offers_have_their_names(vectors: Any) -> None:
    v = vectors("offers")
    key = bytes.fromhex(v["offer_key"])
    for one in v["occasions"]:
        assert offer_id(campaign(v["campaign"]), bytes.fromhex(one["key"]), key).hex() == one["offer_id"]
