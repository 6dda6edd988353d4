"""Keeps one record that the server itself stumbles over from holding up its neighbours for ever.

What a batch may be refused for is known and told. Anything else that ends its transaction is a defect of the server,
set off by one of its records; the batch would come again and fail again. So it is halved until the record stands alone.
That one becomes a dead letter, sealed as it came, to be tried again by a better server; all others are stored. What
the machine is to blame for (disk, memory, lock) is no record's fault, and passes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

from ..ledger.database import LedgerFault, LedgerRefused
from .opening import SERVER_DEFECT, OpenedBatch, Refused, Report
from .outcome import Outcome, together

Take = Callable[[OpenedBatch, bool], Awaitable[Outcome]]
"""Takes a batch; true for one that others had better not share their transaction with."""


async def take_apart(take: Take, opened: OpenedBatch, report: Report, *, suspect: bool = False) -> Outcome:
    """Take a batch, if need be record by record. Raises `LedgerFault` and what else the machine is to blame for."""
    try:
        return await take(opened, suspect)
    except Exception as error:  # the pipeline's own defects come in every class
        if machine_failed(error):
            raise
        if len(opened.items) > 1:
            half = len(opened.items) // 2
            first = await take_apart(take, _part(opened, 0, half), report, suspect=True)
            second = await take_apart(take, _part(opened, half, len(opened.items)), report, suspect=True)
            return together([first, second])
        report("pipeline", error)
        refused = Refused(opened.items[0].seq, SERVER_DEFECT, type(error).__name__)
        return await take(replace(opened, items=(refused,)), True)


def machine_failed(error: Exception) -> bool:
    """Whether disk, memory or lock are to blame, rather than what was to be taken."""
    if isinstance(error, LedgerFault):
        return not isinstance(error, LedgerRefused)
    return isinstance(error, (OSError, MemoryError))


def _part(opened: OpenedBatch, start: int, end: int) -> OpenedBatch:
    return replace(opened, frames=opened.frames[start:end], items=opened.items[start:end])
