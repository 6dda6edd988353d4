"""What a ledger row's `body` holds: the record's body without what names a person.

A transaction keeps its type: its customer holds consents and points only, and the fields that went to the vault are
empty. An identification loses its identifiers, and so do the remarks made at a till, with their free texts. `subject`
is the row's own column.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, cast

import msgspec
from msgspec import Struct

from tillstream_protocol.codec import encode as encode
from tillstream_protocol.errors import Damaged
from tillstream_protocol.events import (
    BasketChanged,
    Observation,
    OfferAnswered,
    OfferShown,
    RecordsLost,
    SurveyAnswer,
    WishListEntry,
)
from tillstream_protocol.transaction import InstantMs, Transaction


class Identified(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag="member_identified"):
    """Somebody identified themselves; who, is the row's subject. The fields are those of `MemberIdentified`."""

    event_id: str = ""
    basket: str = ""
    store: str = ""
    at: InstantMs | None = None


LedgerBody = (
    Transaction
    | Identified
    | OfferShown
    | OfferAnswered
    | RecordsLost
    | BasketChanged
    | Observation
    | SurveyAnswer
    | WishListEntry
)

_decode: Final[Callable[[bytes], LedgerBody]] = msgspec.msgpack.Decoder(cast("Any", LedgerBody)).decode
_decode_transaction: Final = msgspec.msgpack.Decoder(Transaction).decode


class LedgerDamaged(Damaged):
    """A ledger row whose body does not decode."""

    code = "ledger_damaged"


def decode(body: bytes) -> LedgerBody:
    """The body of a ledger row. Raises `LedgerDamaged`."""
    try:
        return _decode(body)
    except msgspec.DecodeError as error:
        raise LedgerDamaged("a ledger row does not decode") from error


def decode_transaction(body: bytes) -> Transaction:
    """The body of a row that is known to be a transaction. Raises `LedgerDamaged`."""
    try:
        return _decode_transaction(body)
    except msgspec.DecodeError as error:
        raise LedgerDamaged("a ledger row does not decode") from error
