"""What a POS may ask, and the desk that does it, the same behind every door.

A call is answered from local state: journal, pack and board. Nothing here waits for the network.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Final, Literal, Protocol

from msgspec import UNSET, Meta, Struct

from tillstream_protocol.decisions import Trigger
from tillstream_protocol.errors import ErrorBody, InvalidInput, TillstreamError, TooLarge
from tillstream_protocol.events import MemberIdentified, Observation, OfferAnswered, Original, WishListEntry
from tillstream_protocol.transaction import Identifier, Transaction

from ..baskets import StaleRevision
from ..capture import DISK_DEADLINE, Capture, Captured
from ..display.board import REMEMBERED, Board
from ..events import Events
from ..journal import JournalError, JournalFull
from ..queue import Page, Retried, Wanted
from ..status import Health, Status
from .counter import BasketBody, BasketReply, Counter, RemarkBody, SurveyBody, Taken
from .replies import Ack, Reply, offer_id_of, outcomes

Answer = Literal["accepted", "declined"]


class UnknownOffer(TillstreamError):
    """An answer to an offer that this till does not know of."""

    code = "not_found"


class UnknownAdapter(TillstreamError):
    """A payload for an adapter that there is not."""

    code = "not_found"


class Refusal(Struct, frozen=True):
    """Why a call was not taken."""

    error: ErrorBody


class AnswerBody(Struct, frozen=True, forbid_unknown_fields=True):
    """An answer on the socket; over HTTP it is in the path."""

    offer: Annotated[str, Meta(max_length=64)]
    answer: Answer


class TransactionCall(Struct, frozen=True, forbid_unknown_fields=True, tag_field="call", tag="transactions"):
    """`POST /v1/transactions` on the socket."""

    body: Transaction
    ack: Ack = "os"


class IdentifyCall(Struct, frozen=True, forbid_unknown_fields=True, tag_field="call", tag="identify"):
    """`POST /v1/members/identify` on the socket."""

    body: MemberIdentified
    ack: Ack = "os"


class AnswerCall(Struct, frozen=True, forbid_unknown_fields=True, tag_field="call", tag="answer"):
    """`POST /v1/offers/{offer}/{answer}` on the socket."""

    body: AnswerBody
    ack: Ack = "os"


class BasketCall(Struct, frozen=True, forbid_unknown_fields=True, tag_field="call", tag="basket"):
    """`PUT /v1/baskets/{id}` on the socket."""

    id: Annotated[str, Meta(max_length=128)]
    body: BasketBody
    ack: Ack = "os"


class ObservationCall(Struct, frozen=True, forbid_unknown_fields=True, tag_field="call", tag="observation"):
    """`POST /v1/observations` on the socket."""

    body: Observation
    ack: Ack = "os"


class SurveyCall(Struct, frozen=True, forbid_unknown_fields=True, tag_field="call", tag="survey_answer"):
    """`POST /v1/survey-answers` on the socket."""

    body: SurveyBody
    ack: Ack = "os"


class WishCall(Struct, frozen=True, forbid_unknown_fields=True, tag_field="call", tag="wish"):
    """`POST /v1/wish-list` on the socket."""

    body: WishListEntry
    ack: Ack = "os"


class AdapterCall(Struct, frozen=True, forbid_unknown_fields=True, tag_field="call", tag="adapters"):
    """`POST /v1/adapters/{name}` on the socket: `body` are the POS's own bytes."""

    name: Annotated[str, Meta(max_length=64)]
    body: bytes
    ack: Ack = "os"


class StatusCall(Struct, frozen=True, forbid_unknown_fields=True, tag_field="call", tag="status"):
    """`GET /v1/status` on the socket."""


class PairCall(Struct, frozen=True, forbid_unknown_fields=True, tag_field="call", tag="pair"):
    """A code that pairs one screen or one POS. For whoever is at the till, on the socket only."""


class ForgetCall(Struct, frozen=True, forbid_unknown_fields=True, tag_field="call", tag="forget"):
    """End every pairing. On the socket only."""


class QueueListCall(Struct, frozen=True, forbid_unknown_fields=True, tag_field="call", tag="queue_list"):
    """What the server would not take, from a place in the list on. For store IT, on the socket only."""

    start: Annotated[int, Meta(ge=0)] = 0


class QueueRetryCall(Struct, frozen=True, forbid_unknown_fields=True, tag_field="call", tag="queue_retry"):
    """Try such records again. For store IT, on the socket only."""

    wanted: Wanted


CaptureCall = TransactionCall | IdentifyCall | AnswerCall | BasketCall | ObservationCall | SurveyCall | WishCall
ReportCall = StatusCall | QueueListCall | QueueRetryCall | PairCall
Call = CaptureCall | AdapterCall | ReportCall | ForgetCall

_STATUSES: Final[tuple[tuple[type[TillstreamError], int], ...]] = (
    (TooLarge, 413),
    (InvalidInput, 400),
    (UnknownOffer, 404),
    (StaleRevision, 409),
    (UnknownAdapter, 404),
    (JournalFull, 507),
    (JournalError, 503),
)


def status_of(error: TillstreamError) -> int:
    """The HTTP status that says whose fault an error is."""
    return next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)


class Reports(Protocol):
    """How the agent is."""

    def status(self) -> Status:
        """For store IT."""
        ...

    def health(self) -> Health:
        """For the POS."""
        ...


class QueueCalls(Protocol):
    """The queue's side of the counter."""

    def page(self, start: int) -> Page:
        """What the server would not take, from a place on."""
        ...

    def retry(self, wanted: Wanted) -> Retried:
        """Queue such records again."""
        ...


class Desk:
    """Takes typed calls and answers them.

    Capturing returns at the `os` ack; a caller who asked for `disk` awaits `durable` before it replies.
    """

    def __init__(
        self, capture: Capture, counter: Counter, board: Board, events: Events, *, till_id: bytes, reports: Reports
    ) -> None:
        self._capture = capture
        self._counter = counter
        self._till = till_id.hex()
        self._board = board
        self._events = events
        self.status = reports.status
        self.health = reports.health
        self._answers: dict[bytes, tuple[Answer, Captured]] = {}
        self._settled: list[bytes] = []

    def transaction(self, body: Transaction, original: Original | None = None, *, at_hand: bool = True) -> Captured:
        """Capture a transaction, and unless it is history, turn the page to it.

        Raises `InvalidInput` and `JournalError`.
        """
        captured = self._counter.sold(body, original, at_hand=at_hand)
        if not captured.repeat:
            who = body.customer.identifiers if body.customer is not None else ()
            self._occasion(captured, body.pos_id, "transaction", who, at_hand=at_hand)
        return captured

    def admit(self, body: Transaction, original: Original) -> None:
        """Raise `InvalidInput` for what `transaction` would not take, whatever the journal says."""
        self._capture.admit(body, original)

    def identify(self, body: MemberIdentified) -> Captured:
        """Capture that a member was identified. Raises `InvalidInput` and `JournalError`."""
        captured = self._counter.identified(body)
        if not captured.repeat:
            self._occasion(captured, body.basket, "member_identified", body.identifiers)
        return captured

    def basket(self, basket_id: str, body: BasketBody) -> Taken:
        """Take a change of a basket. Raises `InvalidInput`, `StaleRevision` and `JournalError`."""
        return self._counter.change(basket_id, body)

    def remark(self, body: RemarkBody) -> Captured:
        """Capture an observation, an answer or a wish. Raises `InvalidInput` and `JournalError`."""
        captured = self._counter.remarked(body)
        if captured.redactions:
            self._events.redacted(captured.redactions)
        return captured

    def answer(self, offer: str, answer: Answer) -> Captured:
        """Capture what a customer said to an offer. The same answer again is a repeat.

        Raises `InvalidInput`, `UnknownOffer` and `JournalError`.
        """
        offer_id = offer_id_of(offer)
        given = self._answers.get(offer_id)
        if given is not None and given[0] == answer:
            return replace(given[1], repeat=True)
        card = self._board.find(offer_id)
        if card is None:
            raise UnknownOffer("this till knows of no such offer", field="offer", hint="use the id from `effects`")
        self._counter.answered(offer_id, declined=answer == "declined")  # it holds whether or not it can be captured
        captured = self._capture.event(OfferAnswered(offer_id, card.campaign, answer))
        self._answers[offer_id] = (answer, captured)
        if len(self._answers) > REMEMBERED:
            del self._answers[next(iter(self._answers))]
        self._board.answered(offer_id)
        self._settled.append(offer_id)
        return captured

    def take_answered(self) -> list[bytes]:
        """The offers answered since the last call, which need not be kept any longer."""
        settled, self._settled = self._settled, []
        return settled

    def reply(self, done: Captured | Taken, ack: Ack, *, always_effects: bool = False) -> Reply | BasketReply:
        """The reply to a capture. A POS that only reports sales sees effects only when there are any."""
        if isinstance(done, Taken):
            return self._counter.reply(done, self._till, ack)
        effects = outcomes(done.decisions)
        name = done.name
        return Reply(self._till, name.epoch.hex(), name.seq, ack, effects if effects or always_effects else UNSET)

    async def durable(self, done: Captured | Taken, deadline: float = DISK_DEADLINE) -> None:
        """Return when what was captured survives a power cut. Raises `NotOnDisk` after `deadline` seconds."""
        captured = done.captured if isinstance(done, Taken) else done
        if captured is not None:
            await self._capture.durable(captured, deadline)

    def _occasion(
        self,
        captured: Captured,
        basket: str,
        trigger: Trigger,
        who: tuple[Identifier, ...],
        *,
        at_hand: bool = True,
    ) -> None:
        decisions = captured.decisions
        if at_hand:
            self._board.begin((captured.name.epoch, captured.name.seq), basket, trigger, decisions, who)
        if captured.redactions:
            self._events.redacted(captured.redactions)
        if captured.left_out:
            self._events.original_left_out()
        if decisions:
            self._events.decided(sum(decision.outcome == "offered" for decision in decisions))
