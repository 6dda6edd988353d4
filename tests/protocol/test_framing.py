"""Chunks and frames survive what disks do to them, and never say what was not written."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tillstream_protocol import framing
from tillstream_protocol.codec import record_decoder
from tillstream_protocol.errors import InvalidInput, TooLarge
from tillstream_protocol.events import KIND_NUMBERS
from tillstream_protocol.framing import (
    FRAMES_START,
    HEADER_SIZE,
    MAX_FRAME,
    MAX_SEQ,
    MIN_FRAME,
    NO_EPOCH,
    NO_TAG,
    ChunkHeader,
    ClearHeader,
    DamagedChunk,
    Entry,
    Footer,
    Frame,
    Gap,
    Place,
    Spend,
    footer_length,
    measure_frame,
    open_frame,
    read_footer,
    read_frame,
    scan,
    seal_frame,
    verify_header,
)
from tillstream_protocol.limits import MAX_SPENDS
from tillstream_protocol.sealing import CannotOpen, RecordSeal, open_key
from tillstream_protocol.signing import BadSignature, SignKey

KEY = bytes(range(32))
PLACE = Place(till=b"t" * 16, epoch=b"e" * 16, chunk=1)
DEVICE = SignKey(b"\1" * 32)
HEADER = ChunkHeader(
    till=PLACE.till,
    epoch=PLACE.epoch,
    chunk=PLACE.chunk,
    parent=NO_EPOCH,
    parent_position=0,
    first_seq=0,
    created=1_767_349_800_000,
    device_key_id=DEVICE.key_id,
    server_key_id=b"s" * 8,
    server_sealed_key=b"S" * 80,
    escrow_key_id=b"x" * 8,
    escrow_sealed_key=b"X" * 80,
)

names = st.binary(min_size=16, max_size=16)
spends = st.lists(st.builds(Spend, lease=names, amount=st.integers(0, 2**32 - 1)), max_size=MAX_SPENDS).map(tuple)
headers = st.builds(
    ClearHeader, seq=st.integers(0, MAX_SEQ), kind=st.integers(0, 255), tag=names, previous=names, spends=spends
)
# Magic words in the wrong place, and in part, are what resynchronising has to get over.
garbage = st.lists(
    st.sampled_from([b"TSFR", b"TSFT", b"TSF", b"T", b"\0\0\1\0", b"\0" * 20]) | st.binary(max_size=40), max_size=8
).map(b"".join)


def sealed(plain: bytes, header: ClearHeader) -> bytes:
    return seal_frame(RecordSeal(KEY, limit=1 << 21), PLACE, header, plain, b"n" * 24)


@st.composite
def frame_runs(draw: st.DrawFn) -> list[bytes]:
    """Frames as a chunk holds them, one after the other."""
    plains = draw(st.lists(st.binary(max_size=60) | garbage, min_size=1, max_size=6))
    listed = [draw(spends) for _ in plains]
    return [
        sealed(plain, ClearHeader(seq, 1, bytes([seq]) * 16, NO_TAG, listed[seq])) for seq, plain in enumerate(plains)
    ]


def footer_of(frames: list[bytes]) -> bytes:
    found = [read_frame(frame, 0) for frame in frames]
    entries = tuple(Entry(frame.header.tag, frame.header.spends) for frame in found if frame is not None)
    return Footer(0, entries).encode()


def found_in(data: bytes) -> list[bytes]:
    """The bytes of every frame that a scan returns; the scan's pieces must follow each other without overlap."""
    position, found = 0, []
    for piece in scan(data):
        assert piece.start == position < piece.end <= len(data)
        position = piece.end
        if isinstance(piece, Frame):
            found.append(data[piece.start : piece.end])
    return found


def crc(data: bytes | bytearray) -> bytes:
    return zlib.crc32(data).to_bytes(4, "big")


# Frames


@given(plain=st.binary(max_size=500), header=headers)
def test_a_frame_comes_back_as_it_was_written(plain: bytes, header: ClearHeader) -> None:
    data = sealed(plain, header)
    frame = read_frame(data, 0)
    assert frame is not None
    assert frame.header == header
    assert (frame.start, frame.end) == (0, len(data))
    assert frame.aead_tag == data[-20:-4]
    assert measure_frame(data, 0) == (len(data), header.seq)
    assert open_frame(RecordSeal(KEY, limit=500), PLACE, frame) == plain


@given(plain=st.binary(max_size=100), header=headers, where=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_a_frame_with_any_byte_altered_is_no_frame(plain: bytes, header: ClearHeader, where: float, flip: int) -> None:
    data = bytearray(sealed(plain, header))
    data[int(where * len(data))] ^= flip
    assert read_frame(bytes(data), 0) is None


@pytest.mark.parametrize(
    "elsewhere",
    [Place(b"u" * 16, b"e" * 16, 1), Place(b"t" * 16, b"f" * 16, 1), Place(b"t" * 16, b"e" * 16, 2)],
    ids=["another till", "another epoch", "another chunk"],
)
def test_a_frame_opens_only_in_its_place(elsewhere: Place) -> None:
    frame = read_frame(sealed(b"a sale", ClearHeader(5, 1, NO_TAG, NO_TAG)), 0)
    assert frame is not None
    with pytest.raises(CannotOpen):
        open_frame(RecordSeal(KEY, limit=100), elsewhere, frame)


@pytest.mark.parametrize("at", [15, 16, 17, 19, 20, 36, 52, 68])
def test_a_clear_header_that_was_rewritten_with_a_new_checksum_opens_nothing(at: int) -> None:
    """Seq, kind, flags, the spare byte, tag, previous tag, lease and amount are all bound to the ciphertext."""
    data = bytearray(sealed(b"a sale", ClearHeader(5, 1, NO_TAG, NO_TAG, (Spend(b"l" * 16, 1),))))
    data[at] ^= 1
    data[-4:] = crc(data[:-4])
    frame = read_frame(bytes(data), 0)
    assert frame is not None
    with pytest.raises(CannotOpen):
        open_frame(RecordSeal(KEY, limit=100), PLACE, frame)


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (4, (MAX_FRAME + 1).to_bytes(4, "big")),
        (4, (50).to_bytes(4, "big")),
        (4, (10_000).to_bytes(4, "big")),
        (8, b"\xff" * 8),
        (18, bytes([MAX_SPENDS + 1])),
        (18, bytes([MAX_SPENDS])),
    ],
    ids=["longer than any", "shorter than any", "past the end", "impossible seq", "too many spends", "no room"],
)
def test_a_header_that_cannot_be_is_no_frame_whatever_its_checksum(at: int, value: bytes) -> None:
    data = bytearray(sealed(b"x", ClearHeader(5, 1, NO_TAG, NO_TAG)))
    data[at : at + len(value)] = value
    data[-4:] = crc(data[:-4])
    assert read_frame(bytes(data), 0) is None
    assert found_in(bytes(data)) == []


def test_what_could_not_be_read_back_is_not_written() -> None:
    many = tuple(Spend(b"l" * 16, 1) for _ in range(MAX_SPENDS + 1))
    with pytest.raises(TooLarge) as spends_refused:
        ClearHeader(0, 1, NO_TAG, NO_TAG, many).encode(16)
    assert (spends_refused.value.field, spends_refused.value.limit) == ("spends", "16")
    with pytest.raises(TooLarge) as length_refused:
        ClearHeader(0, 1, NO_TAG, NO_TAG).encode(MAX_FRAME)
    assert length_refused.value.field == "record"


# Scanning


@given(frames=frame_runs(), closed=st.booleans())
def test_a_whole_chunk_scans_without_a_gap(frames: list[bytes], closed: bool) -> None:
    data = b"".join(frames) + (footer_of(frames) if closed else b"")
    pieces = list(scan(data))
    assert not any(isinstance(piece, Gap) for piece in pieces)
    assert found_in(data) == frames


def test_a_frame_is_measured_where_it_begins() -> None:
    frame = sealed(b"x", ClearHeader(7, 1, NO_TAG, NO_TAG))
    assert measure_frame(bytes(FRAMES_START) + frame, FRAMES_START) == (FRAMES_START + len(frame), 7)
    assert measure_frame(bytes(FRAMES_START) + frame, FRAMES_START - 1) is None


def test_a_scan_begins_where_it_is_told() -> None:
    frame = sealed(b"x", ClearHeader(0, 1, NO_TAG, NO_TAG))
    pieces = list(scan(bytes(FRAMES_START) + frame, FRAMES_START))
    assert [(piece.start, piece.end) for piece in pieces] == [(FRAMES_START, FRAMES_START + len(frame))]
    assert list(scan(frame, len(frame))) == []


@given(frames=frame_runs(), closed=st.booleans(), where=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_a_flipped_byte_costs_the_frame_it_is_in(frames: list[bytes], closed: bool, where: float, flip: int) -> None:
    data = bytearray(b"".join(frames) + (footer_of(frames) if closed else b""))
    at = int(where * len(data))
    data[at] ^= flip
    assert found_in(bytes(data)) == untouched(frames, at, at + 1)


@given(frames=frame_runs(), closed=st.booleans(), where=st.floats(0, 1))
def test_a_truncation_costs_the_frames_it_cuts(frames: list[bytes], closed: bool, where: float) -> None:
    data = b"".join(frames) + (footer_of(frames) if closed else b"")
    cut = int(where * len(data))
    assert found_in(data[:cut]) == untouched(frames, cut, len(data))


@given(frames=frame_runs(), closed=st.booleans(), where=st.floats(0, 1), what=garbage)
def test_inserted_garbage_costs_the_frame_it_splits(
    frames: list[bytes], closed: bool, where: float, what: bytes
) -> None:
    whole = b"".join(frames)
    at = int(where * len(whole))
    data = whole[:at] + what + whole[at:] + (footer_of(frames) if closed else b"")
    assert_kept(data, frames, untouched(frames, at, at))


@given(frames=frame_runs(), start=st.floats(0, 1), end=st.floats(0, 1), what=garbage)
def test_an_overwritten_stretch_costs_the_frames_it_touches(
    frames: list[bytes], start: float, end: float, what: bytes
) -> None:
    whole = b"".join(frames)
    low, high = sorted((int(start * len(whole)), int(end * len(whole))))
    assert_kept(whole[:low] + what + whole[high:], frames, untouched(frames, low, high))


def assert_kept(data: bytes, written: list[bytes], kept: list[bytes]) -> None:
    """A scan finds at least `kept` in their order, and only what was written: damage can spell out a frame again."""
    found = found_in(data)
    assert set(found) <= set(written)
    assert [frame for frame in found if frame in kept] == kept


def untouched(frames: list[bytes], low: int, high: int) -> list[bytes]:
    """The frames that have no byte from `low` to `high`, and are not parted at `low`."""
    kept, position = [], 0
    for frame in frames:
        start, position = position, position + len(frame)
        if position <= low or start >= high:
            kept.append(frame)
    return kept


@given(st.binary(max_size=300) | garbage)
def test_random_bytes_hold_no_frame(data: bytes) -> None:
    assert found_in(data) == []


def test_frames_after_a_damaged_footer_are_still_found() -> None:
    frame = sealed(b"x", ClearHeader(0, 1, NO_TAG, NO_TAG))
    footer = bytearray(footer_of([frame]))
    footer[10] ^= 1
    data = frame + bytes(footer)
    assert [type(piece) for piece in scan(data)] == [Frame, Gap]
    assert found_in(data + frame) == [frame, frame]


def hostile_beginnings(size: int) -> bytes:
    """Beginnings of long frames, one every 40 bytes."""
    one = b"TSFR" + (size // 2).to_bytes(4, "big") + bytes(32)
    return one * (size // len(one))


def test_hostile_bytes_cost_no_more_than_their_size_times_the_allowance(monkeypatch: pytest.MonkeyPatch) -> None:
    spent = 0

    def counted(data: bytes) -> int:
        nonlocal spent
        spent += len(data)
        return zlib.crc32(data)

    monkeypatch.setattr(framing, "zlib", type("Counting", (), {"crc32": staticmethod(counted)}))
    data = hostile_beginnings(2_000_000)
    assert found_in(data) == []
    assert spent <= (framing.SCAN_ALLOWANCE + 1) * len(data)


def test_what_follows_hostile_bytes_is_found_until_the_allowance_is_spent(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = sealed(b"x", ClearHeader(0, 1, NO_TAG, NO_TAG))
    footer = footer_of([frame])
    data = hostile_beginnings(4000) + frame + footer
    assert found_in(data) == [frame]
    monkeypatch.setattr(framing, "SCAN_ALLOWANCE", 0)
    assert list(scan(data)) == [Gap(0, len(data) - len(footer))]


# Footers

footers = st.builds(
    Footer,
    first_seq=st.integers(0, MAX_SEQ),
    entries=st.lists(st.builds(Entry, tag=names, spends=spends), max_size=5).map(tuple),
)


@given(footers)
def test_a_footer_comes_back_as_it_was_written(footer: Footer) -> None:
    data = footer.encode()
    assert read_footer(data) == footer
    assert footer_length(b"frames" + data) == len(data)


@given(footer=footers, where=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_a_footer_with_any_byte_altered_is_no_footer(footer: Footer, where: float, flip: int) -> None:
    data = bytearray(footer.encode())
    data[int(where * len(data))] ^= flip
    assert read_footer(bytes(data)) is None


@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda data: b"TSFT" + data))
def test_random_bytes_are_no_footer(data: bytes) -> None:
    assert read_footer(data) is None
    assert footer_length(data) >= 0


@given(entries=st.binary(max_size=120), count=st.integers(0, 2**32 - 1) | st.integers(0, 8), first=st.integers(0, 9))
def test_a_footer_made_up_with_a_right_checksum_reads_as_what_it_says_or_not_at_all(
    entries: bytes, count: int, first: int
) -> None:
    data = made_up_footer(entries, count, first)
    footer = read_footer(data)
    assert footer is None or (len(footer.entries) == count and footer.encode() == data)


@pytest.mark.parametrize(
    ("entries", "count", "first"),
    [
        (b"", 1, 0),
        (bytes(17), 0, 0),
        (bytes(17), 2, 0),
        (bytes(18), 1, 0),
        (bytes(16) + b"\1", 1, 0),
        (bytes(16) + b"\x11" + bytes(17 * 20), 1, 0),
        (b"", 0, 2**63),
    ],
    ids=["none of one", "one of none", "one of two", "a byte left", "spends cut", "too many spends", "impossible seq"],
)
def test_a_footer_that_lies_is_no_footer(entries: bytes, count: int, first: int) -> None:
    assert read_footer(made_up_footer(entries, count, first)) is None


def made_up_footer(entries: bytes, count: int, first: int) -> bytes:
    length = 20 + len(entries) + 8
    body = b"TSFT" + length.to_bytes(4, "big") + first.to_bytes(8, "big") + count.to_bytes(4, "big") + entries
    return body + crc(body) + length.to_bytes(4, "big")


def test_another_word_or_another_length_in_front_is_no_footer() -> None:
    for body in (b"TSFX" + (28).to_bytes(4, "big"), b"TSFT" + (29).to_bytes(4, "big")):
        whole = body + bytes(12)
        assert read_footer(whole + crc(whole) + (28).to_bytes(4, "big")) is None


# Chunk headers


def test_a_header_comes_back_and_its_signature_holds() -> None:
    encoded = HEADER.encode(DEVICE)
    assert len(encoded) == HEADER_SIZE
    assert ChunkHeader.read(encoded * 2) == (HEADER, encoded)
    verify_header(encoded, DEVICE.public)


@given(copy=st.integers(0, 1), at=st.integers(0, HEADER_SIZE - 1), what=st.binary(min_size=1, max_size=HEADER_SIZE))
def test_one_damaged_copy_is_survived_whichever_and_wherever(copy: int, at: int, what: bytes) -> None:
    encoded = HEADER.encode(DEVICE)
    damaged = (encoded[:at] + what + encoded[at + len(what) :])[:HEADER_SIZE]
    both = damaged + encoded if copy == 0 else encoded + damaged
    assert ChunkHeader.read(both) == (HEADER, encoded)


@pytest.mark.parametrize("data", [b"", bytes(FRAMES_START), HEADER.encode(DEVICE)[:-1]])
def test_two_damaged_copies_are_said_to_be_damaged(data: bytes) -> None:
    with pytest.raises(DamagedChunk):
        ChunkHeader.read(data)


@given(st.binary(min_size=HEADER_SIZE, max_size=HEADER_SIZE))
def test_random_bytes_are_no_header(data: bytes) -> None:
    with pytest.raises(DamagedChunk):
        ChunkHeader.decode(data)


def resealed(encoded: bytes, at: int, value: bytes) -> bytes:
    body = encoded[:at] + value + encoded[at + len(value) : -4]
    return body + crc(body)


@pytest.mark.parametrize(
    ("at", "value", "field"),
    [
        (0, b"TSCHUNK2", "header.version"),
        (8, b"\0\2", "header.version"),
        (64, b"\xff" * 8, "header"),
        (72, b"\xff" * 8, "header"),
    ],
    ids=["another word", "a later format", "impossible parent position", "impossible first seq"],
)
def test_a_header_that_cannot_be_is_refused_whatever_its_checksum(at: int, value: bytes, field: str) -> None:
    with pytest.raises(DamagedChunk) as refused:
        ChunkHeader.decode(resealed(HEADER.encode(DEVICE), at, value))
    assert refused.value.field == field


@pytest.mark.parametrize("at", [10, 12, 16, 32, 48, 64, 72, 80, 88, 96, 104, 184, 192, 272])
def test_no_field_of_a_header_can_be_rewritten_under_its_signature(at: int) -> None:
    encoded = HEADER.encode(DEVICE)
    altered = resealed(encoded, at, bytes([encoded[at] ^ 1]))
    with pytest.raises(BadSignature):
        verify_header(altered, DEVICE.public)


def test_another_device_did_not_sign_it() -> None:
    with pytest.raises(BadSignature):
        verify_header(HEADER.encode(DEVICE), SignKey(b"\2" * 32).public)
    with pytest.raises(BadSignature):
        verify_header(b"", DEVICE.public)


@pytest.mark.parametrize(
    "field",
    [
        "till",
        "epoch",
        "parent",
        "device_key_id",
        "server_key_id",
        "server_sealed_key",
        "escrow_key_id",
        "escrow_sealed_key",
    ],
)
def test_a_name_or_key_of_the_wrong_size_is_not_written(field: str) -> None:
    wrong: dict[str, Any] = {field: getattr(HEADER, field)[:-1]}
    with pytest.raises(InvalidInput) as refused:
        replace(HEADER, **wrong).encode(DEVICE)
    assert refused.value.field == f"header.{field}"


# The vectors


def test_the_vector_chunk_reads_and_opens_with_either_private_key(vectors: Callable[[str], Any]) -> None:
    v, plain = vectors("chunk"), vectors("records")
    data = bytes.fromhex(v["bytes"])
    header, encoded = ChunkHeader.read(data[:FRAMES_START])
    verify_header(encoded, bytes.fromhex(v["device_public_key"]))
    assert (header.till.hex(), header.epoch.hex(), header.chunk) == (v["till"], v["epoch"], v["chunk"])
    keys = {
        open_key(header.server_sealed_key, bytes.fromhex(v["server_box_private_key"])).hex(),
        open_key(header.escrow_sealed_key, bytes.fromhex(v["escrow_private_key"])).hex(),
    }
    assert keys == {v["data_key"]}
    seal = RecordSeal(bytes.fromhex(v["data_key"]), limit=10_000)
    place = Place(header.till, header.epoch, header.chunk)
    frames = [piece for piece in scan(data, FRAMES_START) if isinstance(piece, Frame)]
    assert len(frames) == len(v["frames"]) == 5
    previous = NO_TAG
    for frame, said in zip(frames, v["frames"], strict=True):
        opened = open_frame(seal, place, frame)
        record = record_decoder(limit=10_000)(opened)
        assert (frame.header.seq, frame.header.kind, frame.header.previous) == (said["seq"], said["kind"], previous)
        assert KIND_NUMBERS[type(record.body)] == frame.header.kind
        assert opened.hex() == plain[said["record"]]
        previous = frame.aead_tag
    footer = read_footer(bytes.fromhex(v["footer"]))
    assert footer is not None
    assert footer.entries == tuple(Entry(frame.header.tag, frame.header.spends) for frame in frames)
    assert MIN_FRAME == 96
