"""A disk that fails or hangs loses nothing that was acknowledged, and nobody waits for it for ever."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from support.disks import BROKEN, FULL, TroubledFile
from support.stories import LEASE, QUICK, Story, all_is_safe, begun, tag
from support.tills import Reasons, crash
from tillstream_agent.journal import JournalError, JournalFull, syncing
from tillstream_agent.journal.errors import translate
from tillstream_protocol.framing import FRAMES_START, Frame, Spend, read_footer, scan
from tillstream_protocol.messages import Range


@pytest.fixture
def story(tmp_path: Path) -> Story:
    return Story(tmp_path)


def at_sync(monkeypatch: pytest.MonkeyPatch, number: int, happens: Callable[[], Awaitable[None]]) -> None:
    """Have something happen when a file is synced for the so-manieth time, before it is."""
    sync, calls = TroubledFile.sync, itertools.count(1)

    async def counted(file: TroubledFile) -> None:
        if next(calls) == number:
            await happens()
        await sync(file)

    monkeypatch.setattr(TroubledFile, "sync", counted)


async def fails() -> None:
    """What a broken disk says."""
    raise OSError(BROKEN, "planted")


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


async def test_one_who_no_longer_waits_holds_up_nobody_behind(story: Story) -> None:
    journal = await begun(story)
    first, second = (asyncio.create_task(journal.synced(journal.append(b"x", kind=1))) for _ in range(2))
    await asyncio.sleep(0.01)
    first.cancel()
    await asyncio.sleep(0)
    await story.passes(journal)
    async with asyncio.timeout(5):
        await second
    await journal.close()


async def test_a_lone_record_is_synced_at_once_and_one_soon_after_waits_for_company(story: Story) -> None:
    story.till.limits = replace(QUICK, sync_interval=3600)
    journal = await story.till.start()
    await asyncio.sleep(0.05)
    story.till.clock.turn(3600)
    journal.append(b"alone", kind=1)
    async with asyncio.timeout(5):
        while not all_is_safe(journal):
            await asyncio.sleep(0.001)
    journal.append(b"soon after", kind=1)
    await asyncio.sleep(0.1)
    assert not all_is_safe(journal)
    await journal.close()
    assert all_is_safe(journal)


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


async def test_what_moves_for_an_earlier_failure_is_synced_at_once(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing fails in that pass: to wait after it would leave more to a power cut for no reason."""
    story.till.diary = Reasons()
    journal = await begun(story)
    journal.append(b"a", kind=1)
    journal.roll()
    journal.append(b"b", kind=1)
    story.trouble.sync_folder = BROKEN
    monkeypatch.setattr(story.till.diary, "sync_failed", lambda *_: setattr(story.trouble, "sync_folder", None))
    await story.passes(journal)
    assert journal._syncer._failures == 1
    chunks = story.chunks()
    await story.passes(journal)
    assert story.chunks() != chunks, "the second chunk was begun before the folder failed: it moves now"
    assert journal._syncer._dirty.is_set()
    assert journal._syncer._failures == 0
    await story.passes(journal)
    assert journal.safe
    assert story.till.drain(journal) == [b"a", b"b"]
    await journal.close()


async def test_what_moved_from_an_open_file_is_no_safer_until_the_next_pass_which_does_not_wait(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    story.till.diary = Reasons()
    await crash_with_a_record(story)
    journal = await begun(story)
    journal.append(b"b", kind=1)
    fails_once(story, monkeypatch)
    journal._syncer._dirty.clear()
    await story.passes(journal)
    assert "sync failed 2: [Errno 5] the folder's sync failed after the file was begun" in story.till.diary.lines
    assert not journal.safe, "the folder failed for what the former run left: the open file moves, and is to be synced"
    assert journal._syncer._dirty.is_set()
    assert journal._syncer._failures == 0
    assert len(story.chunks()) == 3, "the former file stays, since nothing says that the new one is on the disk"
    await story.passes(journal, 2)
    assert len(story.chunks()) == 2
    assert story.till.drain(journal) == [b"a", b"b"]
    await journal.close()


async def crash_with_a_record(story: Story) -> None:
    journal = await begun(story)
    journal.append(b"a", kind=1)
    await crash(journal)


def fails_once(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the folder's next sync fail, and none after it."""
    sync_folder = story.disk.sync_folder

    async def fail() -> None:
        monkeypatch.setattr(story.disk, "sync_folder", sync_folder)
        raise OSError(BROKEN, "planted")

    monkeypatch.setattr(story.disk, "sync_folder", fail)


async def test_a_footer_that_could_not_be_synced_is_told_of(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    story.till.diary = Reasons()
    journal = await begun(story)
    journal.append(b"a", kind=1)
    journal.roll()
    at_sync(monkeypatch, 2, fails)
    await story.passes(journal)
    assert story.till.diary.lines[-1] == "sync failed 1: [Errno 5] planted"
    assert journal.safe
    await journal.close()


async def test_a_chunk_gets_one_footer_though_the_pass_that_gives_it_is_cut_short(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = await begun(story)
    journal.append(b"a", kind=1)
    journal.roll()
    hangs = asyncio.Event()

    async def hang() -> None:
        hangs.set()
        await asyncio.Event().wait()

    at_sync(monkeypatch, 2, hang)
    a_pass = asyncio.create_task(story.passes(journal))
    await hangs.wait()
    a_pass.cancel()
    await asyncio.gather(a_pass, return_exceptions=True)
    chunk = story.folder / "0000000001.chunk"
    size = chunk.stat().st_size
    await story.passes(journal)
    assert chunk.stat().st_size == size
    await journal.close()


async def test_what_moves_at_the_end_is_closed_and_synced_too(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = await begun(story)
    journal.append(b"a", kind=1)
    at_sync(monkeypatch, 1, fails)
    await journal.close()
    assert journal.safe
    data = (story.folder / "0000000002.chunk").read_bytes()
    (frame,) = (part for part in scan(data, FRAMES_START) if isinstance(part, Frame))
    assert read_footer(data[frame.end :]) is not None
    again = await story.till.start()
    assert again.queue().records == 1
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


def test_the_systems_errors_are_told_as_ours() -> None:
    broken = translate(OSError(BROKEN, "planted"), "it could not be done")
    assert (type(broken), str(broken)) == (JournalError, "it could not be done: planted")
    assert broken.hint == "see tillstream-agent doctor"
    assert "it could not be done: odd" in str(translate(OSError("odd"), "it could not be done"))
    assert type(translate(OSError(FULL, "planted"), "it could not be done")) is JournalFull


async def test_a_record_waits_for_company_as_long_as_an_interval_from_the_last_pass_lasts(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    story.till.limits = replace(QUICK, sync_interval=0.5)
    journal = await story.till.start()
    call_later = loop.call_later
    waits: list[float] = []

    def at_once(delay: float, callback: Callable[..., None], *args: object) -> asyncio.TimerHandle:
        if callback == journal._syncer._urgent.set:
            waits.append(delay)
            delay = 0.0
        return call_later(delay, callback, *args)

    monkeypatch.setattr(loop, "call_later", at_once)
    for since in (0.0, 0.125, 0.25, 0.5, 7.0):
        story.till.clock.turn(since)
        journal.append(b"a", kind=1)
        async with asyncio.timeout(5):
            while not all_is_safe(journal):
                await asyncio.sleep(0.001)
    assert waits == [0.0, 0.375, 0.25, 0.0, 0.0]
    await journal.close()
