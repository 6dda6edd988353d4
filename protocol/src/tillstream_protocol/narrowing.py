"""Which rules may apply to what is known: an index, so that an occasion visits few of a thousand rules.

From a condition follows what has to be known for it to be true: a choice of *marks*, each a variable and a value (for
a list: an item in it), of which at least one must be there; or a *floor*, the least that a number must be. A rule is
filed under what is rarest of that, or, where nothing follows, among those that are always visited. The index only
leaves out rules whose condition cannot be true; what it gives is decided on as ever.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from .decisions import Rule
from .rules import VARIABLES, Fact, Facts, bounds_of, compile_condition, variables_of

_Mark = tuple[str, Fact]
_Marks = frozenset[_Mark]

_DOMAINS: Final[Mapping[str, frozenset[Fact]]] = {
    "time.hour": frozenset((None, *range(24))),
    "time.weekday": frozenset((None, *range(7))),
    "member.known": frozenset((None, True, False)),
}
"""Variables of few values: what is true for which of them is found by trying."""
_SHARE: Final[Mapping[str, float]] = {
    "sale.skus": 0.01,
    "member.categories": 0.05,
    "sale.categories": 0.1,
    "time.hour": 0.1,
    "time.weekday": 0.15,
}
"""On which share of all occasions one value of a variable is there, roughly: the rarer, the better to file by."""
_USUAL: Final = 0.5
"""The share of what is not listed, and of those that reach a floor."""


class RuleIndex:
    """Rules in the order in which they are decided on, and how to find those that may apply."""

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        self._rules: list[Rule] = []
        self._always: list[int] = []
        self._marked: dict[str, dict[Fact, list[int]]] = {}
        self._tried: set[str] = set()
        """The variables of few values that something is filed by."""
        self._floors: dict[str, tuple[list[float], list[int]]] = {}
        """By variable: floors from the lowest on, and the places of their rules."""
        for rule in rules:
            self.add(rule)

    def __len__(self) -> int:
        return len(self._rules)

    def add(self, rule: Rule) -> None:
        """File a rule behind all others, where the fewest occasions will find it."""
        place, condition = len(self._rules), rule.campaign.condition
        self._rules.append(rule)
        marks = min(_choices(condition), key=_cost, default=None)
        bounds = bounds_of(condition) if marks is None or _cost(marks) >= _USUAL else ()
        floor = next((bound for bound in bounds if bound.at_least), None)
        if floor is not None:
            floors, places = self._floors.setdefault(floor.variable, ([], []))
            at = bisect_right(floors, floor.number)
            floors.insert(at, floor.number)
            places.insert(at, place)
        elif marks is not None:
            self._mark(place, marks)
        else:
            self._always.append(place)

    def possible(self, facts: Facts) -> Iterator[Rule]:
        """The rules whose condition may be true, in order; of those left out it is not."""
        found = list(self._always)
        for variable, filed in self._marked.items():
            value = facts.get(variable)
            if isinstance(value, tuple):
                for item in value:
                    found += filed.get(item, ())
            elif variable in self._tried and value not in _DOMAINS[variable]:
                return iter(self._rules)
            else:
                found += filed.get(value, ())
        for variable, (floors, places) in self._floors.items():
            value = facts.get(variable)
            if isinstance(value, (int, float)):
                found += places[: bisect_right(floors, value)]
        rules = self._rules
        return (rules[place] for place in sorted(set(found)))

    def _mark(self, place: int, marks: _Marks) -> None:
        for variable, value in marks:
            self._marked.setdefault(variable, {}).setdefault(value, []).append(place)
            if variable in _DOMAINS:
                self._tried.add(variable)


def _cost(marks: _Marks) -> float:
    return sum(_SHARE.get(variable, _USUAL) for variable, _ in marks)


def _choices(term: object) -> Iterator[_Marks]:
    """Sets of marks: of each, one must be there for the term to be true."""
    if not isinstance(term, dict):
        return
    tried = _by_trying(term)
    if tried is not None:
        yield tried
        return
    ((name, operand),) = term.items()
    terms = operand if isinstance(operand, list) else [operand]
    if name == "and":
        for part in terms:
            yield from _choices(part)
    elif name == "or":
        parts = [min(_choices(part), key=_cost, default=None) for part in terms]
        marks = [part for part in parts if part is not None]
        if len(marks) == len(parts):
            yield frozenset().union(*marks)
    elif name == "==":
        yield from _equal(*terms)
    elif name == "in":
        yield from _member(*terms)


def _by_trying(term: dict[object, object]) -> _Marks | None:
    """The values of its only variable for which a term is true, if those can be tried and some, not all, will do."""
    variables = set(variables_of(term))
    if len(variables) != 1:
        return None
    (variable,) = variables
    domain = _DOMAINS.get(variable)
    if domain is None:
        return None
    run = compile_condition(term)
    true = [value for value in domain if run({variable: value}) is True]
    return frozenset((variable, value) for value in true) if 0 < len(true) < len(domain) else None


def _equal(left: object, right: object) -> Iterator[_Marks]:
    for one, other in ((left, right), (right, left)):
        variable, value = _variable(one), _constant(other)
        if variable is not None and value is not None and VARIABLES[variable] != "list of text":
            yield frozenset([(variable, value)])


def _member(item: object, container: object) -> Iterator[_Marks]:
    variable, values = _variable(item), container
    if variable is not None and isinstance(values, list):
        yield frozenset((variable, value) for value in values)
    within, text = _variable(container), _constant(item)
    if within is not None and text is not None:
        yield frozenset([(within, text)])


def _variable(term: object) -> str | None:
    name = term.get("var") if isinstance(term, dict) else None
    return name if isinstance(name, str) else None


def _constant(term: object) -> str | int | float | None:
    return term if isinstance(term, (str, int, float)) else None
