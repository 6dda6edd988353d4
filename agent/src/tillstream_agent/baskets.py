"""The baskets that are open at this till.

They name people and goods, so they are kept in memory only: an agent that starts anew learns of them again with the
next change. A POS may use an id again for another basket; the key that a basket gets here never comes again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Literal

from tillstream_protocol.decisions import Decision
from tillstream_protocol.errors import TillstreamError
from tillstream_protocol.events import BasketChanged
from tillstream_protocol.facts import Goods
from tillstream_protocol.transaction import IdempotencyKey, Identifier

from .capture import Captured, Closing
from .clock import Clock
from .journal import Randomness

MOST: Final = 256
"""Baskets known at a time. Those that are over are forgotten first, then open ones are given up, the oldest first."""
RECENT_S: Final = 60.0
"""For so long after a basket is over, an older change of it is stale; later its id may stand for another one."""

State = Literal["open", "suspended", "closed", "voided", "abandoned"]
_ENDED: Final = frozenset({"closed", "voided", "abandoned"})
EMPTY: Final = Goods((), 0, "", known=False)


class StaleRevision(TillstreamError):
    """A change to a basket that is older than what is known of it, or another one under the same number."""

    code = "stale_revision"


@dataclass(slots=True)
class Basket:
    """What is known of one. `revision` is -1 before its first change, `changed_s` monotonic."""

    id: str
    key: bytes
    changed_s: float
    revision: int = -1
    content: bytes = b""
    """The digest of the newest change."""
    state: State = "open"
    member: tuple[Identifier, ...] = ()
    goods: Goods = EMPTY
    greeting: tuple[Decision, ...] = ()
    """What was decided when its member was identified."""
    standing: tuple[Decision, ...] = ()
    """What was decided on what is in it now."""
    shown: set[bytes] = field(default_factory=set)
    declined: set[bytes] = field(default_factory=set)
    captured: Captured | None = None
    """What its newest change was captured as."""
    greeted: bool = False
    """It was captured who its member is."""
    sold_as: IdempotencyKey | None = None
    """The sale that it became."""

    def has(self, offer_id: bytes) -> bool:
        """Whether an offer was made on it."""
        return offer_id in self.shown or any(decision.offer_id == offer_id for decision in self.greeting)

    @property
    def ended(self) -> bool:
        """Whether it is over, so that its id may stand for another one."""
        return self.state in _ENDED

    def require_newer(self, revision: int, content: bytes) -> bool:
        """Whether a change is new; False for the newest once more. Raises `StaleRevision`."""
        if revision > self.revision:
            return True
        if revision == self.revision and content == self.content:
            return False
        what = "is older than" if revision < self.revision else "differs from"
        raise StaleRevision(
            f"this change {what} what is known of the basket",
            field="revision",
            limit=f"more than {self.revision}",
            hint="leave it: the basket has moved on",
        )

    def offered(self, now_ms: int) -> tuple[Decision, ...]:
        """What holds for it now."""
        decided = (*self.greeting, *self.standing)
        return tuple(d for d in decided if d.offer_id not in self.declined and d.expires_ms > now_ms)

    def is_of(self, identifiers: tuple[Identifier, ...]) -> bool:
        """Whether these name the member that is known, in whatever order."""
        return {(i.scheme, i.value) for i in identifiers} == {(i.scheme, i.value) for i in self.member}

    def stand(self, decisions: list[Decision]) -> None:
        """Keep what was decided on what is in it now. An offer that was declined is not made again."""
        self.standing = tuple(decision for decision in decisions if decision.offer_id not in self.declined)
        self.shown.update(decision.offer_id for decision in self.standing if decision.outcome == "offered")

    def settled(self, decisions: Iterable[Decision]) -> list[Decision]:
        """Of what was decided on its sale, what had been offered on it before."""
        return [decision for decision in decisions if decision.offer_id in self.shown]

    def closing(self) -> Closing:
        """What a sale that closes it settles."""
        return Closing(self.key, frozenset(self.shown - self.declined), self.member)

    def change(self, state: Literal["suspended", "resumed", "voided", "abandoned"]) -> BasketChanged:
        """What became of it, as a record tells it."""
        goods = self.goods
        lines = sum(not line.void for line in goods.lines)
        return BasketChanged(self.id, state, lines, goods.total, goods.currency, self.member)


class Baskets:
    """Every basket that is known, by the POS's own id."""

    def __init__(self, clock: Clock, randomness: Randomness) -> None:
        self._clock = clock
        self._random = randomness
        self._known: OrderedDict[str, Basket] = OrderedDict()

    def find(self, basket_id: str) -> Basket | None:
        """The basket of this id, if one is known."""
        return self._known.get(basket_id)

    def open(self, basket_id: str) -> Basket:
        """A new basket, not known yet."""
        return Basket(basket_id, self._random(16), 0.0)

    def take(self, basket_id: str) -> Basket:
        """The basket of this id that is not over, a new one if there is none; it counts as touched."""
        basket = self._known.get(basket_id)
        if basket is None or basket.ended:
            basket = self.open(basket_id)
        self.keep(basket)
        return basket

    def keep(self, basket: Basket) -> None:
        """Have it known, as the one that was touched last. Of one that is over, the goods are forgotten."""
        basket.changed_s = self._clock.monotonic()
        if basket.ended:
            basket.goods = EMPTY
        self._known[basket.id] = basket
        self._known.move_to_end(basket.id)
        if len(self._known) > MOST:
            over = next((one.id for one in self._known.values() if one.ended), None)
            if over is not None:
                del self._known[over]

    def excess(self) -> list[Basket]:
        """The baskets that are not over and more than can be known, the oldest first."""
        return list(self._known.values())[: max(0, len(self._known) - MOST)]

    def forget(self, basket: Basket) -> None:
        """Know a basket no longer."""
        self._known.pop(basket.id, None)

    def is_recent(self, basket: Basket) -> bool:
        """Whether it was touched lately."""
        return self._clock.monotonic() - basket.changed_s < RECENT_S

    def answered(self, offer_id: bytes, *, declined: bool) -> None:
        """What a customer says to an offer: one that is declined is not settled with the basket it was made on."""
        for basket in self._known.values():
            if not declined:
                basket.declined.discard(offer_id)
            elif basket.has(offer_id):
                basket.declined.add(offer_id)

    def busy(self, seconds: float) -> bool:
        """Whether there is one that is not over, and was touched within so long."""
        since = self._clock.monotonic() - seconds
        return any(not basket.ended and basket.changed_s > since for basket in self._known.values())

    def left_alone(self, seconds: float) -> list[Basket]:
        """The baskets that are not over, and were not touched for so long."""
        until = self._clock.monotonic() - seconds
        return [basket for basket in self._known.values() if not basket.ended and basket.changed_s <= until]
