"""Members in figures: visits, spend, last visit, categories; as conditions see them, and as rows for the table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec
from msgspec import Struct, field

from tillstream_protocol.rules import Fact

from ..ledger.bodies import LedgerDamaged
from .figures import Figures

DAY_MS: Final = 86_400_000

Categories = dict[str, list[int]]
"""Category → lines, amount."""
MemberRow = tuple[bytes, str, int, int, int, int | None, str]
"""Subject, currency, transactions, visits, spend, last visit, categories: what is read of a row of `member_stats`."""

_encode: Final = msgspec.json.Encoder(order="deterministic").encode
_decode: Final = msgspec.json.Decoder(Categories).decode


class Purse(Struct, gc=False):
    """A member's figures in one currency. `visits_at` holds the times from which the last visit is taken: all of
    them where one may be taken back, else the latest that is stored and those added since."""

    transactions: int = 0
    visits: int = 0
    spend: int = 0
    visits_at: list[int] = field(default_factory=list)
    categories: Categories = field(default_factory=dict)

    @property
    def last_visit_ms(self) -> int | None:
        """The latest visit paid in this currency."""
        return max(self.visits_at, default=None)

    def row(self) -> tuple[int, int, int, int | None, str]:
        """The purse as the table has it after subject and currency; categories as JSON, in the order of their names."""
        categories = _encode(self.categories).decode()
        return (self.transactions, self.visits, self.spend, self.last_visit_ms, categories)


class Member(Struct, gc=False):
    """One subject's figures as they stand."""

    purses: dict[str, Purse] = field(default_factory=dict)
    _names: tuple[str, ...] | None = None

    def last_visit_ms(self) -> int | None:
        """The latest visit, in whatever currency."""
        return max([at for purse in self.purses.values() for at in purse.visits_at], default=None)

    def facts(self, currency: str, at_ms: int, last_visit_ms: int | None) -> dict[str, Fact]:
        """What conditions may ask at `at_ms`; `last_visit_ms` is the visit before this one.

        The days are whole days. They are unknown for a first visit, and for a record that comes after a later one.
        """
        purse = self.purses.get(currency)
        facts: dict[str, Fact] = {
            "member.visits": sum([p.visits for p in self.purses.values()]),
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
        for name, lines, amount in figures.categories:
            self._count(purse.categories, name, sign * lines, sign * amount)

    def _count(self, categories: Categories, name: str, lines: int, amount: int) -> None:
        """A category of which nothing is left is none: so a rebuild finds it too."""
        sums = categories.get(name)
        if sums is None:
            categories[name] = [lines, amount]
            self._names = None
            return
        sums[0] += lines
        sums[1] += amount
        if not sums[0]:
            del categories[name]
            self._names = None

    def _category_names(self) -> tuple[str, ...]:
        if self._names is None:
            self._names = tuple(sorted({name for purse in self.purses.values() for name in purse.categories}))
        return self._names


class Members:
    """The members that a batch touches."""

    def __init__(self, known: Mapping[bytes, Member]) -> None:
        self._members: defaultdict[bytes, Member] = defaultdict(Member, known)
        self.touched: set[tuple[bytes, str]] = set()

    def __getitem__(self, subject: bytes) -> Member:
        return self._members[subject]

    def apply(self, subject: bytes, figures: Figures, sign: int) -> None:
        """Add a transaction to its member's figures, or take it back."""
        self._members[subject].apply(figures, sign)
        self.touched.add((subject, figures.currency))


def read(
    rows: Iterable[MemberRow], visits: Iterable[tuple[bytes, str, int]], reversible: set[bytes]
) -> dict[bytes, Member]:
    """Members from their rows. Of those that are `reversible`, `visits` are all there were: subject, currency, time.

    Raises `LedgerDamaged`.
    """
    members: defaultdict[bytes, Member] = defaultdict(Member)
    for subject, currency, transactions, number, spend, last, categories in rows:
        times = [] if last is None or subject in reversible else [last]
        purse = Purse(transactions, number, spend, times, _categories(categories))
        members[subject].purses[currency] = purse
    for subject, currency, at_ms in visits:
        members[subject].purses[currency].visits_at.append(at_ms)
    return members


def _categories(text: str) -> Categories:
    try:
        return _decode(text)
    except msgspec.DecodeError as error:
        raise LedgerDamaged("a member's categories do not decode") from error
