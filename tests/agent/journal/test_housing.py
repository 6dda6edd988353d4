"""What lost its file is sealed anew under its own names, beside what is captured meanwhile."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random
from typing import Any

import pytest

from support.disks import BROKEN, FULL, TroubledFile
from support.stories import LEASE, QUICK, Story, all_is_safe, begun, doubts, tag
from tillstream_agent.journal import JournalError, Sweep, syncing
from tillstream_agent.journal.chunks import OpenChunk
from tillstream_agent.journal.writer import ChunkWriter
from tillstream_protocol.framing import FRAMES_START, Frame, Gap, Spend, read_footer, scan
from tillstream_protocol.messages import Range


@pytest.fixture
def story(tmp_path: Path) -> Story:
    return Story(tmp_path)


async def test_two_files_that_failed_give_their_records_one_new_home_in_order(story: Story) -> None:
    journal = await begun(story)
    journal.append(b"0", kind=1)
    journal.append(b"1", kind=1)
    journal.roll()
    journal.append(b"2", kind=1)
    journal.append(b"3", kind=1)
    story.trouble.sync, story.trouble.create = BROKEN, FULL
    await story.passes(journal, 2)
    story.trouble.sync = story.trouble.create = None
    await story.passes(journal)
    piece = journal.next_slice("live", 1 << 20)
    assert piece is not None
    assert [seq for seq, _ in story.till.keys.open(piece)] == [0, 1, 2, 3]
    await journal.close()


async def test_a_name_given_up_between_them_begins_another_home(story: Story) -> None:
    journal = await begun(story)
    journal.append(b"0", kind=1)
    story.trouble.write, story.trouble.cut = BROKEN, BROKEN
    with pytest.raises(JournalError):
        journal.append(b"given up", kind=1)
    story.trouble.write = story.trouble.cut = None
    journal.append(b"2", kind=1)
    story.trouble.sync, story.trouble.create = BROKEN, FULL
    await story.passes(journal)
    with pytest.raises(JournalError):
        journal.append(b"refused", kind=1)
    story.trouble.sync = story.trouble.create = None
    journal.append(b"3", kind=1)
    await story.passes(journal)
    assert sorted(story.till.drain(journal)) == [b"0", b"2", b"3"]
    await journal.close()


async def test_a_new_home_that_fills_up_in_the_middle_is_begun_again(story: Story) -> None:
    journal = await begun(story)
    for i in range(3):
        journal.append(b"%d" % i, kind=1)
    story.trouble.sync, story.trouble.write, story.trouble.write_part = BROKEN, FULL, 2000
    await story.passes(journal)
    story.trouble.sync = story.trouble.write = None
    await story.passes(journal)
    assert story.till.drain(journal) == [b"0", b"1", b"2"]
    await journal.close()


async def test_after_a_restart_a_record_in_two_files_counts_once(story: Story) -> None:
    journal = await begun(story)
    journal.append(b"a", kind=1, tag=tag(1))
    await story.passes(journal)
    name = journal.append(b"b", kind=1, tag=tag(2), spends=[Spend(LEASE, 8)])
    story.trouble.sync = BROKEN
    await story.passes(journal, 3)
    again = await story.till.start()
    assert again.spent == {LEASE: 8}
    assert again.queue().records == 2
    seen = again.find(tag(2))
    assert seen is not None
    assert seen.name == name
    story.trouble.sync = None
    await again.synced(again.append(b"c", kind=1))
    assert story.till.drain(again) == [b"a", b"b", b"c"]
    await again.close()


async def test_of_a_file_that_was_left_the_synced_records_are_found_by_their_tags(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tillstream_agent.journal.tags.EXACT", 0)
    journal = await begun(story)
    names = [journal.append(b"%d" % i, kind=1, tag=tag(i + 1)) for i in range(2)]
    await story.passes(journal)
    story.trouble.sync = BROKEN
    names += [journal.append(b"%d" % i, kind=1, tag=tag(i + 1)) for i in range(2, 4)]
    await story.passes(journal)
    story.trouble.sync = None
    journal.roll()
    await story.passes(journal)
    for i in range(100, 110):
        journal.append(b"more", kind=1, tag=tag(i))
    found = [journal.find(tag(i + 1)) for i in range(4)]
    assert [seen.name if seen else None for seen in found] == names
    assert [seen.check if seen else 0 for seen in found] == [None] * 4, "their files are asked, nothing is remembered"
    await journal.close()


async def test_a_new_home_whose_end_is_unknown_is_left_for_another(story: Story) -> None:
    journal = await begun(story)
    for i in range(3):
        journal.append(b"%d" % i, kind=1, tag=tag(i + 1))
    story.trouble.sync = story.trouble.cut = BROKEN
    story.trouble.write, story.trouble.write_part = FULL, 1100
    await story.passes(journal)
    story.trouble.sync = story.trouble.cut = story.trouble.write = None
    await story.passes(journal)
    assert sorted(story.till.drain(journal)) == [b"0", b"1", b"2"]
    await journal.close()
    again = await story.till.start()
    assert again.damage == ()
    await again.close()


@pytest.mark.parametrize("cut", [None, BROKEN])
async def test_half_a_frame_in_a_new_home_is_cut_off_or_nothing_is_written_behind_it(
    story: Story, monkeypatch: pytest.MonkeyPatch, cut: int | None
) -> None:
    journal = await begun(story)
    journal.append(b"a", kind=1)
    write, calls = TroubledFile.write, 0

    def fail_behind_the_header(file: TroubledFile, data: bytes) -> None:
        nonlocal calls
        calls += 1
        write(file, data[:10] if calls == 2 else data)
        if calls == 2:
            raise OSError(FULL, "planted")

    monkeypatch.setattr(TroubledFile, "write", fail_behind_the_header)
    story.trouble.sync, story.trouble.cut = BROKEN, cut
    await story.passes(journal)
    assert not all_is_safe(journal)
    story.trouble.sync = story.trouble.cut = None
    await story.passes(journal, 2)
    assert all_is_safe(journal)
    left = (story.folder / "0000000002.chunk").read_bytes()
    half = [part.end - part.start for part in scan(left, FRAMES_START) if isinstance(part, Gap)]
    assert half == ([] if cut is None else [10])
    assert len(left) == FRAMES_START + sum(half) or cut is None, "nothing stands behind it"
    assert story.till.drain(journal) == [b"a"]
    await journal.close()


async def test_a_folder_that_failed_is_not_trusted_with_what_was_begun_before(story: Story) -> None:
    """Its next sync may succeed, and says nothing of a name that the failed one lost."""
    journal = await begun(story)
    journal.append(b"a", kind=1)
    story.trouble.sync_folder = BROKEN
    await story.passes(journal)
    assert not all_is_safe(journal)
    story.trouble.sync_folder = None
    await story.passes(journal)
    assert all_is_safe(journal)
    assert story.chunks() == ["0000000002.chunk"], "sealed anew"
    assert story.till.drain(journal) == [b"a"]
    await journal.close()


async def test_two_chunks_begun_between_syncs_share_one_of_the_folder(story: Story) -> None:
    journal = await begun(story)
    journal.append(Random(1).randbytes(5000), kind=1)
    journal.append(b"b", kind=1)
    before = story.trouble.folder_syncs
    await story.passes(journal)
    assert story.trouble.folder_syncs == before + 1
    await story.passes(journal)
    assert story.trouble.folder_syncs == before + 1
    await journal.close()


async def test_captures_have_their_turn_while_many_records_are_sealed_anew(story: Story) -> None:
    journal = await begun(story)
    plains = [b"%d" % number for number in range(3 * syncing.AT_ONCE)]
    for seq, plain in enumerate(plains):
        journal.append(plain, kind=1, tag=tag(seq + 1))
    story.trouble.sync_fails_of = "0000000001.chunk"
    a_pass = asyncio.create_task(story.passes(journal))
    between = 0
    while not a_pass.done():
        await asyncio.sleep(0)
        if 0 < journal._syncer.homeless < len(plains):
            plains.append(b"between %d" % between)
            journal.append(plains[-1], kind=1, tag=tag(len(plains)))
            between += 1
    assert between
    await story.passes(journal, 2)
    assert all_is_safe(journal)
    assert journal._syncer.burden == 0
    tags = {seq: tag(seq + 1) for seq in range(len(plains))}
    await journal.close()
    again = await begun(story)
    await story.passes(again, 5)
    assert again.damage == ()
    assert all((seen := again.find(one)) is not None and seen.name.seq == seq for seq, one in tags.items())
    assert again.queue().records == len(plains)
    assert sorted(story.till.drain(again)) == sorted(plains)
    await again.close()


async def test_spends_are_counted_in_the_chunk_that_holds_them_after_a_failed_sync(story: Story) -> None:
    journal = await begun(story)
    epoch = journal.position.epoch
    journal.append(b"a", kind=1, spends=[Spend(LEASE, 3)])
    await story.passes(journal)
    journal.append(b"b", kind=1, spends=[Spend(LEASE, 5)])
    story.trouble.sync_fails_of = "0000000001.chunk"
    await story.passes(journal, 2)
    journal.roll()
    await story.passes(journal)
    journal.acknowledge(epoch, [Range(0, 1)])
    story.till.clock.turn(QUICK.retain_age + 1)
    assert journal.sweep().spends == {(1, LEASE): 3, (2, LEASE): 5}
    await journal.close()


async def test_a_home_is_closed_before_a_name_that_is_not_the_next_one(story: Story) -> None:
    """Its footer lists names by their order, so that none may be left out."""
    journal = await begun(story)
    journal.append(b"0", kind=1, tag=tag(1))
    story.trouble.write, story.trouble.cut = BROKEN, BROKEN
    with pytest.raises(JournalError):
        journal.append(b"given up", kind=1)
    story.trouble.write = story.trouble.cut = None
    story.trouble.sync_fails_of = "0000000001.chunk"
    await story.passes(journal)
    name = journal.append(b"2", kind=1, tag=tag(2))
    await story.passes(journal)
    await journal.close()
    again = await begun(story)
    seen = again.find(tag(2))
    assert seen is not None
    assert seen.name == name
    await again.close()


@pytest.mark.parametrize("cut", [None, BROKEN])
async def test_a_home_whose_write_fails_is_cut_back_or_left(
    story: Story, monkeypatch: pytest.MonkeyPatch, cut: int | None
) -> None:
    journal = await begun(story)
    plains = [b"%d" % number for number in range(4)]
    for plain in plains:
        journal.append(plain, kind=1)
    write, calls = ChunkWriter.write, 0

    def fails_once(writer: ChunkWriter, target: OpenChunk, *rest: Any) -> int:
        nonlocal calls
        calls += 1
        if calls != 3:
            return write(writer, target, *rest)
        target.file.write(b"half a frame")
        story.trouble.cut = cut
        raise OSError(BROKEN, "planted")

    monkeypatch.setattr(ChunkWriter, "write", fails_once)
    story.trouble.sync_fails_of = "0000000001.chunk"
    await story.passes(journal)
    home = (story.folder / "0000000002.chunk").read_bytes()
    assert home.endswith(b"half a frame") == (cut is not None), "nothing follows an end that is not known"
    story.trouble.cut = None
    await story.passes(journal, 3)
    assert all_is_safe(journal)
    await journal.close()
    again = await begun(story)
    await story.passes(again)
    assert again.damage == ()
    assert sorted(story.till.drain(again)) == plains
    await again.close()


async def test_a_capture_while_a_closed_chunk_is_housed_takes_no_name_of_the_next_one(story: Story) -> None:
    """What was captured between them lies in a chunk of its own, and so between the names of the home."""
    journal = await begun(story)
    for seq in range(15):
        if seq == 10:
            journal.roll()
        journal.append(b"%d" % seq, kind=1, tag=tag(seq + 1))
    story.trouble.sync_fails_of = "0000000001.chunk"
    a_pass = asyncio.create_task(story.passes(journal))
    seq = 15
    while not a_pass.done():
        await asyncio.sleep(0)
        if len(story.chunks()) > 2 and seq < 18:
            journal.append(b"%d" % seq, kind=1, tag=tag(seq + 1))
            seq += 1
    assert seq > 15
    await story.passes(journal, 2)
    await journal.close()
    again = await begun(story)
    await story.passes(again, 5)
    assert again.damage == ()
    found = [again.find(tag(number + 1)) for number in range(seq)]
    assert [seen and seen.name.seq for seen in found] == list(range(seq))
    assert sorted(map(int, story.till.drain(again))) == list(range(seq))
    await again.close()


async def test_a_file_that_cannot_be_closed_ends_nothing(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(file: TroubledFile) -> None:
        close(file)
        raise OSError(BROKEN, "planted")

    journal = await begun(story)
    journal.append(b"a", kind=1)
    close = TroubledFile.close
    monkeypatch.setattr(TroubledFile, "close", fails)
    story.trouble.sync_fails_of = "0000000001.chunk"
    await story.passes(journal, 2)
    journal.roll()
    await story.passes(journal)
    assert all_is_safe(journal)
    assert story.till.drain(journal) == [b"a"]
    await journal.close()


async def test_what_was_safe_before_a_folder_failed_is_safe_after_it(story: Story) -> None:
    journal = await begun(story)
    journal.append(b"a", kind=1)
    await story.passes(journal)
    journal.roll()
    story.trouble.sync_folder = BROKEN
    journal.append(b"b", kind=1)
    await story.passes(journal)
    story.trouble.sync_folder = None
    await story.passes(journal, 2)
    assert "0000000001.chunk" in story.chunks(), "only what was begun since is written anew"
    assert "0000000002.chunk" not in story.chunks()
    assert doubts(story) == []
    assert story.till.drain(journal) == [b"a", b"b"]
    await journal.close()


async def test_a_home_that_nothing_can_follow_is_finished_at_once(story: Story) -> None:
    """So that it need not be searched at the next start, though the till captures nothing more and is killed."""
    journal = await begun(story)
    journal.append(b"0", kind=1)
    journal.roll()
    journal.append(b"1", kind=1)
    story.trouble.sync_fails_of = "0000000001.chunk"
    await story.passes(journal, 2)
    data = (story.folder / "0000000003.chunk").read_bytes()
    (frame,) = (part for part in scan(data, FRAMES_START) if isinstance(part, Frame))
    footer = read_footer(data[frame.end :])
    assert footer is not None
    assert (footer.first_seq, len(footer.entries)) == (0, 1)
    await journal.close()


async def test_a_file_is_not_swept_while_what_it_did_not_sync_has_no_other(story: Story) -> None:
    journal = await begun(story)
    journal.append(b"a", kind=1)
    journal.roll()
    journal.append(b"b", kind=1)
    story.trouble.sync_fails_of, story.trouble.create = "0000000001.chunk", FULL
    await story.passes(journal)
    assert journal._syncer.homeless == 1
    assert journal.sweep() == Sweep((), {})
    story.trouble.sync_fails_of = story.trouble.create = None
    await story.passes(journal, 2)
    assert sorted(story.till.drain(journal)) == [b"a", b"b"]
    await journal.close()
