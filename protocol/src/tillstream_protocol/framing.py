"""Chunks and frames: how sealed records lie on disk, and so how they travel. SPEC.md has the byte tables.

A chunk is a header written twice, frames, and, once it is closed, a footer. All integers are big-endian. Frames of
a chunk carry consecutive seqs. A frame's clear header, with the names of till, epoch and chunk, is the associated
data of its ciphertext; the previous frame's tag lies in that header, so a lost record is evident, and its neighbours
stay readable.

    chunk   header (512) · the same header again (512) · frame · frame · … · footer
    frame   "TSFR" length seq kind flags spends 0 · tag of the idempotency key · previous tag · spends · nonce
            · ciphertext and tag · CRC-32
    footer  "TSFT" length first-seq count · per frame: idempotency tag, spends · CRC-32
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from msgspec import Struct

from .errors import Damaged, InvalidInput, TooLarge
from .limits import MAX_SPENDS
from .sealing import KEY_ID_SIZE, NONCE_SIZE, SEALED_KEY_SIZE, TAG_SIZE, RecordSeal
from .signing import SIGNATURE_SIZE, SignKey, verify
from .versions import CHUNK_FORMAT

HEADER_SIZE: Final = 512
"""One copy; a chunk begins with two."""
FRAMES_START: Final = 2 * HEADER_SIZE
NO_TAG: Final = bytes(16)
NO_EPOCH: Final = bytes(16)

_CHUNK_MAGIC: Final = b"TSCHUNK1"
_FRAME_MAGIC: Final = b"TSFR"
_FOOTER_MAGIC: Final = b"TSFT"

_HEADER = struct.Struct(">8sHHI16s16s16sQQq8s8s80s8s80s")
_CRC = struct.Struct(">I")
_FRAME = struct.Struct(">4sIQBBBx16s16s")
_OPENING = struct.Struct(">4sIQBBB")
"""How a frame begins: all that is needed to tell where it ends."""
_SPEND = struct.Struct(">16sI")
_FOOTER = struct.Struct(">4sIQI")
_ENTRY = struct.Struct(">16sB")

FOOTER_ROW: Final = _ENTRY.size
"""Bytes of a footer's entry that has no spends; it begins with the tag."""
MIN_FRAME: Final = _FRAME.size + NONCE_SIZE + TAG_SIZE + _CRC.size
MAX_FRAME: Final = 2 * 1024 * 1024
MAX_SEQ: Final = 2**63 - 1
SCAN_ALLOWANCE: Final = 64
"""How many times its own size a scan may checksum in vain."""
_LEAST_CHARGED: Final = 1024 * 1024
_CANDIDATE_COST: Final = 2048  # a failed look without a checksum takes about as long as checksumming this much


class DamagedChunk(Damaged):
    """A chunk header, frame or footer that does not hold what it claims."""

    code = "damaged_chunk"


@dataclass(frozen=True, slots=True)
class ChunkHeader:
    """What a chunk is and who can open it. `till` and `epoch` are 16 bytes; `created` is in milliseconds since 1970.

    `parent` and `parent_position` name the epoch that this one follows, and how many records it had.
    """

    till: bytes
    epoch: bytes
    chunk: int
    parent: bytes
    parent_position: int
    first_seq: int
    created: int
    device_key_id: bytes
    server_key_id: bytes
    server_sealed_key: bytes
    escrow_key_id: bytes
    escrow_sealed_key: bytes

    def encode(self, device: SignKey) -> bytes:
        """One signed copy of `HEADER_SIZE` bytes."""
        _require_sizes(self)
        fields = _HEADER.pack(
            _CHUNK_MAGIC,
            CHUNK_FORMAT,
            0,
            self.chunk,
            self.till,
            self.epoch,
            self.parent,
            self.parent_position,
            self.first_seq,
            self.created,
            self.device_key_id,
            self.server_key_id,
            self.server_sealed_key,
            self.escrow_key_id,
            self.escrow_sealed_key,
        )
        body = (fields + device.sign(fields)).ljust(HEADER_SIZE - _CRC.size, b"\0")
        return body + _CRC.pack(zlib.crc32(body))

    @classmethod
    def decode(cls, data: bytes) -> ChunkHeader:
        """Read one copy, without verifying its signature. Raises `DamagedChunk`."""
        if len(data) != HEADER_SIZE:
            raise DamagedChunk(f"{len(data)} bytes", field="header", limit=f"{HEADER_SIZE} bytes")
        if zlib.crc32(data[: -_CRC.size]) != _CRC.unpack_from(data, HEADER_SIZE - _CRC.size)[0]:
            raise DamagedChunk("the checksum does not fit", field="header")
        magic, version, _flags, chunk, *rest = _HEADER.unpack_from(data)
        if magic != _CHUNK_MAGIC or version != CHUNK_FORMAT:
            raise DamagedChunk(f"chunk format {version} is not known", field="header.version", limit=str(CHUNK_FORMAT))
        till, epoch, *others = rest
        header = cls(till, epoch, chunk, *others)
        if max(header.parent_position, header.first_seq) > MAX_SEQ:
            raise DamagedChunk("a position is impossible", field="header", limit=f"{MAX_SEQ}")
        return header

    @classmethod
    def read(cls, data: bytes) -> tuple[ChunkHeader, bytes]:
        """The header and its valid copy's bytes, from a chunk's first `FRAMES_START` bytes."""
        first, second = data[:HEADER_SIZE], data[HEADER_SIZE:FRAMES_START]
        try:
            return cls.decode(first), first
        except DamagedChunk:
            return cls.decode(second), second


def _require_sizes(header: ChunkHeader) -> None:
    """`struct` would cut or pad a wrong key in silence, and the chunk could never be opened."""
    for field, size in (
        ("till", 16),
        ("epoch", 16),
        ("parent", 16),
        ("device_key_id", KEY_ID_SIZE),
        ("server_key_id", KEY_ID_SIZE),
        ("server_sealed_key", SEALED_KEY_SIZE),
        ("escrow_key_id", KEY_ID_SIZE),
        ("escrow_sealed_key", SEALED_KEY_SIZE),
    ):
        if len(getattr(header, field)) != size:
            raise InvalidInput("a name or key of the wrong size", field=f"header.{field}", limit=f"{size} bytes")


def claimed_places(data: bytes) -> list[tuple[bytes, int]]:
    """The epoch and first seq that each copy of a damaged header claims: nothing vouches for them."""
    copies = (data[:HEADER_SIZE], data[HEADER_SIZE:FRAMES_START])
    fields = [_HEADER.unpack_from(copy) for copy in copies if len(copy) == HEADER_SIZE]
    return [(one[5], one[8]) for one in fields if one[5] != NO_EPOCH and one[8] <= MAX_SEQ]


def verify_header(encoded: bytes, device_public_key: bytes) -> None:
    """Raise `BadSignature` unless the device signed this header copy."""
    signature = encoded[_HEADER.size : _HEADER.size + SIGNATURE_SIZE]
    verify(device_public_key, encoded[: _HEADER.size], signature)


@dataclass(frozen=True, slots=True)
class Spend:
    """`amount` units drawn on a lease (16 bytes), in the clear, so that a restarted till can count them."""

    lease: bytes
    amount: int


class ClearHeader(Struct, frozen=True, gc=False):
    """What a frame says openly."""

    seq: int
    kind: int
    tag: bytes
    """The till-keyed tag of the idempotency key; `NO_TAG` where there is none."""
    previous: bytes
    spends: tuple[Spend, ...] = ()

    def encode(self, sealed_size: int) -> bytes:
        """The clear bytes of a frame whose ciphertext and tag take `sealed_size` bytes. Raises `TooLarge`."""
        if len(self.spends) > MAX_SPENDS:
            raise TooLarge(f"{len(self.spends)} spends", field="spends", limit=str(MAX_SPENDS))
        size = clear_size(len(self.spends))
        length = size + NONCE_SIZE + sealed_size + _CRC.size
        if length > MAX_FRAME:
            raise TooLarge(f"a frame of {length} bytes", field="record", limit=f"{MAX_FRAME} bytes")
        head = _FRAME.pack(_FRAME_MAGIC, length, self.seq, self.kind, 0, len(self.spends), self.tag, self.previous)
        for spend in self.spends:
            head += _SPEND.pack(spend.lease, spend.amount)
        return head


def clear_size(spends: int) -> int:
    """The size in bytes of a clear header with that many spends."""
    return _FRAME.size + spends * _SPEND.size


@dataclass(frozen=True, slots=True)
class Place:
    """Where a frame belongs. What is sealed in one place opens in no other."""

    till: bytes
    epoch: bytes
    chunk: int

    def associated_data(self, clear: bytes) -> bytes:
        """What a frame's ciphertext is bound to."""
        return b"".join((self.till, self.epoch, self.chunk.to_bytes(4, "big"), clear))


def seal_frame(seal: RecordSeal, place: Place, header: ClearHeader, plain: bytes, nonce: bytes) -> bytes:
    """A whole frame. Raises `TooLarge`."""
    packed = seal.pack(plain)
    clear = header.encode(len(packed) + TAG_SIZE)
    body = clear + nonce + seal.seal(packed, place.associated_data(clear), nonce)
    return body + _CRC.pack(zlib.crc32(body))


class Frame(Struct, frozen=True, gc=False):
    """One whole frame as found, and where: `start` to `end` in the bytes that were scanned."""

    start: int
    end: int
    header: ClearHeader
    clear: bytes
    nonce: bytes
    sealed: bytes

    @property
    def aead_tag(self) -> bytes:
        """The last 16 bytes of the sealed record, which the next frame names as its previous tag."""
        return self.sealed[-TAG_SIZE:]


class Gap(Struct, frozen=True, gc=False):
    """Bytes that hold no valid frame."""

    start: int
    end: int


def open_frame(seal: RecordSeal, place: Place, frame: Frame) -> bytes:
    """The record's plain bytes. Raises `CannotOpen` or `TooLarge`."""
    return seal.open(frame.sealed, place.associated_data(frame.clear), frame.nonce)


def measure_frame(data: bytes, start: int) -> tuple[int, int] | None:
    """The end and the seq of the valid frame that begins at `start`, or None."""
    measured = _measure(data, start)
    return measured if measured is not None and _intact(data, start, measured[0]) else None


def measure_run(data: bytes, start: int, seqs: range, limit: int) -> tuple[int, int]:
    """Where the valid frames end that lie in a row from `start` on and are named by `seqs`, and the seq after them.

    None of them reaches beyond the offset `limit`. It is `measure_frame` again and again, without its calls.
    """
    view, unpack, checksum = memoryview(data), _OPENING.unpack_from, _CRC.unpack_from
    limit = min(limit, len(data))
    for seq in seqs:
        if limit - start < MIN_FRAME:
            return start, seq
        magic, length, found, _kind, _flags, spends = unpack(data, start)
        end = start + length
        if magic != _FRAME_MAGIC or found != seq or end > limit or length > MAX_FRAME or spends > MAX_SPENDS:
            return start, seq
        if length < MIN_FRAME + spends * _SPEND.size:
            return start, seq
        if zlib.crc32(view[start : end - _CRC.size]) != checksum(data, end - _CRC.size)[0]:
            return start, seq
        start = end
    return start, seqs.stop


def _measure(data: bytes, start: int) -> tuple[int, int] | None:
    """The end and the seq that a possible frame at `start` claims; None if no frame can begin so."""
    size = len(data)
    if size - start < MIN_FRAME:
        return None
    magic, length, seq, _kind, _flags, spends = _OPENING.unpack_from(data, start)
    end = start + length
    if magic != _FRAME_MAGIC or spends > MAX_SPENDS or length > MAX_FRAME or end > size or seq > MAX_SEQ:
        return None
    return None if length < MIN_FRAME + spends * _SPEND.size else (end, seq)


class _Claim(Struct, frozen=True, gc=False):
    """What the first bytes of a possible frame say, before its checksum is looked at."""

    end: int
    seq: int
    kind: int
    spends: int
    tag: bytes
    previous: bytes


def _claim(data: bytes, start: int) -> _Claim | None:
    """What a possible frame at `start` claims; None if no frame can begin so."""
    measured = _measure(data, start)
    if measured is None:
        return None
    _magic, _length, seq, kind, _flags, spends, tag, previous = _FRAME.unpack_from(data, start)
    return _Claim(measured[0], seq, kind, spends, tag, previous)


def _intact(data: bytes, start: int, end: int) -> bool:
    checksum: int = _CRC.unpack_from(data, end - _CRC.size)[0]
    return zlib.crc32(memoryview(data)[start : end - _CRC.size]) == checksum


def read_frame(data: bytes, start: int) -> Frame | None:
    """The valid frame that begins at `start`, or None."""
    claim = _claim(data, start)
    if claim is None or not _intact(data, start, claim.end):
        return None
    body = start + clear_size(claim.spends)
    sealed = body + NONCE_SIZE
    return Frame(
        start=start,
        end=claim.end,
        header=ClearHeader(claim.seq, claim.kind, claim.tag, claim.previous, _spends(data[start + _FRAME.size : body])),
        clear=data[start:body],
        nonce=data[body:sealed],
        sealed=data[sealed : claim.end - _CRC.size],
    )


def _spends(data: bytes) -> tuple[Spend, ...]:
    return tuple(Spend(*spend) for spend in _SPEND.iter_unpack(data))


def scan(data: bytes, start: int = 0) -> Iterator[Frame | Gap]:
    """Every frame from `start` on, and every stretch between that holds none.

    After damage it goes on at the next valid frame. A footer that ends the data ends the scan. Bytes made to look
    like the beginnings of many long frames would cost the square of their size: once candidates have been checksummed
    in vain for `SCAN_ALLOWANCE` times the data's size, what follows is one gap.
    """
    search = _Search(data)
    position = start
    while position < search.end:
        frame = search.frame(position)
        if frame is not None:
            yield frame
            position = frame.end
        else:
            following = search.following(position + 1)
            yield Gap(position, following)
            position = following


class _Search:
    """Looks for frames before a chunk's footer, and counts what failed candidates cost."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._allowance = SCAN_ALLOWANCE * max(len(data), _LEAST_CHARGED)
        self.end = _footer_start(data)

    def frame(self, position: int) -> Frame | None:
        frame = read_frame(self._data, position)
        if frame is None:
            claim = _claim(self._data, position)
            self._allowance -= _CANDIDATE_COST + (claim.end - position if claim else 0)
        return frame

    def following(self, position: int) -> int:
        """Where the next frame begins; the end where there is none."""
        while self._allowance > 0:
            position = self._data.find(_FRAME_MAGIC, position, self.end)
            if position < 0:
                break
            if self.frame(position) is not None:
                return position
            position += 1
        return self.end


def _footer_start(data: bytes) -> int:
    """Where the footer that ends `data` begins; the end of `data` where there is none."""
    start = len(data) - footer_length(data)
    return start if 0 <= start < len(data) and read_footer(data[start:]) is not None else len(data)


@dataclass(frozen=True, slots=True)
class Entry:
    """One frame as the footer lists it."""

    tag: bytes
    spends: tuple[Spend, ...]


@dataclass(frozen=True, slots=True)
class Footer:
    """The index of a closed chunk: its frames in order of seq, from `first_seq` on without a gap."""

    first_seq: int
    entries: tuple[Entry, ...]

    def encode(self) -> bytes:
        """The footer's bytes; the last four repeat its length, so that it is found from the end."""
        parts = [b""]
        for entry in self.entries:
            parts.append(_ENTRY.pack(entry.tag, len(entry.spends)))
            parts.extend(_SPEND.pack(spend.lease, spend.amount) for spend in entry.spends)
        length = _FOOTER.size + sum(map(len, parts)) + 2 * _CRC.size
        parts[0] = _FOOTER.pack(_FOOTER_MAGIC, length, self.first_seq, len(self.entries))
        body = b"".join(parts)
        return body + _CRC.pack(zlib.crc32(body)) + _CRC.pack(length)


def footer_length(tail: bytes) -> int:
    """The length in bytes that a chunk's last four bytes claim for its footer."""
    return int(_CRC.unpack(tail[-4:])[0]) if len(tail) >= _CRC.size else 0


def read_footer(data: bytes) -> Footer | None:
    """The footer that fills `data` to its end, or None."""
    checked = _check_footer(data)
    if checked is None:
        return None
    first_seq, count, body = checked
    entries = _read_entries(body, count)
    return None if entries is None else Footer(first_seq, entries)


def footer_rows(data: bytes) -> tuple[int, bytes] | None:
    """The first seq and the entries, each of `FOOTER_ROW` bytes, as they lie in the footer that fills `data`.

    None where there is none, and where it has spends: `read_footer` reads that, at many times the cost.
    """
    checked = _check_footer(data)
    if checked is None:
        return None
    first_seq, count, body = checked
    rows = body[_FOOTER.size :]
    return (first_seq, rows) if len(rows) == count * FOOTER_ROW and not any(rows[16::FOOTER_ROW]) else None


def _check_footer(data: bytes) -> tuple[int, int, bytes] | None:
    """First seq, count and checksummed bytes of a footer, or None."""
    if len(data) < _FOOTER.size + 2 * _CRC.size or footer_length(data) != len(data):
        return None
    magic, length, first_seq, count = _FOOTER.unpack_from(data)
    body = data[: -2 * _CRC.size]
    if magic != _FOOTER_MAGIC or length != len(data) or first_seq > MAX_SEQ:
        return None
    if zlib.crc32(body) != _CRC.unpack_from(data, len(body))[0]:
        return None
    return first_seq, count, body


def footer_torn(tail: bytes, first_seq: int, count: int) -> bool:
    """Whether a damaged or unfinished `tail`, after `count` frames from `first_seq` on, was a footer and no frame.

    Any two bytes may be wrong: the footer says what it is in its first bytes, in its fields, and in its last bytes.
    """
    if tail.startswith(_FOOTER_MAGIC):
        return True
    if len(tail) < _FOOTER.size:
        return False
    if _FOOTER.unpack_from(tail)[2:] == (first_seq, count):
        return True
    return footer_length(tail) == len(tail) and not tail.startswith(_FRAME_MAGIC)


def last_claimed(tail: bytes, first_seq: int) -> int | None:
    """The last seq of the records that a `tail` without a valid frame held, if the next seq was to be `first_seq`.

    Itself where the tail is one unfinished or damaged frame; None where it does not tell how many there were.
    """
    if len(tail) < 8 or len(tail) <= int.from_bytes(tail[4:8], "big") <= MAX_FRAME:
        return first_seq
    most = first_seq + len(tail) // MIN_FRAME
    at = tail.rfind(_FRAME_MAGIC)
    while at >= 0:
        seq = int.from_bytes(tail[at + 8 : at + 16], "big")
        if len(tail) - at >= 16 and first_seq <= seq <= most:
            return seq
        at = tail.rfind(_FRAME_MAGIC, 0, at)
    return None


def _read_entries(body: bytes, count: int) -> tuple[Entry, ...] | None:
    """Exactly `count` entries that fill the body, or None."""
    entries = []
    position = _FOOTER.size
    while position + _ENTRY.size <= len(body):
        tag, spends = _ENTRY.unpack_from(body, position)
        start, position = position + _ENTRY.size, position + _ENTRY.size + spends * _SPEND.size
        if spends > MAX_SPENDS or position > len(body):
            return None
        entries.append(Entry(tag, _spends(body[start:position])))
    return tuple(entries) if position == len(body) and len(entries) == count else None
