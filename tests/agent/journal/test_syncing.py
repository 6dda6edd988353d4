"""A disk that fails to sync loses nothing that was acknowledged, and nobody waits for it for ever."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from support.disks import BROKEN, FULL, TroubledDisk, TroubledFile
from support.tills import Reasons, TestTill, crash
from tillstream_agent.journal import Journal, JournalError, syncing
from tillstream_agent.journal.inherited import TRIES
from tillstream_protocol.framing import Spend
from tillstream_protocol.limits import DEFAULT
from tillstream_protocol.messages import Range

QUICK = replace(DEFAULT, chunk=4096, sync_interval=0.0, reserve=0)
LEASE = b"l" * 16


def tag(number: int) -> bytes:
    return number.to_bytes(16, "big")


class Story:
    """A till on a disk that can be made to fail."""

    def __init__(self, folder: Path) -> None:
        self.disk = TroubledDisk(folder)
        self.trouble = self.disk.trouble
        self.till = TestTill(folder, QUICK, self.disk)
        self.folder = folder

    async def passes(self, journal: Journal, count: int = 1) -> None:
        """Let the journal try to sync so many times."""
        for _ in range(count):
            await journal._syncer.sync_all()

    def chunks(self) -> list[str]:
        return sorted(path.name for path in self.folder.glob("*.chunk"))


@pytest.fixture
def story(tmp_path: Path) -> Story:
    return Story(tmp_path)


async def begun(story: Story) -> Journal:
    """A journal whose own task sleeps, so that every pass is the test's."""
    journal = await story.till.start()
    await crash(journal)
    return journal


def inherited_is_safe(journal: Journal) -> bool:
    return journal.inherited_safe


def all_is_safe(journal: Journal) -> bool:
    return journal.safe


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


async def test_what_a_killed_run_left_is_called_safe_once_it_was_synced(story: Story) -> None:
    killed = await begun(story)
    name = killed.append(b"a", kind=1)
    journal = await begun(story)
    assert not inherited_is_safe(journal)
    waiting = asyncio.create_task(journal.synced(name))
    await asyncio.sleep(0)
    assert not waiting.done()
    await story.passes(journal)
    await waiting
    assert inherited_is_safe(journal)
    assert all_is_safe(journal)
    journal.append(b"b", kind=1)
    assert not all_is_safe(journal)
    await journal.close()
    assert all_is_safe(journal)


async def test_a_file_of_a_killed_run_that_fails_to_sync_is_written_anew(story: Story) -> None:
    killed = await begun(story)
    name = killed.append(b"a", kind=1)
    journal = await begun(story)
    story.trouble.sync_fails_of = "0000000001.chunk"
    before = (story.folder / "0000000001.chunk").stat().st_ino
    await story.passes(journal)
    assert (story.folder / "0000000001.chunk").stat().st_ino != before
    assert not list(story.folder.glob("*.new"))
    await journal.synced(name)
    assert story.till.drain(journal) == [b"a"]
    await journal.close()


async def test_where_that_fails_too_it_is_sent_and_nobody_is_told_that_it_is_safe(story: Story) -> None:
    killed = await begun(story)
    name = killed.append(b"a", kind=1)
    journal = await begun(story)
    waiting = asyncio.create_task(journal.synced(name))
    await asyncio.sleep(0)
    story.trouble.sync = BROKEN
    await story.passes(journal)
    with pytest.raises(JournalError):
        await waiting
    assert not inherited_is_safe(journal)
    assert not list(story.folder.glob("*.new"))
    asked_again = asyncio.create_task(journal.synced(name))
    await asyncio.sleep(0)
    story.till.clock.turn(2)
    await story.passes(journal)
    with pytest.raises(JournalError):
        await asked_again
    piece = journal.next_slice("backlog", 1 << 20)
    assert piece is not None
    story.trouble.sync = None
    (story.folder / "0000000001.new").write_bytes(b"left by a run that was killed while it wrote it")
    await story.passes(journal)
    assert not inherited_is_safe(journal), "it is not tried all the time"
    healed = asyncio.create_task(journal.synced(name))
    await asyncio.sleep(0)
    story.till.clock.turn(2)
    await story.passes(journal)
    await healed
    assert inherited_is_safe(journal)
    await journal.synced(name)
    await journal.close()


async def test_the_servers_word_makes_safe_what_the_disk_does_not(story: Story) -> None:
    killed = await begun(story)
    name = killed.append(b"a", kind=1)
    journal = await begun(story)
    story.trouble.sync = BROKEN
    await story.passes(journal)
    journal.acknowledge(name.epoch, [Range(0, 0)])
    await journal.synced(name)
    assert inherited_is_safe(journal)
    assert "0000000001.doubt" in doubts(story)
    story.till.clock.turn(2)
    story.trouble.sync = None
    await story.passes(journal, 2)
    assert doubts(story) == []
    await journal.close()


async def test_a_file_of_a_killed_run_that_cannot_be_opened_is_tried_again_before_it_is_sent(story: Story) -> None:
    killed = await begun(story)
    killed.append(b"a", kind=1)
    story.trouble.append_to = BROKEN
    journal = await begun(story)
    await story.passes(journal, 2)
    assert journal.next_slice("backlog", 1 << 20) is None
    story.trouble.append_to = None
    await story.passes(journal)
    assert inherited_is_safe(journal)
    assert story.till.drain(journal) == [b"a"]
    await journal.close()


async def test_on_a_disk_that_can_only_be_read_everything_is_sent_all_the_same(story: Story) -> None:
    killed = await begun(story)
    killed.append(b"a", kind=1)
    story.trouble.append_to = story.trouble.create = BROKEN
    journal = await begun(story)
    await story.passes(journal, 6)
    assert story.till.drain(journal) == [b"a"]
    await journal.close()


async def test_many_chunks_of_earlier_runs_do_not_hold_up_what_is_new(story: Story) -> None:
    for _ in range(20):
        (await begun(story)).append(b"x", kind=1)
    journal = await begun(story)
    name = journal.append(b"new", kind=1)
    waiting = asyncio.create_task(journal.synced(name))
    await asyncio.sleep(0)
    await story.passes(journal)
    await waiting
    assert not inherited_is_safe(journal)
    await story.passes(journal, 2)
    assert inherited_is_safe(journal)
    assert len(story.till.drain(journal)) == 21
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


async def test_who_gave_up_waiting_is_left_alone(story: Story) -> None:
    killed = await begun(story)
    old = killed.append(b"a", kind=1)
    journal = await begun(story)
    waiting = [asyncio.create_task(journal.synced(name)) for name in (old, journal.append(b"b", kind=1))]
    await asyncio.sleep(0)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await story.passes(journal)
    assert all_is_safe(journal)
    assert all(task.cancelled() for task in waiting)
    await journal.close()


async def test_a_doubtful_file_that_the_server_holds_by_now_is_not_written_anew(story: Story) -> None:
    killed = await begun(story)
    name = killed.append(b"a", kind=1)
    journal = await begun(story)
    story.trouble.sync = BROKEN
    await story.passes(journal)
    story.trouble.sync = None
    journal.acknowledge(name.epoch, [Range(0, 0)])
    creates = story.trouble.creates
    story.till.clock.turn(2)
    await story.passes(journal)
    assert story.trouble.creates == creates
    await journal.close()


async def test_a_disk_that_keeps_failing_puts_a_doubtful_file_off_again(story: Story) -> None:
    killed = await begun(story)
    killed.append(b"a", kind=1)
    journal = await begun(story)
    story.trouble.sync = BROKEN
    await story.passes(journal)
    creates = story.trouble.creates
    story.till.clock.turn(2)
    await story.passes(journal, 3)
    assert story.trouble.creates == creates + 1
    assert not inherited_is_safe(journal)
    story.trouble.sync = None
    await journal.close()


async def test_a_chunk_that_there_is_no_room_to_finish_is_sent_and_found_all_the_same(story: Story) -> None:
    killed = await begun(story)
    name = killed.append(b"a", kind=1, tag=tag(1))
    journal = await begun(story)
    size = (story.folder / "0000000001.chunk").stat().st_size
    story.trouble.write, story.trouble.write_part = FULL, 10
    await story.passes(journal)
    story.trouble.write = None
    assert (story.folder / "0000000001.chunk").stat().st_size == size
    assert "set aside 0000000001.chunk" in story.till.diary.lines
    seen = journal.find(tag(1))
    assert seen is not None
    assert seen.name == name
    assert story.till.drain(journal) == [b"a"]
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


async def retry_of(journal: Journal) -> asyncio.TimerHandle | None:
    """What wakes the syncer for a doubtful file, once the pass that found it is over."""
    async with asyncio.timeout(5):
        while journal._syncer._again is None:
            await asyncio.sleep(0.001)
    return journal._syncer._again


async def test_a_doubtful_file_is_tried_again_though_nothing_else_happens(story: Story) -> None:
    killed = await begun(story)
    name = killed.append(b"a", kind=1)
    story.trouble.sync = BROKEN
    journal = await story.till.start()
    with pytest.raises(JournalError):
        await journal.synced(name)
    timer = await retry_of(journal)
    assert timer is not None
    story.trouble.sync = None
    story.till.clock.turn(2)
    timer.cancel()
    journal._syncer._try_again()
    await journal.synced(name)
    assert inherited_is_safe(journal)
    await journal.close()


async def test_the_end_does_not_wait_for_a_doubtful_file(story: Story) -> None:
    killed = await begun(story)
    name = killed.append(b"a", kind=1)
    story.trouble.sync = BROKEN
    journal = await story.till.start()
    with pytest.raises(JournalError):
        await journal.synced(name)
    timer = await retry_of(journal)
    waiting = asyncio.create_task(journal.synced(name))
    await asyncio.sleep(0)
    await journal.close()
    assert timer is not None
    assert timer.cancelled()
    with pytest.raises(asyncio.CancelledError):
        await waiting


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


def doubts(story: Story) -> list[str]:
    return sorted(path.name for path in story.folder.glob("*.doubt"))


async def test_a_doubt_is_marked_as_long_as_it_lasts(story: Story) -> None:
    journal = await begun(story)
    journal.append(b"a", kind=1)
    story.trouble.sync = BROKEN
    await story.passes(journal)
    assert doubts(story) == ["0000000001.doubt"]
    story.trouble.sync = None
    await story.passes(journal, 2)
    assert doubts(story) == []
    await journal.close()


async def test_what_the_last_run_doubted_is_written_anew_though_its_sync_succeeds(story: Story) -> None:
    killed = await begun(story)
    killed.append(b"a", kind=1)
    before = (story.folder / "0000000001.chunk").stat().st_ino
    (story.folder / "0000000001.doubt").touch()
    journal = await begun(story)
    await story.passes(journal)
    assert (story.folder / "0000000001.chunk").stat().st_ino != before
    assert doubts(story) == []
    assert story.till.drain(journal) == [b"a"]
    await journal.close()


async def test_doubts_of_nothing_are_cleared_and_other_files_left(story: Story) -> None:
    (story.folder / "0000000009.doubt").touch()
    (story.folder / "not a number.doubt").touch()
    journal = await begun(story)
    assert doubts(story) == ["not a number.doubt"]
    assert journal.damage == ()
    await journal.close()


async def test_a_disk_that_takes_no_marker_is_no_reason_to_stop(story: Story) -> None:
    journal = await begun(story)
    journal.append(b"a", kind=1)
    story.trouble.sync = story.trouble.create = BROKEN
    await story.passes(journal, 2)
    assert doubts(story) == []
    story.trouble.sync = story.trouble.create = None
    await story.passes(journal, 2)
    assert all_is_safe(journal)
    assert story.till.drain(journal) == [b"a"]
    await journal.close()


async def test_a_marker_that_cannot_be_removed_stays_for_the_next_time(story: Story) -> None:
    journal = await begun(story)
    journal.append(b"a", kind=1)
    story.trouble.sync = story.trouble.unlink = BROKEN
    await story.passes(journal)
    story.trouble.sync = None
    await story.passes(journal)
    assert doubts(story) == ["0000000001.doubt"]
    await journal.close()
    story.trouble.unlink = None
    again = await begun(story)
    await story.passes(again)
    assert story.till.drain(again) == [b"a"]
    again.discard(again.sweep())
    await again.close()
    await (await begun(story)).close()
    assert doubts(story) == []


async def test_what_can_be_neither_trusted_nor_written_anew_is_synced_as_it_is_before_it_is_sent(story: Story) -> None:
    killed = await begun(story)
    killed.append(b"a", kind=1)
    (story.folder / "0000000001.doubt").touch()
    journal = await begun(story)
    story.trouble.rename = BROKEN
    before = story.trouble.syncs
    await story.passes(journal)
    assert story.trouble.syncs == before + 3, "the copy, the file itself, and the open chunk"
    assert story.till.drain(journal) == [b"a"]
    assert doubts(story) == ["0000000001.doubt"]
    await journal.close()


async def test_captures_have_their_turn_while_many_records_are_sealed_anew(story: Story) -> None:
    journal = await begun(story)
    plains = [b"%d" % number for number in range(3 * syncing.AT_ONCE)]
    for plain in plains:
        journal.append(plain, kind=1)
    story.trouble.sync_fails_of = "0000000001.chunk"
    a_pass = asyncio.create_task(story.passes(journal))
    between = 0
    while not a_pass.done():
        await asyncio.sleep(0)
        if 0 < journal._syncer.homeless < len(plains):
            plains.append(b"between %d" % between)
            journal.append(plains[-1], kind=1)
            between += 1
    assert between
    await story.passes(journal, 2)
    assert all_is_safe(journal)
    assert journal._syncer.burden == 0
    assert sorted(story.till.drain(journal)) == sorted(plains)
    assert journal.queue().records == 0
    await journal.close()


async def test_a_rewind_makes_nothing_of_this_run_an_inheritance(story: Story) -> None:
    journal = await begun(story)
    epoch = journal.append(b"a", kind=1).epoch
    await story.passes(journal)
    journal.acknowledge(epoch, [Range(0, 0)])
    journal.append(b"not synced yet", kind=1)
    assert journal.unacknowledge(epoch, [Range(0, 0)]) == 1
    assert inherited_is_safe(journal)
    assert not all_is_safe(journal)
    await story.passes(journal)
    await journal.close()


async def test_a_rewind_syncs_nothing_again_that_was_synced(story: Story) -> None:
    killed = await begun(story)
    name = killed.append(b"a", kind=1)
    journal = await begun(story)
    await story.passes(journal)
    journal.acknowledge(name.epoch, [Range(0, 0)])
    assert journal.unacknowledge(name.epoch, [Range(0, 0)]) == 1
    assert inherited_is_safe(journal)
    before = story.trouble.syncs
    await story.passes(journal)
    assert story.trouble.syncs == before + 1, "the open chunk alone"
    await journal.close()


async def test_a_file_that_cannot_be_opened_is_tried_five_times_and_then_sent_but_not_called_safe(story: Story) -> None:
    killed = await begun(story)
    name = killed.append(b"a", kind=1)
    await story.passes(killed)
    killed._chain.close()
    story.till.diary = Reasons()
    journal = await begun(story)
    story.trouble.append_to = story.trouble.create = BROKEN
    for _ in range(TRIES - 1):
        await story.passes(journal)
        assert journal.next_slice("backlog", 1 << 20) is None
    waiting = asyncio.create_task(journal.synced(name))
    await asyncio.sleep(0)
    await story.passes(journal)
    assert journal.next_slice("backlog", 1 << 20) is not None
    with pytest.raises(JournalError):
        await waiting
    assert not inherited_is_safe(journal)
    said = story.till.diary.lines
    assert said.count("sync failed 1: [Errno 5] planted") == TRIES
    await crash(journal)


async def test_why_a_file_could_not_be_made_safe_is_told(story: Story) -> None:
    killed = await begun(story)
    killed.append(b"a", kind=1)
    story.till.diary = Reasons()
    journal = await begun(story)
    story.trouble.sync = BROKEN
    await story.passes(journal)
    assert "sync failed 1: [Errno 5] planted" in story.till.diary.lines
    assert "set aside 0000000001.chunk: it could not be written anew: planted" in story.till.diary.lines
    await crash(journal)


async def test_whoever_gave_up_waiting_does_not_keep_the_next_from_being_told(story: Story) -> None:
    killed = await begun(story)
    name = killed.append(b"a", kind=1)
    journal = await begun(story)
    first, second = (asyncio.create_task(journal.synced(name)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    await story.passes(journal)
    await asyncio.wait_for(second, 5)
    await journal.close()


async def test_why_a_torn_tail_could_not_be_put_away_is_told(story: Story) -> None:
    killed = await begun(story)
    killed.append(b"a", kind=1)
    with (story.folder / "0000000001.chunk").open("ab") as file:
        file.write(b"TSFR torn")
    story.till.diary = Reasons()
    journal = await begun(story)
    (damage,) = journal.damage
    journal.reported(damage)
    story.trouble.create = BROKEN
    await story.passes(journal)
    assert "set aside 0000000001.chunk: its torn tail could not be put away: planted" in story.till.diary.lines
    await crash(journal)
