"""Baskets over the counter: what a POS tells of one while it is open, and what the till answers at once.

A change is answered with the offers that hold for what is in the basket now. Nothing of them is spent, and nothing is
captured, before the basket ends: a sale, its offers and what they draw are one record. Where the journal cannot take
what a change would be captured as, an open basket is answered all the same.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from tillstream_protocol.codec import encode
from tillstream_protocol.decisions import Decision
from tillstream_protocol.errors import InvalidInput, TillstreamError
from tillstream_protocol.events import (
    MemberIdentified,
    Observation,
    Original,
    Persons,
    Remark,
    SurveyAnswer,
    WishListEntry,
)
from tillstream_protocol.facts import Goods
from tillstream_protocol.limits import MAX_LINES, MAX_LONG_TEXT, MAX_SHORT
from tillstream_protocol.transaction import (
    Code,
    Count,
    Currency,
    Identifier,
    Line,
    Minor,
    Transaction,
    idempotency_key,
)

from ..baskets import Basket, Baskets
from ..capture import Capture, Captured
from ..clock import Clock, local_offset_minutes
from ..display.board import Board
from ..events import Events
from ..journal import JournalError
from .replies import Ack, Outcome, offer_id_of, outcomes


class BasketBody(Struct, frozen=True, forbid_unknown_fields=True):
    """A basket as it is now. `revision` grows with each change; `total` is in minor units, the lines' sum by default.

    `sale` is what a closed basket became. `offset_minutes` says how far the POS's clock is ahead of UTC.
    """

    revision: Count
    state: Literal["open", "suspended", "closed", "voided"]
    lines: Annotated[tuple[Line, ...], Meta(max_length=MAX_LINES)] = ()
    total: Minor | None = None
    currency: Currency | None = None
    identifiers: Persons = ()
    offset_minutes: Annotated[int, Meta(ge=-1440, le=1440)] | None = None
    sale: Transaction | None = None


class BasketReply(Struct, frozen=True):
    """What holds for a basket now, and the record that its change was captured as, if it was. Ids are hex."""

    basket: str
    revision: int
    state: str
    effects: tuple[Outcome, ...]
    till: str | UnsetType = UNSET
    epoch: str | UnsetType = UNSET
    seq: int | UnsetType = UNSET
    ack: Ack | UnsetType = UNSET


class SurveyBody(Struct, frozen=True, forbid_unknown_fields=True):
    """An answer to a question; `offer` is the id, in hex, of the offer whose prompt asked."""

    question: Code
    answer: Annotated[str, Meta(max_length=MAX_SHORT)] = ""
    text: Annotated[str, Meta(max_length=MAX_LONG_TEXT)] = ""
    offer: Annotated[str, Meta(max_length=64)] = ""
    event_id: Annotated[str, Meta(max_length=128)] = ""
    basket: Annotated[str, Meta(max_length=128)] = ""
    identifiers: Persons = ()


RemarkBody = Observation | SurveyBody | WishListEntry
"""What is said at a till, as a POS sends it."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A change that was taken: the basket, and what it was captured as, if it was."""

    basket: Basket
    captured: Captured | None

    @property
    def repeat(self) -> bool:
        """Whether nothing was captured now."""
        return self.captured is None or self.captured.repeat


class Counter:
    """Takes changes of baskets and answers them."""

    def __init__(self, capture: Capture, baskets: Baskets, board: Board, events: Events, clock: Clock) -> None:
        self._capture = capture
        self._baskets = baskets
        self._board = board
        self._events = events
        self._clock = clock

    def change(self, basket_id: str, body: BasketBody) -> Taken:
        """Take a change. The newest one again changes nothing.

        Raises `InvalidInput`, `StaleRevision`, and where the basket ends or is put aside, `JournalError`.
        """
        _check(basket_id, body)
        content = hashlib.blake2b(encode(body), digest_size=16).digest()
        known = self._baskets.find(basket_id)
        if known is not None and self._counts(known, body, content) and not known.require_newer(body.revision, content):
            repeated = known.captured
            return Taken(known, None if repeated is None else dataclasses.replace(repeated, repeat=True))
        basket = self._of_change(known, basket_id, body)
        late = known is not None and not known.ended and basket is not known
        if body.sale is None:
            captured = self._moved(basket, body)
        else:
            captured = self._closed(basket, body.sale, body.identifiers, late=late)
            if late or (captured.repeat and known is not None and basket is not known):
                basket.revision, basket.state = body.revision, body.state
                return Taken(basket, captured)  # that is no change of what is known under its basket's id by now
        basket.revision, basket.content, basket.captured = body.revision, content, captured
        basket.state = body.state
        self._baskets.keep(basket)
        self._make_room()
        return Taken(basket, captured)

    def _counts(self, known: Basket, body: BasketBody, content: bytes) -> bool:
        """Whether a change is one of the basket that is known, rather than of another one with the same id."""
        if (body.revision, content) == (known.revision, known.content):
            return True
        if body.sale is not None:  # a sale is never stale
            return not known.ended and body.revision > known.revision
        return not known.ended or self._baskets.is_recent(known)

    def _of_change(self, known: Basket | None, basket_id: str, body: BasketBody) -> Basket:
        """The basket that a change is about."""
        if body.sale is None:
            return self._baskets.take(basket_id)
        if known is not None:
            closes = body.revision > known.revision if not known.ended else known.sold_as == idempotency_key(body.sale)
            if closes:
                return known
        return self._baskets.open(basket_id)

    def reply(self, taken: Taken, till: str, ack: Ack) -> BasketReply:
        """The answer to a change."""
        basket = taken.basket
        name = taken.captured.name if taken.captured is not None else None
        return BasketReply(
            basket.id,
            basket.revision,
            basket.state,
            outcomes(basket.offered(self._clock.now_ms())),
            till if name is not None else UNSET,
            name.epoch.hex() if name is not None else UNSET,
            name.seq if name is not None else UNSET,
            ack if name is not None else UNSET,
        )

    def identified(self, body: MemberIdentified) -> Captured:
        """Somebody was identified, perhaps on a basket. Raises `InvalidInput` and `JournalError`."""
        basket = self._baskets.take(body.basket) if body.basket else None
        captured = self._capture.member_identified(body, basket.key if basket is not None else None)
        if basket is not None and not captured.repeat:
            basket.member, basket.greeting, basket.greeted = body.identifiers, captured.decisions, True
            self._make_room()
        return captured

    def remarked(self, given: RemarkBody) -> Captured:
        """Somebody said something, perhaps over a basket whose member is known then, also when that is over.

        Raises `InvalidInput` and `JournalError`.
        """
        remark = _remark(given)
        if not remark.basket:
            return self._capture.remark(remark)
        basket = self._baskets.find(remark.basket) or self._baskets.take(remark.basket)
        captured = self._capture.remark(remark, basket.key, basket.member)
        self._make_room()
        return captured

    def sold(self, sale: Transaction, original: Original | None = None, *, at_hand: bool = True) -> Captured:
        """A sale, which closes the open basket of the same id if it was made just now, at this till.

        Raises `InvalidInput` and `JournalError`.
        """
        basket = self._baskets.find(sale.pos_id)
        real = at_hand and not sale.training and not sale.test and self._capture.is_here(sale)
        if basket is None or basket.ended or not real:
            return self._capture.transaction(sale, original)
        captured = self._capture.transaction(sale, original, closes=basket.closing())
        if not captured.repeat:
            self._board.revise(basket.id, basket.settled(captured.decisions), basket.member)
            basket.state, basket.captured, basket.sold_as = "closed", captured, idempotency_key(sale)
            self._baskets.keep(basket)
        return captured

    def answered(self, offer_id: bytes, *, declined: bool) -> None:
        """What a customer says to an offer."""
        self._baskets.answered(offer_id, declined=declined)

    def _make_room(self) -> None:
        """Give up the oldest open baskets where there are too many."""
        for basket in self._baskets.excess():
            self._give_up(basket)
            self._baskets.forget(basket)

    def abandon(self, seconds: float) -> None:
        """Give up the baskets that were left alone for so long. What cannot be captured is tried again."""
        for basket in self._baskets.left_alone(seconds):
            if not self._give_up(basket):
                return

    def _give_up(self, basket: Basket) -> bool:
        """Whether it could be captured that nobody comes back to a basket, if there was anything in it."""
        try:
            if basket.revision >= 0:
                self._capture.basket(basket.change("abandoned"), basket.key)
        except TillstreamError as error:
            self._events.capture_failed("baskets", error)
            return False
        basket.state = "abandoned"
        self._board.end(basket.id)
        return True

    def _closed(
        self, basket: Basket, sale: Transaction, identifiers: tuple[Identifier, ...], *, late: bool
    ) -> Captured:
        """A sale. One that comes `late`, when another customer stands there, is nothing for the page."""
        closing = dataclasses.replace(basket.closing(), member=identifiers or basket.member)
        captured = self._capture.transaction(sale, closes=closing)
        basket.standing, basket.sold_as = captured.decisions, idempotency_key(sale)
        if not captured.repeat and not late:
            cause = (captured.name.epoch, captured.name.seq)
            named = sale.customer.identifiers if sale.customer is not None else ()
            who = named or closing.member
            basket.member = who
            self._board.revise(basket.id, basket.settled(captured.decisions), who)
            self._board.begin(cause, basket.id, "transaction", captured.decisions, who)
        self._tell(captured)
        return captured

    def _moved(self, basket: Basket, body: BasketBody) -> Captured | None:
        """A change that sells nothing yet."""
        self._greet(basket, body.identifiers)
        if body.state == "open" or body.lines or body.total is not None:
            basket.goods = _goods(basket, body)
        told_as = _TOLD_AS.get(body.state)
        if told_as is not None:
            told = self._capture.basket(basket.change(told_as), basket.key)
            basket.greeting, basket.standing = (), ()
            self._board.end(basket.id)
            return told
        captured = self._resumed(basket)
        offset = body.offset_minutes
        if offset is None:
            offset = local_offset_minutes(self._clock.now_ms())
        made = _offers(basket.greeting)
        basket.stand(self._capture.weigh(basket.goods, basket.key, offset_minutes=offset, made=made))
        self._board.revise(basket.id, basket.standing, basket.member)
        return captured

    def _resumed(self, basket: Basket) -> Captured | None:
        if basket.state != "suspended":
            return None
        try:
            return self._capture.basket(basket.change("resumed"), basket.key)
        except JournalError as error:
            self._events.capture_failed("baskets", error)
            return None

    def _greet(self, basket: Basket, identifiers: tuple[Identifier, ...]) -> None:
        """Capture who it is, if that is new. If the journal cannot take it, the next change tries again."""
        if not identifiers or (basket.greeted and basket.is_of(identifiers)):
            return
        if basket.member and not basket.is_of(identifiers):
            self._board.end(basket.id)
        basket.member, basket.greeting, basket.greeted = identifiers, (), False
        try:
            given = MemberIdentified(identifiers, basket=basket.id)
            captured = self._capture.member_identified(given, basket.key)
        except InvalidInput as error:  # a card number names nobody
            basket.member = ()
            self._events.capture_failed("baskets", error)
            return
        except JournalError as error:
            self._events.capture_failed("baskets", error)
            return
        basket.greeting, basket.greeted = captured.decisions, True
        cause = (captured.name.epoch, captured.name.seq)
        self._board.begin(cause, basket.id, "member_identified", captured.decisions, identifiers)
        self._tell(captured)

    def _tell(self, captured: Captured) -> None:
        if captured.redactions:
            self._events.redacted(captured.redactions)
        if captured.decisions and not captured.repeat:
            self._events.decided(_offers(captured.decisions))


def _check(basket_id: str, body: BasketBody) -> None:
    if not 0 < len(basket_id) <= 128:
        raise InvalidInput("this is not the id of a basket", field="id", limit="1 to 128 characters")
    if body.state == "closed" and body.sale is None:
        raise InvalidInput("a closed basket is a sale", field="sale", hint="give the transaction that it became")
    if body.state != "closed" and body.sale is not None:
        raise InvalidInput("a basket that is not closed is no sale yet", field="sale", hint="leave it out")


_TOLD_AS: Final[dict[str, Literal["suspended", "voided"]]] = {"suspended": "suspended", "voided": "voided"}


def _goods(basket: Basket, body: BasketBody) -> Goods:
    total = sum(line.amount for line in body.lines if not line.void) if body.total is None else body.total
    return Goods(body.lines, total, body.currency or "", known=bool(basket.member))


def _remark(given: RemarkBody) -> Remark:
    if not isinstance(given, SurveyBody):
        return given
    offer_id = offer_id_of(given.offer) if given.offer else None
    return SurveyAnswer(
        given.question, given.answer, given.text, offer_id, given.event_id, given.basket, given.identifiers
    )


def _offers(decisions: Sequence[Decision]) -> int:
    return sum(decision.outcome == "offered" for decision in decisions)
