"""A POS's own bytes fit into a record: whole, compressed, or told of by their digest alone."""

from __future__ import annotations

import hashlib
import random

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tillstream_protocol.codec import encode
from tillstream_protocol.errors import Damaged
from tillstream_protocol.events import Original, version_of
from tillstream_protocol.packing import fitted, unpacked
from tillstream_protocol.transaction import Moment, Source, Transaction

SALE = Transaction(Source("pos"), "sale", "1", "2026-01-01", Moment(0), currency="EUR")


def original(data: bytes) -> Original:
    return Original("application/json", hashlib.sha256(data).digest(), data)


@given(st.binary(max_size=400) | st.binary(max_size=4).map(lambda some: some * 500), st.integers(-10, 500))
def test_what_fits_comes_back_identical_and_nothing_is_longer_than_its_room(data: bytes, room: int) -> None:
    given_, packed = original(data), fitted(original(data), room)
    assert packed.sha256 == given_.sha256
    assert len(packed.data) <= max(room, 0)
    if packed.form != "left_out":
        assert unpacked(packed) == given_
    assert (packed.form == "whole") == (len(data) <= room)


def test_what_is_no_less_when_it_is_compressed_is_left_out() -> None:
    noise = random.Random(1).randbytes(1000)
    left = fitted(original(noise), 900)
    assert (left.form, left.data, left.sha256) == ("left_out", b"", hashlib.sha256(noise).digest())
    assert unpacked(left) == left


def test_a_record_names_the_version_that_can_hold_it_and_whole_ones_are_written_as_ever() -> None:
    whole = original(b"x" * 1000)
    assert b"form" not in encode(whole)
    assert [version_of(SALE, None, one) for one in (None, whole, fitted(whole, 500), fitted(whole, 0))] == [1, 1, 3, 3]
    assert version_of(replace(SALE, scope="till"), None) == version_of(replace(SALE, changed_at=1), None) == 3


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"nonsense",
        zstandard.ZstdCompressor(write_content_size=False).compress(b"x" * 100),
        zstandard.ZstdCompressor().compress(b"x" * 100)[:-1],
        zstandard.ZstdCompressor().compress(b"x" * 100) + b"more",
        zstandard.ZstdCompressor().compress(bytes(16 * 1024 * 1024 + 1)),
    ],
)
def test_what_does_not_decompress_is_damaged(data: bytes) -> None:
    with pytest.raises(Damaged) as caught:
        unpacked(replace(original(b""), data=data, form="zstd"))
    assert caught.value.field == "original.data"
