"""What somebody looks for who holds a stolen till's disk, or the memory of its process."""

from __future__ import annotations

import base64
import binascii
import gc
import re
import types
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Final

import zstandard

from tillstream_protocol.errors import TillstreamError
from tillstream_protocol.framing import FRAMES_START, ChunkHeader, Frame, Place, open_frame, scan
from tillstream_protocol.limits import DEFAULT
from tillstream_protocol.sealing import KEY_SIZE, RecordSeal, open_key

_MOST: Final = 4 * 1024 * 1024
_ZLIB: Final = re.compile(rb"\x78[\x01\x5e\x9c\xda]|\x1f\x8b\x08")
_ZSTD: Final = re.compile(rb"\x28\xb5\x2f\xfd")
_TEXT: Final = re.compile(rb"[A-Za-z0-9_+/=-]{40,128}")
_WINDOWED: Final = 4096
"""In what is no longer than this, a key is looked for at every place."""


def spellings(text: str) -> dict[str, bytes]:
    """How a text may be written in a file."""
    plain = text.encode()
    found = {
        "plain": plain,
        "utf-16-le": text.encode("utf-16-le"),
        "utf-16-be": text.encode("utf-16-be"),
        "hex": plain.hex().encode(),
        "HEX": plain.hex().upper().encode(),
        "reversed": plain[::-1],
    }
    for shift in range(3):
        for name, encode in (("base64", base64.b64encode), ("base64url", base64.urlsafe_b64encode)):
            inner = encode(bytes(shift) + plain).rstrip(b"=")
            found[f"{name} at {shift}"] = inner[-(-shift * 4 // 3) : len(inner) - 1]
    return found


def unpacked(data: bytes) -> Iterator[bytes]:
    """The bytes themselves, and whatever in them can be decompressed, from any place on."""
    yield data
    for match in _ZLIB.finditer(data):
        with suppress(zlib.error):
            yield zlib.decompressobj(47).decompress(data[match.start() :], _MOST)
    for match in _ZSTD.finditer(data):
        with suppress(zstandard.ZstdError):
            yield zstandard.ZstdDecompressor().decompressobj().decompress(data[match.start() : match.start() + _MOST])


def hits(data: bytes, texts: Iterable[str]) -> list[str]:
    """Which of the texts is in the data, and how it is written there."""
    views = list(unpacked(data))
    return [
        f"{text} ({how})"
        for text in texts
        for how, spelling in spellings(text).items()
        if any(spelling in view for view in views)
    ]


def keys_in(data: bytes) -> Iterator[bytes]:
    """Whatever in some bytes may be a key of 32 bytes: raw, as hex or as base64."""
    if len(data) <= _WINDOWED:
        for start in range(len(data) - KEY_SIZE + 1):
            yield data[start : start + KEY_SIZE]
    for match in _TEXT.finditer(data):
        with suppress(ValueError, binascii.Error):
            yield bytes.fromhex(match[0].decode())[:KEY_SIZE]
        with suppress(ValueError, binascii.Error):
            yield base64.urlsafe_b64decode(match[0].translate(bytes.maketrans(b"+/", b"-_")) + b"===")[:KEY_SIZE]


def keys_in_memory() -> set[bytes]:
    """Every value of 32 bytes that a live object of this process holds."""
    found: set[bytes] = set()
    seen: set[int] = set()
    waiting: list[object] = list(gc.get_objects())
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen or (isinstance(thing, types.ModuleType) and thing.__name__ == __name__):
            continue
        seen.add(id(thing))
        if isinstance(thing, bytes | bytearray):
            found.update(_pieces(bytes(thing)))
        elif isinstance(thing, memoryview):
            found.update(_pieces(thing.tobytes()))
        waiting.extend(referent for referent in gc.get_referents(thing) if id(referent) not in seen)
    return found


def _pieces(value: bytes) -> Iterator[bytes]:
    if len(value) <= 2 * KEY_SIZE:
        for start in range(len(value) - KEY_SIZE + 1):
            yield value[start : start + KEY_SIZE]


def opens(key: bytes, chunk: bytes) -> bool:
    """Whether 32 bytes open a chunk's first record, as its data key or as the private key of one of its seals."""
    header, _ = ChunkHeader.read(chunk[:FRAMES_START])
    frame = next(part for part in scan(chunk[FRAMES_START:]) if isinstance(part, Frame))
    place = Place(header.till, header.epoch, header.chunk)
    for data_key in _data_keys(key, header):
        with suppress(TillstreamError):
            open_frame(RecordSeal(data_key, limit=DEFAULT.record), place, frame)
            return True
    return False


def _data_keys(key: bytes, header: ChunkHeader) -> Iterator[bytes]:
    yield key
    for sealed in (header.server_sealed_key, header.escrow_sealed_key):
        with suppress(TillstreamError, ValueError):
            yield open_key(sealed, key)
