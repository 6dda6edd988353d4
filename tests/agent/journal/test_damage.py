"""What a damaged journal has lost is named, once and exactly; what is damaged is kept, and nothing else is touched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from support.disks import BROKEN, FULL, TroubledDisk
from support.tills import Reasons, TestTill, crash
from tillstream_agent.journal import Damage, Journal
from tillstream_protocol.framing import FRAMES_START, HEADER_SIZE, NO_EPOCH, Frame, scan
from tillstream_protocol.limits import DEFAULT
from tillstream_protocol.messages import Range

ROOMY = replace(DEFAULT, sync_interval=0.0)


@pytest.fixture
def till(tmp_path: Path) -> TestTill:
    return TestTill(tmp_path / "journal", ROOMY)


def file(till: TestTill, number: int = 1) -> Path:
    return till.folder / f"{number:010d}.chunk"


def change(path: Path, edit: Callable[[bytearray], None]) -> None:
    data = bytearray(path.read_bytes())
    edit(data)
    path.write_bytes(bytes(data))


def flip_frame(path: Path, seq: int) -> None:
    frames = [part for part in scan(path.read_bytes(), FRAMES_START) if isinstance(part, Frame)]
    (frame,) = [part for part in frames if part.header.seq == seq]

    def flip(data: bytearray) -> None:
        data[frame.start + 60] ^= 1

    change(path, flip)


def losses(journal: Journal) -> list[tuple[int, int, int | None, str]]:
    return [(one.chunk, one.first, one.last, one.reason) for one in journal.damage]


async def fill(till: TestTill, *chunks: int, closed: bool = True) -> bytes:
    """One run that writes chunks of so many records; its epoch."""
    journal = await till.start()
    for at, records in enumerate(chunks):
        if at:
            journal.roll()
        for _ in range(records):
            name = journal.append(b"record %d" % journal.position.seq, kind=1, tag=bytes(15) + bytes([at + 1]))
    await journal.synced(name)
    if closed:
        await journal.close()
    else:
        await crash(journal)
    return name.epoch


async def settle(journal: Journal) -> None:
    """Let the journal finish what it found."""
    await journal.synced(journal.append(b"new", kind=1))


async def test_a_whole_journal_has_lost_nothing(till: TestTill) -> None:
    await fill(till, 3, 2)
    await fill(till, 2, closed=False)
    journal = await till.start()
    assert losses(journal) == []
    await journal.close()


async def test_a_damaged_frame_of_an_unclosed_chunk_is_named_by_its_neighbours(till: TestTill) -> None:
    epoch = await fill(till, 5, closed=False)
    flip_frame(file(till), 2)
    journal = await till.start()
    assert losses(journal) == [(1, 2, 2, "damaged_frame")]
    assert journal.damage[0].epoch == epoch
    assert "lost 1 2 2 damaged_frame" in till.diary.lines
    await settle(journal)
    assert till.drain(journal) == [b"record 0", b"record 1", b"record 3", b"record 4", b"new"]
    await journal.close()


@pytest.mark.parametrize("seq", [0, 2, 4])
async def test_a_damaged_frame_of_a_closed_chunk_is_named_when_it_was_to_be_sent(till: TestTill, seq: int) -> None:
    epoch = await fill(till, 5)
    flip_frame(file(till), seq)
    journal = await till.start()
    assert losses(journal) == []
    await settle(journal)
    sent = till.drain(journal)
    assert sent == [*(b"record %d" % i for i in range(5) if i != seq), b"new"]
    assert journal.damage == (Damage("0000000001.chunk", 1, epoch, seq, seq, "damaged_frame"),)
    assert f"lost 1 {seq} {seq} damaged_frame" in till.diary.lines
    assert journal.queue().records == 0, "nothing waits for what is gone"
    await journal.close()


@pytest.mark.parametrize("seq", [0, 1, 2])
async def test_a_damaged_frame_of_the_open_chunk_is_lost_once_and_holds_nothing_up(till: TestTill, seq: int) -> None:
    journal = await till.start()
    for number in range(3):
        await journal.synced(journal.append(b"record %d" % number, kind=1))
    flip_frame(file(till), seq)
    expected = [b"record %d" % number for number in range(3) if number != seq]
    assert till.drain(journal) == expected
    assert journal.queue().records == 0, "though nothing follows"
    await journal.synced(journal.append(b"after it", kind=1))
    assert till.drain(journal) == [b"after it"]
    assert losses(journal) == [(1, seq, seq, "damaged_frame")]
    assert journal.queue().records == 0
    journal.roll()
    await journal.close()
    assert journal.queue().records == 0


async def test_after_a_damaged_frame_a_failed_sync_moves_what_was_not_synced(tmp_path: Path) -> None:
    disk = TroubledDisk(tmp_path)
    till = TestTill(tmp_path, ROOMY, disk)
    journal = await till.start()
    for number in range(3):
        await journal.synced(journal.append(b"record %d" % number, kind=1))
    flip_frame(tmp_path / "0000000001.chunk", 0)
    assert till.drain(journal) == [b"record 1", b"record 2"]
    disk.trouble.sync_fails_of = "0000000001.chunk"
    name = journal.append(b"moved", kind=1)
    await journal.synced(name)
    assert till.drain(journal) == [b"moved"]
    assert journal.queue().records == 0
    assert losses(journal) == [(1, 0, 0, "damaged_frame")]
    await journal.close()


@pytest.mark.parametrize(("chunk", "records"), [(1, 2), (2, 3), (3, 0)])
async def test_a_footer_that_is_damaged_at_both_ends_is_still_known_as_one(
    till: TestTill, chunk: int, records: int
) -> None:
    await fill(till, 2, 3)
    await (await till.start()).close()
    frames = [part for part in scan(file(till, chunk).read_bytes(), FRAMES_START) if isinstance(part, Frame)]
    end = frames[-1].end if frames else FRAMES_START
    assert len(frames) == records

    def damage(data: bytearray) -> None:
        data[end] ^= 1
        data[-1] ^= 1

    change(file(till, chunk), damage)
    size = file(till, chunk).stat().st_size - end
    till.diary = Reasons()
    journal = await till.start()
    assert losses(journal) == []
    assert f"torn {chunk} by {size}" in till.diary.lines
    await crash(journal)


async def test_what_lies_behind_a_damaged_place_is_counted_to_it(till: TestTill) -> None:
    """A file that is damaged in one place may be so in others: what it lacks at its end was no chunk of its own."""
    await fill(till, 4, 2, closed=False)
    flip_frame(file(till), 1)
    frames = [part for part in scan(file(till).read_bytes(), FRAMES_START) if isinstance(part, Frame)]
    change(file(till), lambda data: data.__delitem__(slice(frames[1].end, None)))
    till.diary = Reasons()
    journal = await till.start()
    assert losses(journal) == [(1, 1, 1, "damaged_frame"), (1, 3, 3, "damaged_frame")]
    assert f"damaged 1 from {frames[0].end} to {frames[1].start}" in till.diary.lines
    await crash(journal)


async def test_several_damaged_frames_in_a_row_are_one_loss(till: TestTill) -> None:
    await fill(till, 6)
    flip_frame(file(till), 2)
    flip_frame(file(till), 3)
    journal = await till.start()
    await settle(journal)
    till.drain(journal)
    assert losses(journal) == [(1, 2, 3, "damaged_frame")]
    await journal.close()


async def test_damage_of_acknowledged_records_is_no_loss(till: TestTill) -> None:
    epoch = await fill(till, 5)
    flip_frame(file(till), 2)
    journal = await till.start(acked={epoch: (Range(0, 3),)})
    await settle(journal)
    assert till.drain(journal) == [b"record 4", b"new"]
    assert losses(journal) == []
    await journal.close()


async def test_the_first_frame_of_an_unclosed_chunk_is_named_by_the_header(till: TestTill) -> None:
    await fill(till, 3, closed=False)
    flip_frame(file(till), 0)
    journal = await till.start()
    assert losses(journal) == [(1, 0, 0, "damaged_frame")]
    await journal.close()


async def test_a_torn_tail_names_the_record_that_was_being_written(till: TestTill) -> None:
    await fill(till, 3, closed=False)
    change(file(till), lambda data: data.__delitem__(slice(-7, None)))
    journal = await till.start()
    assert losses(journal) == [(1, 2, 2, "torn_tail")]
    await journal.close()


async def test_a_tail_of_several_damaged_frames_names_them_all(till: TestTill) -> None:
    epoch = await fill(till, 5, closed=False)
    for seq in (2, 3, 4):
        flip_frame(file(till), seq)
    journal = await till.start()
    assert losses(journal) == [(1, 2, 4, "torn_tail")]
    await crash(journal)
    known = await till.start(acked={epoch: (Range(3, 3),)})
    assert losses(known) == [(1, 2, 2, "torn_tail"), (1, 4, 4, "torn_tail")]
    await known.close()


async def test_a_tail_of_noughts_does_not_say_how_many_it_held(till: TestTill) -> None:
    await fill(till, 3, closed=False)
    frames = [part for part in scan(file(till).read_bytes(), FRAMES_START) if isinstance(part, Frame)]
    change(file(till), lambda data: data.__setitem__(slice(frames[1].start, None), bytes(400)))
    journal = await till.start()
    assert losses(journal) == [(1, 1, None, "torn_tail")]
    await journal.close()


async def test_a_loss_is_found_at_every_start_until_it_was_reported(till: TestTill) -> None:
    await fill(till, 3, closed=False)
    change(file(till), lambda data: data.__delitem__(slice(-7, None)))
    size = file(till).stat().st_size
    for _ in range(3):
        journal = await till.start()
        assert losses(journal) == [(1, 2, 2, "torn_tail")]
        await journal.close()
    assert file(till).stat().st_size == size
    journal = await till.start()
    journal.reported(journal.damage[0])
    assert losses(journal) == []
    await settle(journal)
    await journal.close()
    tail = (till.folder / "0000000001.torn").read_bytes()
    assert len(tail) + file(till).stat().st_size == size
    again = await till.start()
    assert losses(again) == []
    await again.close()


async def test_reporting_what_is_not_known_changes_nothing(till: TestTill) -> None:
    await fill(till, 3, closed=False)
    change(file(till), lambda data: data.__delitem__(slice(-7, None)))
    journal = await till.start()
    (damage,) = journal.damage
    journal.reported(replace(damage, first=9))
    assert journal.damage == (damage,)
    await journal.close()


async def test_a_torn_tail_stays_where_it_is_when_there_is_no_room_for_a_copy(tmp_path: Path) -> None:
    disk = TroubledDisk(tmp_path)
    till = TestTill(tmp_path, ROOMY, disk)
    await fill(till, 3, closed=False)
    change(file(till), lambda data: data.__delitem__(slice(-7, None)))
    size = file(till).stat().st_size
    journal = await till.start()
    await settle(journal)
    disk.trouble.create = FULL
    journal.reported(journal.damage[0])
    await settle(journal)
    assert "set aside 0000000001.chunk" in till.diary.lines
    assert file(till).stat().st_size == size
    assert not list(tmp_path.glob("*.torn"))
    disk.trouble.create = None
    await journal.close()


async def test_a_copy_of_a_torn_tail_that_cannot_be_synced_is_no_copy(tmp_path: Path) -> None:
    disk = TroubledDisk(tmp_path)
    till = TestTill(tmp_path, ROOMY, disk)
    await fill(till, 3, closed=False)
    change(file(till), lambda data: data.__delitem__(slice(-7, None)))
    size = file(till).stat().st_size
    journal = await till.start()
    await settle(journal)
    disk.trouble.sync = BROKEN
    journal.reported(journal.damage[0])
    while "set aside 0000000001.chunk" not in till.diary.lines:
        await settle_somehow(journal)
    assert file(till).stat().st_size == size
    assert not list(tmp_path.glob("*.torn"))
    disk.trouble.sync = None
    await journal.close()


async def settle_somehow(journal: Journal) -> None:
    """One pass of a disk that may fail."""
    await journal._syncer.sync_all()


async def test_a_second_torn_tail_of_one_chunk_is_kept_beside_the_first(till: TestTill) -> None:
    await fill(till, 3)
    for round_ in (1, 2):
        change(file(till), lambda data: data.__setitem__(-1, data[-1] ^ 1))
        journal = await till.start()
        await settle(journal)
        assert losses(journal) == []
        assert len(list(till.folder.glob("0000000001*.torn"))) == round_
        await journal.close()


@pytest.mark.parametrize("place", [4, 12, 20, 40, -3, -6])
async def test_a_flip_in_a_footer_loses_nothing(till: TestTill, place: int) -> None:
    await fill(till, 3)
    data = file(till).read_bytes()
    footer = data.rindex(b"TSFT")
    at = footer + place if place > 0 else len(data) + place
    change(file(till), lambda data: data.__setitem__(at, data[at] ^ 0x10))
    journal = await till.start()
    await settle(journal)
    assert losses(journal) == []
    assert till.drain(journal) == [b"record 0", b"record 1", b"record 2", b"new"]
    assert (till.folder / "0000000001.torn").read_bytes()[:4] == b"TSFT"
    await journal.close()
    assert file(till).read_bytes() == data, "it is closed again as it was"


async def test_a_footer_that_was_cut_off_loses_nothing(till: TestTill) -> None:
    await fill(till, 3)
    data = file(till).read_bytes()
    file(till).write_bytes(data[: data.rindex(b"TSFT") + 9])
    journal = await till.start()
    assert losses(journal) == []
    assert not journal.clean_end
    await journal.close()


async def test_a_chunk_that_ends_early_is_told_by_the_chunk_after_it(till: TestTill) -> None:
    await fill(till, 4, 2)
    frames = [part for part in scan(file(till).read_bytes(), FRAMES_START) if isinstance(part, Frame)]
    for cut, reason in ((frames[2].start, "missing_chunk"), (frames[2].start + 9, "damaged_frame")):
        whole = file(till).read_bytes()
        file(till).write_bytes(whole[:cut])
        journal = await till.start()
        assert losses(journal) == [(1, 2, 3, reason)]
        await crash(journal)
        file(till).write_bytes(whole)


async def test_the_end_of_an_epoch_is_told_by_the_epoch_after_it(till: TestTill) -> None:
    await fill(till, 4)
    await fill(till, 1)
    frames = [part for part in scan(file(till).read_bytes(), FRAMES_START) if isinstance(part, Frame)]
    file(till).write_bytes(file(till).read_bytes()[: frames[1].start])
    journal = await till.start()
    assert losses(journal) == [(1, 1, 3, "missing_chunk")]
    await journal.close()


async def test_a_missing_chunk_is_named_by_what_stands_round_it(till: TestTill) -> None:
    epoch = await fill(till, 3, 2, 4)
    file(till, 2).unlink()
    journal = await till.start()
    assert losses(journal) == [(1, 3, 4, "missing_chunk")]
    journal.reported(journal.damage[0])
    await settle(journal)
    till.drain(journal)
    till.clock.turn(DEFAULT.retain_age + 1)
    assert journal.sweep().chunks == (1, 3), "what is here has nothing to answer for"
    await journal.close()
    quiet = await till.start(acked={epoch: (Range(3, 4),)})
    assert losses(quiet) == []
    await quiet.close()


async def test_a_missing_first_chunk_is_noticed_unless_it_was_acknowledged(till: TestTill) -> None:
    epoch = await fill(till, 3, 2)
    file(till, 1).unlink()
    journal = await till.start()
    assert losses(journal) == [(2, 0, 2, "missing_chunk")]
    await journal.close()
    swept = await till.start(acked={epoch: (Range(0, 2),)})
    assert losses(swept) == []
    await swept.close()


def zero_headers(data: bytearray) -> None:
    data[:FRAMES_START] = bytes(FRAMES_START)


def hurt_both_copies(data: bytearray) -> None:
    data[100] ^= 1
    data[HEADER_SIZE + 200] ^= 1


def hurt_the_epoch_in_both(data: bytearray) -> None:
    data[33] ^= 1
    data[HEADER_SIZE + 40] ^= 1


def hurt_the_epoch_in_one(data: bytearray) -> None:
    data[33] ^= 1
    data[HEADER_SIZE + 100] ^= 1


@pytest.mark.parametrize("hurt", [zero_headers, hurt_both_copies, hurt_the_epoch_in_both, hurt_the_epoch_in_one])
@pytest.mark.parametrize("number", [1, 2, 3])
async def test_a_chunk_without_a_header_loses_its_records_and_they_are_named(
    till: TestTill, hurt: Callable[[bytearray], None], number: int
) -> None:
    epoch = await fill(till, 3, 2, 4)
    change(file(till, number), hurt)
    journal = await till.start()
    first, last = {1: (0, 2), 2: (3, 4), 3: (5, 8)}[number]
    assert losses(journal) == [(number, first, last, "damaged_header")]
    assert journal.damage[0].epoch == epoch
    assert file(till, number).exists()
    journal.reported(journal.damage[0])
    assert not file(till, number).exists()
    assert (till.folder / f"{number:010d}.damaged").exists()
    await journal.close()
    again = await till.start()
    assert losses(again) == []
    await again.close()


async def test_each_chunk_without_a_header_is_put_away_when_its_own_loss_was_reported(till: TestTill) -> None:
    await fill(till, 3, 2, 4, 1)
    for number in (1, 3):
        change(file(till, number), zero_headers)
    journal = await till.start()
    first, second = journal.damage
    journal.reported(first)
    assert (file(till, 1).exists(), file(till, 3).exists()) == (False, True)
    journal.reported(second)
    assert not file(till, 3).exists()
    await journal.close()


async def test_a_headless_chunk_between_two_epochs_belongs_to_the_one_that_was_followed(till: TestTill) -> None:
    first = await fill(till, 2)
    second = await fill(till, 3)
    await fill(till, 1)
    change(file(till, 2), zero_headers)
    journal = await till.start()
    assert losses(journal) == [(2, 0, 2, "damaged_header")]
    assert journal.damage[0].epoch == second != first
    await journal.close()


async def test_the_next_epoch_follows_a_headless_chunk_that_says_whose_it_was(till: TestTill) -> None:
    await fill(till, 2)
    second = await fill(till, 3)
    change(file(till, 2), hurt_both_copies)
    journal = await till.start()
    assert (journal.parent.epoch, journal.parent.seq) == (second, 3)
    await journal.close()


async def test_a_headless_chunk_without_a_frame_loses_nobody_knows_how_many(till: TestTill) -> None:
    await fill(till, 2)
    file(till).write_bytes(bytes(5000))
    journal = await till.start()
    assert losses(journal) == [(1, 0, None, "damaged_header")]
    assert journal.damage[0].epoch == NO_EPOCH
    await journal.close()


@pytest.mark.parametrize("size", [0, 100, FRAMES_START])
async def test_a_chunk_that_was_only_begun_is_put_away_without_a_word_of_loss(till: TestTill, size: int) -> None:
    await fill(till, 2)
    file(till, 2).write_bytes(bytes(size))
    journal = await till.start()
    assert losses(journal) == []
    assert (till.folder / "0000000002.damaged").exists()
    await journal.close()


async def test_a_chunk_cut_down_to_nothing_is_blamed_for_what_is_missing_there(till: TestTill) -> None:
    await fill(till, 2, 3, 1)
    file(till, 2).write_bytes(b"")
    journal = await till.start()
    assert losses(journal) == [(2, 2, 4, "damaged_header")]
    assert file(till, 2).exists()
    journal.reported(journal.damage[0])
    assert (till.folder / "0000000002.damaged").exists()
    await journal.close()


async def test_what_cannot_be_renamed_is_told_and_tried_at_the_next_start(tmp_path: Path) -> None:
    disk = TroubledDisk(tmp_path)
    till = TestTill(tmp_path, ROOMY, disk)
    await fill(till, 2)
    change(file(till), zero_headers)
    file(till, 2).write_bytes(b"")
    disk.trouble.rename = BROKEN
    till.diary = Reasons()
    journal = await till.start()
    assert "set aside 0000000002.chunk: it could not be renamed: planted" in till.diary.lines
    journal.reported(journal.damage[0])
    assert "set aside 0000000001.chunk: it could not be put away: planted" in till.diary.lines
    assert file(till).exists()
    await journal.close()
    disk.trouble.rename = None
    again = await till.start()
    assert losses(again) == [(1, 0, 1, "damaged_header")]
    again.reported(again.damage[0])
    assert not file(till).exists()
    await again.close()


async def test_one_damaged_header_copy_loses_nothing_and_the_file_is_kept_in_the_end(till: TestTill) -> None:
    await fill(till, 2)
    change(file(till), lambda data: data.__setitem__(5, 0))
    till.diary = Reasons()
    journal = await till.start()
    assert f"damaged 1 from 0 to {FRAMES_START}" in till.diary.lines
    await settle(journal)
    assert till.drain(journal) == [b"record 0", b"record 1", b"new"]
    till.clock.turn(DEFAULT.retain_age + 1)
    journal.discard(journal.sweep())
    assert not file(till).exists()
    assert (till.folder / "0000000001.damaged").exists()
    await journal.close()


async def test_a_damaged_chunk_is_not_put_away_before_its_loss_was_reported(till: TestTill) -> None:
    await fill(till, 5)
    flip_frame(file(till), 1)
    flip_frame(file(till), 3)
    journal = await till.start()
    await settle(journal)
    till.drain(journal)
    till.clock.turn(DEFAULT.retain_age + 1)
    first, second = journal.damage
    assert journal.sweep().chunks == ()
    journal.reported(first)
    assert journal.sweep().chunks == ()
    journal.reported(second)
    assert journal.sweep().chunks == (1,)
    await settle_somehow(journal)
    assert not list(till.folder.glob("*.torn")), "nothing behind its frames is torn"
    journal.discard(journal.sweep())
    assert (till.folder / "0000000001.damaged").exists()
    await journal.close()
    again = await till.start(acked=journal.acked())
    assert losses(again) == []
    await again.close()


async def test_what_cannot_be_read_now_is_neither_lost_nor_followed_wrongly(tmp_path: Path) -> None:
    disk = TroubledDisk(tmp_path)
    till = TestTill(tmp_path, ROOMY, disk)
    await fill(till, 3, 2, 4)
    disk.trouble.unreadable = "0000000002.chunk"
    journal = await till.start()
    assert losses(journal) == []
    assert journal.unreadable == ("0000000002.chunk",)
    await journal.close()
    disk.trouble.unreadable = None
    again = await till.start()
    await settle(again)
    assert len(till.drain(again)) == 10
    await again.close()


async def test_a_name_that_was_given_up_is_told_at_once(tmp_path: Path) -> None:
    disk = TroubledDisk(tmp_path)
    till = TestTill(tmp_path, ROOMY, disk)
    journal = await till.start()
    journal.append(b"a", kind=1)
    disk.trouble.write, disk.trouble.cut, disk.trouble.write_part = BROKEN, BROKEN, 30
    with pytest.raises(Exception, match="could not be written"):
        journal.append(b"b", kind=1)
    disk.trouble.write = disk.trouble.cut = None
    assert losses(journal) == [(1, 1, 1, "damaged_frame")]
    journal.append(b"c", kind=1)
    await journal.close()
    again = await till.start()
    assert losses(again) == [(1, 1, 1, "damaged_frame")]
    await again.close()
