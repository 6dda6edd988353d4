"""What a record says that conditions may ask for, the same at the till and at the server."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .events import MemberIdentified
from .rules import Fact
from .transaction import IdempotencyKey, Line, Moment, Transaction, idempotency_key

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
_EPOCH_WEEKDAY = 3  # 1970-01-01 was a Thursday, and Monday is 0


class LazyFacts:
    """An occasion's facts, put together when they are first asked for: many retailers have no rules that ask.

    Rules may ask it as they would ask a map. What is known beforehand is then told without making the rest.
    """

    __slots__ = ("_facts", "_make", "_more")

    def __init__(self, make: Callable[[], Mapping[str, Fact]], more: Mapping[str, Fact] | None = None) -> None:
        """`more` is known beyond what `make` gives."""
        self._make = make
        self._more = more or {}
        self._facts: Mapping[str, Fact] | None = None

    def get(self, name: str, /) -> Fact:
        """One fact; None where it is unknown."""
        return self._more[name] if name in self._more else self.all().get(name)

    def all(self) -> Mapping[str, Fact]:
        """Every fact."""
        if self._facts is None:
            self._facts = {**self._make(), **self._more}
        return self._facts


def sale_facts(transaction: Transaction) -> dict[str, Fact]:
    """The facts of a transaction whose retailer, store and till are filled in."""
    t = transaction
    return {
        "sale.kind": t.kind,
        "sale.total": t.total,
        "sale.currency": t.currency,
        **_goods_facts(t.lines),
        "till.store": t.store,
        "till.retailer": t.retailer,
        "member.known": t.customer is not None and bool(t.customer.identifiers),
        **_time_facts(t.end.at, t.end.offset_minutes),
    }


@dataclass(frozen=True, slots=True)
class Goods:
    """What is in a basket that is still open: `total` in minor units of `currency`."""

    lines: tuple[Line, ...]
    total: int
    currency: str
    known: bool
    """Whether its member is known."""


def basket_facts(goods: Goods, *, retailer: str, store: str, at_ms: int, offset_minutes: int) -> dict[str, Fact]:
    """The facts of a basket at `at_ms`; they are those of the sale that it will be."""
    return {
        "sale.kind": "sale",
        "sale.total": goods.total,
        "sale.currency": goods.currency,
        **_goods_facts(goods.lines),
        "till.store": store,
        "till.retailer": retailer,
        "member.known": goods.known,
        **_time_facts(at_ms, offset_minutes),
    }


def identification_facts(event: MemberIdentified, *, retailer: str, store: str, at_ms: int) -> dict[str, Fact]:
    """The facts of an identification at `at_ms`. The hour is UTC: an event carries no offset."""
    return {
        "till.store": event.store or store,
        "till.retailer": retailer,
        "member.known": True,
        **_time_facts(at_ms, 0),
    }


def sale_occasion_key(transaction: Transaction) -> bytes:
    """The name of the occasion that a sale is. A revision is the same occasion, and makes no second offer."""
    return occasion_key(transaction.retailer, idempotency_key(transaction))


def occasion_key(retailer: str, key: IdempotencyKey) -> bytes:
    """A sale's occasion by its idempotency key."""
    return "\0".join(("sale", retailer, *key)).encode()


def identification_occasion_key(event: MemberIdentified, till_id: bytes) -> bytes:
    """The name of the occasion that an identification is: event ids are a till's own, and the agent gives every
    event one.
    """
    return b"identified\0" + till_id + event.event_id.encode()


def basket_occasion_key(till_id: bytes, basket: bytes) -> bytes:
    """The name of the occasion that an open basket is, by the key that its till gave it."""
    return b"basket\0" + till_id + basket


def local_hour_ms(moment: Moment) -> int:
    """The start of the local hour that a moment lies in, as if local time were UTC; milliseconds since 1970."""
    local = moment.at + moment.offset_minutes * MINUTE_MS
    return local - local % HOUR_MS


def _goods_facts(every: Sequence[Line]) -> dict[str, Fact]:
    lines = [line for line in every if not line.void]
    return {
        "sale.lines": len(lines),
        "sale.skus": tuple(line.sku for line in lines if line.sku is not None),
        "sale.categories": tuple(dict.fromkeys(line.hierarchy[0] for line in lines if line.hierarchy)),
    }


def _time_facts(at_ms: int, offset_minutes: int) -> dict[str, Fact]:
    hours = (at_ms + offset_minutes * MINUTE_MS) // HOUR_MS
    return {"time.hour": hours % 24, "time.weekday": (hours // 24 + _EPOCH_WEEKDAY) % 7}
