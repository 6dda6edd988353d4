"""What is on the cashier's page: the offers for the occasion at hand, and nothing of an earlier one.

An occasion is a member identified or a basket closed. The next one clears the board, unless it is known to be the same
basket. An offer that the server pushes is shown only if the record that caused it belongs to the occasion at hand: it
may come late, when another customer stands there already. Nothing here names a person.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import msgspec

from tillstream_protocol.decisions import Decision, Trigger
from tillstream_protocol.effects import CashierMessage, Effect, ReceiptLine
from tillstream_protocol.limits import MAX_OFFERS_SHOWN
from tillstream_protocol.messages import OfferPush

from ..clock import Clock

REMEMBERED: Final = 4_096

Cause = tuple[bytes, int]
"""The epoch and seq of a record that offers were decided on."""


@dataclass(frozen=True, slots=True)
class Card:
    """One offer as a screen shows it."""

    offer_id: bytes
    campaign: str
    title: str
    details: tuple[str, ...]
    reason: str
    expires_ms: int


class CardView(msgspec.Struct, frozen=True):
    """A card as it goes to the page."""

    offer: str
    title: str
    details: tuple[str, ...]
    reason: str


class BoardView(msgspec.Struct, frozen=True):
    """The whole board as it goes to the page."""

    online: bool
    offers: tuple[CardView, ...]


class Board:
    """The offers at hand. `report` is told of each offer when a screen first takes it; False means: tell it again."""

    def __init__(self, clock: Clock, report: Callable[[Card], bool]) -> None:
        self._clock = clock
        self._report = report
        self._causes: set[Cause] = set()
        self._basket = ""
        self._trigger: Trigger = "transaction"
        self._cards: dict[bytes, Card] = {}
        self._known: OrderedDict[bytes, Card] = OrderedDict()
        self._waiting: OrderedDict[bytes, OfferPush] = OrderedDict()
        self._standing: set[bytes] = set()
        """The offers that hold for what is in the basket now, and may not after its next change."""
        self._reported: set[bytes] = set()
        self._online = False
        self._version = 0
        self._changed = asyncio.Event()

    @property
    def version(self) -> int:
        """Grows with each change."""
        return self._version

    @property
    def empty(self) -> bool:
        """Whether there is nothing on it."""
        return not self._cards

    def begin(self, cause: Cause, basket: str, trigger: Trigger, decisions: Iterable[Decision]) -> None:
        """A record that offers may be made on was captured: the next occasion, or more about the same basket."""
        if not basket or basket != self._basket:
            self._clear()
        self._causes.add(cause)
        self._basket = basket
        self._trigger = trigger
        for decision in decisions:
            if decision.outcome == "offered":
                self._show(card_of(decision, trigger))
        for push in [p for p in self._waiting.values() if basket and p.basket == basket]:
            self._show(card_of(push.decision, trigger))
        self._touch()

    def revise(self, basket: str, decisions: Iterable[Decision]) -> None:
        """An open basket changed: these are its own offers now, beside those that its member brought."""
        before = tuple(self._cards)
        if basket != self._basket:
            self._clear()
            self._basket = basket
        offered = {decision.offer_id: decision for decision in decisions if decision.outcome == "offered"}
        for offer_id in self._standing - offered.keys():
            self._cards.pop(offer_id, None)
        for decision in offered.values():
            self._show(card_of(decision, "basket"))
        self._standing = set(offered)
        if tuple(self._cards) != before:
            self._touch()

    def end(self, basket: str) -> None:
        """A basket is over, or put aside, or another member's now: nothing of it is shown any more."""
        if basket == self._basket:
            self._clear()
            self._basket = ""
            self._touch()

    def push(self, offer: OfferPush) -> None:
        """An offer came from the server."""
        if offer.decision.outcome != "offered":
            return
        card = card_of(offer.decision, self._trigger)
        self._know(card)
        if (offer.epoch, offer.seq) in self._causes or (offer.basket and offer.basket == self._basket):
            self._show(card)
            self._touch()
        elif offer.basket:
            self._waiting[offer.decision.offer_id] = offer
            _shorten(self._waiting)

    def find(self, offer_id: bytes) -> Card | None:
        """An offer that this till made or was sent lately."""
        return self._known.get(offer_id)

    def answered(self, offer_id: bytes) -> None:
        """Take an offer down: the customer has decided."""
        self._waiting.pop(offer_id, None)
        if self._cards.pop(offer_id, None) is not None:
            self._touch()

    def set_online(self, online: bool) -> None:
        """Show or hide the offline badge."""
        if online is not self._online:
            self._online = online
            self._touch()

    def take(self) -> BoardView:
        """What a screen shows now. Each offer is reported as shown the first time."""
        cards = self.cards()
        for card in cards:
            if card.offer_id not in self._reported and self._report(card):
                self._reported.add(card.offer_id)
        views = tuple(CardView(card.offer_id.hex(), card.title, card.details, card.reason) for card in cards)
        return BoardView(self._online, views)

    def cards(self) -> tuple[Card, ...]:
        """The offers to show, at most three, none of them expired."""
        now = self._clock.now_ms()
        for offer_id in [o for o, card in self._cards.items() if card.expires_ms <= now]:
            del self._cards[offer_id]
        return tuple(self._cards.values())[:MAX_OFFERS_SHOWN]

    def next_expiry_s(self) -> float | None:
        """Seconds until the first of the offers at hand expires."""
        if not self._cards:
            return None
        return max(0.0, (min(c.expires_ms for c in self._cards.values()) - self._clock.now_ms()) / 1000)

    def wake(self) -> None:
        """Have every waiting screen look again."""
        self._touch()

    async def changed(self, since: int, patience: float) -> bool:
        """Wait at most `patience` seconds for a version other than `since`."""
        if self._version != since:
            return True
        try:
            async with asyncio.timeout(patience):
                await self._changed.wait()
        except TimeoutError:
            return False
        return True

    def _show(self, card: Card) -> None:
        self._know(card)
        self._waiting.pop(card.offer_id, None)
        if card.expires_ms > self._clock.now_ms():
            self._cards.setdefault(card.offer_id, card)

    def _know(self, card: Card) -> None:
        self._known[card.offer_id] = card
        _shorten(self._known)

    def _clear(self) -> None:
        self._causes.clear()
        self._cards.clear()
        self._standing.clear()
        self._reported &= self._known.keys()

    def _touch(self) -> None:
        self._version += 1
        self._changed.set()
        self._changed = asyncio.Event()


def _shorten(held: OrderedDict[bytes, Card] | OrderedDict[bytes, OfferPush]) -> None:
    while len(held) > REMEMBERED:
        held.popitem(last=False)


_REASONS: Final[dict[Trigger, str]] = {
    "transaction": "for this purchase",
    "member_identified": "for the member at the till",
    "basket": "for what is in the basket",
}


def card_of(decision: Decision, trigger: Trigger) -> Card:
    """A decision in words: what the customer gets, then messages to the cashier. Receipt lines only get printed."""
    given = [effect for effect in decision.effects if not isinstance(effect, ReceiptLine)] or decision.effects
    texts = [effect.text for effect in sorted(given, key=_rank)] or [decision.campaign]
    side = "decided at the till" if decision.decided_at == "edge" else "from head office"
    reason = f"{_REASONS[trigger]} · {decision.campaign} · {side}"
    return Card(decision.offer_id, decision.campaign, texts[0], tuple(texts[1:]), reason, decision.expires_ms)


def _rank(effect: Effect) -> int:
    return 1 if isinstance(effect, CashierMessage) else 0
