"""Members in figures: visits, spend, last visit, categories; as conditions see them, and as deltas for the tables."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from tillstream_protocol.rules import Fact

from .figures import Figures

DAY_MS: Final = 86_400_000


@dataclass(slots=True)
class Purse:
    """A member's figures in one currency. `visits_at` holds the times from which the last visit is taken: all of
    them where one may be taken back, else the latest that is stored and those added since."""

    transactions: int = 0
    visits: int = 0
    spend: int = 0
    visits_at: list[int] = field(default_factory=list)

    @property
    def last_visit_ms(self) -> int | None:
        """The latest visit paid in this currency."""
        return max(self.visits_at, default=None)


@dataclass(slots=True)
class Member:
    """One subject's figures as they stand. `categories` counts lines."""

    purses: dict[str, Purse] = field(default_factory=dict)
    categories: dict[str, int] = field(default_factory=dict)
    _names: tuple[str, ...] | None = None

    def last_visit_ms(self) -> int | None:
        """The latest visit, in whatever currency."""
        times = [purse.last_visit_ms for purse in self.purses.values()]
        return max((at for at in times if at is not None), default=None)

    def facts(self, currency: str, at_ms: int, last_visit_ms: int | None) -> dict[str, Fact]:
        """What conditions may ask at `at_ms`; `last_visit_ms` is the visit before this one.

        The days are whole days. They are unknown for a first visit, and for a record that comes after a later one.
        """
        purse = self.purses.get(currency)
        facts: dict[str, Fact] = {
            "member.visits": sum(p.visits for p in self.purses.values()),
            "member.spend": 0 if purse is None else purse.spend,
            "member.categories": self._category_names(),
        }
        if last_visit_ms is not None and last_visit_ms <= at_ms:
            facts["member.days_since_last_visit"] = (at_ms - last_visit_ms) // DAY_MS
        return facts

    def apply(self, figures: Figures, sign: int) -> None:
        """Add a transaction, or take it back."""
        purse = self.purses.get(figures.currency)
        if purse is None:
            purse = self.purses[figures.currency] = Purse()
        purse.transactions += sign
        purse.spend += sign * figures.amount
        if figures.visit:
            purse.visits += sign
            if sign > 0:
                purse.visits_at.append(figures.at_ms)
            else:
                purse.visits_at.remove(figures.at_ms)
        for name, lines, _ in figures.categories:
            self._count(name, sign * lines)

    def _count(self, name: str, lines: int) -> None:
        before = self.categories.get(name, 0)
        after = self.categories[name] = before + lines
        if (before > 0) is not (after > 0):
            self._names = None

    def _category_names(self) -> tuple[str, ...]:
        if self._names is None:
            self._names = tuple(sorted(name for name, lines in self.categories.items() if lines > 0))
        return self._names


class Members:
    """The members that a batch touches. Categories are kept as deltas, everything else as it stands."""

    def __init__(self, known: Mapping[bytes, Member]) -> None:
        self._members: defaultdict[bytes, Member] = defaultdict(Member, known)
        self.touched: set[tuple[bytes, str]] = set()
        self.categories: dict[tuple[bytes, str, str], list[int]] = {}
        """(subject, category, currency) → lines, amount."""

    def __getitem__(self, subject: bytes) -> Member:
        return self._members[subject]

    def apply(self, subject: bytes, figures: Figures, sign: int) -> None:
        """Add a transaction to its member's figures, or take it back."""
        self._members[subject].apply(figures, sign)
        currency = figures.currency
        self.touched.add((subject, currency))
        for name, lines, amount in figures.categories:
            delta = self.categories.setdefault((subject, name, currency), [0, 0])
            delta[0] += sign * lines
            delta[1] += sign * amount
