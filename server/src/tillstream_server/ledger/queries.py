"""Figures for head office, read from the projections and the decisions.

Times are half-open: from the first instant on, up to but not including the last. Sales are found by the record's own
time, decisions by when they were made.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, TypedDict

from sqlalchemy import Column, ColumnElement, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from tillstream_protocol.errors import InvalidInput

from . import schema
from .database import on_driver
from .quarters import HOUR_MS
from .sold import sold

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST: Final = -HOUR_MS * 2**40
_LAST: Final = HOUR_MS * 2**40
"""Before and after every instant that there may be, at the turn of an hour: what is not bounded cuts no quarter."""


class Summary(TypedDict):
    """What the ledger holds.

    `transactions`, `amount_minor` (by currency) and `tills` are of the sales, returns and exchanges in the window:
    the revision that holds of each, neither voided nor training nor test. `dead_letters` are those that arrived in
    the window, for they have no readable time of their own. `duplicates_refused` has no time at all: it counts every
    repeat and duplicate since the server was set up.
    """

    transactions: int
    amount_minor: dict[str, int]
    duplicates_refused: int
    dead_letters: int
    tills: int


class OfferCount(TypedDict):
    """Decisions that are alike, and how far their offers came."""

    campaign: str
    outcome: str
    reason: str | None
    decided_at: str
    verdict: str | None
    decisions: int
    pushed: int
    delivered: int
    shown: int


class OfferTotals(TypedDict):
    """All decisions of the window together."""

    offered: int
    refused: int
    pushed: int
    delivered: int
    shown: int


class OfferSummary(TypedDict):
    """What campaigns decided. `delivered` counts pushes that their till confirmed before they expired."""

    totals: OfferTotals
    counts: list[OfferCount]


@dataclass(frozen=True, slots=True)
class Window:
    """What a question is about; `store` None is every store. Times are milliseconds since 1970."""

    from_ms: int
    to_ms: int
    store: str | None

    @classmethod
    def parse(cls, from_: str | None, to: str | None, store: str | None) -> Window:
        """Read a window's bounds; None and empty are no bound. Raises `InvalidInput` naming the field."""
        first = instant_ms(from_, "from") if from_ else _FIRST
        last = instant_ms(to, "to") if to else _LAST
        if first > last:
            raise InvalidInput(f"{from_!r} is after {to!r}", field="from", limit="at or before `to`")
        return cls(first, last, store or None)

    def holds(self, at_ms: Column[int], store: Column[str]) -> tuple[ColumnElement[bool], ...]:
        """The conditions on a row's time and store."""
        inside = (at_ms >= self.from_ms, at_ms < self.to_ms)
        return inside if self.store is None else (*inside, store == self.store)


def instant_ms(text: str, field: str) -> int:
    """An ISO 8601 date or instant as milliseconds since 1970; without an offset it is UTC. Raises `InvalidInput`."""
    try:
        moment = datetime.fromisoformat(text)
        return (moment.replace(tzinfo=moment.tzinfo or UTC) - _EPOCH) // timedelta(milliseconds=1)
    except ValueError as error:
        raise InvalidInput(
            f"{text!r} is not a date or an instant", field=field, limit="2026-01-31 or 2026-01-31T09:30:00+01:00"
        ) from error


async def summary(conn: AsyncConnection, from_: str | None, to: str | None, store: str | None) -> Summary:
    """The ledger's figures. Raises `InvalidInput` for a bound that is no date or instant."""
    window = Window.parse(from_, to, store)
    found = await on_driver(conn, lambda driver: sold(driver, window.from_ms, window.to_ms, window.store))
    return Summary(
        transactions=found.transactions,
        amount_minor=found.amounts,
        duplicates_refused=await _duplicates(conn),
        dead_letters=await _dead_letters(conn, window),
        tills=found.tills,
    )


async def offers(conn: AsyncConnection, from_: str | None, to: str | None, store: str | None) -> OfferSummary:
    """What campaigns decided. Raises `InvalidInput` for a bound that is no date or instant."""
    window = Window.parse(from_, to, store)
    decision = schema.decision.c
    alike = (decision.campaign, decision.outcome, decision.reason, decision.decided_at, decision.verdict)
    rows = await conn.execute(
        select(
            *alike,
            func.count(),
            func.count(decision.pushed_ms),
            func.count(decision.received_ms),
            func.count(decision.shown_ms),
        )
        .where(*window.holds(decision.decided_ms, decision.store))
        .group_by(*alike)
        .order_by(*alike)
    )
    counts = [_offer_count(*row) for row in rows.all()]
    totals = OfferTotals(
        offered=sum(count["decisions"] for count in counts if count["outcome"] == "offered"),
        refused=sum(count["decisions"] for count in counts if count["outcome"] == "refused"),
        pushed=sum(count["pushed"] for count in counts),
        delivered=sum(count["delivered"] for count in counts),
        shown=sum(count["shown"] for count in counts),
    )
    return OfferSummary(totals=totals, counts=counts)


def _offer_count(
    campaign: str,
    outcome: str,
    reason: str | None,
    decided_at: str,
    verdict: str | None,
    decisions: int,
    pushed: int,
    delivered: int,
    shown: int,
) -> OfferCount:
    return OfferCount(
        campaign=campaign,
        outcome=outcome,
        reason=reason,
        decided_at=decided_at,
        verdict=verdict,
        decisions=decisions,
        pushed=pushed,
        delivered=delivered,
        shown=shown,
    )


async def _duplicates(conn: AsyncConnection) -> int:
    refusal = schema.refusal.c
    refused = select(func.coalesce(func.sum(refusal.count), 0)).where(refusal.reason.in_(("repeat", "duplicate")))
    return int((await conn.execute(refused)).scalar_one())


async def _dead_letters(conn: AsyncConnection, window: Window) -> int:
    letter, till = schema.dead_letter, schema.till
    counted = (
        select(func.count())
        .select_from(letter.join(till, till.c.till_id == letter.c.till_id))
        .where(*window.holds(letter.c.received_ms, till.c.store))
    )
    return (await conn.execute(counted)).scalar_one()
