"""Frames, headers and footers exactly at their limits, and to the byte."""

from __future__ import annotations

import random
import zlib
from dataclasses import replace

import pytest

from tillstream_protocol import framing
from tillstream_protocol.errors import TooLarge
from tillstream_protocol.framing import (
    FOOTER_ROW,
    FRAMES_START,
    HEADER_SIZE,
    MAX_FRAME,
    MAX_SEQ,
    MIN_FRAME,
    NO_EPOCH,
    NO_TAG,
    ChunkHeader,
    ClearHeader,
    Entry,
    Footer,
    Frame,
    Gap,
    Place,
    Spend,
    claimed_places,
    footer_length,
    footer_rows,
    footer_torn,
    measure_frame,
    measure_run,
    read_footer,
    read_frame,
    scan,
    seal_frame,
)
from tillstream_protocol.limits import MAX_SPENDS
from tillstream_protocol.sealing import RecordSeal
from tillstream_protocol.signing import SignKey

DEVICE = SignKey(b"\1" * 32)
SEAL = RecordSeal(bytes(range(32)), limit=1 << 22)
PLACE = Place(b"t" * 16, b"e" * 16, 0x01020304)
HEADER = ChunkHeader(
    till=b"t" * 16,
    epoch=b"e" * 16,
    chunk=7,
    parent=b"p" * 16,
    parent_position=0,
    first_seq=0,
    created=-1,
    device_key_id=DEVICE.key_id,
    server_key_id=b"s" * 8,
    server_sealed_key=b"S" * 80,
    escrow_key_id=b"x" * 8,
    escrow_sealed_key=b"X" * 80,
)
SPENDS = tuple(Spend(bytes([n]) * 16, n) for n in range(MAX_SPENDS))


def frame(seq: int = 0, plain: bytes = b"a record", spends: tuple[Spend, ...] = ()) -> bytes:
    return seal_frame(SEAL, PLACE, ClearHeader(seq, 1, NO_TAG, NO_TAG, spends), plain, bytes(24))


def with_checksum(body: bytes) -> bytes:
    return body + zlib.crc32(body).to_bytes(4, "big")


def test_what_is_reserved_is_zero() -> None:
    header = HEADER.encode(DEVICE)
    assert header[10:12] == bytes(2)
    assert header[336:508] == bytes(172)
    assert frame()[17] == 0
    assert frame()[19] == 0


def test_what_a_record_is_bound_to_is_written_big_end_first() -> None:
    assert PLACE.associated_data(b"clear") == b"t" * 16 + b"e" * 16 + bytes([1, 2, 3, 4]) + b"clear"


@pytest.mark.parametrize("field", ["parent_position", "first_seq"])
def test_the_highest_position_there_is_can_be_written_and_read(field: str) -> None:
    highest = replace(HEADER, **{field: MAX_SEQ})  # type: ignore[arg-type]
    assert ChunkHeader.decode(highest.encode(DEVICE)) == highest


def test_the_highest_seq_there_is_can_be_written_and_read() -> None:
    data = frame(MAX_SEQ)
    assert measure_frame(data, 0) == (len(data), MAX_SEQ)
    beyond = bytearray(data[:-4])
    beyond[8:16] = (MAX_SEQ + 1).to_bytes(8, "big")
    assert measure_frame(with_checksum(bytes(beyond)), 0) is None


def test_a_frame_of_the_greatest_size_is_written_and_read_and_a_greater_one_is_neither() -> None:
    room = MAX_FRAME - MIN_FRAME + 16
    clear = ClearHeader(0, 1, NO_TAG, NO_TAG).encode(room)
    body = clear + bytes(24 + room)
    data = with_checksum(body)
    assert len(data) == MAX_FRAME
    assert measure_frame(data, 0) == (MAX_FRAME, 0)
    assert measure_run(data, 0, range(1), len(data)) == (MAX_FRAME, 1)
    with pytest.raises(TooLarge):
        ClearHeader(0, 1, NO_TAG, NO_TAG).encode(room + 1)
    longer = bytearray(body + b"\0")
    longer[4:8] = (MAX_FRAME + 1).to_bytes(4, "big")
    assert measure_frame(with_checksum(bytes(longer)), 0) is None
    assert measure_run(with_checksum(bytes(longer)), 0, range(1), len(longer) + 4) == (0, 0)


def test_the_smallest_frame_there_can_be_is_a_frame_and_a_smaller_one_is_not() -> None:
    smallest = with_checksum(ClearHeader(5, 1, NO_TAG, NO_TAG).encode(16) + bytes(24 + 16))
    assert len(smallest) == MIN_FRAME
    assert measure_frame(smallest, 0) == (MIN_FRAME, 5)
    for spends in (0, 1, 16):
        body = bytearray(ClearHeader(5, 1, NO_TAG, NO_TAG, SPENDS[:spends]).encode(16) + bytes(24 + 15))
        body[4:8] = (len(body) + 4).to_bytes(4, "big")
        assert measure_frame(with_checksum(bytes(body)), 0) is None
        assert measure_run(with_checksum(bytes(body)), 0, range(5, 6), len(body) + 4) == (0, 5)


def test_more_spends_than_there_can_be_are_no_frame_even_where_everything_else_fits() -> None:
    body = bytearray(ClearHeader(5, 1, NO_TAG, NO_TAG, SPENDS).encode(16) + bytes(20 + 24 + 16))
    body[18] = MAX_SPENDS + 1
    body[4:8] = (len(body) + 4).to_bytes(4, "big")
    assert measure_frame(with_checksum(bytes(body)), 0) is None


@pytest.mark.parametrize("before", [b"", b"x", b"TSFR", b"TSFRTSFR", b"TTSFR"])
def test_a_frame_is_found_at_the_very_next_byte(before: bytes) -> None:
    whole = frame()
    found = list(scan(before + whole))
    assert isinstance(found[-1], Frame)
    assert (found[-1].start, found[-1].end) == (len(before), len(before) + len(whole))
    assert found[:-1] == ([Gap(0, len(before))] if before else [])


def test_a_footer_that_holds_the_bytes_of_a_frame_is_not_searched_for_it() -> None:
    hidden = frame(plain=random.Random(1).randbytes(120)).ljust(320, b"\0")
    lease = [hidden[n : n + 20] for n in range(0, 320, 20)]
    entry = Entry(b"t" * 16, tuple(Spend(one[:16], int.from_bytes(one[16:], "big")) for one in lease))
    footer = Footer(0, (entry,)).encode()
    assert frame(plain=random.Random(1).randbytes(120)) in footer
    assert [type(part) for part in scan(b"damage" + footer)] == [Gap]
    assert list(scan(footer)) == []


def test_a_chunk_without_frames_may_be_a_footer_alone() -> None:
    footer = Footer(4, ()).encode()
    assert footer_length(footer) == len(footer)
    assert read_footer(footer) == Footer(4, ())
    assert footer_length(footer[-4:]) == len(footer)
    assert footer_length(b"") == footer_length(b"abc") == 0


@pytest.mark.parametrize("size", range(30))
def test_no_short_bytes_are_a_footer_whatever_length_they_claim(size: int) -> None:
    data = b"TSFT".ljust(max(0, size - 4), b"\0") + size.to_bytes(4, "big")
    assert read_footer(data) is None
    assert footer_rows(data) is None


def test_rows_of_a_footer_are_its_tags_one_after_the_other() -> None:
    tags = [bytes([n]) * 16 for n in range(1, 4)]
    found = footer_rows(Footer(9, tuple(Entry(tag, ()) for tag in tags)).encode())
    assert found is not None
    first, rows = found
    assert first == 9
    assert [rows[n : n + 16] for n in range(0, len(rows), FOOTER_ROW)] == tags


def test_a_footer_with_spends_has_no_rows() -> None:
    assert footer_rows(Footer(9, (Entry(b"t" * 16, SPENDS[:1]),)).encode()) is None
    several = Footer(9, (Entry(b"t" * 16, ()), Entry(b"u" * 16, SPENDS)))
    assert footer_rows(several.encode()) is None
    assert read_footer(several.encode()) == several


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_footer_that_announces_another_number_of_rows_has_none(count: int) -> None:
    body = bytearray(Footer(9, tuple(Entry(bytes(16), ()) for _ in range(2))).encode()[:-8])
    body[16:20] = count.to_bytes(4, "big")
    made_up = with_checksum(bytes(body)) + (len(body) + 8).to_bytes(4, "big")
    assert footer_rows(made_up) is None
    assert read_footer(made_up) is None


def test_a_damaged_tail_is_known_as_a_footer_by_its_beginning_its_fields_or_its_end() -> None:
    footer = Footer(9, tuple(Entry(bytes([n]) * 16, ()) for n in range(2))).encode()
    beginning, fields, end = bytearray(footer), bytearray(footer), bytearray(footer)
    beginning[0:1], beginning[16:17] = b"X", b"X"  # its end tells
    fields[0:1], fields[-1:] = b"X", b"X"  # first seq and count tell
    end[-1:], end[17:18] = b"X", b"X"  # the word in front tells
    assert all(footer_torn(bytes(tail), 9, 2) for tail in (beginning, fields, end, footer[:5], footer[:-1]))


def test_the_beginning_of_a_frame_is_not_taken_for_a_footer() -> None:
    for tail in (b"", b"TSF", b"TSFR", frame()[:19], frame()[:40], frame(3)[:-1], b"X" * 19, bytes(3)):
        assert not footer_torn(tail, 9, 2)
    no_word = b"XXXX" + Footer(9, ()).encode()[4:20]
    assert footer_torn(no_word, 9, 0)
    assert not footer_torn(no_word, 9, 1)
    assert not footer_torn(no_word, 8, 0)


def test_both_copies_of_a_damaged_header_say_where_they_think_they_belong() -> None:
    one, other = bytearray(HEADER.encode(DEVICE)), bytearray(replace(HEADER, first_seq=MAX_SEQ).encode(DEVICE))
    one[-1] ^= 1
    other[-1] ^= 1
    assert claimed_places(bytes(one + other)) == [(b"e" * 16, 0), (b"e" * 16, MAX_SEQ)]
    assert claimed_places(bytes(one)) == [(b"e" * 16, 0)]
    assert claimed_places(bytes(one[: HEADER_SIZE - 1])) == []
    assert claimed_places(bytes(one + other)[: FRAMES_START - 1]) == [(b"e" * 16, 0)]


def test_a_copy_that_says_nothing_possible_is_not_listened_to() -> None:
    nothing = bytearray(HEADER.encode(DEVICE))
    nothing[32:48] = NO_EPOCH
    beyond = bytearray(HEADER.encode(DEVICE))
    beyond[72:80] = (MAX_SEQ + 1).to_bytes(8, "big")
    assert claimed_places(bytes(nothing + beyond)) == []


def test_what_a_candidate_costs_is_what_was_checksummed_and_a_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framing, "_LEAST_CHARGED", 0)
    monkeypatch.setattr(framing, "SCAN_ALLOWANCE", 2)
    claim = b"TSFR" + (4000).to_bytes(4, "big") + bytes(4000)
    whole = frame()
    data = b"".join((b"x" * 20_000, claim, whole))
    assert isinstance(list(scan(data))[-1], Frame), "one candidate is well within twice the size"
    many = b"TSFR" + (60_000).to_bytes(4, "big")
    hostile = many * 10 + bytes(60_000) + whole
    assert list(scan(hostile)) == [Gap(0, len(hostile))], "two candidates of this length cost twice the size"
    assert read_frame(hostile, len(hostile) - len(whole)) is not None


def one_by_one(data: bytes, start: int, seqs: range, limit: int) -> tuple[int, int]:
    """What `measure_run` says, by `measure_frame`."""
    for seq in seqs:
        measured = measure_frame(data, start)
        if measured is None or measured[1] != seq or measured[0] > limit:
            return start, seq
        start = measured[0]
    return start, seqs.stop


def test_a_run_of_frames_ends_where_one_by_one_it_would() -> None:
    chance = random.Random(5)
    row = b"".join(frame(seq) for seq in range(7, 12))
    size = len(row) // 5
    assert measure_run(row, 0, range(7, MAX_SEQ + 1), len(row)) == (len(row), 12)
    assert measure_run(row, 0, range(7, 9), len(row)) == (2 * size, 9)
    assert measure_run(row, size, range(8, 12), 3 * size) == (3 * size, 10)
    assert measure_run(row, 0, range(7, 12), size - 1) == (0, 7)
    assert measure_run(row, 0, range(8, 12), len(row)) == (0, 8)
    assert measure_run(row, 0, range(7, 7), len(row)) == (0, 7)
    for _ in range(2_000):
        at = chance.randrange(len(row))
        spoilt = row[:at] + bytes([chance.randrange(256)]) + row[at + 1 :]
        data = spoilt[: chance.randrange(len(row) + 1)]
        seqs, limit = range(7, chance.randrange(7, 14)), chance.randrange(len(row) + 9)
        assert measure_run(data, 0, seqs, limit) == one_by_one(data, 0, seqs, limit)


def test_a_run_takes_no_frame_that_could_not_be_written() -> None:
    smallest = ClearHeader(5, 1, NO_TAG, NO_TAG).encode(16) + bytes(24 + 16)
    longest = bytearray(MAX_FRAME - 3)
    longest[: len(smallest)] = smallest
    longest[4:8] = (MAX_FRAME + 1).to_bytes(4, "big")
    crowded = bytearray(ClearHeader(5, 1, NO_TAG, NO_TAG, SPENDS).encode(16) + bytes(20 + 24 + 16))
    crowded[18] = MAX_SPENDS + 1
    crowded[4:8] = (len(crowded) + 4).to_bytes(4, "big")
    short = bytearray(smallest)
    short[18] = 1
    for body in (longest, crowded, short):
        data = with_checksum(bytes(body))
        assert measure_run(data, 0, range(5, 6), len(data)) == one_by_one(data, 0, range(5, 6), len(data)) == (0, 5)
    for whole in (with_checksum(smallest), frame(5, spends=SPENDS)):
        assert measure_run(whole, 0, range(5, 6), len(whole)) == (len(whole), 6)
