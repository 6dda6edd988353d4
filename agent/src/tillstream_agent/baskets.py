"""The baskets that are open at this till.

They name people and goods, so they are kept in memory only: an agent that starts anew learns of them again with the
next change. A POS may use an id again for another basket; the key that a basket gets here never comes again.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final, Literal

from tillstream_protocol.decisions import Decision
from tillstream_protocol.errors import TillstreamError
from tillstream_protocol.events import BasketChanged
from tillstream_protocol.facts import Goods
from tillstream_protocol.transaction import Identifier

from .capture import Captured, Closing
from .clock import Clock
from .journal import Randomness

MOST: Final = 256
"""Baskets known at a time; the one that has been left alone for longest is forgotten for the next."""

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

    def stand(self, decisions: list[Decision]) -> None:
        """Keep what was decided on what is in it now. An offer that was declined is not made again."""
        self.standing = tuple(decision for decision in decisions if decision.offer_id not in self.declined)
        self.shown.update(decision.offer_id for decision in self.standing if decision.outcome == "offered")

    def closing(self) -> Closing:
        """What a sale that closes it settles."""
        return Closing(self.key, frozenset(self.shown - self.declined))

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

    def take(self, basket_id: str) -> Basket:
        """The basket of this id that is not over, a new one if there is none; it counts as touched."""
        basket = self._known.get(basket_id)
        if basket is None or basket.ended:
            basket = Basket(basket_id, self._random(16), 0.0)
        self.keep(basket)
        return basket

    def keep(self, basket: Basket) -> None:
        """Have it known, as the one that was touched last."""
        basket.changed_s = self._clock.monotonic()
        self._known[basket.id] = basket
        self._known.move_to_end(basket.id)
        if len(self._known) > MOST:
            self._known.popitem(last=False)

    def declined(self, offer_id: bytes) -> None:
        """A customer does not want an offer: it is not settled with the basket that it was made on."""
        for basket in self._known.values():
            if offer_id in basket.shown:
                basket.declined.add(offer_id)
                basket.standing = tuple(d for d in basket.standing if d.offer_id != offer_id)

    def left_alone(self, seconds: float) -> list[Basket]:
        """The baskets that are not over, and were not touched for so long."""
        until = self._clock.monotonic() - seconds
        return [basket for basket in self._known.values() if not basket.ended and basket.changed_s <= until]
