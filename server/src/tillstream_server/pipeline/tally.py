"""What came in with a batch, for the metrics: counts as records arrive. The projections have the figures to go by.

A sale that is revised or voided later was counted when it came, and stays counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final

from tillstream_protocol.events import Body
from tillstream_protocol.transaction import Transaction

from .figures import sells


@dataclass(frozen=True, slots=True)
class Tally:
    """New records by the tag of their body, selling transactions by kind, and what they came to.

    `amounts` are by currency and direction, `sold` or `returned`, in the currency's main unit, never negative. Training
    and test transactions are in the first figure alone.
    """

    bodies: Mapping[str, int] = field(default_factory=dict)
    transactions: Mapping[str, int] = field(default_factory=dict)
    amounts: Mapping[tuple[str, str], Decimal] = field(default_factory=dict)


NOTHING: Final = Tally()


def tally(bodies: Iterable[Body]) -> Tally:
    """Count records that have just been written."""
    by_body: Counter[str] = Counter()
    by_kind: Counter[str] = Counter()
    amounts: dict[tuple[str, str], Decimal] = {}
    for body in bodies:
        by_body[str(type(body).__struct_config__.tag)] += 1
        if isinstance(body, Transaction) and sells(body):
            by_kind[body.kind] += 1
            way = body.currency, "sold" if body.total >= 0 else "returned"
            amounts[way] = amounts.get(way, Decimal(0)) + Decimal(abs(body.total)).scaleb(-body.exponent)
    return Tally(by_body, by_kind, amounts)


def sum_of(parts: Iterable[Tally]) -> Tally:
    """Several in one."""
    bodies: Counter[str] = Counter()
    transactions: Counter[str] = Counter()
    amounts: dict[tuple[str, str], Decimal] = {}
    for part in parts:
        bodies.update(part.bodies)
        transactions.update(part.transactions)
        for way, amount in part.amounts.items():
            amounts[way] = amounts.get(way, Decimal(0)) + amount
    return Tally(bodies, transactions, amounts)
