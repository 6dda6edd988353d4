"""Every kind of record besides the transaction, and the envelope that all of them travel in."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from .decisions import Decision
from .limits import MAX_DECISIONS, MAX_SHORT
from .transaction import Code, Count, Identifier, InstantMs, Text, Transaction
from .versions import RECORD

OfferId = Annotated[bytes, Meta(min_length=16, max_length=16)]


class MemberIdentified(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag="member_identified"):
    """Somebody gave a card, a number or an address at the till."""

    identifiers: Annotated[tuple[Identifier, ...], Meta(min_length=1, max_length=16)]
    event_id: Annotated[str, Meta(max_length=128)] = ""
    """The POS's own id of this event; with one, a repeat is answered as such."""
    basket: Annotated[str, Meta(max_length=128)] = ""
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


Body = Transaction | MemberIdentified | OfferShown | OfferAnswered | RecordsLost

KIND_NUMBERS: Final[dict[type[Body], int]] = {
    Transaction: 1,
    MemberIdentified: 2,
    OfferShown: 3,
    OfferAnswered: 4,
    RecordsLost: 5,
}
"""The kind as a frame's clear header names it. Numbers are given once and never again."""


class Original(Struct, frozen=True, forbid_unknown_fields=True):
    """The bytes that the POS itself sent, after the cutting of card numbers."""

    media_type: Text
    sha256: Annotated[bytes, Meta(min_length=32, max_length=32)]
    data: bytes


class Record(Struct, frozen=True, gc=False, forbid_unknown_fields=True, omit_defaults=True):
    """One captured fact, as it is sealed.

    `captured_at` is the till's clock in milliseconds since 1970, advisory; the frame's seq orders. `decisions` are
    what the till decided on this fact: one atomic write with it.
    """

    body: Body
    captured_at: InstantMs
    version: Count = RECORD
    clock_trusted: bool = True
    decisions: Annotated[tuple[Decision, ...], Meta(max_length=MAX_DECISIONS)] = ()
    pack: Count = 0
    """The version of the pack that the till decided by; 0 is none."""
    redactions: Count = 0
    """Card numbers cut and secrets dropped before the first write."""
    reconciles: bool | None = None
    original: Original | None = None
