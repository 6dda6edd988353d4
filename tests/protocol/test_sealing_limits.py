"""A record may be as large as the limit, and not a byte larger."""

from __future__ import annotations

import os

import pytest

from tillstream_protocol.errors import TooLarge
from tillstream_protocol.sealing import NONCE_SIZE, RecordSeal

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
