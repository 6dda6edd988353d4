"""What earlier runs left is made to survive a power cut, or is doubted, and what is doubted is never called safe."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from support.disks import BROKEN, FULL
from support.stories import Story, all_is_safe, begun, doubts, inherited_is_safe, retry_of, tag
from support.tills import Reasons, crash
from tillstream_agent.journal import JournalError, syncing
from tillstream_agent.journal.inherited import TRIES
from tillstream_protocol.messages import Range


@pytest.fixture
def story(tmp_path: Path) -> Story:
    return Story(tmp_path)


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


async def test_a_doubt_is_marked_as_long_as_it_lasts(story: Story) -> None:
    journal = await begun(story)
    journal.append(b"a", kind=1)
    story.trouble.sync = BROKEN
    await story.passes(journal)
    assert doubts(story) == ["0000000001.doubt"]
    story.trouble.sync = None
    await story.passes(journal, 2)
    assert doubts(story) == []
    assert 1 not in journal._syncer._doubts
    assert 1 not in journal._syncer._tags._unsettled
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
    assert story.trouble.syncs == before, "not even the open chunk, to which nothing was added"
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


async def test_a_doubtful_file_is_tried_again_by_itself(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syncing, "RENEW_AFTER_S", 0.01)
    killed = await begun(story)
    name = killed.append(b"a", kind=1)
    story.trouble.sync_fails_of, story.trouble.rename = "0000000001.chunk", BROKEN
    journal = await story.till.start()
    with pytest.raises(JournalError):
        await journal.synced(name)
    story.trouble.sync_fails_of = story.trouble.rename = None
    story.till.clock.turn(2)
    async with asyncio.timeout(5):
        while not inherited_is_safe(journal):
            await asyncio.sleep(0.005)
    await journal.close()


async def test_a_file_that_cannot_be_written_anew_holds_up_no_other(story: Story) -> None:
    names = []
    for plain in (b"a", b"b"):
        killed = await begun(story)
        names.append(killed.append(plain, kind=1))
    journal = await begun(story)
    story.trouble.sync = BROKEN
    await story.passes(journal)
    story.trouble.sync, story.trouble.unreadable = None, "0000000001.chunk"
    for _ in range(2):
        story.till.clock.turn(2)
        await story.passes(journal)
    await journal.synced(names[1])
    assert not inherited_is_safe(journal)
    await journal.close()


async def test_the_name_of_a_file_is_not_safe_before_its_folder_was_synced(story: Story) -> None:
    killed = await begun(story)
    killed.append(b"a", kind=1)
    journal = await begun(story)
    story.trouble.sync_folder = BROKEN
    await story.passes(journal)
    assert not inherited_is_safe(journal)
    await crash(journal)


async def test_a_pass_takes_as_many_chunks_on_a_machine_that_has_run_for_long(story: Story) -> None:
    for _ in range(3):
        (await begun(story)).append(b"x", kind=1)
    story.till.clock.turn(100_000)
    journal = await begun(story)
    await story.passes(journal)
    assert inherited_is_safe(journal)
    await journal.close()


async def test_a_file_that_says_something_when_it_is_closed_was_synced_all_the_same(story: Story) -> None:
    (await begun(story)).append(b"x", kind=1)
    journal = await begun(story)
    story.trouble.close = BROKEN
    await story.passes(journal)
    story.trouble.close = None
    assert inherited_is_safe(journal)
    await journal.close()


async def test_a_folder_that_fails_puts_every_file_in_doubt_before_any_is_written_anew(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        (await begun(story)).append(b"x", kind=1)
    journal = await begun(story)
    marked: list[list[str]] = []
    copy = story.disk.copy

    async def noted(*about: Any) -> None:
        marked.append(doubts(story))
        await copy(*about)

    monkeypatch.setattr(story.disk, "copy", noted)
    story.trouble.sync_folder = BROKEN
    await story.passes(journal)
    assert marked[0][:2] == ["0000000001.doubt", "0000000002.doubt"], "the process may end now"
    story.trouble.sync_folder = None
    await journal.close()


async def test_a_finished_file_that_is_doubted_is_written_anew_later_too(story: Story) -> None:
    first = await begun(story)
    name = first.append(b"x", kind=1)
    await first.close()
    journal = await begun(story)
    story.trouble.sync = BROKEN
    await story.passes(journal)
    assert not inherited_is_safe(journal)
    story.trouble.sync = None
    story.till.clock.turn(2)
    await story.passes(journal)
    assert inherited_is_safe(journal)
    await journal.synced(name)
    await journal.close()
