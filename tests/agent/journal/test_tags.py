"""Every record is found by its tag, at a few bytes a record, in whatever chunk it lies."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.disks import BROKEN, TroubledDisk
from support.stories import chunk_header
from support.tills import TestTill, crash
from tillstream_agent.journal import JournalError, Name, Seen
from tillstream_agent.journal.chunks import Chunk, file_number, index_seq, pack_index
from tillstream_agent.journal.tags import EXACT, SHARDS, Tags
from tillstream_protocol.framing import FOOTER_ROW, FRAMES_START, NO_TAG, ChunkHeader, Entry, Footer, Spend, footer_rows
from tillstream_protocol.limits import DEFAULT
from tillstream_protocol.messages import Range

EPOCH = b"e" * 16
SMALL = replace(DEFAULT, chunk=4096, sync_interval=0.0, reserve=0)


def tag(number: int) -> bytes:
    return hashlib.blake2b(number.to_bytes(8, "big"), digest_size=16).digest()


def rows(tags: list[bytes]) -> bytes:
    found = footer_rows(Footer(0, tuple(Entry(one, ()) for one in tags)).encode())
    assert found is not None
    return found[1]


class Chunks:
    """What lies in which chunk, as their indexes on disk would tell."""

    def __init__(self) -> None:
        self.held: dict[int, list[bytes]] = {}
        self.looks = 0

    def confirm(self, chunk: int, tag: bytes) -> Name | None:
        self.looks += 1
        held = self.held.get(chunk, [])
        return Name(EPOCH, held.index(tag)) if tag in held else None


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.binary(min_size=16, max_size=16), max_size=30), max_size=8), st.data())
def test_what_is_there_is_found_and_what_is_not_is_not(chunks: list[list[bytes]], data: st.DataObject) -> None:
    here = Chunks()
    tags = Tags(here.confirm)
    known: dict[bytes, tuple[int, int]] = {}
    for number, content in enumerate(chunks, 1):
        fresh = [one for one in dict.fromkeys(content) if one != NO_TAG and one not in known]
        here.held[number] = fresh
        known.update({one: (number, seq) for seq, one in enumerate(fresh)})
        if data.draw(st.booleans()):
            tags.read(number, rows([NO_TAG, *fresh]))
        else:
            tags.take(number, [NO_TAG, *fresh])
    gone = data.draw(st.sets(st.sampled_from(sorted(here.held)))) if here.held else set()
    for number in gone:
        tags.forget(number)
    for _ in range(data.draw(st.integers(0, 3)) * SHARDS):
        if not tags.untidy:
            break
        tags.tidy()
    for one, (number, seq) in known.items():
        assert tags.find(one) == (None if number in gone else Seen(Name(EPOCH, seq), None))
    stranger = data.draw(st.binary(min_size=16, max_size=16).filter(lambda one: one not in known))
    assert tags.find(stranger) is None


def test_a_tag_that_looks_like_anothers_costs_a_look_and_is_no_match() -> None:
    here = Chunks()
    tags = Tags(here.confirm)
    here.held[1] = [bytes(10) + b"abcdef"]
    tags.read(1, rows(here.held[1]))
    assert tags.find(b"\1" * 10 + b"abcdef") is None
    assert here.looks == 1
    assert tags.find(os.urandom(10) + b"ABCDEF") is None
    assert here.looks == 1


def test_a_tag_of_which_the_kept_bytes_are_nought_is_found_too() -> None:
    here = Chunks()
    tags = Tags(here.confirm)
    here.held[1] = [b"x" * 10 + bytes(6), b"y" * 10 + bytes(4) + b"ab"]
    tags.read(1, rows([NO_TAG, *here.held[1], NO_TAG]))
    assert [tags.find(one) for one in here.held[1]] == [Seen(Name(EPOCH, seq), None) for seq in (0, 1)]


def test_the_latest_records_keep_their_checksums_and_older_ones_are_looked_up() -> None:
    here = Chunks()
    tags = Tags(here.confirm)
    tags.begin(1)
    here.held[1] = [tag(n) for n in range(EXACT + 10)]
    for seq, one in enumerate(here.held[1]):
        tags.note(one, Seen(Name(EPOCH, seq), 7), 1)
    assert tags.find(tag(0)) == Seen(Name(EPOCH, 0), 7), "its chunk has no index on disk yet"
    tags.settle(1)
    tags.begin(2)
    for n in range(EXACT + 10, EXACT + 30):
        tags.note(tag(n), Seen(Name(EPOCH, n), 7), 2)
    assert here.looks == 0
    assert tags.find(tag(0)) == Seen(Name(EPOCH, 0), None)
    assert tags.find(tag(EXACT + 9)) == Seen(Name(EPOCH, EXACT + 9), 7)
    assert here.looks == 1


def test_a_record_that_moved_is_found_where_it_went() -> None:
    here = Chunks()
    tags = Tags(here.confirm)
    tags.begin(1)
    tags.note(tag(1), Seen(Name(EPOCH, 0), 7), 1)
    tags.begin(2)
    tags.move(tag(1), 2)
    tags.forget(1)
    assert tags.find(tag(1)) == Seen(Name(EPOCH, 0), 7)
    tags.forget(2)
    assert tags.find(tag(1)) is None


def test_what_is_forgotten_leaves_no_rows_behind_and_goes_in_small_steps() -> None:
    here = Chunks()
    tags = Tags(here.confirm)
    for number in (1, 2):
        here.held[number] = [tag(number * 10_000 + n) for n in range(500)]
        tags.read(number, rows(here.held[number]))
    assert tags.rows() == 1000
    tags.forget(1)
    tags.tidy()
    assert tags.rows() > 900
    steps = 1
    while tags.untidy:
        tags.tidy()
        steps += 1
    assert steps == SHARDS // 4
    assert tags.rows() == 500


def test_chunks_whose_numbers_share_their_last_bytes_are_told_apart() -> None:
    here = Chunks()
    tags = Tags(here.confirm)
    far = 1 + (1 << 24)
    here.held = {1: [tag(1)], far: [tag(2)]}
    tags.read(1, rows(here.held[1]))
    tags.forget(1)
    tags.read(far, rows(here.held[far]))
    assert tags.find(tag(2)) == Seen(Name(EPOCH, 0), None)
    assert tags.find(tag(1)) is None


def test_a_footer_with_spends_has_no_plain_rows() -> None:
    entries = (Entry(tag(1), ()), Entry(tag(2), (Spend(b"l" * 16, 1),)))
    assert footer_rows(Footer(3, entries).encode()) is None
    assert footer_rows(Footer(3, entries[:1]).encode()) == (3, tag(1) + bytes(FOOTER_ROW - 16))
    assert footer_rows(b"") is None


@pytest.mark.parametrize("spends", [(), (Spend(b"l" * 16, 1),)])
@pytest.mark.parametrize("ending", ["closed", "killed", "damaged"])
async def test_tags_of_earlier_runs_are_found_in_footers_and_in_chunks_without_one(
    tmp_path: Path, spends: tuple[Spend, ...], ending: str
) -> None:
    till = TestTill(tmp_path, SMALL)
    journal = await till.start()
    names = [journal.append(os.urandom(900), kind=1, tag=tag(n), spends=spends) for n in range(10)]
    await journal.synced(names[-1])
    if ending == "closed":
        await journal.close()
    else:
        await crash(journal)
    lost = None
    if ending == "damaged":
        path = tmp_path / "0000000002.chunk"
        data = bytearray(path.read_bytes())
        lost = ChunkHeader.read(bytes(data[:FRAMES_START]))[0].first_seq + 1
        data[-10] ^= 1
        data[data.index(b"TSFR", data.index(b"TSFR") + 1) + 50] ^= 1
        path.write_bytes(bytes(data))
    again = await till.start()
    found = [again.find(tag(n)) for n in range(10)]
    assert [seen.name if seen else None for seen in found] == [n if n.seq != lost else None for n in names]
    assert again.find(tag(99)) is None
    assert sum(again.spent.values()) == len(spends) * (10 if lost is None else 9)
    await again.close()


async def test_a_chunk_that_cannot_be_read_makes_the_question_fail_and_no_second_sale(tmp_path: Path) -> None:
    disk = TroubledDisk(tmp_path)
    till = TestTill(tmp_path, SMALL, disk)
    journal = await till.start()
    journal.append(b"a", kind=1, tag=tag(1))
    await journal.close()
    again = await till.start()
    disk.trouble.read = BROKEN
    with pytest.raises(JournalError, match=r"0000000001\.chunk"):
        again.find(tag(1))
    assert again.find(tag(2)) is None
    disk.trouble.read = None
    await again.close()


async def test_in_a_long_run_every_record_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tillstream_agent.journal.tags.EXACT", 16)
    till = TestTill(tmp_path, replace(SMALL, chunk=20_000))
    journal = await till.start()
    names = []
    for n in range(600):
        names.append(journal.append(b"%d" % n, kind=1, tag=tag(n), check=n))
        if n % 50 == 0:
            await journal.synced(names[-1])
    await journal.synced(names[-1])
    found = [journal.find(tag(n)) for n in range(600)]
    assert [seen.name if seen else None for seen in found] == names
    assert sum(seen is not None and seen.check is not None for seen in found) < 300
    await journal.close()


async def test_a_footer_that_is_damaged_while_the_till_runs_is_replaced_in_memory(tmp_path: Path) -> None:
    till = TestTill(tmp_path, SMALL)
    journal = await till.start()
    name = journal.append(b"a", kind=1, tag=tag(1))
    await journal.close()
    again = await till.start()
    path = tmp_path / "0000000001.chunk"
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(bytes(data))
    for _ in range(2):
        assert again.find(tag(1)) == Seen(name, None)
        path.write_bytes(bytes(data[:FRAMES_START]))
    await again.close()


@pytest.mark.parametrize("ending", ["closed", "killed"])
async def test_a_tag_that_appears_across_two_others_is_not_there(tmp_path: Path, ending: str) -> None:
    till = TestTill(tmp_path, SMALL)
    journal = await till.start()
    first = b"abcdefghijklmnop"
    between = first[1:] + b"\0"
    journal.append(b"a", kind=1, tag=first)
    last = journal.append(b"b", kind=1, tag=b"\0" * 9 + between[10:] + b"x")
    await journal.synced(last)
    if ending == "closed":
        await journal.close()
    else:
        await crash(journal)
    again = await till.start()
    again._tags.take(1, [between])
    assert again.find(between) is None
    assert again.find(first) is not None
    await again.close()


def alike(first: int) -> bytes:
    """Tags that differ in the bytes that memory does not keep."""
    return bytes([first]) * 10 + b"printsh"[:6]


def test_tags_that_look_alike_are_told_apart_by_their_chunks() -> None:
    here = Chunks()
    tags = Tags(here.confirm)
    here.held = {1: [alike(1)], 2: [alike(2)], 3: [alike(3)]}
    for number, held in here.held.items():
        tags.take(number, held)
    assert [seen and seen.name for seen in map(tags.find, (alike(1), alike(2), alike(3)))] == [Name(EPOCH, 0)] * 3
    assert tags.find(alike(4)) is None


def test_what_is_forgotten_goes_and_the_rest_stays() -> None:
    here = Chunks()
    tags = Tags(here.confirm)
    here.held = {1: [alike(1), tag(1)], 2: [alike(2), tag(2)]}
    for number, held in here.held.items():
        tags.take(number, held)
    tags.forget(1)
    del here.held[1]
    while tags.untidy:
        tags.tidy()
    assert repr(tags.rows()) == "2"
    assert tags.find(alike(2)) == Seen(Name(EPOCH, 0), None)
    assert tags.find(tag(1)) is None


def test_records_without_a_tag_take_no_room() -> None:
    tags = Tags(Chunks().confirm)
    tags.read(1, rows([NO_TAG, NO_TAG, tag(1)]))
    assert tags.rows() == 1


def test_a_chunk_that_went_before_it_was_settled_keeps_no_others_in_memory() -> None:
    tags = Tags(Chunks().confirm)
    tags.begin(1)
    tags.note(tag(0), Seen(Name(EPOCH, 0), 0), 1)
    tags.forget(1)
    tags.begin(2)
    tags.settle(2)
    for number in range(1, 2 * EXACT):
        tags.note(tag(number), Seen(Name(EPOCH, number), 0), 2)
    assert len(tags._order) <= EXACT + 1


def test_a_tag_is_found_in_an_index_whatever_lies_across_its_rows() -> None:
    tail = b"t" * 8
    wanted = tail + (3).to_bytes(8, "big")
    index = pack_index((seq, Entry(one, ())) for seq, one in ((3, b"a" * 8 + tail), (2, wanted), (3, b"b" * 8 + tail)))
    assert index_seq(index, wanted) == 2
    fives = bytes([5]) * 16
    assert index_seq(pack_index([(5, Entry(tag(1), ())), (6, Entry(fives, ()))]), fives) == 6
    assert index_seq(index, tag(9)) is None


@pytest.mark.parametrize("name", ["123", "x.chunk", "\u0661.chunk", "1.new", "1.chunk.old", ".chunk"])
def test_a_file_of_another_name_has_no_number(name: str) -> None:
    assert file_number(name) is None


@pytest.mark.parametrize("name", ["0000000007.chunk", "7.damaged", "7.torn"])
def test_a_chunks_file_has_its_number(name: str) -> None:
    assert file_number(name) == 7


def test_a_chunk_is_extended_by_what_follows_and_by_what_comes_after_a_gap() -> None:
    chunk = opened_chunk()
    held = []
    for seq in (4, 5, 7, 8, 12):
        chunk.extend(seq)
        held.append(chunk.present)
    assert held == [
        (Range(4, 4),),
        (Range(4, 5),),
        (Range(4, 5), Range(7, 7)),
        (Range(4, 5), Range(7, 8)),
        (Range(4, 5), Range(7, 8), Range(12, 12)),
    ]


def opened_chunk() -> Chunk:
    return Chunk(1, chunk_header(1, first_seq=4), b"")
