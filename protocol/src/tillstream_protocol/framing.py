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

from .errors import Damaged
from .limits import MAX_SPENDS
from .sealing import NONCE_SIZE, TAG_SIZE
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
_SPEND = struct.Struct(">16sI")
_FOOTER = struct.Struct(">4sIQI")
_ENTRY = struct.Struct(">16sB")

MIN_FRAME: Final = _FRAME.size + NONCE_SIZE + TAG_SIZE + _CRC.size
MAX_FRAME: Final = 2 * 1024 * 1024


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
        return cls(till, epoch, chunk, *others)

    @classmethod
    def read(cls, data: bytes) -> tuple[ChunkHeader, bytes]:
        """The header and its valid copy's bytes, from a chunk's first `FRAMES_START` bytes."""
        first, second = data[:HEADER_SIZE], data[HEADER_SIZE:FRAMES_START]
        try:
            return cls.decode(first), first
        except DamagedChunk:
            return cls.decode(second), second


def verify_header(encoded: bytes, device_public_key: bytes) -> None:
    """Raise `BadSignature` unless the device signed this header copy."""
    signature = encoded[_HEADER.size : _HEADER.size + SIGNATURE_SIZE]
    verify(device_public_key, encoded[: _HEADER.size], signature)


@dataclass(frozen=True, slots=True)
class Spend:
    """`amount` units drawn on a lease (16 bytes), in the clear, so that a restarted till can count them."""

    lease: bytes
    amount: int


@dataclass(frozen=True, slots=True)
class ClearHeader:
    """What a frame says openly."""

    seq: int
    kind: int
    tag: bytes
    """The till-keyed tag of the idempotency key; `NO_TAG` where there is none."""
    previous: bytes
    spends: tuple[Spend, ...] = ()

    def encode(self, sealed_size: int) -> bytes:
        """The clear bytes of a frame whose ciphertext and tag take `sealed_size` bytes."""
        size = clear_size(len(self.spends))
        length = size + NONCE_SIZE + sealed_size + _CRC.size
        head = _FRAME.pack(_FRAME_MAGIC, length, self.seq, self.kind, 0, len(self.spends), self.tag, self.previous)
        return head + b"".join(_SPEND.pack(spend.lease, spend.amount) for spend in self.spends)


def clear_size(spends: int) -> int:
    """The size in bytes of a clear header with that many spends."""
    return _FRAME.size + spends * _SPEND.size


def associated_data(till: bytes, epoch: bytes, chunk: int, clear: bytes) -> bytes:
    """What a frame's ciphertext is bound to."""
    return b"".join((till, epoch, chunk.to_bytes(4, "big"), clear))


def join_frame(clear: bytes, nonce: bytes, sealed: bytes) -> bytes:
    """A whole frame."""
    body = clear + nonce + sealed
    return body + _CRC.pack(zlib.crc32(body))


@dataclass(frozen=True, slots=True)
class Frame:
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


@dataclass(frozen=True, slots=True)
class Gap:
    """Bytes that hold no valid frame."""

    start: int
    end: int


def read_frame(data: bytes, start: int) -> Frame | None:
    """The valid frame that begins at `start`, or None."""
    if len(data) - start < MIN_FRAME or data[start : start + 4] != _FRAME_MAGIC:
        return None
    _, length, seq, kind, _flags, count, tag, previous = _FRAME.unpack_from(data, start)
    end = start + length
    size = clear_size(count)
    if count > MAX_SPENDS or length > MAX_FRAME or end > len(data):
        return None
    if length < size + NONCE_SIZE + TAG_SIZE + _CRC.size:
        return None
    if zlib.crc32(memoryview(data)[start : end - _CRC.size]) != _CRC.unpack_from(data, end - _CRC.size)[0]:
        return None
    spends = tuple(Spend(*_SPEND.unpack_from(data, start + _FRAME.size + i * _SPEND.size)) for i in range(count))
    body = start + size
    return Frame(
        start=start,
        end=end,
        header=ClearHeader(seq, kind, tag, previous, spends),
        clear=data[start:body],
        nonce=data[body : body + NONCE_SIZE],
        sealed=data[body + NONCE_SIZE : end - _CRC.size],
    )


def scan(data: bytes, start: int = 0) -> Iterator[Frame | Gap]:
    """Every frame from `start` on, and every stretch between that holds none.

    After damage it goes on at the next valid frame. A footer ends the scan.
    """
    position = start
    while position < len(data):
        frame = read_frame(data, position)
        if frame is not None:
            yield frame
            position = frame.end
        elif data[position : position + 4] == _FOOTER_MAGIC and read_footer(data[position:]) is not None:
            return
        else:
            following = _next_start(data, position + 1)
            yield Gap(position, following)
            position = following


def _next_start(data: bytes, position: int) -> int:
    while True:
        found = data.find(_FRAME_MAGIC[:3], position)  # frames and footers begin alike
        if found < 0:
            return len(data)
        if read_frame(data, found) is not None:
            return found
        if data[found : found + 4] == _FOOTER_MAGIC and read_footer(data[found:]) is not None:
            return found
        position = found + 1


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
    if len(data) < _FOOTER.size + 2 * _CRC.size:
        return None
    magic, length, first_seq, count = _FOOTER.unpack_from(data)
    body = data[: length - 2 * _CRC.size]
    if magic != _FOOTER_MAGIC or length != len(data) or footer_length(data) != length:
        return None
    if zlib.crc32(body) != _CRC.unpack_from(data, len(body))[0]:
        return None
    return Footer(first_seq, tuple(_read_entries(body, count)))


def _read_entries(body: bytes, count: int) -> Iterator[Entry]:
    position = _FOOTER.size
    for _ in range(count):
        tag, spends = _ENTRY.unpack_from(body, position)
        position += _ENTRY.size
        yield Entry(tag, tuple(Spend(*_SPEND.unpack_from(body, position + i * _SPEND.size)) for i in range(spends)))
        position += spends * _SPEND.size
