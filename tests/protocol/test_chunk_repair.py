"""What a damaged chunk still tells: where its header says it belongs, and whether its tail was a footer."""

from __future__ import annotations

import pytest

from tillstream_protocol.framing import (
    FRAMES_START,
    HEADER_SIZE,
    ChunkHeader,
    Entry,
    Footer,
    claimed_places,
    footer_torn,
    last_claimed,
)
from tillstream_protocol.signing import SignKey

EPOCH = b"e" * 16
HEADER = ChunkHeader(
    till=b"t" * 16,
    epoch=EPOCH,
    chunk=3,
    parent=b"p" * 16,
    parent_position=9,
    first_seq=77,
    created=1_700_000_000_000,
    device_key_id=b"d" * 8,
    server_key_id=b"s" * 8,
    server_sealed_key=b"k" * 80,
    escrow_key_id=b"c" * 8,
    escrow_sealed_key=b"q" * 80,
)
COPY = HEADER.encode(SignKey(bytes(32)))
FOOTER = Footer(5, tuple(Entry(bytes([n]) * 16, ()) for n in range(3))).encode()


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def test_each_copy_of_a_damaged_header_claims_its_epoch_and_first_seq() -> None:
    assert claimed_places(flipped(COPY, 300) + flipped(COPY, 301)) == [(EPOCH, 77), (EPOCH, 77)]
    assert claimed_places(flipped(COPY, 32) + COPY)[0] == (b"d" + EPOCH[1:], 77)


@pytest.mark.parametrize("data", [b"", COPY[:-1], bytes(FRAMES_START), b"\xff" * FRAMES_START])
def test_a_header_that_was_never_written_claims_nothing(data: bytes) -> None:
    assert claimed_places(data) == []


def test_half_a_header_is_one_claim() -> None:
    assert claimed_places(COPY + COPY[: HEADER_SIZE // 2]) == [(EPOCH, 77)]


@pytest.mark.parametrize("at", range(len(FOOTER)))
def test_a_footer_with_one_damaged_byte_is_known_as_one(at: int) -> None:
    assert footer_torn(flipped(FOOTER, at), 5, 3)


@pytest.mark.parametrize("size", range(4, len(FOOTER)))
def test_a_footer_cut_anywhere_behind_its_first_word_is_known_as_one(size: int) -> None:
    assert footer_torn(FOOTER[:size], 5, 3)


def frame(seq: int, size: int) -> bytes:
    return b"TSFR" + size.to_bytes(4, "big") + seq.to_bytes(8, "big") + bytes(size - 16)


def test_a_torn_frame_whose_end_looks_like_a_footers_is_a_frame() -> None:
    tail = frame(8, 500)[:196] + (200).to_bytes(4, "big")
    assert not footer_torn(tail, 5, 3)
    assert footer_torn(b"XSFT" + tail[4:], 5, 3)


@pytest.mark.parametrize("size", [1, 7, 8, 20, 199, 200])
def test_an_unfinished_frame_is_one_record(size: int) -> None:
    assert last_claimed(frame(8, 200)[:size], 8) == 8


def test_a_damaged_frame_is_one_record_wherever_it_is_hit() -> None:
    for at in (0, 9, 100):
        assert last_claimed(flipped(frame(8, 200), at), 8) == 8
    assert last_claimed(flipped(frame(8, 200), 7)[:200], 8) == 8


def test_several_frames_are_as_many_records_as_the_last_of_them_says() -> None:
    tail = flipped(frame(8, 200), 50) + flipped(frame(9, 300), 50) + frame(10, 400)[:100]
    assert last_claimed(tail, 8) == 10
    assert last_claimed(tail[:-90], 8) == 9, "of the last one too little is there"


@pytest.mark.parametrize(
    "tail", [bytes(500), b"\xff" * 500, bytes(500) + frame(9_999, 100), bytes(500) + frame(3, 100)]
)
def test_what_names_nothing_does_not_say_how_many(tail: bytes) -> None:
    assert last_claimed(tail, 8) is None


@pytest.mark.parametrize("tail", [b"TSFR" + bytes(200), b"TSF", b"", bytes(19), bytes(500)])
def test_what_is_no_footer_is_not_taken_for_one(tail: bytes) -> None:
    assert not footer_torn(tail, 5, 3)
