"""Sends what a transaction marked, once it is committed.

A data manager of the transaction: Tryton tells it when all is written for good, and when it is not. What is sent is
read anew in a transaction of its own, so a sale that was rolled back is not there to be sent. The answer is written in
a third. A crash in between leaves the sale marked, and the next sale or the scheduled sweep sends it again; the agent
knows it by its key.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from trytond.pool import Pool
from trytond.transaction import Transaction

from tillstream_pos import Answer

from .effects import readable
from .mapping import Unmapped, transaction
from .settings import DEADLINE_S, deadline, identifiers, settings, till

OLDER = 20
"""Marked sales of before that are sent along with a new one, while its deadline lasts."""
SWEPT = 1_000
SWEEP_S = 30.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What became of one revision of one sale."""

    sale: int
    revision: int
    answer: Answer
    effects: str = ""


class Delivery:
    """Joins a transaction; joining again gives the one that is there."""

    def __init__(self) -> None:
        self._wanted: dict[int, None] = {}
        self._sweeps = False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Delivery)

    __hash__ = None  # type: ignore[assignment]

    def wants(self, sales: Iterable[int]) -> None:
        """Send these, if they are committed."""
        self._wanted.update(dict.fromkeys(sales))

    def sweeps(self) -> None:
        """Send whatever is marked."""
        self._sweeps = True

    def tpc_begin(self, _: Any) -> None:
        """Nothing to prepare."""

    def commit(self, _: Any) -> None:
        """Nothing to write with the rest."""

    def tpc_vote(self, _: Any) -> None:
        """No objection, ever."""

    def tpc_finish(self, committed: Any) -> None:
        """It is committed: send. Raises nothing."""
        wanted, sweeps = list(self._wanted), self._sweeps
        self._forget()
        if not wanted and not sweeps:
            return
        try:
            _deliver(committed.database.name, committed.language, wanted, sweeps=sweeps)
        except Exception:
            logger.exception("sales could not be sent to Tillstream; they stay marked")

    def tpc_abort(self, _: Any) -> None:
        """It is rolled back: there is nothing to send."""
        self._forget()

    def _forget(self) -> None:
        self._wanted.clear()
        self._sweeps = False


def _deliver(database: str, language: str, wanted: list[int], *, sweeps: bool) -> None:
    until = time.monotonic() + (SWEEP_S if sweeps else _patience())
    with Transaction(new=True).start(database, 0, readonly=True):
        outcomes = list(_sent(database, language, wanted, SWEPT if sweeps else OLDER, until))
    if outcomes:
        with Transaction(new=True).start(database, 0):
            for outcome in outcomes:
                _note(outcome)


def _patience() -> float:
    try:
        return deadline()
    except ValueError:
        return DEADLINE_S


def _sent(database: str, language: str, wanted: list[int], most: int, until: float) -> Iterator[Outcome]:
    """Send one after the other until the time is over or the agent is in trouble."""
    Sale = Pool().get("sale.point.sale")  # noqa: N806 (Tryton's models are classes)
    schemes = identifiers()
    marked = Sale.search([("id", "in", wanted), ("tillstream_state", "=", "waiting")])
    older = Sale.search(
        [("tillstream_state", "=", "waiting"), ("id", "not in", wanted)], order=[("id", "ASC")], limit=most
    )
    for sale in [*marked, *older]:
        left = until - time.monotonic()
        if left <= 0:
            return
        answer = _answer(sale, database, schemes, left)
        yield Outcome(sale.id, sale.tillstream_revision, answer, readable(answer, language))
        if answer.retryable:
            return


def _answer(sale: Any, database: str, schemes: tuple[tuple[str, str], ...], left: float) -> Answer:
    try:
        body = transaction(sale, database, schemes)
    except Unmapped as error:
        return Answer(ok=False, code="unmapped", error=str(error))
    except Exception as error:
        logger.exception("sale %s cannot be mapped", sale.id)
        return Answer(ok=False, code="unmapped", error=f"the module failed: {type(error).__name__}")
    try:
        client = till(settings(sale.point.name))
    except (ValueError, OSError) as error:
        logger.error("trytond.conf does not say how to reach the agent: %s", error)  # noqa: TRY400 (no defect)
        return Answer(ok=False, code="settings", error=str(error), retryable=True)
    return client.transaction(body, deadline=left)


def _note(outcome: Outcome) -> None:
    """Write down what came of it, unless the sale has changed since: then its new revision is still to be sent."""
    table = Pool().get("sale.point.sale").__table__()
    answer = outcome.answer
    error = None if answer.ok else ": ".join(filter(None, (answer.code, answer.field, answer.error)))
    columns, values = [table.tillstream_error], [error]
    if answer.ok or not answer.retryable:
        columns.append(table.tillstream_state)
        values.append("captured" if answer.ok else "refused")
    if answer.captured is not None:
        columns += [table.tillstream_record, table.tillstream_effects]
        values += [f"{answer.captured.epoch}/{answer.captured.seq}", outcome.effects or None]
    same = (table.id == outcome.sale) & (table.tillstream_revision == outcome.revision)
    cursor = Transaction().connection.cursor()
    cursor.execute(*table.update(columns, values, where=same & (table.tillstream_state == "waiting")))
