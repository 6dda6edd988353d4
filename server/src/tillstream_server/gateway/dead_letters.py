"""Records that could not be taken, one by one as they came, to be tried again: after an upgrade, or a repair."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from tillstream_protocol.errors import TillstreamError
from tillstream_protocol.messages import Batch, DeadLetter

MAX_NAMED: Final = 10
"""Ids that an error names."""


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter with the header of its chunk, as they came."""

    id: int
    header: bytes
    frame: bytes

    def batch(self) -> Batch:
        """The record as a batch of its own."""
        return Batch(self.header, self.frame, "backlog")


@dataclass(frozen=True, slots=True)
class Replayed:
    """How many dead letters were tried again, and what became of them."""

    retried: int
    taken: int

    def plain(self) -> dict[str, object]:
        """The numbers as JSON can hold them."""
        return {"retried": self.retried, "taken": self.taken, "still_dead": self.retried - self.taken}


class UnknownLetter(TillstreamError):
    """There is no dead letter of an id that was asked for."""

    code = "unknown_dead_letter"


async def ids(conn: AsyncConnection, wanted: Collection[int] | None) -> list[int]:
    """The ids of all dead letters, or of those that are wanted, the oldest first.

    Raises `UnknownLetter` naming those of the wanted that are not there.
    """
    there = list((await conn.exec_driver_sql("SELECT id FROM dead_letter ORDER BY id")).scalars())
    if wanted is None:
        return there
    if unknown := sorted(set(wanted).difference(there)):
        names = ", ".join(map(str, unknown[:MAX_NAMED])) + (" …" if len(unknown) > MAX_NAMED else "")
        hint = "none was tried; it may have been taken by now, see: dead-letters list"
        raise UnknownLetter(f"there is no dead letter {names}", field="ids", hint=hint)
    return [id_ for id_ in there if id_ in wanted]


async def find(conn: AsyncConnection, id_: int) -> Letter | None:
    """The letter of this id, or None."""
    rows = await conn.exec_driver_sql("SELECT id, header, frame FROM dead_letter WHERE id = ?", (id_,))
    return next((Letter(*tuple(row)) for row in rows.all()), None)


async def say_why(conn: AsyncConnection, letter: Letter, still: DeadLetter) -> None:
    """Keep why a letter is still dead: it may be for another reason by now."""
    await conn.exec_driver_sql(
        "UPDATE dead_letter SET code = ?, reason = ? WHERE id = ?", (still.code, still.reason, letter.id)
    )
