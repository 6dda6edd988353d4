"""What a cashier does on the page, and what becomes of it.

Each call says which basket and member the screen showed. If another customer stands there by now, nothing is done:
what was pressed was meant for somebody who has left.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, Protocol

from msgspec import Meta, Struct

from tillstream_protocol.errors import InvalidInput, TillstreamError
from tillstream_protocol.limits import MAX_LONG_TEXT, MAX_SHORT

from .board import Board
from .cards import Card

Answer = Literal["accepted", "declined"]
_Short = Annotated[str, Meta(max_length=MAX_SHORT)]
_UNKNOWN: Final = "reload the page"


class Stale(TillstreamError):
    """The screen showed another customer, or an offer that is no longer there."""

    code = "stale"


class Said(Struct, frozen=True, forbid_unknown_fields=True):
    """What a page sends. Which fields are meant depends on the call."""

    basket: _Short = ""
    member: _Short = ""
    run: _Short = ""
    sequence: Annotated[int, Meta(ge=0)] = 0
    kind: _Short = ""
    offer: _Short = ""
    question: _Short = ""
    answer: Annotated[str, Meta(max_length=MAX_LONG_TEXT)] = ""


class Done(Struct, frozen=True):
    """It was captured. The page compares basket and member with what it shows by now."""

    run: str
    basket: str
    member: str
    sequence: int


class Counter(Protocol):
    """Whoever captures what was said. Each raises `TillstreamError`."""

    def observe(self, kind: str, basket: str) -> None:
        """Staff noticed something. `basket` is the POS's own id."""
        ...

    def survey(self, question: str, answer: str, text: str, basket: str, offer: str) -> None:
        """The customer answered a question that an offer asked, by a choice or in words."""
        ...

    def answer(self, offer: str, answer: Answer) -> None:
        """The customer accepted or declined an offer."""
        ...


class Actions:
    """Does what the page asks for, if it is about the customer at hand."""

    def __init__(self, board: Board, counter: Counter, kinds: frozenset[str]) -> None:
        self._board = board
        self._counter = counter
        self._kinds = kinds

    def observe(self, said: Said) -> Done:
        """Capture an observation, once a basket. Raises `Stale`, `InvalidInput` and what capturing raises."""
        self._require_at_hand(said)
        if said.kind not in self._kinds:
            raise InvalidInput("there is no such button", field="kind", hint=_UNKNOWN)
        if said.kind not in self._board.noted:
            self._counter.observe(said.kind, self._board.basket)
            self._board.note(said.kind)
        return self._done(said)

    def survey(self, said: Said) -> Done:
        """Capture the answer to the question at hand. Raises as `observe` does."""
        card = self._asking(said)
        prompt = card.prompt
        if prompt is None or not said.answer.strip() or (prompt.choices and said.answer not in prompt.choices):
            raise InvalidInput("this is no answer to the question", field="answer", hint="press one of its buttons")
        is_choice = said.answer in prompt.choices and len(said.answer) <= MAX_SHORT
        answer, text = (said.answer, "") if is_choice else ("", said.answer)
        self._counter.survey(prompt.question, answer, text, self._board.basket, said.offer)
        self._board.asked(card.offer_id)
        return self._done(said)

    def answer(self, offer: str, answer: Answer, said: Said) -> Done:
        """Capture what the customer says to an offer on the screen. Raises as `observe` does."""
        self._offer(offer, said)
        self._counter.answer(offer, answer)
        return self._done(said)

    def dismiss(self, said: Said) -> Done:
        """Put an offer or the question away, which says nothing about the customer. Raises `Stale`."""
        if said.question:
            self._board.asked(self._asking(said).offer_id)
        else:
            self._board.answered(self._offer(said.offer, said).offer_id)
        return self._done(said)

    def _require_at_hand(self, said: Said) -> None:
        if not self._board.is_at_hand(said.basket, said.member):
            raise Stale("the screen showed another customer", field="basket", hint="nothing was done; look again")

    def _offer(self, offer: str, said: Said) -> Card:
        self._require_at_hand(said)
        for card in self._board.cards():
            if card.offer_id.hex() == offer:
                return card
        raise Stale("this offer is no longer on the screen", field="offer", hint="nothing was done; look again")

    def _asking(self, said: Said) -> Card:
        self._require_at_hand(said)
        card = self._board.prompt()
        if (
            card is None
            or card.prompt is None
            or (card.offer_id.hex(), card.prompt.question)
            != (
                said.offer,
                said.question,
            )
        ):
            raise Stale("this question is no longer on the screen", field="question", hint="nothing was done")
        return card

    def _done(self, said: Said) -> Done:
        return Done(self._board.run, said.basket, said.member, self._board.version)
