"""The language of conditions: JSON in the JsonLogic shape, typed, and linear in cost.

A condition is validated and compiled in one walk. Truth has three values, as in SQL, so that a second compiler into
SQL can agree with this one: a variable that is not there is unknown, a comparison with it is unknown, and a rule
applies only when its condition is true.

Operators: `var`; `==`, `!=`; `<`, `<=`, `>`, `>=` (two or three operands, the latter a range); `and`, `or`, `!`;
`in` (member of a list); `+`, `-`, `*` on numbers.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, Literal, Protocol

from .errors import InvalidInput, shown
from .transaction import Integer

Scalar = str | int | float | bool
Fact = Scalar | tuple[str, ...] | None


class Facts(Protocol):
    """What a compiled condition asks: a map of facts by variable, or what answers like one."""

    def get(self, name: str, /) -> Fact:
        """One fact; None where it is unknown."""
        ...


Compiled = Callable[[Facts], Fact]
Type = Literal["number", "text", "truth", "list of text"]

# A condition on the wire. Its type bounds its depth, as with `ext`: enough for five nested operations.
_Scalar = str | Integer | float | bool | None
_C9 = _Scalar
_C8 = _Scalar | list[_C9] | dict[str, _C9]
_C7 = _Scalar | list[_C8] | dict[str, _C8]
_C6 = _Scalar | list[_C7] | dict[str, _C7]
_C5 = _Scalar | list[_C6] | dict[str, _C6]
_C4 = _Scalar | list[_C5] | dict[str, _C5]
_C3 = _Scalar | list[_C4] | dict[str, _C4]
_C2 = _Scalar | list[_C3] | dict[str, _C3]
Condition = dict[str, _Scalar | list[_C2] | dict[str, _C2]]

MAX_NODES: Final = 500
MAX_LEVELS: Final = 9
"""Objects and lists inside each other, as the type counts them."""
MAX_NUMBER: Final = 2**53
"""Up to here every integer is exact in a double too, so that all evaluators agree."""

VARIABLES: Final[Mapping[str, Type]] = {
    "sale.kind": "text",
    "sale.total": "number",
    "sale.currency": "text",
    "sale.lines": "number",
    "sale.skus": "list of text",
    "sale.categories": "list of text",
    "till.store": "text",
    "till.retailer": "text",
    "time.hour": "number",
    "time.weekday": "number",
    "member.known": "truth",
    "member.visits": "number",
    "member.spend": "number",
    "member.days_since_last_visit": "number",
    "member.categories": "list of text",
}
"""Every variable that a condition may name. Money is in minor units; weekday 0 is Monday."""


_HUGE: Final = 1e300
"""A result beyond this is unknown, so that no number can overflow or turn into something that is none."""


_Test = tuple[str, tuple[type, ...], Callable[[Any, Any], bool], Scalar]
"""A variable, what it may be, and how it is compared with which constant: most of what conditions are made of."""
_NUMBER: Final = (int, float)
_ANY: Final = (str, int, float, tuple)


@dataclass(frozen=True, slots=True)
class _Node:
    """A compiled term. What only reads a variable, always is the same, or compares these says so: that saves calls."""

    type: Type
    run: Compiled
    variable: str | None = None
    constant: Fact = None
    test: _Test | None = None


def compile_condition(condition: object) -> Compiled:
    """A function of the facts that gives True, False or None (unknown).

    Raises `InvalidInput` naming the place, e.g. `condition.and[1].>=[0]`.
    """
    node = _Compiler().compile(condition, "condition", 1)
    _require(node, "truth", "condition")
    return node.run


def variables_of(condition: object) -> Iterator[str]:
    """Every variable that a valid condition names, in order of appearance."""
    if isinstance(condition, dict):
        for name, operand in condition.items():
            if name == "var" and isinstance(operand, str):
                yield operand
            else:
                yield from variables_of(operand)
    elif isinstance(condition, list):
        for item in condition:
            yield from variables_of(item)


@dataclass(frozen=True, slots=True)
class Bound:
    """A number that a variable has to reach from below (`at_least`), or from above, before a condition can be true."""

    variable: str
    number: float
    at_least: bool

    def admits(self, lowest: float, highest: float) -> bool:
        """Whether any value from `lowest` to `highest` may do."""
        return highest >= self.number if self.at_least else lowest <= self.number


def bounds_of(condition: object) -> Iterator[Bound]:
    """The bounds that a valid condition shows at first sight: each has to be reached for it to be true."""
    if not isinstance(condition, dict):
        return
    ((name, operand),) = condition.items()
    terms = operand if isinstance(operand, list) else [operand]
    if name == "and":
        for part in terms:
            yield from bounds_of(part)
    for left, right in pairwise(terms) if name in ("<", "<=", ">", ">=") else ():
        low, high = (right, left) if name in (">", ">=") else (left, right)
        for term, number, at_least in ((high, low, True), (low, high, False)):
            variable = term.get("var") if isinstance(term, dict) else None
            if isinstance(variable, str) and isinstance(number, (int, float)) and not isinstance(number, bool):
                yield Bound(variable, number, at_least=at_least)


class _Compiler:
    def __init__(self) -> None:
        self._nodes = 0

    def compile(self, term: object, path: str, level: int) -> _Node:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise InvalidInput("the condition is too large", field=path, limit=f"{MAX_NODES} terms")
        if isinstance(term, dict):
            return self._operation(term, path, level)
        if isinstance(term, list):
            _require_level(level, path)
            return _text_list(term, path)
        return _literal(term, path)

    def _operation(self, term: dict[object, object], path: str, level: int) -> _Node:
        _require_level(level, path)
        if len(term) != 1:
            raise InvalidInput("an operation is an object with one key", field=path)
        (name, operand), *_ = term.items()
        if name == "var":
            return _variable(operand, path)
        build = _OPERATORS.get(name) if isinstance(name, str) else None
        if build is None:
            known = ", ".join(["var", *_OPERATORS])
            raise InvalidInput(f"there is no operator {shown(name)}", field=path, limit=known)
        place = f"{path}.{name}"
        terms, inner = (operand, level + 2) if isinstance(operand, list) else ([operand], level + 1)
        _require_level(inner - 1, place)
        nodes = [self.compile(item, f"{place}[{index}]", inner) for index, item in enumerate(terms)]
        return build(nodes, place)


def _require_level(level: int, path: str) -> None:
    if level > MAX_LEVELS:
        raise InvalidInput("the condition is nested too deeply", field=path, limit=f"{MAX_LEVELS} levels")


def _literal(term: object, path: str) -> _Node:
    if isinstance(term, bool):
        return _Node("truth", lambda _: term, constant=term)
    if isinstance(term, (int, float)):
        if not -MAX_NUMBER <= term <= MAX_NUMBER:
            raise InvalidInput("this number is too large", field=path, limit="-2^53 to 2^53")
        return _Node("number", lambda _: term, constant=term)
    if isinstance(term, str):
        return _Node("text", lambda _: term, constant=term)
    raise InvalidInput(f"{shown(term)} is not a value", field=path, limit="text, number, true or false")


def _text_list(term: list[object], path: str) -> _Node:
    texts = tuple(item for item in term if isinstance(item, str))
    if len(texts) != len(term):
        raise InvalidInput("a list holds text only", field=path)
    return _Node("list of text", lambda _: texts, constant=texts)


def _variable(operand: object, path: str) -> _Node:
    if not isinstance(operand, str) or operand not in VARIABLES:
        raise InvalidInput(f"there is no variable {shown(operand)}", field=path, limit=", ".join(VARIABLES))
    name = operand
    return _Node(VARIABLES[name], lambda facts: facts.get(name), variable=name)


def _require(node: _Node, wanted: Type, path: str) -> None:
    if node.type != wanted:
        raise InvalidInput(f"a {node.type} stands where a {wanted} is needed", field=path)


def _count(nodes: list[_Node], low: int, high: int, path: str) -> None:
    if not low <= len(nodes) <= high:
        limit = str(low) if low == high else f"{low} to {high}"
        raise InvalidInput(f"{len(nodes)} operands", field=path, limit=limit)


def _equality(negate: bool) -> Callable[[list[_Node], str], _Node]:
    def build(nodes: list[_Node], path: str) -> _Node:
        _count(nodes, 2, 2, path)
        left, right = nodes
        _require(right, left.type, f"{path}[1]")

        def run(facts: Facts) -> Fact:
            a, b = left.run(facts), right.run(facts)
            return None if a is None or b is None else (a == b) is not negate

        variable, constant = left.variable, right.constant
        if variable is not None and isinstance(constant, (str, int, float)):
            return _tested((variable, _ANY, operator.ne if negate else operator.eq, constant))
        return _Node("truth", run)

    return build


def _comparison(compare: Callable[[float, float], bool]) -> Callable[[list[_Node], str], _Node]:
    def build(nodes: list[_Node], path: str) -> _Node:
        _count(nodes, 2, 3, path)
        for index, node in enumerate(nodes):
            _require(node, "number", f"{path}[{index}]")

        def run(facts: Facts) -> Fact:
            values = [node.run(facts) for node in nodes]
            truth: bool | None = True
            for a, b in pairwise(values):
                if not isinstance(a, (int, float)) or not isinstance(b, (int, float)):
                    truth = None
                elif not compare(a, b):
                    return False
            return truth

        variable, constant = nodes[0].variable, nodes[1].constant
        if len(nodes) == 2 and variable is not None and isinstance(constant, (int, float)):
            return _tested((variable, _NUMBER, compare, constant))
        return _Node("truth", run)

    return build


def _tested(test: _Test) -> _Node:
    variable, kinds, compare, constant = test

    def run(facts: Facts) -> Fact:
        value = facts.get(variable)
        return compare(value, constant) if isinstance(value, kinds) else None

    return _Node("truth", run, test=test)


def _connective(decisive: bool) -> Callable[[list[_Node], str], _Node]:
    """`or` is decided by the first true, `and` by the first false; else one unknown makes all unknown."""

    def build(nodes: list[_Node], path: str) -> _Node:
        _count(nodes, 1, MAX_NODES, path)
        for index, node in enumerate(nodes):
            _require(node, "truth", f"{path}[{index}]")
        tests = [node.test for node in nodes if node.test is not None]
        parts = [node.run for node in nodes if node.test is None]

        def run(facts: Facts) -> Fact:
            result: bool | None = not decisive
            for variable, kinds, compare, constant in tests:
                known = facts.get(variable)
                if not isinstance(known, kinds):
                    result = None
                elif compare(known, constant) is decisive:
                    return decisive
            for part in parts:
                value = part(facts)
                if value is decisive:
                    return decisive
                if value is None:
                    result = None
            return result

        return _Node("truth", run)

    return build


def _negation(nodes: list[_Node], path: str) -> _Node:
    _count(nodes, 1, 1, path)
    _require(nodes[0], "truth", f"{path}[0]")
    inner = nodes[0].run

    def run(facts: Facts) -> Fact:
        value = inner(facts)
        return None if value is None else not value

    return _Node("truth", run)


def _membership(nodes: list[_Node], path: str) -> _Node:
    _count(nodes, 2, 2, path)
    _require(nodes[0], "text", f"{path}[0]")
    _require(nodes[1], "list of text", f"{path}[1]")
    item, container = nodes

    def run(facts: Facts) -> Fact:
        value, values = item.run(facts), container.run(facts)
        return value in values if isinstance(value, str) and isinstance(values, tuple) else None

    constant, variable = item.constant, container.variable
    if variable is not None and isinstance(constant, str):
        return _tested((variable, (tuple,), operator.contains, constant))
    return _Node("truth", run)


def _arithmetic(apply: Callable[[float, float], float]) -> Callable[[list[_Node], str], _Node]:
    def build(nodes: list[_Node], path: str) -> _Node:
        _count(nodes, 2, 2, path)
        for index, node in enumerate(nodes):
            _require(node, "number", f"{path}[{index}]")
        left, right = nodes

        def run(facts: Facts) -> Fact:
            a, b = left.run(facts), right.run(facts)
            if not isinstance(a, (int, float)) or not isinstance(b, (int, float)):
                return None
            result = apply(a, b)
            return result if -_HUGE <= result <= _HUGE else None

        return _Node("number", run)

    return build


_OPERATORS: Final[Mapping[str, Callable[[list[_Node], str], _Node]]] = {
    "==": _equality(negate=False),
    "!=": _equality(negate=True),
    "<": _comparison(operator.lt),
    "<=": _comparison(operator.le),
    ">": _comparison(operator.gt),
    ">=": _comparison(operator.ge),
    "and": _connective(decisive=False),
    "or": _connective(decisive=True),
    "!": _negation,
    "in": _membership,
    "+": _arithmetic(operator.add),
    "-": _arithmetic(operator.sub),
    "*": _arithmetic(operator.mul),
}
