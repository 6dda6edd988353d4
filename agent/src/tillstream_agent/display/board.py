"""What is on the cashier's page: the offers for the occasion at hand, and nothing of an earlier one.

An occasion is a member identified, a basket changed or a sale closed. The next one clears the board, unless it is known
to be the same basket with the same member. An offer that the server pushes is shown only if the record that caused it
belongs to the occasion at hand: it may come late, when another customer stands there already, or when another card was
read for the same basket. Nothing here names a person: baskets and members go by keys that mean nothing elsewhere.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from tillstream_protocol.decisions import Decision, Trigger
from tillstream_protocol.limits import MAX_OFFERS_SHOWN
from tillstream_protocol.messages import OfferPush
from tillstream_protocol.transaction import Identifier

from ..clock import Clock
from .cards import Card, card_of
from .member import Known, Mode, Strip, known

REMEMBERED: Final = 4_096

Cause = tuple[bytes, int]
"""The epoch and seq of a record that offers were decided on."""
_Key = TypeVar("_Key")
_Held = TypeVar("_Held")


@dataclass(frozen=True, slots=True)
class BoardView:
    """The whole board as a screen may show it now. `basket` and `member` are opaque, and empty where there is none."""

    run: str
    """Sequences count within one run of the agent."""
    basket: str
    member: str
    sequence: int
    online: bool
    strip: Strip | None
    offers: tuple[Card, ...]
    prompt: Card | None
    noted: frozenset[str]
    """The kinds of observation that were made on this basket."""


@dataclass(frozen=True, slots=True)
class _Occasion:
    """What is known of a record that offers were decided on."""

    basket: str
    member: Known | None
    trigger: Trigger


class Board:
    """The offers at hand. `report` is told of each offer when a screen first takes it; False means: tell it again."""

    def __init__(
        self,
        clock: Clock,
        report: Callable[[Card], bool],
        randomness: Callable[[int], bytes] = os.urandom,
        member: Mode = "tail",
    ) -> None:
        self._clock = clock
        self._report = report
        self._mode = member
        self._secret = randomness(32)
        self._run = self._opaque("run", "")
        self._turn = 0
        self._causes: set[Cause] = set()
        self._past: OrderedDict[Cause, _Occasion] = OrderedDict()
        self._basket = ""
        self._member: Known | None = None
        self._trigger: Trigger = "transaction"
        self._cards: dict[bytes, Card] = {}
        self._known: OrderedDict[bytes, Card] = OrderedDict()
        self._waiting: OrderedDict[bytes, OfferPush] = OrderedDict()
        self._standing: set[bytes] = set()
        """The offers that hold for what is in the basket now, and may not after its next change."""
        self._settled: OrderedDict[bytes, None] = OrderedDict()
        self._asked: OrderedDict[bytes, None] = OrderedDict()
        self._questions: set[str] = set()
        self._noted: set[str] = set()
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
        """Whether there is neither an offer nor a question on it."""
        return not self.cards() and self.prompt() is None

    @property
    def run(self) -> str:
        """Names this run of the agent; sequences count within one."""
        return self._run

    @property
    def noted(self) -> frozenset[str]:
        """The kinds of observation that were made on this basket."""
        return frozenset(self._noted)

    @property
    def basket(self) -> str:
        """The POS's own id of the basket at hand; empty where there is none."""
        return self._basket

    def begin(
        self,
        cause: Cause,
        basket: str,
        trigger: Trigger,
        decisions: Iterable[Decision],
        member: Sequence[Identifier] = (),
    ) -> None:
        """A record that offers may be made on was captured: the next occasion, or more about the same basket.

        `member` is how the customer was identified, as far as this record says.
        """
        self._turn_to(basket, member)
        self._trigger = trigger
        self._causes.add(cause)
        self._past[cause] = _Occasion(basket, self._member, trigger)
        _shorten(self._past)
        for decision in decisions:
            if decision.outcome == "offered":
                self._show(card_of(decision, trigger))
        for push in [p for p in self._waiting.values() if self._belongs_here(p)]:
            self._show(card_of(push.decision, self._trigger_of(push)))
        self._touch()

    def revise(self, basket: str, decisions: Iterable[Decision], member: Sequence[Identifier] = ()) -> None:
        """An open basket changed: these are its own offers now, beside those that its member brought."""
        before = (self._turn, self._member, tuple(self._cards))
        self._turn_to(basket, member)
        offered = {decision.offer_id: decision for decision in decisions if decision.outcome == "offered"}
        for offer_id in self._standing - offered.keys():
            self._cards.pop(offer_id, None)
        for decision in offered.values():
            self._show(card_of(decision, "basket"))
        self._standing = set(offered)
        if (self._turn, self._member, tuple(self._cards)) != before:
            self._touch()

    def end(self, basket: str) -> None:
        """A basket is over, or put aside: if it is the one at hand, nothing of it is shown any more."""
        if basket == self._basket:
            self._clear()
            self._basket = ""
            self._touch()

    def push(self, offer: OfferPush) -> None:
        """An offer came from the server."""
        if offer.decision.outcome != "offered":
            return
        card = card_of(offer.decision, self._trigger_of(offer))
        self._know(card)
        if self._belongs_here(offer):
            self._show(card)
            self._touch()
        elif offer.basket:
            self._waiting[offer.decision.offer_id] = offer
            _shorten(self._waiting)

    def find(self, offer_id: bytes) -> Card | None:
        """An offer that this till made or was sent lately."""
        return self._known.get(offer_id)

    def answered(self, offer_id: bytes) -> None:
        """Take an offer down for good: the customer has decided, or the cashier has put it away."""
        self._waiting.pop(offer_id, None)
        _remember(self._settled, offer_id)
        if offer_id in self._cards:
            self._touch()

    def asked(self, offer_id: bytes) -> None:
        """Take a question down for good: it was answered, or put away."""
        _remember(self._asked, offer_id)
        card = self._cards.get(offer_id)
        if card is not None and card.prompt is not None:
            self._questions.add(card.prompt.question)
            self._touch()

    def note(self, kind: str) -> None:
        """An observation was made on the basket at hand."""
        self._noted.add(kind)
        self._touch()

    def set_online(self, online: bool) -> None:
        """Show or hide the offline badge."""
        if online is not self._online:
            self._online = online
            self._touch()

    def is_at_hand(self, basket: str, member: str) -> bool:
        """Whether a screen that shows these keys shows the customer at hand."""
        return basket == self._basket_key() and member == self._member_key()

    def take(self, *, staff: bool = True) -> BoardView:
        """What a screen shows now, for staff or for the customer. Each offer is reported as shown the first time."""
        offers = tuple(card for card in self.cards() if staff or not card.for_staff)
        prompt = self.prompt()
        for card in (*offers, *([prompt] if prompt is not None else [])):
            if card.offer_id not in self._reported and self._report(card):
                self._reported.add(card.offer_id)
        return BoardView(
            self._run,
            self._basket_key(),
            self._member_key(),
            self._version,
            self._online,
            self._member.strip if self._member is not None else None,
            offers,
            prompt,
            self.noted,
        )

    def cards(self) -> tuple[Card, ...]:
        """The offers to show, at most three, none of them expired or answered."""
        shown = [card for card in self._current() if card.title and card.offer_id not in self._settled]
        return tuple(shown[:MAX_OFFERS_SHOWN])

    def prompt(self) -> Card | None:
        """The question to ask: each is asked once, and one at a time."""
        for card in self._current():
            question = card.prompt.question if card.prompt is not None else None
            if question is not None and question not in self._questions and card.offer_id not in self._asked:
                return card
        return None

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

    def _turn_to(self, basket: str, member: Sequence[Identifier]) -> None:
        """Turn to a basket and its member: the board is emptied if either is another than at hand."""
        somebody = known(member, self._secret, self._mode)
        if not basket or basket != self._basket or self._is_another(somebody):
            self._clear()
        self._basket = basket
        if somebody is not None:
            self._member = self._member.joined(somebody) if self._member is not None else somebody

    def _current(self) -> Iterable[Card]:
        now = self._clock.now_ms()
        for offer_id in [o for o, card in self._cards.items() if card.expires_ms <= now]:
            del self._cards[offer_id]
        return self._cards.values()

    def _is_another(self, somebody: Known | None) -> bool:
        """Whether this is somebody else than the member at hand."""
        return somebody is not None and self._member is not None and not somebody.is_same(self._member)

    def _belongs_here(self, offer: OfferPush) -> bool:
        """Whether a pushed offer is for the basket at hand, and for nobody else than the member at hand.

        Of a record of an earlier run nothing is known but its basket.
        """
        cause = (offer.epoch, offer.seq)
        if cause in self._causes:
            return True
        if not offer.basket or offer.basket != self._basket:
            return False
        past = self._past.get(cause)
        if past is None or past.member is None:
            return past is None or past.basket == self._basket
        return past.basket == self._basket and self._member is not None and past.member.is_same(self._member)

    def _trigger_of(self, offer: OfferPush) -> Trigger:
        past = self._past.get((offer.epoch, offer.seq))
        return past.trigger if past is not None else self._trigger

    def _show(self, card: Card) -> None:
        self._know(card)
        self._waiting.pop(card.offer_id, None)
        if card.expires_ms > self._clock.now_ms():
            self._cards.setdefault(card.offer_id, card)

    def _know(self, card: Card) -> None:
        self._known[card.offer_id] = card
        _shorten(self._known)

    def _clear(self) -> None:
        self._turn += 1
        self._causes.clear()
        self._cards.clear()
        self._standing.clear()
        self._questions.clear()
        self._noted.clear()
        self._member = None
        self._reported &= self._known.keys()

    def _basket_key(self) -> str:
        return self._opaque("basket", str(self._turn)) if self._turn else ""

    def _member_key(self) -> str:
        return self._member.key if self._member is not None else ""

    def _opaque(self, what: str, name: str) -> str:
        content = f"{what}\0{name}".encode("utf-8", "surrogatepass")
        return hashlib.blake2b(content, digest_size=8, key=self._secret).hexdigest()

    def _touch(self) -> None:
        self._version += 1
        self._changed.set()
        self._changed = asyncio.Event()


def _remember(held: OrderedDict[bytes, None], name: bytes) -> None:
    held[name] = None
    _shorten(held)


def _shorten(held: OrderedDict[_Key, _Held]) -> None:
    while len(held) > REMEMBERED:
        held.popitem(last=False)
