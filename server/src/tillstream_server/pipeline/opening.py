"""Opens a batch: from sealed frames to records with their names, hashes and parts. All of it is CPU work.

A frame that does not open, decode or hold is `Refused`, and its neighbours go on; so is one that the server itself
fails over. A stretch that holds no frame is left out: what is not acknowledged, its till still has. Everything else
that is wrong concerns the batch as a whole and is raised: a header that the till's device did not sign, a chunk sealed
to another server, bytes of which nothing is a frame.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from typing import Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace
from nacl.public import PrivateKey

from tillstream_protocol import codec, framing
from tillstream_protocol.errors import Damaged, InvalidInput, TillstreamError
from tillstream_protocol.events import (
    KIND_NUMBERS,
    BasketChanged,
    Body,
    MemberIdentified,
    Observation,
    Record,
    RecordsLost,
    SurveyAnswer,
    WishListEntry,
)
from tillstream_protocol.framing import ChunkHeader, Frame
from tillstream_protocol.limits import Limits
from tillstream_protocol.messages import Batch
from tillstream_protocol.sealing import RecordSeal, key_id, open_key
from tillstream_protocol.transaction import IdempotencyKey, Link, Transaction, check, idempotency_key, key_of, reconcile
from tillstream_protocol.versions import RECORD

from ..customers.identity import Name, Namer
from ..devices import Device
from ..keys import ServerKeys
from .split import Split, split

HASH_SIZE: Final = 16
DATE_SIZE: Final = 3
Decode = Callable[[bytes], Record]
CACHED_KEYS: Final = 4_096
SERVER_DEFECT: Final = "server_defect"
"""The code of a dead letter that the server, not its sender, is to blame for."""


Report = Callable[[str, BaseException], None]
"""Is told where the server failed over a record, and how."""


def unheard(_where: str, _error: BaseException) -> None:
    """Nobody is told."""


class ForeignChunk(Damaged):
    """A chunk of another till, or one that was sealed to another server."""

    code = "foreign_chunk"


class DamagedBatch(Damaged):
    """A batch of which nothing is a whole frame."""

    code = "damaged_batch"


class Unacceptable(InvalidInput):
    """A record that cannot be taken, whatever is done to it here."""

    code = "unacceptable"


class NewerRecord(TillstreamError):
    """A record of a version that this server does not know yet."""

    code = "newer_record"


class Opened(Struct, frozen=True, gc=False):
    """One record, ready for the ledger. `idem`, `content` and `digest` are keyed hashes; `links` are relations
    and the `idem` of what they lead to."""

    seq: int
    kind: int
    digest: bytes
    record: Record
    body: Body
    parts: Split
    names: tuple[Name, ...]
    idem: bytes | None
    content: bytes
    links: tuple[tuple[str, bytes], ...]
    store: str
    at_ms: int
    reconciles: bool | None


class Refused(Struct, frozen=True, gc=False):
    """A frame whose record cannot be taken. `reason` names place and limit, never what stood there."""

    seq: int
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class OpenedBatch:
    """A batch with its frames in the order they came; `gaps` are stretches between that hold none."""

    header: ChunkHeader
    batch: Batch
    frames: tuple[Frame, ...]
    items: tuple[Opened | Refused, ...]
    gaps: int = 0

    def frame_bytes(self, index: int) -> bytes:
        """One frame as it came."""
        frame = self.frames[index]
        return self.batch.frames[frame.start : frame.end]


class Opener:
    """Opens batches; chunk keys once opened are kept. Safe to use from several threads."""

    def __init__(self, keys: ServerKeys, limits: Limits, report: Report = unheard) -> None:
        """`report` is told of records that the server fails over."""
        self._keys = keys
        self._limits = limits
        self._report = report
        self._boxes = _by_id(keys.box_private, *keys.former_box)
        self._escrow = _by_id(*([] if keys.escrow_private is None else [keys.escrow_private]))
        self._decode = codec.record_decoder(limit=limits.record)
        self._chunks: OrderedDict[bytes, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def open(self, device: Device, header: ChunkHeader, batch: Batch) -> OpenedBatch:
        """Open every frame. Raises `ForeignChunk`, `CannotOpen` or `DamagedBatch`."""
        found = list(framing.scan(batch.frames))
        frames = tuple(one for one in found if isinstance(one, Frame))
        if not frames:
            raise DamagedBatch("the batch holds no whole frame", field="frames", hint="send it again")
        gaps = len(found) - len(frames) + (found[-1].end != len(batch.frames))
        seal = RecordSeal(self._chunk_key(header, batch.header), limit=self._limits.record)
        reader = _Reader(self._keys, device, header, seal, self._decode, self._report)
        return OpenedBatch(header, batch, frames, tuple(map(reader.read, frames)), gaps)

    def plain(self, header: ChunkHeader, batch: Batch) -> list[tuple[int, bytes]]:
        """What the frames hold, whether records or not, by seq. Raises `ForeignChunk` or `CannotOpen`."""
        seal = RecordSeal(self._chunk_key(header, batch.header), limit=self._limits.record)
        place = framing.Place(header.till, header.epoch, header.chunk)
        frames = [one for one in framing.scan(batch.frames) if isinstance(one, Frame)]
        return [(one.header.seq, framing.open_frame(seal, place, one)) for one in frames]

    def _chunk_key(self, header: ChunkHeader, encoded: bytes) -> bytes:
        with self._lock:
            key = self._chunks.get(encoded)
        if key is None:
            key = self._unseal(header)
            with self._lock:
                self._chunks[encoded] = key
                while len(self._chunks) > CACHED_KEYS:
                    self._chunks.popitem(last=False)
        return key

    def _unseal(self, header: ChunkHeader) -> bytes:
        """The chunk's data key: sealed to a box key of this server, or to the escrow key where that is at hand."""
        box, escrow = self._boxes.get(header.server_key_id), self._escrow.get(header.escrow_key_id)
        if box is not None:
            return open_key(header.server_sealed_key, box)
        if escrow is not None:
            return open_key(header.escrow_sealed_key, escrow)
        raise ForeignChunk(
            "the chunk was sealed to a key that this server does not have",
            field="header.server_key_id",
            hint="restore that key from the backup, or bring the escrow key: tillstream-server key recover",
        )


def _by_id(*private: bytes) -> dict[bytes, bytes]:
    """Private keys by the ids of their public halves."""
    return {key_id(bytes(PrivateKey(key).public_key)): key for key in private}


class _Reader:
    """Reads the frames of one batch, in one thread."""

    def __init__(
        self,
        keys: ServerKeys,
        device: Device,
        header: ChunkHeader,
        seal: RecordSeal,
        decode: Decode,
        report: Report,
    ) -> None:
        self._report = report
        self._device = device
        self._place_of = framing.Place(header.till, header.epoch, header.chunk)
        self._seal = seal
        self._decode = decode
        self._namer = Namer(keys.identifier_key, device.retailer)
        self._digest = hashlib.blake2b(digest_size=HASH_SIZE, key=keys.digest_key, person=b"tillstream-recrd")
        self._content = hashlib.blake2b(digest_size=HASH_SIZE, key=keys.digest_key, person=b"tillstream-contn")
        self._name_of = IdempotencyNames(keys).name

    def read(self, frame: Frame) -> Opened | Refused:
        try:
            return self._read(frame)
        except TillstreamError as error:
            return Refused(frame.header.seq, error.code, harmless(error))
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - a defect of ours, of whatever class, is this record's alone
            self._report("opening", error)
            return Refused(frame.header.seq, SERVER_DEFECT, type(error).__name__)

    def _read(self, frame: Frame) -> Opened:
        plain = framing.open_frame(self._seal, self._place_of, frame)
        record = self._record(plain)
        if KIND_NUMBERS[type(record.body)] != frame.header.kind:
            raise Unacceptable("the frame's kind is not the record's", field="kind")
        body, store, at_ms = self._place(record)
        parts = split(record, body)
        return Opened(
            seq=frame.header.seq,
            kind=frame.header.kind,
            digest=_hash(self._digest, plain),
            record=record,
            body=body,
            parts=parts,
            names=self._names(parts),
            idem=self._idempotency(body),
            content=_hash(self._content, parts.encoded if parts.body is body else codec.encode(body)),
            links=self._links(body),
            store=store,
            at_ms=at_ms,
            reconciles=record.reconciles if not isinstance(body, Transaction) else _reconciles(record, body),
        )

    def _record(self, plain: bytes) -> Record:
        try:
            record = self._decode(plain)
        except InvalidInput:
            _require_known(_peek_version(plain))
            raise
        _require_known(record.version)
        return record

    def _place(self, record: Record) -> tuple[Body, str, int]:
        """The body with the till's names filled in, its store, and its time in milliseconds."""
        body = record.body
        if isinstance(body, Transaction):
            body = self._fill(body)
            check(body)
            return body, body.store, body.end.at
        if isinstance(body, MemberIdentified):
            return body, body.store or self._device.store, body.at if body.at is not None else record.captured_at
        if isinstance(body, BasketChanged | Observation | SurveyAnswer | WishListEntry):
            return body, self._device.store, body.at if body.at is not None else record.captured_at
        return body, self._device.store, record.captured_at

    def _fill(self, t: Transaction) -> Transaction:
        device = self._device
        if t.retailer and t.retailer != device.retailer:
            raise Unacceptable("the till belongs to another retailer", field="retailer")
        if t.retailer and t.store and t.till and t.currency:
            return t
        return fill(t, device.retailer, device.store, device.till, device.currency)

    def _names(self, parts: Split) -> tuple[Name, ...]:
        return tuple(self._namer.name(identifier, normal) for identifier, normal in parts.identifiers)

    def _idempotency(self, body: Body) -> bytes | None:
        if isinstance(body, Transaction):
            return self._name_of(idempotency_key(body))
        if isinstance(body, MemberIdentified | Observation | SurveyAnswer | WishListEntry) and body.event_id:
            kind = str(type(body).__struct_config__.tag)
            return self._name_of(("", kind, self._device.till_id.hex(), "", body.event_id))
        if isinstance(body, RecordsLost):
            what = f"{body.epoch.hex()} {body.first} {body.last} {body.reason}"
            return self._name_of(("", "records_lost", self._device.till_id.hex(), "", what))
        return None

    def _links(self, body: Body) -> tuple[tuple[str, bytes], ...]:
        if not isinstance(body, Transaction):
            return ()
        return tuple(dict.fromkeys((link.relation, self._name_of(linked_key(body, link))) for link in body.links))


class IdempotencyNames:
    """What idempotency keys are called in the ledger."""

    def __init__(self, keys: ServerKeys) -> None:
        self._keyed = hashlib.blake2b(digest_size=HASH_SIZE, key=keys.digest_key, person=b"tillstream-idemp")

    def name(self, key: IdempotencyKey) -> bytes:
        """A keyed hash, 16 bytes. It begins with the business date, so that a day's sales lie together in the indices;
        with zeros for keys that have none."""
        hashed = _hash(self._keyed, "\0".join(key).encode())
        return _date_bytes(key[3]) + hashed[DATE_SIZE:]


def fill(t: Transaction, retailer: str, store: str, till: str, currency: str) -> Transaction:
    """A transaction at the place of the till that tells of it; what it says of its own place stays."""
    return replace(t, retailer=retailer, store=t.store or store, till=t.till or till, currency=t.currency or currency)


def linked_key(t: Transaction, link: Link) -> IdempotencyKey:
    """The idempotency key of a linked transaction; what the link leaves out is as in the transaction itself."""
    return key_of(
        t,
        link.store or t.store,
        link.till or t.till,
        link.business_date or t.business_date,
        link.pos_id,
    )


@lru_cache(maxsize=1_024)
def _date_bytes(business_date: str) -> bytes:
    """A date in order of time; zeros for none, and for what is none (a link's is checked like any other)."""
    try:
        day = date.fromisoformat(business_date).toordinal()
    except ValueError:
        day = 0
    return day.to_bytes(DATE_SIZE, "big")


def _hash(keyed: hashlib.blake2b, data: bytes) -> bytes:
    state = keyed.copy()
    state.update(data)
    return state.digest()


def _reconciles(record: Record, body: Transaction) -> bool | None:
    return record.reconciles if record.reconciles is not None else reconcile(body)


class _Version(Struct):
    version: int = 1


_version_decoder: Final = msgspec.msgpack.Decoder(_Version)


def _peek_version(plain: bytes) -> int:
    """The version that a record claims which does not decode as one of ours."""
    try:
        return _version_decoder.decode(plain).version
    except msgspec.DecodeError:
        return RECORD


def _require_known(version: int) -> None:
    if version > RECORD:
        raise NewerRecord(f"record version {version}", field="version", limit=str(RECORD), hint="upgrade the server")


def harmless(error: TillstreamError) -> str:
    """An error as text without what the sender wrote: it is stored in the clear."""
    place = f"{error.field}: " if error.field else ""
    return place + (f"expected {error.limit}" if error.limit else error.code)
