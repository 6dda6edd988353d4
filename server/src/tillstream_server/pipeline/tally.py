"""What came in with a batch, for the metrics: counts as records arrive. The projections have the figures to go by.

A sale that is revised or voided later was counted when it came, and stays counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from tillstream_protocol.events import Body
from tillstream_protocol.transaction import Transaction

from .figures import sells


@dataclass(frozen=True, slots=True)
class Tally:
    """New records by the tag of their body, selling transactions by kind, and what they came to.

    `amounts` are by currency, direction (`sold` or `returned`) and exponent, in minor units of that exponent, and never
    negative. Training and test transactions are in the first figure alone.
    """

    bodies: Mapping[str, int] = field(default_factory=dict)
    transactions: Mapping[str, int] = field(default_factory=dict)
    amounts: Mapping[tuple[str, str, int], int] = field(default_factory=dict)


NOTHING: Final = Tally()


def tally(bodies: Iterable[Body]) -> Tally:
    """Count records that have just been written."""
    types: Counter[type[Body]] = Counter()
    kinds: Counter[str] = Counter()
    amounts: Counter[tuple[str, str, int]] = Counter()
    for body in bodies:
        types[type(body)] += 1
        if isinstance(body, Transaction) and sells(body):
            kinds[body.kind] += 1
            amounts[body.currency, "sold" if body.total >= 0 else "returned", body.exponent] += abs(body.total)
    return Tally({str(one.__struct_config__.tag): count for one, count in types.items()}, kinds, amounts)


def sum_of(parts: Iterable[Tally]) -> Tally:
    """Several in one."""
    bodies: Counter[str] = Counter()
    transactions: Counter[str] = Counter()
    amounts: Counter[tuple[str, str, int]] = Counter()
    for part in parts:
        bodies.update(part.bodies)
        transactions.update(part.transactions)
        amounts.update(part.amounts)
    return Tally(bodies, transactions, amounts)
