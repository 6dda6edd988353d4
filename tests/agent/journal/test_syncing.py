"""A disk that fails or hangs loses nothing that was acknowledged, and nobody waits for it for ever."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from support.disks import BROKEN, FULL, TroubledFile
from support.stories import LEASE, QUICK, Story, all_is_safe, begun, tag
from support.tills import Reasons
from tillstream_agent.journal import JournalError, JournalFull, syncing
from tillstream_agent.journal.chunks import OpenChunk
from tillstream_agent.journal.errors import translate
from tillstream_agent.journal.writer import ChunkWriter
from tillstream_protocol.framing import Spend
from tillstream_protocol.messages import Range


@pytest.fixture
def story(tmp_path: Path) -> Story:
    return Story(tmp_path)


async def test_who_waits_for_a_failing_disk_is_told_after_two_seconds(story: Story) -> None:
    journal = await begun(story)
    story.trouble.sync = BROKEN
    name = journal.append(b"a", kind=1)
    waiting = asyncio.create_task(journal.synced(name))
    await story.passes(journal, 2)
    assert not waiting.done()
    story.till.clock.turn(2)
    await story.passes(journal)
    with pytest.raises(JournalError, match="disk does not take it"):
        await waiting
    with pytest.raises(JournalError):
        await journal.synced(name)
    assert story.till.diary.lines.count("stuck 1 2") == 1
    await story.passes(journal)
    assert story.till.diary.lines.count("stuck 1 2") == 1, "told once"
    story.trouble.sync = None
    await story.passes(journal)
    await journal.synced(name)
    assert story.till.drain(journal) == [b"a"]
    await journal.close()


async def test_a_failing_disk_is_tried_less_and_less_often(story: Story) -> None:
    story.till.limits = replace(QUICK, sync_interval=0.02)
    journal = await begun(story)
    story.trouble.sync = BROKEN
    journal.append(b"a", kind=1)
    pauses = []
    for _ in range(12):
        await story.passes(journal)
        pauses.append(journal._syncer._pause())
    assert pauses[:4] == [0.04, 0.08, 0.16, 0.32]
    assert max(pauses) == syncing.LONGEST_PAUSE_S
    story.trouble.sync = None
    await story.passes(journal)
    assert not journal._syncer._failures
    await journal.close()


async def test_a_failing_disk_is_not_filled_with_copies(story: Story) -> None:
    journal = await begun(story)
    story.trouble.sync = BROKEN
    journal.append(b"a", kind=1)
    await story.passes(journal, 30)
    assert len(story.chunks()) <= syncing.KEPT_COPIES + 1
    story.trouble.sync = None
    await story.passes(journal)
    assert len(story.chunks()) == 1
    assert story.till.drain(journal) == [b"a"]
    await journal.close()


async def test_past_a_burden_no_more_is_captured_until_the_disk_is_well(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tillstream_agent.journal.journal.MAX_BURDEN", 113)
    journal = await begun(story)
    story.trouble.sync = BROKEN
    journal.append(bytes(101), kind=1)
    journal.append(b"not tried yet", kind=1)
    await story.passes(journal)
    with pytest.raises(JournalError, match="takes nothing"):
        journal.append(b"refused", kind=1)
    story.trouble.sync = None
    await story.passes(journal)
    journal.append(b"taken", kind=1)
    await story.passes(journal)
    assert story.till.drain(journal) == [bytes(101), b"not tried yet", b"taken"]
    await journal.close()


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
    await journal.close()


async def test_who_waits_for_an_earlier_run_is_cancelled_at_the_end(story: Story) -> None:
    for _ in range(20):
        last = (await begun(story)).append(b"x", kind=1)
    journal = await begun(story)
    waiting = asyncio.create_task(journal.synced(last))
    await asyncio.sleep(0)
    story.trouble.sync = BROKEN
    await journal.close()
    with pytest.raises(JournalError):
        await waiting


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


async def test_without_room_for_a_footer_the_chunk_is_searched_in_memory(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tillstream_agent.journal.tags.EXACT", 0)
    journal = await begun(story)
    name = journal.append(b"a", kind=1, tag=tag(1))
    story.trouble.write, story.trouble.write_part = FULL, 5
    with pytest.raises(JournalError):
        journal.roll()
    story.trouble.write = None
    await story.passes(journal)
    for i in range(2, 6):
        journal.append(b"b", kind=1, tag=tag(i))
    seen = journal.find(tag(1))
    assert seen is not None
    assert (seen.name, seen.check) == (name, None)
    await journal.close()


async def test_a_chunk_that_could_not_be_begun_nor_removed_is_put_away_at_the_next_start(story: Story) -> None:
    journal = await begun(story)
    journal.append(b"a", kind=1)
    story.trouble.write, story.trouble.write_part, story.trouble.unlink = FULL, 100, BROKEN
    with pytest.raises(JournalError):
        journal.roll()
    story.trouble.write = story.trouble.unlink = None
    journal.append(b"b", kind=1)
    await journal.close()
    again = await story.till.start()
    assert again.damage == ()
    assert (story.folder / "0000000002.damaged").exists()
    await again.synced(again.append(b"c", kind=1))
    assert story.till.drain(again) == [b"a", b"b", b"c"]
    await again.close()


async def test_of_two_copies_the_later_counts_also_where_the_earlier_is_damaged(story: Story) -> None:
    journal = await begun(story)
    for i in range(4):
        journal.append(b"%d" % i, kind=1, spends=[Spend(LEASE, 1)])
    story.trouble.sync = BROKEN
    await story.passes(journal)
    path = story.folder / "0000000001.chunk"
    data = bytearray(path.read_bytes())
    data[data.index(b"TSFR", data.index(b"TSFR") + 1) + 70] ^= 1
    path.write_bytes(bytes(data))
    story.trouble.sync = None
    again = await story.till.start()
    assert again.spent == {LEASE: 4}
    assert again.queue().records == 4
    assert again.damage == ()
    await again.close()


async def test_the_end_of_every_epoch_on_disk_is_told(story: Story) -> None:
    first = await begun(story)
    first.append(b"a", kind=1)
    first.roll()
    first.append(b"b", kind=1)
    second = await begun(story)
    assert second.ends == {first.position.epoch: (2, 2)}
    assert not second.clean_end
    await second.close()
    third = await story.till.start()
    assert third.clean_end
    assert third.ends[second.position.epoch] == (3, 0)
    await third.close()


async def test_whoever_sends_is_woken_after_every_pass(story: Story) -> None:
    journal = await begun(story)
    woken: list[int] = []
    journal.set_wakeup(lambda: woken.append(journal.queue().records))
    journal.append(b"a", kind=1)
    await story.passes(journal)
    assert woken == [1]
    await journal.close()


async def test_a_chunk_that_was_swept_before_it_was_finished_is_no_trouble(story: Story) -> None:
    await begun(story)
    journal = await begun(story)
    journal.discard(journal.sweep())
    await story.passes(journal)
    assert not any(line.startswith("set aside") for line in story.till.diary.lines)
    await journal.close()


class HungSync:
    """Syncs of files that do not return until they are let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.let_go = asyncio.Event()
        monkeypatch.setattr(TroubledFile, "sync", self._hang)

    async def _hang(self) -> None:
        await self.let_go.wait()


async def test_who_waits_for_a_disk_that_hangs_is_told_after_two_seconds(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(syncing, "PATIENCE_S", 0.05)
    journal = await begun(story)
    hung = HungSync(monkeypatch)
    name = journal.append(b"a", kind=1)
    waiting = asyncio.create_task(journal.synced(name))
    await asyncio.sleep(0)
    a_pass = asyncio.create_task(story.passes(journal))
    await asyncio.sleep(0)
    story.till.clock.turn(1)
    with pytest.raises(JournalError, match="disk does not take it"):
        await waiting
    with pytest.raises(JournalError, match="disk does not take it"):
        await journal.synced(name)
    assert story.till.diary.lines.count("stuck 1 1") == 1
    hung.let_go.set()
    await a_pass
    await journal.synced(name)
    assert story.till.drain(journal) == [b"a"]
    await journal.close()


async def test_while_the_disk_hangs_no_more_is_captured_than_its_burden(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tillstream_agent.journal.journal.MAX_BURDEN", 113)
    journal = await begun(story)
    hung = HungSync(monkeypatch)
    journal.append(bytes(113), kind=1)
    a_pass = asyncio.create_task(story.passes(journal))
    await asyncio.sleep(0)
    journal.append(b"b", kind=1)
    with pytest.raises(JournalError, match="takes nothing"):
        journal.append(b"refused", kind=1)
    hung.let_go.set()
    await a_pass
    journal.append(b"c", kind=1)
    await story.passes(journal)
    assert journal._syncer.burden == 0
    assert story.till.drain(journal) == [bytes(113), b"b", b"c"]
    await journal.close()


async def test_a_capture_that_begins_a_chunk_waits_for_no_sync(story: Story) -> None:
    journal = await begun(story)
    story.trouble.sync = story.trouble.sync_folder = BROKEN
    journal.append(Random(1).randbytes(5000), kind=1)
    name = journal.append(b"b", kind=1)
    assert len(story.chunks()) == 2
    story.trouble.sync = story.trouble.sync_folder = None
    await story.passes(journal)
    await journal.synced(name)
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


async def test_what_was_synced_is_told_and_why_it_was_not(story: Story) -> None:
    story.till.diary = Reasons()
    story.till.clock.turn(5)
    journal = await begun(story)
    epoch = journal.position.epoch
    journal.append(b"a", kind=1)
    journal.append(b"b", kind=1)
    await story.passes(journal)
    story.till.clock.turn(10)
    journal.acknowledge(epoch, [Range(0, 0)])
    assert journal.queue().oldest_ms == 10_000, "both are as old as the sync that made them ready"
    journal.append(b"c", kind=1)
    story.trouble.sync = BROKEN
    await story.passes(journal)
    story.trouble.sync = None
    await story.passes(journal)
    said = story.till.diary.lines
    assert "synced 2 in 0" in said
    assert "sync failed 1: [Errno 5] planted" in said
    await journal.close()


async def test_each_time_a_disk_is_stuck_is_told_with_all_that_waits(story: Story) -> None:
    journal = await begun(story)
    for when in (1, 2):
        story.till.clock.turn(10)
        journal.append(b"a", kind=1)
        story.trouble.sync, story.trouble.create = BROKEN, FULL
        await story.passes(journal)
        story.till.clock.turn(3)
        await story.passes(journal)
        assert story.till.diary.lines.count("stuck 1 3") == when
        story.trouble.sync = story.trouble.create = None
        await story.passes(journal, 2)
    await journal.close()


async def test_who_gave_up_waiting_does_not_keep_others_waiting(story: Story) -> None:
    journal = await begun(story)
    name = journal.append(b"a", kind=1)
    first, second = (asyncio.create_task(journal.synced(name)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    await story.passes(journal)
    await asyncio.wait_for(second, 5)
    await journal.close()


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
    story.trouble.cut = None
    await story.passes(journal, 3)
    assert all_is_safe(journal)
    await journal.close()
    again = await begun(story)
    await story.passes(again)
    assert again.damage == ()
    assert sorted(story.till.drain(again)) == plains
    await again.close()


def test_the_systems_errors_are_told_as_ours() -> None:
    broken = translate(OSError(BROKEN, "planted"), "it could not be done")
    assert (type(broken), str(broken)) == (JournalError, "it could not be done: planted")
    assert broken.hint == "see tillstream-agent doctor"
    assert "it could not be done: odd" in str(translate(OSError("odd"), "it could not be done"))
    assert type(translate(OSError(FULL, "planted"), "it could not be done")) is JournalFull


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
    assert story.till.drain(journal) == [b"a", b"b"]
    await journal.close()
