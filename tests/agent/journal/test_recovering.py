"""What a start makes of each kind of damage: what it counts, what it says, what it finishes, and what it leaves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from support.disks import BROKEN, TroubledDisk
from support.tills import Diary, Reasons, TestTill, crash
from tillstream_agent.journal import FolderDisk, Journal
from tillstream_agent.journal.chunks import HIGHEST, Chunk
from tillstream_agent.journal.overlaps import untangle
from tillstream_agent.journal.recovery import Found, recover
from tillstream_protocol.framing import FRAMES_START, Footer, Frame, Spend, read_footer, scan
from tillstream_protocol.limits import DEFAULT
from tillstream_protocol.messages import Range

QUICK = replace(DEFAULT, sync_interval=0.0, reserve=0)


@pytest.fixture
def till(tmp_path: Path) -> TestTill:
    return TestTill(tmp_path / "journal", QUICK)


async def fill(till: TestTill, *chunks: int, closed: bool = False) -> bytes:
    """One run that writes chunks of so many records; its epoch."""
    journal = await till.start()
    for at, records in enumerate(chunks):
        if at:
            journal.roll()
        for _ in range(records):
            name = journal.append(b"%d" % journal.position.seq, kind=1)
    await journal.synced(name)
    await (journal.close() if closed else crash(journal))
    return name.epoch


async def settles(journal: Journal) -> None:
    await journal.synced(journal.append(b"new", kind=1))


def path(till: TestTill, number: int = 1) -> Path:
    return till.folder / f"{number:010d}.chunk"


def frames(till: TestTill, number: int = 1) -> list[Frame]:
    return [part for part in scan(path(till, number).read_bytes(), FRAMES_START) if isinstance(part, Frame)]


def footer(till: TestTill, number: int = 1) -> Footer | None:
    data = path(till, number).read_bytes()
    return read_footer(data[frames(till, number)[-1].end :])


def edit(till: TestTill, change: Callable[[bytearray], None], number: int = 1) -> None:
    data = bytearray(path(till, number).read_bytes())
    change(data)
    path(till, number).write_bytes(bytes(data))


def flip(till: TestTill, *seqs: int) -> None:
    for frame in frames(till):
        if frame.header.seq in seqs:
            edit(till, lambda data, at=frame.start + 60: data.__setitem__(at, data[at] ^ 1))  # type: ignore[misc]


def tear(till: TestTill, size: int = 7) -> None:
    edit(till, lambda data: data.__delitem__(slice(-size, None)))


def found(till: TestTill, acked: dict[bytes, tuple[Range, ...]] | None = None) -> Found:
    return recover(FolderDisk(till.folder), Diary(), acked=acked)


def state(chunk: Chunk) -> tuple[int, bool]:
    return chunk.unreported, chunk.damaged


async def test_each_finding_in_a_file_is_counted_until_it_is_reported(till: TestTill) -> None:
    await fill(till, 7)
    flip(till, 1, 3, 5)
    assert state(found(till).chunks[0]) == (3, True)


async def test_a_torn_tail_is_a_finding_and_no_damage_that_is_kept(till: TestTill) -> None:
    await fill(till, 3)
    tear(till)
    assert state(found(till).chunks[0]) == (1, False)


async def test_frames_that_were_to_follow_and_are_noise_are_damage(till: TestTill) -> None:
    await fill(till, 4, 2)
    cut = frames(till)[2].start + 9
    edit(till, lambda data: data.__delitem__(slice(cut, None)))
    assert [state(chunk) for chunk in found(till).chunks] == [(1, True), (0, False)]


async def test_a_file_that_is_whole_is_not_blamed_for_the_one_that_is_missing(till: TestTill) -> None:
    await fill(till, 3, 2, 4)
    path(till, 2).unlink()
    start = found(till)
    assert [one.reason for one in start.damage] == ["missing_chunk"]
    assert [state(chunk) for chunk in start.chunks] == [(0, False), (0, False)]


async def test_a_torn_tail_of_what_was_acknowledged_is_put_away_and_the_file_closed(till: TestTill) -> None:
    epoch = await fill(till, 3)
    tear(till)
    journal = await till.start(acked={epoch: (Range(2, 2),)})
    await settles(journal)
    assert journal.damage == ()
    listed = footer(till)
    assert listed is not None
    assert len(listed.entries) == 2
    assert (till.folder / "0000000001.torn").exists()
    await journal.close()


async def test_a_file_of_which_all_was_acknowledged_is_closed_all_the_same(till: TestTill) -> None:
    epoch = await fill(till, 3)
    journal = await till.start(acked={epoch: (Range(0, 2),)})
    await settles(journal)
    listed = footer(till)
    assert listed is not None
    assert len(listed.entries) == 3
    await journal.close()


async def test_a_file_whose_first_frame_is_gone_is_not_closed_as_if_it_were_whole(till: TestTill) -> None:
    await fill(till, 3)
    flip(till, 0)
    for _ in range(2):
        journal = await till.start()
        await settles(journal)
        assert [(one.first, one.last, one.reason) for one in journal.damage] == [(0, 0, "damaged_frame")]
        await crash(journal)
    assert footer(till) is None


async def test_a_later_chunk_of_an_epoch_is_closed_from_its_own_first_seq_on(till: TestTill) -> None:
    await fill(till, 3, 2)
    journal = await till.start()
    await settles(journal)
    listed = footer(till, 2)
    assert listed is not None
    assert (listed.first_seq, len(listed.entries)) == (3, 2)
    await journal.close()


async def test_torn_tails_of_one_file_are_kept_under_numbers(till: TestTill) -> None:
    await fill(till, 2, closed=True)
    for _ in range(3):
        tear(till, 1)
        journal = await till.start()
        await settles(journal)
        await journal.close()
    kept = sorted(file.name for file in till.folder.glob("*.torn"))
    assert kept == ["0000000001.2.torn", "0000000001.3.torn", "0000000001.torn"]


async def test_a_copy_that_can_neither_be_synced_nor_removed_stops_nothing(tmp_path: Path) -> None:
    disk = TroubledDisk(tmp_path)
    till = TestTill(tmp_path, QUICK, disk)
    await fill(till, 2, closed=True)
    tear(till, 1)
    till.diary = Reasons()
    journal = await till.start()
    await crash(journal)
    disk.trouble.sync_fails_of, disk.trouble.unlink = "0000000001.torn", BROKEN
    await journal._syncer.sync_all()
    assert "set aside 0000000001.chunk: it could not be finished: planted" in till.diary.lines
    disk.trouble.sync_fails_of = disk.trouble.unlink = None
    await journal.close()


@pytest.mark.parametrize(("number", "follows"), [(HIGHEST - 1, HIGHEST), (HIGHEST, 1), (HIGHEST + 1, 1)])
async def test_the_number_of_a_new_chunk_follows_every_number_that_a_journal_gives(
    till: TestTill, number: int, follows: int
) -> None:
    await fill(till, 1, closed=True)
    path(till).rename(path(till, number))
    assert found(till).next_number == follows


async def test_what_cannot_be_read_or_has_no_header_is_named_with_the_reason(tmp_path: Path) -> None:
    disk = TroubledDisk(tmp_path)
    till = TestTill(tmp_path, QUICK, disk)
    await fill(till, 1, 1, 1, closed=True)
    edit(till, lambda data: data.__setitem__(slice(0, FRAMES_START), bytes(FRAMES_START)), 2)
    disk.trouble.unreadable = "0000000001.chunk"
    reasons = Reasons()
    recover(disk, reasons)
    said = [line for line in reasons.lines if ".chunk: " in line]
    assert said[0].startswith(
        "set aside 0000000001.chunk: it cannot be read now, and is tried again at the next start: "
    )
    assert "planted" in said[0]
    assert said[1].startswith("set aside 0000000002.chunk: ")
    assert "checksum" in said[1]


# The chunks of this run


async def test_a_chunk_is_full_at_its_limit_and_not_before(tmp_path: Path) -> None:
    till = TestTill(tmp_path / "first", QUICK)
    await fill(till, 2)
    size = path(till).stat().st_size
    for limit, chunks in ((size, 2), (size + 1, 1)):
        other = TestTill(tmp_path / str(limit), replace(QUICK, chunk=limit))
        await fill(other, 3)
        assert len(list(other.folder.glob("*.chunk"))) == chunks


async def test_a_chunk_is_old_after_its_age_and_not_before_counted_from_its_own_opening(till: TestTill) -> None:
    journal = await till.start()
    journal.append(b"a", kind=1)
    till.clock.turn(QUICK.chunk_age - 1)
    journal.append(b"b", kind=1)
    assert not path(till, 2).exists()
    till.clock.turn(1)
    journal.append(b"c", kind=1)
    assert path(till, 2).exists()
    till.clock.turn(QUICK.chunk_age - 1)
    journal.append(b"d", kind=1)
    assert not path(till, 3).exists()
    till.clock.turn(1)
    journal.append(b"e", kind=1)
    assert [line for line in till.diary.lines if line.startswith("opened")] == ["opened 1", "opened 2", "opened 3"]
    await journal.close()


async def test_a_fresh_chunk_that_is_asked_for_twice_is_the_live_one(till: TestTill) -> None:
    journal = await till.start()
    await journal.synced(journal.append(b"old", kind=1))
    journal.roll()
    journal.roll()
    await journal.synced(journal.append(b"new", kind=1))
    live = journal.next_slice("live", 1 << 20)
    assert live is not None
    assert [plain for _, plain in till.keys.open(live)] == [b"new"]
    assert live.chunk == 2
    await journal.close()


@pytest.mark.parametrize("beyond", [1, 512, FRAMES_START + 1])
async def test_a_file_whose_end_claims_more_than_the_file_is_read_by_its_frames(till: TestTill, beyond: int) -> None:
    await fill(till, 3)
    edit(till, lambda data: data.extend((len(data) + 4 + beyond).to_bytes(4, "big")))
    (chunk,) = found(till).chunks
    assert chunk.present == (Range(0, 2),)


async def test_a_file_with_spends_is_known_by_its_footer_and_nothing_of_it_is_torn(till: TestTill) -> None:
    journal = await till.start()
    await journal.synced(journal.append(b"x", kind=1, spends=(Spend(b"l" * 16, 3),)))
    await journal.close()
    diary = Diary()
    (chunk,) = recover(FolderDisk(till.folder), diary, acked=None).chunks
    assert diary.lines == []
    assert chunk.spends == {b"l" * 16: 3}
    assert chunk.present == (Range(0, 0),)


async def test_a_file_all_of_whose_records_a_later_one_holds_ends_where_frames_begin(till: TestTill) -> None:
    await fill(till, 2)
    (chunk,) = found(till).chunks
    later = Chunk(2, chunk.header, chunk.encoded_header, present=(Range(0, 1),))
    untangle(FolderDisk(till.folder), [chunk, later])
    assert (chunk.present, chunk.spends, chunk.frames_end) == ((), {}, FRAMES_START)
    assert later.present == (Range(0, 1),)


async def test_a_footer_that_lists_nothing_is_of_a_file_that_holds_nothing(till: TestTill) -> None:
    await (await till.start()).close()
    path(till).write_bytes(path(till).read_bytes()[:FRAMES_START] + Footer(0, ()).encode())
    (chunk,) = found(till).chunks
    assert (chunk.present, chunk.closed) == ((), True)


async def test_a_file_that_is_finished_late_is_as_large_as_is_said_and_leaves_nothing_beside_it(till: TestTill) -> None:
    await fill(till, 2)
    journal = await till.start()
    await settles(journal)
    assert footer(till) is not None
    chunk = journal._shelf.get(1)
    assert chunk is not None
    assert chunk.size == path(till).stat().st_size
    assert [file.name for file in till.folder.iterdir() if file.suffix != ".chunk"] == []
    await journal.close()


async def test_a_torn_tail_of_one_byte_is_kept_too(till: TestTill) -> None:
    await fill(till, 2)
    edit(till, lambda data: data.append(7))
    journal = await till.start()
    for damage in journal.damage:
        journal.reported(damage)
    await settles(journal)
    (kept,) = (file for file in till.folder.iterdir() if file.suffix != ".chunk")
    assert kept.read_bytes() == b"\x07"
    await journal.close()
