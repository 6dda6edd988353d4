"""Sends what a transaction marked, once it is committed.

A data manager of the transaction: Tryton tells it when all is written for good, and when it is not. What is sent is
read anew in a transaction of its own, so a sale that was rolled back is not there to be sent. The answer is written in
a third. A crash in between leaves the sale marked, and the next sale or the scheduled sweep sends it again; the agent
knows it by its key.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from trytond.pool import Pool
from trytond.transaction import Transaction

from tillstream_pos import Answer, Till

from .effects import readable
from .mapping import Unmapped, basket, name_of, transaction
from .settings import DEADLINE_S, deadline, identifiers, settings, till

OLDER = 20
"""Marked sales of before that are sent along with a new one, while its deadline lasts."""
SWEPT = 1_000
SWEEP_S = 30.0
WAITING = ("tillstream_state", "=", "waiting")
TRIED_LAST = [("tillstream_error", "ASC NULLS FIRST"), ("id", "ASC")]
INVALID = (400, 413)
"""Statuses by which the agent says that it is the sale that is wrong."""
UNAUTHORIZED = 401

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What became of one revision of one sale; without a revision, of a basket."""

    sale: int
    revision: int | None
    answer: Answer
    effects: str = ""


class Delivery:
    """Joins a transaction; joining again gives the one that is there."""

    def __init__(self) -> None:
        self._wanted: dict[int, None] = {}
        self._baskets: dict[int, None] = {}
        self._sweeps = False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Delivery)

    __hash__ = None  # type: ignore[assignment]

    def wants(self, sales: Iterable[int]) -> None:
        """Send these marked sales, if they are committed."""
        self._wanted.update(dict.fromkeys(sales))

    def tells_of(self, baskets: Iterable[int]) -> None:
        """Say how these stand, if they are not paid by then."""
        self._baskets.update(dict.fromkeys(baskets))

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
        round_ = _Round(committed.database.name, committed.language, list(self._wanted), self._sweeps)
        baskets = list(self._baskets)
        self._forget()
        try:
            if round_.wanted or round_.sweeps:
                round_.deliver(round_.sales)
            elif baskets:
                round_.deliver(lambda: round_.baskets(baskets))
        except Exception:
            logger.exception("sales could not be sent to Tillstream; they stay marked")

    def tpc_abort(self, _: Any) -> None:
        """It is rolled back: there is nothing to send."""
        self._forget()

    def _forget(self) -> None:
        self._wanted.clear()
        self._baskets.clear()
        self._sweeps = False


class _Round:
    """One delivery, with one deadline for all of it."""

    def __init__(self, database: str, language: str, wanted: list[int], sweeps: bool) -> None:
        self.database = database
        self.language = language
        self.wanted = wanted
        self.sweeps = sweeps
        self._until = time.monotonic() + (SWEEP_S if sweeps else _patience())

    def deliver(self, send: Callable[[], Iterator[Outcome]]) -> None:
        """Send, then write down what came of it. No transaction that writes is open meanwhile."""
        with Transaction(new=True).start(self.database, 0, readonly=True):
            outcomes = list(send())
        if outcomes:
            with Transaction(new=True).start(self.database, 0):
                for outcome in outcomes:
                    _note(outcome)

    def sales(self) -> Iterator[Outcome]:
        """Send what is marked: at each point until its agent is in trouble, and all of it until the time is over.

        What was not taken before comes last, so that it holds up nothing else.
        """
        sale = Pool().get("sale.point.sale")
        marked = sale.search([("id", "in", self.wanted), WAITING])
        points = Pool().get("sale.point").search([]) if self.sweeps else {one.point for one in marked}
        for point in points:
            older = [("point", "=", point.id), ("id", "not in", self.wanted), WAITING]
            rest = sale.search(older, order=TRIED_LAST, limit=SWEPT if self.sweeps else OLDER)
            yield from self._in_turn([*(one for one in marked if one.point == point), *rest])

    def _in_turn(self, sales: list[Any]) -> Iterator[Outcome]:
        for sale in sales:
            answer = self._answer(sale, lambda client, left, sale=sale: self._send(client, left, sale))
            if answer is None:
                return
            yield Outcome(sale.id, sale.tillstream_revision, answer, readable(answer, self.language))
            if answer.retryable:
                return

    def baskets(self, ids: list[int]) -> Iterator[Outcome]:
        """Say how baskets stand. Nothing is repeated: the next change says it all again."""
        search = Pool().get("sale.point.sale").search
        unpaid = [("id", "in", ids), ("state", "in", ["open", "cancelled"]), ("tillstream_revision", "=", None)]
        for sale in search(unpaid):
            answer = self._answer(sale, lambda client, left, sale=sale: self._tell(client, left, sale))
            if answer is None or not answer.ok:
                return
            yield Outcome(sale.id, None, answer, readable(answer, self.language))

    def _send(self, client: Till, left: float, sale: Any) -> Answer:
        return client.transaction(transaction(sale, self.database, identifiers()), deadline=left)

    def _tell(self, client: Till, left: float, sale: Any) -> Answer:
        """Revisions are milliseconds: they grow with every change, whichever process makes it."""
        revision = time.time_ns() // 1_000_000
        said = basket(sale, identifiers())
        return client.basket(name_of(sale, self.database), revision=revision, deadline=left, **said)

    def _answer(self, sale: Any, ask: Callable[[Till, float], Answer]) -> Answer | None:
        """None when the time is over."""
        left = self._until - time.monotonic()
        if left <= 0:
            return None
        try:
            client = till(settings(sale.point.name))
        except (ValueError, OSError) as error:
            logger.error("trytond.conf does not say how to reach the agent: %s", error)  # noqa: TRY400 (no defect)
            return Answer(ok=False, code="settings", error=str(error), retryable=True)
        try:
            answer = ask(client, left)
        except Unmapped as error:
            return Answer(ok=False, code="unmapped", error=str(error))
        except Exception as error:
            logger.exception("sale %s cannot be mapped", sale.id)
            return Answer(ok=False, code="unmapped", error=f"the module failed: {type(error).__name__}")
        if answer.status == UNAUTHORIZED:
            till.cache_clear()  # the agent may have a new token: its file is read again
        return answer


def _settled(answer: Answer) -> bool:
    """Whether sending the same again would change nothing. What is wrong with the agent or the settings may pass: such
    a sale waits, with the reason, and those behind it are sent all the same.
    """
    return answer.ok or answer.code == "unmapped" or answer.status in INVALID


def _patience() -> float:
    try:
        return deadline()
    except ValueError:
        return DEADLINE_S


def _note(outcome: Outcome) -> None:
    """Write down what came of it, unless the sale has changed since: then its new revision is still to be sent."""
    table = Pool().get("sale.point.sale").__table__()
    if outcome.revision is None:
        columns, values = [table.tillstream_effects], [outcome.effects or None]
        same = table.state.in_(["open", "cancelled"])
    else:
        columns, values = _changes(table, outcome)
        same = (table.tillstream_revision == outcome.revision) & (table.tillstream_state == "waiting")
    cursor = Transaction().connection.cursor()
    cursor.execute(*table.update(columns, values, where=(table.id == outcome.sale) & same))


def _changes(table: Any, outcome: Outcome) -> tuple[list[Any], list[Any]]:
    """Columns and their values. What stood on the basket stays, if the sale brought nothing more."""
    answer = outcome.answer
    error = None if answer.ok else ": ".join(filter(None, (answer.code, answer.field, answer.error)))
    changes = [(table.tillstream_error, error)]
    if _settled(answer):
        changes.append((table.tillstream_state, "captured" if answer.ok else "refused"))
    if answer.captured is not None:
        changes.append((table.tillstream_record, f"{answer.captured.epoch}/{answer.captured.seq}"))
    if outcome.effects:
        changes.append((table.tillstream_effects, outcome.effects))
    return [column for column, _ in changes], [value for _, value in changes]
