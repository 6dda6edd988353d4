"""What was sold in a window of time, and at how many tills, without a look at every sale.

Whole quarters of hours are summed up already. Sales are read in the quarters that the window's ends cut, at most two of
them. A till is counted as soon as one sale of its is found, in an index in which the sales that a till made in a store
lie together; the ledger's row of that one tells which till and store it was.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from .quarters import COUNTED, QUARTER_MS, Piece, pieces


@dataclass(frozen=True, slots=True)
class Sold:
    """How many transactions, their amounts by currency, and how many tills had some."""

    transactions: int
    amounts: dict[str, int]
    tills: int


def sold(driver: sqlite3.Connection, from_ms: int, to_ms: int, store: str | None) -> Sold:
    """What counts in the figures of one store, or of all: from the first instant on, up to but without the last."""
    places = dict(driver.execute(_PLACES, (from_ms, to_ms, store)))
    rows = sorted(_rows(driver, from_ms, to_ms, store, list(places))) if places else []
    amounts: Counter[str] = Counter()
    for currency, _, amount in rows:
        amounts[currency] += amount
    return Sold(sum(transactions for _, transactions, _ in rows), dict(amounts), len(set(places.values())))


Row = tuple[str, int, int]
"""Currency, transactions, amount."""


def _rows(
    driver: sqlite3.Connection, from_ms: int, to_ms: int, store: str | None, places: Sequence[int]
) -> Iterator[Row]:
    """Whole quarters, and the sales before and after them."""
    first, last = -(-from_ms // QUARTER_MS) * QUARTER_MS, to_ms // QUARTER_MS * QUARTER_MS
    cut = [(from_ms, first), (last, to_ms)] if first < last else [(from_ms, to_ms)]
    for begin, end in cut:
        if begin < end:
            yield from driver.execute(_SALES, (begin, end, json.dumps(places)))
    if first < last:
        for piece in pieces(first, last):
            yield from _of_all(driver, piece) if store is None else _of_store(driver, piece, store)


def _of_all(driver: sqlite3.Connection, piece: Piece) -> Iterator[Row]:
    """What all stores sold. Currencies are few: to read the rows for each of them takes less than to sort them."""
    bounds = (piece.from_ms, piece.to_ms)
    for (currency,) in driver.execute(_CURRENCIES, bounds).fetchall():
        transactions, amount = driver.execute(_OF_ALL.format(**piece.sums()), (*bounds, currency)).fetchone()
        if transactions:
            yield currency, transactions, amount


def _of_store(driver: sqlite3.Connection, piece: Piece, store: str) -> Iterator[Row]:
    """What one store sold, or several retailers' of this name. It is sought hour by hour among the others."""
    for (retailer,) in driver.execute(_RETAILERS, (store,)).fetchall():
        yield from driver.execute(_OF_STORE.format(**piece.sums()), (piece.from_ms, piece.to_ms, retailer, store))


_RETAILERS: Final = """
WITH RECURSIVE seller(name) AS (
    SELECT MIN(retailer) FROM sales_by_hour
    UNION ALL SELECT (SELECT MIN(retailer) FROM sales_by_hour WHERE retailer > name) FROM seller WHERE name IS NOT NULL
)
SELECT name FROM seller WHERE EXISTS (SELECT 1 FROM sales_by_hour WHERE retailer = name AND store = ?)
"""
"""The retailers that have sold in a store of this name: a seek each."""
_SUMS: Final = ", ".join(f"SUM({{{name}}})" for name in COUNTED)
_CURRENCIES: Final = "SELECT DISTINCT currency FROM sales_by_quarter WHERE hour_ms >= ? AND hour_ms < ?"
_OF_ALL: Final = f"""
SELECT {_SUMS} FROM sales_by_quarter WHERE hour_ms >= ? AND hour_ms < ? AND currency = ?
"""  # noqa: S608
_OF_STORE: Final = f"""
WITH RECURSIVE hour(at) AS (
    SELECT MIN(hour_ms) FROM sales_by_quarter WHERE hour_ms >= ?1
    UNION ALL SELECT (SELECT MIN(hour_ms) FROM sales_by_quarter WHERE hour_ms > at) FROM hour WHERE at < ?2
)
SELECT currency, {_SUMS} FROM hour CROSS JOIN sales_by_quarter ON hour_ms = at
WHERE at < ?2 AND retailer = ?3 AND store = ?4 GROUP BY 1 HAVING SUM({{transactions}}) <> 0
"""  # noqa: S608
"""Nobody reads past the rows of other stores, nor seeks hours in which nobody sold."""
_PLACES: Final = """
WITH RECURSIVE here(number) AS (
    SELECT MIN(place) FROM sale WHERE place IS NOT NULL
    UNION ALL SELECT (SELECT MIN(place) FROM sale WHERE place > number) FROM here WHERE number IS NOT NULL
)
SELECT number, l.till_id FROM here CROSS JOIN ledger l ON l.id = (
    SELECT s.ledger_id FROM sale s WHERE s.place = number AND s.counted_ms >= ?1 AND s.counted_ms < ?2 LIMIT 1
) WHERE ?3 IS NULL OR l.store = ?3
"""
"""Each till's place in each store, where it sold in a window: three seeks each."""
_SALES: Final = """
SELECT l.currency, COUNT(*), SUM(l.amount_minor) FROM json_each(?3) here
CROSS JOIN sale s ON s.place = here.value AND s.counted_ms >= ?1 AND s.counted_ms < ?2
CROSS JOIN ledger l ON l.id = s.ledger_id GROUP BY 1
"""
