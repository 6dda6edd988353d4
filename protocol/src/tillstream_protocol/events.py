"""Every kind of record besides the transaction, and the envelope that all of them travel in."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from .decisions import Decision
from .limits import MAX_DECISIONS, MAX_SHORT
from .transaction import Code, Count, Currency, Identifier, InstantMs, LongText, Minor, Text, Transaction

OfferId = Annotated[bytes, Meta(min_length=16, max_length=16)]
BasketId = Annotated[str, Meta(max_length=128)]
EventId = Annotated[str, Meta(max_length=128)]
Persons = Annotated[tuple[Identifier, ...], Meta(max_length=16)]
"""Who it was, as far as the till knows."""


class MemberIdentified(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag="member_identified"):
    """Somebody gave a card, a number or an address at the till."""

    identifiers: Annotated[tuple[Identifier, ...], Meta(min_length=1, max_length=16)]
    event_id: EventId = ""
    """The POS's own id of this event; with one, a repeat is answered as such."""
    basket: BasketId = ""
    store: Annotated[str, Meta(max_length=MAX_SHORT)] = ""
    at: InstantMs | None = None
    """When it happened; None means when it was captured."""


class OfferShown(Struct, frozen=True, forbid_unknown_fields=True, tag="offer_shown"):
    """An offer reached a screen at the till."""

    offer_id: OfferId
    campaign: Code


class OfferAnswered(Struct, frozen=True, forbid_unknown_fields=True, tag="offer_answered"):
    """What became of an offer that was shown."""

    offer_id: OfferId
    campaign: Code
    answer: Literal["accepted", "declined"]


Reason = Literal["damaged_frame", "damaged_header", "torn_tail", "missing_chunk", "power_cut"]


class RecordsLost(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag="records_lost"):
    """The till cannot send records of its own, from `first` to `last`. `epoch` is 16 bytes, `chunk` the chunk's number.

    With a `torn_tail`, the record was being written when the process ended, and may never have been acknowledged;
    with a `power_cut`, nobody can know how many there were: `last` is None.
    """

    epoch: Annotated[bytes, Meta(min_length=16, max_length=16)]
    first: Count
    chunk: Count
    reason: Reason
    last: Count | None = None


class BasketChanged(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag="basket_changed"):
    """A basket was put aside, taken up again, voided or left, with what was in it then. One that ends in a sale is
    told of by the sale.
    """

    basket: Annotated[str, Meta(min_length=1, max_length=128)]
    state: Literal["suspended", "resumed", "voided", "abandoned"]
    lines: Count = 0
    """How many lines it had that were not void."""
    total: Minor | None = None
    currency: Currency = ""
    identifiers: Persons = ()
    at: InstantMs | None = None


class Observation(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag="observation"):
    """What staff noticed: other bags, a mood, a question asked. `kind` is one of the retailer's own; `text` is free,
    and lies with the person.
    """

    kind: Code
    text: LongText = ""
    event_id: EventId = ""
    basket: BasketId = ""
    identifiers: Persons = ()
    at: InstantMs | None = None


class SurveyAnswer(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag="survey_answer"):
    """An answer to a question. `answer` is a choice or a number, and is counted; `text` is free, and lies with the
    person. `offer_id` is the offer whose prompt asked.
    """

    question: Code
    answer: Annotated[str, Meta(max_length=MAX_SHORT)] = ""
    text: LongText = ""
    offer_id: OfferId | None = None
    event_id: EventId = ""
    basket: BasketId = ""
    identifiers: Persons = ()
    at: InstantMs | None = None


class WishListEntry(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag="wish_list_entry"):
    """Something that a customer would like to have: an article, or words for it, which lie with the person."""

    sku: Annotated[str, Meta(max_length=MAX_SHORT)] = ""
    text: LongText = ""
    event_id: EventId = ""
    basket: BasketId = ""
    identifiers: Persons = ()
    at: InstantMs | None = None


Remark = Observation | SurveyAnswer | WishListEntry
"""What a cashier or a customer says at the till."""
Body = (
    Transaction
    | MemberIdentified
    | OfferShown
    | OfferAnswered
    | RecordsLost
    | BasketChanged
    | Observation
    | SurveyAnswer
    | WishListEntry
)

KIND_NUMBERS: Final[dict[type[Body], int]] = {
    Transaction: 1,
    MemberIdentified: 2,
    OfferShown: 3,
    OfferAnswered: 4,
    RecordsLost: 5,
    BasketChanged: 6,
    Observation: 7,
    SurveyAnswer: 8,
    WishListEntry: 9,
}
"""The kind as a frame's clear header names it. Numbers are given once and never again."""
_FIRST_KINDS: Final = 5
"""The kinds that version 1 of the record has."""


class Original(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The bytes that the POS itself sent, after the cutting of card numbers."""

    media_type: Text
    sha256: Annotated[bytes, Meta(min_length=32, max_length=32)]
    data: bytes
    form: Literal["whole", "zstd", "left_out"] = "whole"
    """How `data` hold the bytes that `sha256` names: as they are, in one zstd frame, or not at all for lack of room."""


def version_of(body: Body, basket: bytes | None, original: Original | None = None) -> int:
    """The oldest version of the record that can hold this: a reader that is older is not troubled without need."""
    if original is not None and original.form != "whole":
        return 3
    if isinstance(body, Transaction) and (body.scope != "day" or body.changed_at is not None):
        return 3
    return 1 if basket is None and KIND_NUMBERS[type(body)] <= _FIRST_KINDS else 2


class Record(Struct, frozen=True, gc=False, forbid_unknown_fields=True, omit_defaults=True):
    """One captured fact, as it is sealed.

    `captured_at` is the till's clock in milliseconds since 1970, advisory; the frame's seq orders. `decisions` are
    what the till decided on this fact: one atomic write with it.
    """

    body: Body
    captured_at: InstantMs
    version: Count = 1
    """What `version_of` says."""
    clock_trusted: bool = True
    decisions: Annotated[tuple[Decision, ...], Meta(max_length=MAX_DECISIONS)] = ()
    pack: Count = 0
    """The version of the pack that the till decided by; 0 is none."""
    redactions: Count = 0
    """Card numbers cut and secrets dropped before the first write."""
    reconciles: bool | None = None
    original: Original | None = None
    basket: Annotated[bytes, Meta(min_length=16, max_length=16)] | None = None
    """The basket that this belongs to: 16 random bytes that the till chose when it first heard of it. A POS's own ids
    may come again."""
