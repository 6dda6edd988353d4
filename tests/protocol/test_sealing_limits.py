"""A record may be as large as the limit, and not a byte larger."""

from __future__ import annotations

import os

import pytest

from tillstream_protocol.errors import TooLarge
from tillstream_protocol.sealing import NONCE_SIZE, CannotOpen, RecordSeal

LIMIT = 1000
NONCE = bytes(NONCE_SIZE)


def test_a_record_of_exactly_the_limit_is_sealed_and_opened() -> None:
    plain = os.urandom(LIMIT)
    seal = RecordSeal(bytes(32), limit=LIMIT)
    assert seal.open(seal.seal(seal.pack(plain), b"", NONCE), b"", NONCE) == plain


def test_a_record_of_one_byte_more_is_neither_sealed_nor_opened() -> None:
    larger = RecordSeal(bytes(32), limit=LIMIT + 1)
    sealed = larger.seal(larger.pack(bytes(LIMIT + 1)), b"", NONCE)
    seal = RecordSeal(bytes(32), limit=LIMIT)
    with pytest.raises(TooLarge):
        seal.pack(bytes(LIMIT + 1))
    with pytest.raises(TooLarge):
        seal.open(sealed, b"", NONCE)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_data_key_of_another_size_seals_nothing(size: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        RecordSeal(bytes(size), limit=LIMIT)


@pytest.mark.parametrize("size", [0, 23, 25])
def test_a_nonce_of_another_size_seals_and_opens_nothing(size: int) -> None:
    seal = RecordSeal(bytes(32), limit=LIMIT)
    with pytest.raises(ValueError, match="24 bytes"):
        seal.seal(b"packed", b"", bytes(size))
    with pytest.raises(CannotOpen):
        seal.open(seal.seal(seal.pack(b"plain"), b"", NONCE), b"", bytes(size))


@pytest.mark.parametrize("size", [0, 15, 16])
def test_what_is_shorter_than_a_sealed_record_does_not_open(size: int) -> None:
    with pytest.raises(CannotOpen):
        RecordSeal(bytes(32), limit=LIMIT).open(bytes(size), b"", NONCE)
