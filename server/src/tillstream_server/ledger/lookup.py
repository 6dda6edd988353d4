"""Reads rows by many keys at once, on the pipeline's hot path.

Driver-level statements with a few fixed numbers of parameters: SQLite has them prepared already, and nothing is
compiled anew. Several lookups take one hop to the driver's thread.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache, partial
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncConnection

from .database import on_driver

_SIZES: Final = (1, 8, 64, 512)

Row = tuple[Any, ...]
Lookup = tuple[str, Iterable[bytes] | Iterable[int] | None, tuple[object, ...]]
"""A statement that ends in `IN (?)`, the values that go there, and the parameters before them.

Without values it is a statement as it stands, with all of its parameters.
"""
_Query = tuple[str, Sequence[object]]


async def among(conn: AsyncConnection, statement: str, values: Iterable[bytes], *fixed: object) -> list[Row]:
    """The rows of a statement that ends in `IN (?)`, for all of the values; `fixed` are the parameters before them."""
    (rows,) = await look_up(conn, (statement, values, fixed))
    return rows


async def look_up(conn: AsyncConnection, *lookups: Lookup) -> list[list[Row]]:
    """The rows of each lookup."""
    queries = [list(_queries(*lookup)) for lookup in lookups]
    return await on_driver(conn, partial(_fetch, queries)) if any(queries) else [[] for _ in lookups]


async def rows_of(conn: AsyncConnection, statement: str, *values: object) -> list[Row]:
    """The rows of one statement."""
    (rows,) = await rows_of_each(conn, statement, [values])
    return rows


async def rows_of_each(conn: AsyncConnection, statement: str, many: Iterable[Sequence[object]]) -> list[list[Row]]:
    """The rows of one statement for each of many lists of values."""
    return await on_driver(conn, partial(_fetch, [[(statement, values)] for values in many]))


def _fetch(queries: Sequence[Sequence[_Query]], driver: sqlite3.Connection) -> list[list[Row]]:
    return [[row for query in some for row in driver.execute(*query).fetchall()] for some in queries]


def _queries(
    statement: str, values: Iterable[bytes] | Iterable[int] | None, fixed: tuple[object, ...]
) -> Iterator[_Query]:
    if values is None:
        yield statement, fixed
        return
    wanted: list[object] = list(values)
    for start in range(0, len(wanted), _SIZES[-1]):
        some = wanted[start : start + _SIZES[-1]]
        size = next(size for size in _SIZES if size >= len(some))
        some += some[-1:] * (size - len(some))
        yield _sized(statement, size), (*fixed, *some)


@lru_cache(maxsize=256)
def _sized(statement: str, size: int) -> str:
    return statement.replace("IN (?)", f"IN ({', '.join('?' * size)})")
