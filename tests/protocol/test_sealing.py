"""What is sealed opens for its owner alone, in its place alone, and never larger than it may be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from nacl.public import PrivateKey, SealedBox

from tillstream_protocol.errors import TooLarge
from tillstream_protocol.sealing import (
    NONCE_SIZE,
    SEALED_KEY_SIZE,
    TAG_SIZE,
    CannotOpen,
    RecordSeal,
    key_id,
    open_key,
    seal_key,
)

KEY = bytes(range(32))
NONCE = b"n" * NONCE_SIZE
AAD = b"where it lies"
MIB = 1024 * 1024


def closed(plain: bytes, *, limit: int = MIB) -> bytes:
    seal = RecordSeal(KEY, limit=limit)
    return seal.seal(seal.pack(plain), AAD, NONCE)


def with_packed(packed: bytes) -> bytes:
    """What an authentic but hostile till may seal: anything at all in place of a compressed record."""
    return RecordSeal(KEY, limit=MIB).seal(packed, AAD, NONCE)


@given(plain=st.binary(max_size=2000), aad=st.binary(max_size=100), nonce=st.binary(min_size=24, max_size=24))
def test_a_record_opens_as_it_was_sealed(plain: bytes, aad: bytes, nonce: bytes) -> None:
    seal = RecordSeal(KEY, limit=2000)
    assert seal.open(seal.seal(seal.pack(plain), aad, nonce), aad, nonce) == plain


def test_nothing_of_the_record_can_be_seen() -> None:
    assert b"a phone number" not in closed(b"a phone number" * 3)


@pytest.mark.parametrize(
    ("key", "aad", "nonce"),
    [(bytes(32), AAD, NONCE), (KEY, b"elsewhere", NONCE), (KEY, AAD, bytes(24)), (KEY, AAD, b"short")],
    ids=["another key", "another place", "another nonce", "a nonce of the wrong size"],
)
def test_it_does_not_open_with(key: bytes, aad: bytes, nonce: bytes) -> None:
    with pytest.raises(CannotOpen):
        RecordSeal(key, limit=MIB).open(closed(b"a sale"), aad, nonce)


@given(where=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_it_does_not_open_altered(where: float, flip: int) -> None:
    sealed = bytearray(closed(b"a sale of some length"))
    sealed[int(where * len(sealed))] ^= flip
    with pytest.raises(CannotOpen):
        RecordSeal(KEY, limit=MIB).open(bytes(sealed), AAD, NONCE)


@given(st.binary(max_size=100))
def test_random_bytes_do_not_open(data: bytes) -> None:
    with pytest.raises(CannotOpen):
        RecordSeal(KEY, limit=MIB).open(data, AAD, NONCE)


@given(st.binary(max_size=100) | st.binary(max_size=50).map(lambda data: b"\x28\xb5\x2f\xfd" + data))
def test_what_is_sealed_but_not_compressed_is_refused_or_bounded(packed: bytes) -> None:
    try:
        plain = RecordSeal(KEY, limit=100).open(with_packed(packed), AAD, NONCE)
    except (CannotOpen, TooLarge):
        return
    assert len(plain) <= 100


def test_a_bomb_of_two_kilobytes_is_refused_by_what_it_announces() -> None:
    bomb = zstandard.ZstdCompressor(level=19).compress(bytes(64 * MIB))
    assert len(bomb) < 8192
    with pytest.raises(TooLarge) as refused:
        RecordSeal(KEY, limit=MIB).open(with_packed(bomb), AAD, NONCE)
    assert (refused.value.field, refused.value.limit) == ("record", f"{MIB} bytes")


def test_a_bomb_that_announces_nothing_is_refused_too() -> None:
    bomb = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(64 * MIB))
    with pytest.raises(TooLarge):
        RecordSeal(KEY, limit=MIB).open(with_packed(bomb), AAD, NONCE)


def test_a_bomb_that_announces_less_than_it_holds_is_refused() -> None:
    bomb = bytearray(zstandard.ZstdCompressor().compress(bytes(MIB)))
    size = (MIB).to_bytes(4, "little")
    at = bomb.index(size)
    bomb[at : at + 4] = (1000).to_bytes(4, "little")
    with pytest.raises(CannotOpen):
        RecordSeal(KEY, limit=MIB).open(with_packed(bytes(bomb)), AAD, NONCE)


def test_two_records_in_one_frame_are_refused() -> None:
    one = zstandard.ZstdCompressor().compress(b"one")
    with pytest.raises(CannotOpen):
        RecordSeal(KEY, limit=MIB).open(with_packed(one + one), AAD, NONCE)


def test_a_record_over_the_limit_is_not_sealed() -> None:
    assert RecordSeal(KEY, limit=10).pack(bytes(10))
    with pytest.raises(TooLarge) as refused:
        RecordSeal(KEY, limit=10).pack(bytes(11))
    assert (refused.value.field, refused.value.limit) == ("record", "10 bytes")


# The chunk's key


@given(data_key=st.binary(min_size=32, max_size=32), seed=st.binary(min_size=32, max_size=32))
def test_a_chunk_key_opens_for_the_recipient_alone(data_key: bytes, seed: bytes) -> None:
    recipient, other = PrivateKey(b"\1" * 32), PrivateKey(b"\2" * 32)
    sealed = seal_key(data_key, bytes(recipient.public_key), seed)
    assert len(sealed) == SEALED_KEY_SIZE
    assert open_key(sealed, bytes(recipient)) == data_key
    with pytest.raises(CannotOpen):
        open_key(sealed, bytes(other))


def test_libsodium_itself_opens_our_seal_and_we_open_its_own() -> None:
    recipient = PrivateKey(b"\1" * 32)
    assert SealedBox(recipient).decrypt(seal_key(KEY, bytes(recipient.public_key), b"\3" * 32)) == KEY
    assert open_key(bytes(SealedBox(recipient.public_key).encrypt(KEY)), bytes(recipient)) == KEY


@given(st.binary(max_size=100))
def test_random_bytes_are_no_sealed_key(data: bytes) -> None:
    with pytest.raises(CannotOpen):
        open_key(data, b"\1" * 32)


def test_a_sealed_key_of_another_size_is_refused() -> None:
    recipient = PrivateKey(b"\1" * 32)
    with pytest.raises(CannotOpen):
        open_key(bytes(SealedBox(recipient.public_key).encrypt(b"short")), bytes(recipient))


def test_keys_have_short_names_that_tell_them_apart(vectors: Callable[[str], Any]) -> None:
    v = vectors("signature")
    assert key_id(bytes.fromhex(v["public_key"])).hex() == v["key_id"]
    assert len(key_id(b"\1" * 32)) == 8
    assert key_id(b"\1" * 32) != key_id(b"\2" * 32)
    assert TAG_SIZE == 16
