"""Keys, seal, open.

A chunk's 32-byte data key is sealed twice, to the server's key and to the escrow key, in the form of libsodium's
`crypto_box_seal`; its ephemeral key comes from randomness that is passed in, so that a simulation can repeat it. A
record is compressed with zstd and sealed with XChaCha20-Poly1305 under the data key, bound to its place by the
associated data. The till holds no private key that opens either seal.

Records are sealed and opened by the thousand, and PyNaCl's wrapper takes several times as long as the cipher that it
wraps. So libsodium's function is called here, and the sizes that the wrapper would check are checked here.
"""

from __future__ import annotations

import hashlib
from typing import Final

import zstandard
from nacl._sodium import ffi, lib  # type: ignore[import-not-found]
from nacl.bindings import crypto_box
from nacl.exceptions import CryptoError
from nacl.public import PrivateKey, SealedBox

from .errors import Damaged, TooLarge

KEY_SIZE: Final = 32
KEY_ID_SIZE: Final = 8
SEALED_KEY_SIZE: Final = 80
NONCE_SIZE: Final = 24
TAG_SIZE: Final = 16
MAX_WINDOW: Final = 8 * 1024 * 1024


class CannotOpen(Damaged):
    """Sealed bytes that this key does not open: altered, moved to another place, or meant for another."""

    code = "cannot_open"


def key_id(public_key: bytes) -> bytes:
    """The 8-byte name of a public key."""
    return hashlib.blake2b(public_key, digest_size=KEY_ID_SIZE, person=b"tillstream-keyid").digest()


def seal_key(data_key: bytes, recipient: bytes, ephemeral_seed: bytes) -> bytes:
    """Seal a data key (32 bytes) to an X25519 public key: 80 bytes, as `crypto_box_seal` lays them out."""
    ephemeral = PrivateKey(ephemeral_seed)
    public = bytes(ephemeral.public_key)
    nonce = hashlib.blake2b(public + recipient, digest_size=24).digest()
    return public + crypto_box(data_key, nonce, recipient, bytes(ephemeral))


def open_key(sealed: bytes, private_key: bytes) -> bytes:
    """The data key (32 bytes). Raises `CannotOpen`."""
    try:
        key: bytes = SealedBox(PrivateKey(private_key)).decrypt(sealed)
    except CryptoError as error:
        raise CannotOpen("the chunk's key was sealed to another key, or altered") from error
    if len(key) != KEY_SIZE:
        raise CannotOpen("the chunk's key has the wrong size")
    return key


class RecordSeal:
    """Seals and opens records under one data key. Holds compression state, so use one a thread."""

    def __init__(self, data_key: bytes, *, limit: int) -> None:
        """`limit` bounds a record's plain bytes, also while decompressing."""
        if len(data_key) != KEY_SIZE:
            raise ValueError(f"a data key has {KEY_SIZE} bytes")
        self._key = data_key
        self._limit = limit
        self._compress = zstandard.ZstdCompressor(level=1, write_content_size=True).compress
        self._decompress = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW).decompress

    def pack(self, plain: bytes) -> bytes:
        """The record compressed, ready to seal: its size fixes the frame's length. Raises `TooLarge`."""
        if len(plain) > self._limit:
            raise TooLarge(f"a record of {len(plain)} bytes", field="record", limit=f"{self._limit} bytes")
        return self._compress(plain)

    def seal(self, packed: bytes, aad: bytes, nonce: bytes) -> bytes:
        """Ciphertext and 16-byte tag of a packed record."""
        if len(nonce) != NONCE_SIZE:
            raise ValueError(f"a nonce has {NONCE_SIZE} bytes")
        sealed = bytearray(len(packed) + TAG_SIZE)
        _encrypt(_from_buffer(sealed), _NULL, packed, len(packed), aad, len(aad), _NULL, nonce, self._key)
        return bytes(sealed)

    def open(self, sealed: bytes, aad: bytes, nonce: bytes) -> bytes:
        """The record's plain bytes. Raises `CannotOpen` or `TooLarge`."""
        size = len(sealed) - TAG_SIZE
        if size < 0 or len(nonce) != NONCE_SIZE:
            raise CannotOpen("the record is too short to be one")
        packed = bytearray(size)
        if _decrypt(_from_buffer(packed), _NULL, _NULL, sealed, len(sealed), aad, len(aad), nonce, self._key) != 0:
            raise CannotOpen("the record was altered, or is out of its place")
        return self._unpack(packed)

    def _unpack(self, packed: bytearray) -> bytes:
        try:
            size = zstandard.frame_content_size(packed)
            if not 0 <= size <= self._limit:  # a frame that doesn't say its size has -1
                message = f"a record of {size} bytes" if size >= 0 else "a record of unknown size"
                raise TooLarge(message, field="record", limit=f"{self._limit} bytes")
            return self._decompress(packed, max_output_size=self._limit, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise CannotOpen(f"the record does not decompress: {error}") from error


_encrypt: Final = lib.crypto_aead_xchacha20poly1305_ietf_encrypt
_decrypt: Final = lib.crypto_aead_xchacha20poly1305_ietf_decrypt
_from_buffer: Final = ffi.from_buffer
_NULL: Final = ffi.NULL
