"""An index leaves out only rules that cannot apply: what is decided is the same as by looking at all."""

from __future__ import annotations

from typing import Any, Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tillstream_protocol.decisions import Campaign, Occasion, Rule, decide, ranked, ready
from tillstream_protocol.effects import CustomerMessage
from tillstream_protocol.facts import sale_facts
from tillstream_protocol.narrowing import RuleIndex
from tillstream_protocol.rules import Fact, Facts
from tillstream_protocol.transaction import Customer, Identifier, Line, Moment, Source, Transaction

from .test_rules import conditions
from .test_rules import facts as any_facts

SALE = Transaction(
    source=Source(system="pos"),
    kind="sale",
    pos_id="1",
    business_date="2026-01-02",
    end=Moment(at=1_767_349_800_000),  # a Friday, 10:30
    currency="EUR",
    total=2000,
    retailer="r1",
    store="s1",
    till="t1",
    lines=(
        Line(seq=1, sku="TEA", amount=1500, hierarchy=("GROCERY",)),
        Line(seq=2, sku="CUP", amount=500, hierarchy=("HOME", "CUPS")),
    ),
    customer=Customer(identifiers=(Identifier("loyalty", "4711"),)),
)
FACTS: Final = sale_facts(SALE)


def var(name: str) -> dict[str, str]:
    return {"var": name}


TEA: Final = {"in": ["TEA", var("sale.skus")]}
MILK: Final = {"in": ["MILK", var("sale.skus")]}
SUM: Final = {">=": [{"+": [var("sale.total"), 1]}, 0]}
"""Of this nothing follows that a rule could be filed under."""


def rules_of(*given_conditions: Any) -> tuple[Rule, ...]:
    return ranked(
        ready(
            Campaign(
                id=f"c{number:03}",
                version=1,
                name="A campaign",
                trigger="transaction",
                condition=condition,
                effects=(CustomerMessage("Thank you"),),
                stores=("s1",) if number % 3 == 0 else (),
            )
        )
        for number, condition in enumerate(given_conditions)
    )


def visited(condition: Any, facts: Facts = FACTS) -> bool:
    return bool(list(RuleIndex(rules_of(condition)).possible(facts)))


def occasion(facts: Facts) -> Occasion:
    return Occasion("transaction", "s1", facts, b"sale", b"member", b"k" * 32, 1_767_349_800_000, 0, "server")


@given(st.lists(conditions, max_size=12), any_facts)
@example([{"==": [0, 0]}, {"<": [var("time.hour"), 0]}, {"==": [0, 0]}], {"time.hour": -1})
def test_what_is_decided_is_the_same_as_by_looking_at_all(several: list[Any], known: dict[str, Fact]) -> None:
    rules = rules_of(*several)
    at = occasion(known)
    found = list(RuleIndex(rules).possible(known))
    assert decide(found, at, draw=lambda _: None) == decide(rules, at, draw=lambda _: None)
    assert [r for r in found if r.matches(known) is True] == [r for r in rules if r.matches(known) is True]


PARTS: Final = st.one_of(
    st.builds(
        lambda op, n: {op: [var("sale.total"), n]}, st.sampled_from(["<", "<=", ">", ">=", "=="]), st.integers(0, 3)
    ),
    st.builds(lambda op, n: {op: [n, var("sale.total"), n + 1]}, st.sampled_from(["<", "<="]), st.integers(0, 3)),
    st.builds(lambda op, n: {op: [n + 2, var("sale.lines"), n]}, st.sampled_from([">", ">="]), st.integers(0, 3)),
    st.builds(lambda x: {"in": [x, var("sale.skus")]}, st.sampled_from("ABC")),
    st.builds(lambda x: {"in": [x, var("sale.categories")]}, st.sampled_from("AB")),
    st.builds(lambda xs: {"in": [var("sale.kind"), xs]}, st.lists(st.sampled_from(["sale", "return"]), max_size=2)),
    st.builds(lambda h: {"<=": [h, var("time.hour"), h + 4]}, st.integers(0, 23)),
    st.builds(lambda d: {"!": {"==": [var("time.weekday"), d]}}, st.integers(0, 6)),
    st.just(var("member.known")),
    st.just({"!=": [var("member.known"), True]}),
)


def joined(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    several = st.lists(inner, min_size=1, max_size=3)
    return inner | st.builds(lambda op, xs: {op: xs}, st.sampled_from(["and", "and", "or"]), several)


OFFERS: Final = joined(joined(PARTS))
BASKETS: Final = st.fixed_dictionaries(
    {
        "sale.kind": st.sampled_from(["sale", "return", None]),
        "sale.total": st.integers(0, 4) | st.none(),
        "sale.lines": st.integers(0, 4),
        "sale.skus": st.lists(st.sampled_from("ABCD"), max_size=4).map(tuple),
        "time.hour": st.integers(0, 23),
        "time.weekday": st.integers(0, 6) | st.none(),
        "member.known": st.booleans(),
    },
    optional={"sale.categories": st.lists(st.sampled_from("ABC"), max_size=2).map(tuple)},
)


@given(st.lists(OFFERS, max_size=20), BASKETS)
def test_so_it_is_for_offers_as_they_are_written(several: list[Any], known: dict[str, Fact]) -> None:
    rules = rules_of(*several)
    at = occasion(known)
    assert decide(RuleIndex(rules).possible(known), at, draw=lambda _: None) == decide(rules, at, draw=lambda _: None)


@pytest.mark.parametrize(
    "condition",
    [
        MILK,
        {"and": [SUM, MILK]},
        {"and": [SUM, {"and": [SUM, MILK]}]},
        {"or": [MILK, {"in": ["TOYS", var("sale.categories")]}]},
        {"==": [var("sale.currency"), "USD"]},
        {"==": ["return", var("sale.kind")]},
        {"in": [var("sale.kind"), ["return", "exchange"]]},
        {">=": [var("sale.total"), 2001]},
        {"<": [2001, var("sale.total"), 9000]},
        {">": [var("sale.lines"), 2.5]},
        {"<=": [11, var("time.hour"), 14]},
        {"!": {"==": [var("time.weekday"), 4]}},
        {"!": var("member.known")},
        {"and": {"==": [var("sale.total"), 1999]}},
    ],
    ids=str,
)
def test_a_rule_that_lacks_what_it_needs_is_not_visited(condition: Any) -> None:
    assert not visited(condition)


@pytest.mark.parametrize(
    "condition",
    [
        TEA,
        {"or": [MILK, TEA]},
        {"or": [MILK, SUM]},
        {"!": MILK},
        SUM,
        {"==": [var("sale.skus"), ["TEA", "CUP"]]},
        {"==": [1, 1]},
        {"in": ["A", ["A"]]},
        {"in": [var("till.store"), var("sale.skus")]},
        {"<": [var("sale.total"), 1]},
        {"<=": [var("time.hour"), 23]},
        {"or": [var("member.known"), {"!": var("member.known")}]},
        {">=": [var("sale.total"), 2000]},
        {"<=": [10, var("time.hour"), 10]},
        {"==": [var("time.weekday"), 4]},
        var("member.known"),
    ],
    ids=str,
)
def test_a_rule_that_may_apply_is_visited(condition: Any) -> None:
    assert visited(condition)


def test_of_a_thousand_rules_for_one_article_each_a_basket_visits_those_for_its_own() -> None:
    several = [
        {"and": [{"==": [var("sale.currency"), "EUR"]}, {"in": [f"SKU{n}", var("sale.skus")]}]} for n in range(1000)
    ]
    index = RuleIndex(rules_of(*several))
    found = list(index.possible({**FACTS, "sale.skus": ("SKU900", "SKU7", "SKU7")}))
    assert [rule.campaign.id for rule in found] == ["c007", "c900"]
    assert len(index) == 1000


def test_an_hour_that_no_clock_shows_leaves_nothing_out() -> None:
    assert visited({"<=": [11, var("time.hour"), 14]}, {**FACTS, "time.hour": 24})
    assert not visited({"<=": [11, var("time.hour"), 14]}, {})
