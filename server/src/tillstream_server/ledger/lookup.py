"""Reads rows by many keys at once, on the pipeline's hot path.

Driver-level statements with a few fixed numbers of parameters: SQLite has them prepared already, and nothing is
compiled anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncConnection

_SIZES: Final = (1, 8, 64, 512)


async def among(conn: AsyncConnection, statement: str, values: Iterable[bytes], *fixed: object) -> list[Sequence[Any]]:
    """The rows of a statement that ends in `IN (?)`, for all of the values; `fixed` are the parameters before them."""
    wanted = list(values)
    rows: list[Sequence[Any]] = []
    for start in range(0, len(wanted), _SIZES[-1]):
        some = wanted[start : start + _SIZES[-1]]
        size = next(size for size in _SIZES if size >= len(some))
        some += some[-1:] * (size - len(some))
        rows += (await conn.exec_driver_sql(_sized(statement, size), (*fixed, *some))).all()
    return rows


@lru_cache(maxsize=256)
def _sized(statement: str, size: int) -> str:
    return statement.replace("IN (?)", f"IN ({', '.join('?' * size)})")
