"""Sales of a day against the day before and the same weekday a week ago, as everybody who watches is shown them.

In head office's time a day is head office's own, exact to the quarter of an hour, and what is compared with is the same
span of the other days. In stores' time a day is each store's own, by the hour, and what is compared with goes as far as
the hour of the store's last sale of the day. Totals are the sums of the stores' figures, so they cannot differ.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import cached_property
from typing import Any, Final, Literal
from zoneinfo import ZoneInfo

from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncConnection

from ..ledger.database import on_driver
from ..ledger.quarters import HOUR_MS, QUARTER_MS, QUARTERS, pieces
from .queries import selling

Basis = Literal["office", "store"]
DAY_MS: Final = 24 * HOUR_MS
DAYS_BACK: Final = (0, 1, 7)
"""The days that are compared, as days before the one that is shown."""
HISTORY_DAYS: Final = 28
FURTHEST_MS: Final = 25 * HOUR_MS
"""How far a local hour is from the instant at its most, with room to spare for odd offsets and the hour itself."""

Row = tuple[Any, ...]
Span = tuple[int, int, int]
"""From, until where it is compared, to: half-open, in milliseconds since 1970."""


class Question(Struct, frozen=True):
    """Which sales. Without a `day` it is today, or the latest day with sales where there were none for a week."""

    retailer: str | None
    store: str | None
    basis: Basis
    day: date | None


class Sums(Struct, frozen=True):
    """How many transactions, and their amount in minor units."""

    transactions: int = 0
    amount: int = 0

    def __add__(self, other: Sums) -> Sums:
        return Sums(self.transactions + other.transactions, self.amount + other.amount)


@dataclass(slots=True)
class StoreSales:
    """A store's sales in one currency, by `DAYS_BACK`: of the whole days, and of the part that is compared."""

    retailer: str
    store: str
    currency: str
    whole: list[Sums] = field(default_factory=lambda: [Sums()] * len(DAYS_BACK))
    part: list[Sums] = field(default_factory=lambda: [Sums()] * len(DAYS_BACK))


@dataclass(frozen=True, slots=True)
class Total:
    """All stores' sales in one currency. `hours` has each hour's sums by `DAYS_BACK`."""

    currency: str
    stores: int
    whole: tuple[Sums, ...]
    part: tuple[Sums, ...]
    hours: tuple[tuple[Sums, ...], ...]


@dataclass(frozen=True)
class Sales:
    """The answer. `stores` are those that sold, the best first; `running` says that the day is not over.

    `until_ms` is the moment up to which a running day is compared, where that is one for all stores, and `begun` how
    many hours of the day there has been anything to sell in.
    """

    question: Question
    as_of_ms: int
    day: date
    running: bool
    passed_over: bool
    until_ms: int | None
    begun: int
    totals: tuple[Total, ...]
    stores: tuple[StoreSales, ...]
    texts: dict[tuple[str, str], bytes] = field(default_factory=dict, compare=False)
    """What was made of it, by what and for which language, once for everybody. Answers in a row that tell the same have
    one in common, made of the first of them."""

    def after(self, before: Sales | None) -> Sales:
        """This answer, as one more that tells the same as the one before, if it does."""
        if before is None or replace(before, as_of_ms=self.as_of_ms) != self:
            return self
        return replace(self, texts=before.texts)

    def tells_what(self, other: Sales | None) -> bool:
        """Whether it is one of the answers in a row that tell the same."""
        return other is not None and self.texts is other.texts

    def of(self, retailer: str, store: str) -> list[StoreSales]:
        """One store's sales, by currency."""
        return self._by_store.get((retailer, store), [])

    @cached_property
    def _by_store(self) -> dict[tuple[str, str], list[StoreSales]]:
        found: dict[tuple[str, str], list[StoreSales]] = {}
        for one in self.stores:
            found.setdefault((one.retailer, one.store), []).append(one)
        return found


class DaySums(Struct, frozen=True):
    """What a store sold on one of its own days."""

    day: date
    currency: str
    sums: Sums


async def sales(conn: AsyncConnection, question: Question, zone: ZoneInfo, now_ms: int) -> Sales:
    """Answer a question."""
    return await on_driver(conn, lambda driver: _Reader(driver, question, zone, now_ms).sales())


async def history(conn: AsyncConnection, retailer: str, store: str, until: date) -> list[DaySums]:
    """A store's last `HISTORY_DAYS` days by its own time, the newest first, without those that sold nothing."""
    to_ms = _midnight(until + timedelta(days=1))
    values = (retailer, store, to_ms - HISTORY_DAYS * DAY_MS, to_ms)
    rows = await on_driver(conn, lambda driver: driver.execute(_HISTORY, values).fetchall())
    return [
        DaySums(datetime.fromtimestamp(day_ms / 1000, UTC).date(), currency, Sums(*sums))
        for day_ms, currency, *sums in rows
    ]


def today(zone: ZoneInfo, now_ms: int) -> date:
    """Head office's date."""
    return datetime.fromtimestamp(now_ms / 1000, zone).date()


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads for one question, in the driver's own thread."""

    driver: sqlite3.Connection
    question: Question
    zone: ZoneInfo
    now_ms: int

    def sales(self) -> Sales:
        current = today(self.zone, self.now_ms)
        day, passed_over = self.question.day or current, False
        answer = self._of(day, current)
        if self.question.day is None and not answer.stores:
            latest = self._latest()
            passed_over = latest is not None and latest != day
            answer = self._of(latest or day, current)
        return Sales(
            self.question,
            self.now_ms,
            answer.day,
            answer.day == current,
            passed_over,
            answer.until_ms,
            self._begun(answer) if answer.day == current else 24,
            _totals(answer.stores.values(), answer.hours),
            tuple(sorted(answer.stores.values(), key=lambda one: (-one.whole[0].amount, one.retailer, one.store))),
        )

    def _of(self, day: date, current: date) -> _Found:
        if self.question.basis == "office":
            return self._by_quarter(day, current)
        return self._by_hour(day, current)

    def _by_quarter(self, day: date, current: date) -> _Found:
        until_ms = self.now_ms - self.now_ms % QUARTER_MS if day == current else None
        found = _Found(day, until_ms)
        for number, back in enumerate(DAYS_BACK):
            from_ms, part_ms, to_ms = self._span(day, back, until_ms)
            found.add_stores(number, self._stores(from_ms, part_ms), is_part=True)
            found.add_stores(number, self._stores(part_ms, to_ms), is_part=False)
            found.add_hours(number, self._hours(from_ms, to_ms))
        return found

    def _stores(self, from_ms: int, to_ms: int) -> Iterator[Row]:
        """Rows of (retailer, store, currency, transactions, amount), of which a store may have several."""
        clause, values = self._scope()
        for piece in pieces(from_ms, to_ms):
            statement = _STORES.format(own=clause, **piece.sums())
            yield from self.driver.execute(statement, (piece.from_ms, piece.to_ms, *values))

    def _hours(self, from_ms: int, to_ms: int) -> Iterator[Row]:
        """Rows of (hour of head office's day, currency, transactions, amount), of which an hour may have several."""
        clause, values = self._scope()
        bounds = (from_ms - from_ms % HOUR_MS, to_ms)
        for hour_ms, currency, *sums in self.driver.execute(_HOURS.format(own=clause), (*bounds, *values)):
            for quarter in range(QUARTERS):
                at_ms = hour_ms + quarter * QUARTER_MS
                if from_ms <= at_ms < to_ms:
                    hour = datetime.fromtimestamp(at_ms / 1000, self.zone).hour
                    yield hour, currency, *sums[2 * quarter : 2 * quarter + 2]

    def _by_hour(self, day: date, current: date) -> _Found:
        found = _Found(day, None)
        begin = _midnight(day)
        for place in selling(self.driver, self.question.retailer, self.question.store):
            until = DAY_MS
            for number, back in enumerate(DAYS_BACK):
                from_ms = begin - back * DAY_MS
                rows = self.driver.execute(_HOURS_OF_STORE, (*place, from_ms, from_ms + DAY_MS)).fetchall()
                if number == 0 and day == current:
                    until = max((hour_ms - begin for hour_ms, *_ in rows), default=-1)
                found.add_hours_of_store(number, place, rows, from_ms, until)
        return found

    def _span(self, day: date, back: int, until_ms: int | None) -> Span:
        """A day in head office's time; it has 23 or 25 hours where clocks change; no time of day leads out of it."""
        other = day - timedelta(days=back)
        begin, end = (_instant(one, time(), self.zone) for one in (other, other + timedelta(days=1)))
        if until_ms is None:
            return begin, end, end
        clock = datetime.fromtimestamp(until_ms / 1000, self.zone).time()
        part = _instant(other, clock, self.zone) if back else until_ms
        return begin, min(max(begin, part), end), end

    def _scope(self) -> tuple[str, list[str]]:
        asked = (("retailer", self.question.retailer), ("store", self.question.store))
        given = [(name, value) for name, value in asked if value is not None]
        return "".join(f" AND {name} = ?" for name, _ in given), [value for _, value in given]

    def _begun(self, found: _Found) -> int:
        """In head office's time the clock tells; in stores' own, the latest hour in which one sold."""
        if self.question.basis == "office":
            return datetime.fromtimestamp(self.now_ms / 1000, self.zone).hour + 1
        return max((hour + 1 for (_, hour), sums in found.hours.items() if sums[0].transactions), default=0)

    def _latest(self) -> date | None:
        """The latest day with sales, up to now: a till whose clock runs ahead hides no other's sales.

        The quarters of all stores lie together, and those of a store that has not sold for long would be sought among
        a year of the others'. So where a store or retailer is asked for, its own hours lead to the quarter.
        """
        if self.question.retailer is None and self.question.store is None:
            hour = self._one(_LAST_HOUR, (self.now_ms,))
            latest = None if hour is None else self._one(_LATEST.format(own=""), (hour, hour + 1, self.now_ms))
            return None if latest is None else today(self.zone, latest)
        places = list(selling(self.driver, self.question.retailer, self.question.store))
        clause, values = self._scope()
        before = self.now_ms + FURTHEST_MS
        while (hour := self._last_hour(places, before)) is not None:
            around = (hour - FURTHEST_MS, min(self.now_ms, hour + FURTHEST_MS) + 1)
            latest = self._one(_LATEST.format(own=clause), (*around, self.now_ms, *values))
            if latest is not None:
                return today(self.zone, latest)
            before = hour
        return None

    def _one(self, statement: str, values: Sequence[object]) -> int | None:
        row = self.driver.execute(statement, values).fetchone()
        return None if row is None else row[0]

    def _last_hour(self, places: Iterable[tuple[str, str]], before: int) -> int | None:
        """The latest local hour in which one of these stores sold, before another."""
        rows = (self.driver.execute(_HOUR_BEFORE, (*place, before)).fetchone() for place in places)
        return max((int(row[0]) for row in rows if row is not None), default=None)


@dataclass(slots=True)
class _Found:
    day: date
    until_ms: int | None
    stores: dict[tuple[str, str, str], StoreSales] = field(default_factory=dict)
    hours: dict[tuple[str, int], list[Sums]] = field(default_factory=dict)

    def add_stores(self, number: int, rows: Iterable[Row], *, is_part: bool) -> None:
        """Take rows of (retailer, store, currency, transactions, amount)."""
        for retailer, store, currency, *counted in rows:
            key = retailer, store, currency
            one = self.stores.get(key) or self.stores.setdefault(key, StoreSales(*key))
            sums = Sums(*counted)
            one.whole[number] += sums
            if is_part:
                one.part[number] += sums

    def add_hours(self, number: int, rows: Iterable[Row]) -> None:
        """Take rows of (hour of the day, currency, transactions, amount)."""
        for hour, currency, *counted in rows:
            sums = Sums(*counted)
            if sums != Sums():
                held = self.hours.setdefault((currency, hour), [Sums()] * len(DAYS_BACK))
                held[number] += sums

    def add_hours_of_store(
        self, number: int, place: tuple[str, str], rows: Sequence[tuple[int, str, int, int]], from_ms: int, until: int
    ) -> None:
        """Take one store's hours of a day; what is compared ends with the hour that begins `until` after its start."""
        for hour_ms, currency, *counted in rows:
            sums = Sums(*counted)
            one = self.stores.setdefault((*place, currency), StoreSales(*place, currency))
            one.whole[number] += sums
            if hour_ms - from_ms <= until:
                one.part[number] += sums
            held = self.hours.setdefault((currency, (hour_ms - from_ms) // HOUR_MS), [Sums()] * len(DAYS_BACK))
            held[number] += sums


def _totals(stores: Iterable[StoreSales], hours: dict[tuple[str, int], list[Sums]]) -> tuple[Total, ...]:
    """By currency, the one with the most transactions first."""
    held: dict[str, list[StoreSales]] = {}
    for one in stores:
        held.setdefault(one.currency, []).append(one)
    none = tuple(Sums() for _ in DAYS_BACK)
    totals = [
        Total(
            currency,
            sum(one.whole[0].transactions > 0 for one in every),
            _added(one.whole for one in every),
            _added(one.part for one in every),
            tuple(tuple(hours.get((currency, hour), none)) for hour in range(24)),
        )
        for currency, every in held.items()
    ]
    return tuple(sorted(totals, key=lambda total: (-sum(sums.transactions for sums in total.whole), total.currency)))


def _added(every: Iterable[Sequence[Sums]]) -> tuple[Sums, ...]:
    return tuple(sum(days, Sums()) for days in zip(*every, strict=True))


def _midnight(day: date) -> int:
    """A day's beginning as if local time were UTC, as `sales_by_hour` has it."""
    return _instant(day, time(), UTC)


def _instant(day: date, clock: time, zone: tzinfo) -> int:
    return round(datetime.combine(day, clock, tzinfo=zone).timestamp() * 1000)


_HOUR: Final = f"""
WITH RECURSIVE hour(at) AS (VALUES (?) UNION ALL SELECT at + {HOUR_MS} FROM hour WHERE at + {HOUR_MS} < ?)
"""  # noqa: S608
"""The hours of a window. With them a store's rows are sought hour by hour, and nobody reads past those of others."""
_STORES: Final = f"""
{_HOUR} SELECT retailer, store, currency, SUM({{transactions}}), SUM({{amount_minor}})
FROM hour CROSS JOIN sales_by_quarter ON hour_ms = at{{own}} GROUP BY 1, 2, 3
HAVING SUM({{transactions}}) <> 0
"""  # noqa: S608
_HOURS: Final = f"""
{_HOUR} SELECT at, currency, {", ".join(f"SUM(transactions_{q}), SUM(amount_minor_{q})" for q in range(QUARTERS))}
FROM hour CROSS JOIN sales_by_quarter ON hour_ms = at{{own}} GROUP BY 1, 2
"""  # noqa: S608
_HOURS_OF_STORE: Final = """
SELECT hour_ms, currency, transactions, amount_minor FROM sales_by_hour
WHERE retailer = ? AND store = ? AND hour_ms >= ? AND hour_ms < ?
"""
_HOUR_BEFORE: Final = """
SELECT hour_ms FROM sales_by_hour WHERE retailer = ? AND store = ? AND hour_ms < ? ORDER BY hour_ms DESC LIMIT 1
"""
_LATEST_OF_ROW: Final = " ".join(
    f"WHEN transactions_{quarter} <> 0 AND {at} <= {{moment}} THEN {at}"
    for quarter, at in reversed([(number, f"hour_ms + {number * QUARTER_MS}") for number in range(QUARTERS)])
)
"""A row's latest quarter with sales up to a moment."""
_LAST_HOUR: Final = f"""
SELECT hour_ms FROM sales_by_quarter WHERE hour_ms <= ?1 AND CASE {_LATEST_OF_ROW.format(moment="?1")} END IS NOT NULL
ORDER BY hour_ms DESC LIMIT 1
"""  # noqa: S608
_LATEST: Final = f"""
{_HOUR} SELECT MAX(CASE {_LATEST_OF_ROW.format(moment="?3")} END)
FROM hour CROSS JOIN sales_by_quarter ON hour_ms = at{{own}}
"""  # noqa: S608
"""Of the hours between two instants, the latest quarter with sales up to a third."""
_HISTORY: Final = """
SELECT hour_ms - hour_ms % 86400000, currency, SUM(transactions), SUM(amount_minor) FROM sales_by_hour
WHERE retailer = ? AND store = ? AND hour_ms >= ? AND hour_ms < ? GROUP BY 1, 2 ORDER BY 1 DESC, 2
"""
