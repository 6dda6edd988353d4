"""Conditions mean the same to every evaluator, cost what they are long, and are refused by their place."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tillstream_protocol.decisions import Campaign
from tillstream_protocol.errors import InvalidInput
from tillstream_protocol.rules import (
    MAX_LEVELS,
    MAX_NODES,
    MAX_NUMBER,
    VARIABLES,
    Bound,
    Condition,
    Fact,
    bounds_of,
    compile_condition,
    variables_of,
)

TOTAL = {"var": "sale.total"}
KNOWN = {"var": "member.known"}
SKUS = {"var": "sale.skus"}

NUMBERS = sorted(name for name, of in VARIABLES.items() if of == "number")
TEXTS = sorted(name for name, of in VARIABLES.items() if of == "text")
TRUTHS = sorted(name for name, of in VARIABLES.items() if of == "truth")
LISTS = sorted(name for name, of in VARIABLES.items() if of == "list of text")

words = st.sampled_from(["a", "b", "c", ""])
small = st.integers(-3, 3) | st.sampled_from([0.5, -1.5, 2.0])


def variable(names: list[str]) -> st.SearchStrategy[object]:
    return st.sampled_from(names).map(lambda name: {"var": name})


def numbers(depth: int) -> st.SearchStrategy[object]:
    leaf = small | variable(NUMBERS)
    if depth == 0:
        return leaf
    inner = numbers(depth - 1)
    return leaf | st.builds(lambda op, a, b: {op: [a, b]}, st.sampled_from(["+", "-", "*"]), inner, inner)


def truths(depth: int) -> st.SearchStrategy[object]:
    leaf = st.booleans() | variable(TRUTHS)
    if depth == 0:
        return leaf
    inner, number = truths(depth - 1), numbers(depth - 1)
    compared = st.sampled_from(["<", "<=", ">", ">="])
    texts = words | variable(TEXTS)
    lists = st.lists(words, max_size=3) | variable(LISTS)
    equal = st.sampled_from(["==", "!="])
    return st.one_of(
        leaf,
        st.builds(lambda op, xs: {op: xs}, compared, st.lists(number, min_size=2, max_size=3)),
        st.builds(lambda op, a, b: {op: [a, b]}, equal, number, number),
        st.builds(lambda op, a, b: {op: [a, b]}, equal, texts, texts),
        st.builds(lambda op, a, b: {op: [a, b]}, equal, inner, inner),
        st.builds(lambda a, b: {"in": [a, b]}, texts, lists),
        st.builds(lambda op, xs: {op: xs}, st.sampled_from(["and", "or"]), st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda a: {"!": a}, inner),
        st.builds(lambda a: {"!": [a]}, inner),
    )


conditions = truths(4).filter(lambda condition: isinstance(condition, dict))
facts = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(NUMBERS, st.none() | small),
        **dict.fromkeys(TEXTS, st.none() | words),
        **dict.fromkeys(TRUTHS, st.none() | st.booleans()),
        **dict.fromkeys(LISTS, st.none() | st.lists(words, max_size=3).map(tuple)),
    },
)


def kleene(term: Any, known: dict[str, Any]) -> Any:
    """Another evaluator: truth as 0, ½ and 1, so that `and` is the least, `or` the greatest, `!` the complement."""
    if not isinstance(term, dict):
        return term
    [(op, given_operands)] = term.items()
    if op == "var":
        return known.get(given_operands)
    values = [kleene(x, known) for x in (given_operands if isinstance(given_operands, list) else [given_operands])]
    degrees = [0.5 if v is None else float(v) for v in values if v is None or isinstance(v, bool)]
    match op:
        case "and":
            return {0: False, 0.5: None, 1: True}[min(degrees)]
        case "or":
            return {0: False, 0.5: None, 1: True}[max(degrees)]
        case "!":
            return {0: False, 0.5: None, 1: True}[1 - degrees[0]]
        case "<" | "<=" | ">" | ">=":
            return kleene({"and": [ordered(op, a, b) for a, b in pairwise(values)]}, known)
    if None in values:
        return None
    left, right = values
    outcomes = {"==": left == right, "!=": left != right}
    if isinstance(right, list | tuple):
        return {**outcomes, "in": any(left == item for item in right)}[op]
    if isinstance(right, str):
        return outcomes[op]
    return {**outcomes, "+": left + right, "-": left - right, "*": left * right}[op]


def ordered(op: str, a: Any, b: Any) -> Any:
    if a is None or b is None:
        return {"var": "nothing"}
    return {"<": a < b, "<=": not b < a, ">": b < a, ">=": not a < b}[op]


@given(condition=conditions, known=facts)
def test_a_compiled_condition_agrees_with_another_evaluator(condition: object, known: dict[str, Fact]) -> None:
    assert compile_condition(condition)(known) == kleene(condition, known)


@given(condition=conditions, known=facts)
def test_what_a_bound_rules_out_is_never_true(condition: object, known: dict[str, Fact]) -> None:
    for bound in bounds_of(condition):
        value = known.get(bound.variable)
        met = isinstance(value, (int, float)) and bound.admits(value, value)
        assert met or compile_condition(condition)(known) is not True


def least(number: float) -> Bound:
    return Bound("sale.total", number, at_least=True)


def most(number: float) -> Bound:
    return Bound("sale.total", number, at_least=False)


@pytest.mark.parametrize(
    ("condition", "bounds"),
    [
        ({">=": [TOTAL, 100]}, [least(100)]),
        ({"<": [TOTAL, 2.5]}, [most(2.5)]),
        ({"and": [KNOWN, {"and": [{">": [TOTAL, 7]}]}, {"<": [TOTAL, 9]}]}, [least(7), most(9)]),
        ({"<": [1, TOTAL, 9]}, [least(1), most(9)]),
        ({">=": [100, TOTAL]}, [most(100)]),
        ({"or": [{">=": [TOTAL, 100]}, KNOWN]}, []),
        ({"!": [{">=": [TOTAL, 100]}]}, []),
        ({">=": [TOTAL, TOTAL]}, []),
        ({"==": [TOTAL, 5]}, []),
        ({"and": [KNOWN]}, []),
        (KNOWN, []),
        (True, []),
    ],
)
def test_bounds_are_seen_where_a_comparison_has_to_be_true(condition: object, bounds: list[Bound]) -> None:
    compile_condition(condition)
    assert list(bounds_of(condition)) == bounds


def test_a_bound_admits_what_reaches_it() -> None:
    low, high = Bound("sale.total", 5, at_least=True), Bound("sale.total", 5, at_least=False)
    assert [(low.admits(*ends), high.admits(*ends)) for ends in ((1, 4), (1, 5), (5, 9), (6, 9))] == [
        (False, True),
        (True, True),
        (True, True),
        (True, False),
    ]


@given(conditions)
def test_a_condition_that_compiles_can_travel_in_a_campaign(condition: object) -> None:
    compile_condition(condition)
    packed = msgspec.msgpack.encode(condition)
    assert msgspec.msgpack.decode(packed, type=Condition) == condition


junk = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=3) | st.binary(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["var", "and", "==", "<", "in", "!", "+"]) | st.text(max_size=2), inner, max_size=2
        )
    ),
    max_leaves=10,
)


@given(condition=junk, known=facts)
def test_anything_else_is_refused_by_its_place(condition: object, known: dict[str, Fact]) -> None:
    try:
        run = compile_condition(condition)
    except InvalidInput as error:
        place = error.field or ""
        run = None
    else:
        place = "condition"
    assert place.startswith("condition")
    assert run is None or run(known) in {True, False, None}


def test_the_vectors_hold(vectors: Callable[[str], Any]) -> None:
    for case in vectors("rules"):
        known = {name: tuple(value) if isinstance(value, list) else value for name, value in case["facts"].items()}
        assert compile_condition(case["condition"])(known) is case["gives"], case["condition"]


@pytest.mark.parametrize(
    ("condition", "field", "limit"),
    [
        ([], "condition", None),
        ("yes", "condition", None),
        (None, "condition", "text, number, true or false"),
        (TOTAL, "condition", None),
        ({}, "condition", None),
        ({"and": [True], "or": [True]}, "condition", None),
        ({"near": [1, 2]}, "condition", "var, ==, !=, <, <=, >, >=, and, or, !, in, +, -, *"),
        ({"var": "sale.colour"}, "condition", ", ".join(VARIABLES)),
        ({"var": ["sale.total"]}, "condition", ", ".join(VARIABLES)),
        ({"and": []}, "condition.and", "1 to 500"),
        ({"and": [True, 1]}, "condition.and[1]", None),
        ({"!": [True, False]}, "condition.!", "1"),
        ({"!": 1}, "condition.![0]", None),
        ({"==": [1]}, "condition.==", "2"),
        ({"==": [1, "1"]}, "condition.==[1]", None),
        ({">=": [TOTAL]}, "condition.>=", "2 to 3"),
        ({">=": [TOTAL, 1, 2, 3]}, "condition.>=", "2 to 3"),
        ({"and": [True, {">=": ["10", TOTAL]}]}, "condition.and[1].>=[0]", None),
        ({"<": [1, {"var": "member.known"}]}, "condition.<[1]", None),
        ({"in": [1, SKUS]}, "condition.in[0]", None),
        ({"in": ["A1", "A1"]}, "condition.in[1]", None),
        ({"in": ["A1"]}, "condition.in", "2"),
        ({"in": ["A1", ["A1", 5]]}, "condition.in[1]", None),
        ({"<": [{"+": [1]}, 5]}, "condition.<[0].+", "2"),
        ({"<": [{"*": [1, "2"]}, 5]}, "condition.<[0].*[1]", None),
        ({"<": [TOTAL, MAX_NUMBER + 1]}, "condition.<[1]", "-2^53 to 2^53"),
        ({"<": [TOTAL, float("nan")]}, "condition.<[1]", "-2^53 to 2^53"),
        ({"<": [TOTAL, float("inf")]}, "condition.<[1]", "-2^53 to 2^53"),
    ],
)
def test_a_bad_condition_is_refused_by_field_and_limit(condition: object, field: str, limit: str | None) -> None:
    with pytest.raises(InvalidInput) as refused:
        compile_condition(condition)
    assert (refused.value.field, refused.value.limit) == (field, limit)
    assert len(refused.value.message) < 200


def test_what_an_error_quotes_of_a_condition_is_cut() -> None:
    large: list[object] = [{"var": "v" * 10_000}, {"o" * 10_000: []}, {"!": [b"b" * 10_000]}]
    for condition in large:
        with pytest.raises(InvalidInput) as refused:
            compile_condition(condition)
        assert len(refused.value.message) < 200


def nested(levels: int) -> object:
    term: object = True
    for _ in range(levels):
        term = {"!": term}
    return term


def test_nesting_is_bounded_whoever_asks() -> None:
    assert compile_condition(nested(MAX_LEVELS))({}) is False
    for levels in (MAX_LEVELS + 1, 5_000):
        with pytest.raises(InvalidInput) as refused:
            compile_condition(nested(levels))
        assert refused.value.limit == "9 levels"
    deep: object = [True]
    for _ in range(4):
        deep = {"and": [deep]}
    with pytest.raises(InvalidInput):
        compile_condition({"and": [deep]})


def test_size_is_bounded() -> None:
    assert compile_condition({"and": [True] * (MAX_NODES - 1)})({}) is True
    with pytest.raises(InvalidInput) as refused:
        compile_condition({"and": [True] * MAX_NODES})
    assert refused.value.limit == "500 terms"


def test_a_number_too_large_to_mean_anything_is_unknown() -> None:
    square = {"*": [TOTAL, TOTAL]}
    assert compile_condition({">": [square, 0]})({"sale.total": 1e200}) is None
    assert compile_condition({">": [{"*": [square, 0.5]}, 0]})({"sale.total": 10**160}) is None
    assert compile_condition({">": [square, 0]})({"sale.total": 10**15}) is True


def test_a_fact_of_the_wrong_type_is_unknown() -> None:
    wrong: dict[str, Fact] = {"sale.total": "much", "sale.skus": "A1", "sale.kind": 5}
    conditions: list[object] = [
        {">": [TOTAL, 0]},
        {">": [{"+": [TOTAL, 1]}, 0]},
        {"in": ["A1", SKUS]},
        {"in": [{"var": "sale.kind"}, ["sale"]]},
    ]
    for condition in conditions:
        assert compile_condition(condition)(wrong) is None


def test_variables_are_listed_wherever_they_stand() -> None:
    condition = {"and": [{">=": [TOTAL, {"*": [{"var": "time.hour"}, 100]}]}, {"!": KNOWN}, {"in": ["var", SKUS]}]}
    assert list(variables_of(condition)) == ["sale.total", "time.hour", "member.known", "sale.skus"]
    assert list(variables_of({"var": ["x"]})) == []


def test_a_condition_in_a_file_is_bounded_by_its_type() -> None:
    deep = msgspec.json.encode({"and": [nested(12)]})
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(deep, type=Condition)
    assert "condition" in Campaign.__struct_fields__
