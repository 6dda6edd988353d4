"""From a delivery to records, ready to be sealed: read by the source's adapter, and cut. All of it is CPU work."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from tillstream_protocol import codec
from tillstream_protocol.adapters import Reading, square_payment
from tillstream_protocol.adapters.registry import ADAPTERS
from tillstream_protocol.codec import encode
from tillstream_protocol.errors import InvalidInput, TooLarge
from tillstream_protocol.events import Original, Record, version_of
from tillstream_protocol.limits import DEFAULT, KIB
from tillstream_protocol.packing import fitted
from tillstream_protocol.redaction import cut_bytes, cut_cards, cut_original
from tillstream_protocol.transaction import Transaction, check, reconcile

from .deliveries import Delivery
from .signatures import Kind
from .sources import CANONICAL, Source

MOST_READINGS: Final = 1_000
MOST_ORDER_ID: Final = 192
"""Characters. Square says that its own have as many."""
MOST_VERSION: Final = 2**63 - 1
"""What a column of the database holds."""
_ROOM: Final = 2 * KIB
"""Bytes of an original beside its data, and that the till's names may need."""
_canonical: Final = codec.json_decoder(Transaction, limit=DEFAULT.hook_body)


class Kept(Struct, frozen=True, tag="webhook", tag_field="kept"):
    """A delivery that could not be read, as it is sealed in a record's place: no record, so the pipeline sets it aside.

    Card numbers are cut from `data`. To be read again, when an adapter has become better or a setting right.
    """

    kind: Kind
    topic: str
    event: str
    happened_ms: int | None
    media_type: str
    data: bytes

    def delivery(self) -> Delivery:
        """The delivery as it is read again."""
        return Delivery(self.kind, self.topic, self.event, None, self.happened_ms, self.media_type, self.data)


class Hint(Struct, frozen=True):
    """That an order of Square's is there, or has changed; which lines it has, the event does not tell."""

    pos_id: str
    version: int
    state: str
    location: str


def kept(delivery: Delivery) -> bytes:
    """A delivery's place-holder, encoded."""
    data, _ = cut_bytes(delivery.body)
    one = Kept(delivery.kind, delivery.topic, delivery.event, delivery.happened_ms, delivery.media_type, data)
    return encode(one)


def kept_of(plain: bytes) -> Kept | None:
    """The place-holder that a frame held; None where it is a record."""
    try:
        return _decode_kept(plain)
    except msgspec.DecodeError:
        return None


def readings_of(source: Source, delivery: Delivery) -> list[Reading]:
    """What a delivery holds, read by the source's adapter. Raises `InvalidInput` or `TooLarge`."""
    delivery.require_order()
    readings = _read(source, delivery)
    if len(readings) > MOST_READINGS:
        raise TooLarge("holds too many transactions", field="body", limit=str(MOST_READINGS))
    return readings


def records_of(readings: Sequence[Reading], delivery: Delivery, now_ms: int) -> list[bytes]:
    """Readings of a delivery as records, encoded."""
    return [
        _record(reading, delivery.media_type, _time_of(reading.transaction, delivery, now_ms)) for reading in readings
    ]


def _time_of(sale: Transaction, delivery: Delivery, now_ms: int) -> int:
    """When what a record tells came about: what the body says of it itself goes before what was said of the sending."""
    said = delivery.happened_ms if sale.changed_at is None else sale.changed_at
    return now_ms if said is None else min(said, now_ms)


def hint_of(delivery: Delivery) -> Hint | None:
    """The order that an event of Square's names without holding it. Raises `InvalidInput` for one that cannot be."""
    if delivery.kind != "square":
        return None
    try:
        event = _decode_square(delivery.body)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    said = event.data.object
    named = said.order_created or said.order_updated or said.order_fulfillment_updated
    if named is None or not named.order_id:
        return None
    if len(named.order_id) > MOST_ORDER_ID:
        raise InvalidInput("is too long", field="order_id", limit=f"{MOST_ORDER_ID} characters")
    version = named.version or 0
    if not 0 <= version <= MOST_VERSION:
        raise InvalidInput("is no version", field="version", limit=f"0 to {MOST_VERSION}")
    return Hint(named.order_id, version, named.state or "", named.location_id or "")


def _read(source: Source, delivery: Delivery) -> list[Reading]:
    if source.adapter == CANONICAL:
        return [_canonically(delivery.body)]
    readings = ADAPTERS[source.adapter].read(delivery.body, source.setting)
    if not readings and delivery.kind == "square":
        return square_payment.read(delivery.body, source.setting)
    return readings


def _canonically(body: bytes) -> Reading:
    sale = _canonical(body)
    check(sale)
    return Reading(sale, body)


def _record(reading: Reading, media_type: str, happened_ms: int) -> bytes:
    sale, redactions = cut_cards(reading.transaction, encode(reading.transaction))
    original, more = _original(reading, media_type)
    record = Record(body=sale, captured_at=happened_ms, redactions=redactions + more, reconciles=reconcile(sale))
    if original is not None:
        original = fitted(original, DEFAULT.record - _ROOM - len(encode(record)))
    return encode(replace(record, version=version_of(sale, None, original), original=original))


def _original(reading: Reading, media_type: str) -> tuple[Original | None, int]:
    """The bytes that a transaction was read from, without card numbers; none where nothing was read."""
    if not reading.original:
        return None, 0
    return cut_original(Original(media_type, hashlib.sha256(reading.original).digest(), reading.original))


class _Named(Struct, frozen=True):
    order_id: str | None = None
    version: int | None = None
    state: str | None = None
    location_id: str | None = None


class _Object(Struct, frozen=True):
    order_created: _Named | None = None
    order_updated: _Named | None = None
    order_fulfillment_updated: _Named | None = None


class _Data(Struct, frozen=True):
    object: _Object = _Object()


class _Event(Struct, frozen=True):
    data: _Data = _Data()


_decode_kept: Final = msgspec.msgpack.Decoder(Kept).decode
_decode_square: Final = msgspec.json.Decoder(_Event).decode
