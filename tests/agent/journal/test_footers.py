"""Footers and the syncs before them: what is closed while its sync fails, what nobody waits for, what gets none."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from support.disks import BROKEN, FULL
from support.stories import Story, begun, doubts, tag
from support.tills import crash
from tillstream_agent.journal import JournalFull
from tillstream_protocol.framing import FRAMES_START, Frame, read_footer, scan
from tillstream_protocol.messages import Range


@pytest.fixture
def story(tmp_path: Path) -> Story:
    return Story(tmp_path)


@pytest.mark.parametrize("ends_in_order", [False, True])
async def test_a_chunk_that_was_closed_while_its_sync_failed_keeps_its_records(
    story: Story, monkeypatch: pytest.MonkeyPatch, *, ends_in_order: bool
) -> None:
    journal = await begun(story)
    first = journal.append(b"a", kind=1, tag=tag(1))
    await story.passes(journal)
    acked = {first.epoch: (Range(0, 0),)}
    name = journal.append(os.urandom(4096), kind=1, tag=tag(2))  # the chunk is full now
    target = journal._chain.open
    assert target is not None
    sync = target.file.sync

    async def fails_on_a_full_disk() -> None:
        monkeypatch.setattr(target.file, "sync", sync)
        story.trouble.create = FULL
        with pytest.raises(JournalFull):
            journal.append(b"c", kind=1)
        raise OSError(FULL, "planted")

    monkeypatch.setattr(target.file, "sync", fails_on_a_full_disk)
    await story.passes(journal, 2)
    if ends_in_order:
        await journal.close()
    story.trouble.create = None
    again = await story.till.start(acked)
    try:
        seen = again.find(tag(2))
        assert seen is not None, "a killed process loses nothing that it acknowledged"
        assert seen.name == name
        assert again.queue().records == 1
    finally:
        await again.close()


async def test_after_close_no_chunk_is_open_and_none_is_without_its_footer(story: Story) -> None:
    journal = await begun(story)
    journal.append(b"a", kind=1, tag=tag(1))
    story.trouble.sync_fails_of = "0000000001.chunk"
    await journal.close()
    assert journal.safe
    again = await story.till.start()
    try:
        assert again.clean_end
        assert journal._chain.open is None
    finally:
        await again.close()


async def test_a_record_on_the_disk_is_said_to_be_safe_before_the_footer_is_synced(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = await begun(story)
    name = journal.append(b"a", kind=1)
    target = journal._chain.open
    assert target is not None
    journal.roll()
    sync, hang = target.file.sync, asyncio.Event()

    async def hangs_with_the_footer() -> None:
        monkeypatch.setattr(target.file, "sync", hang.wait)
        await sync()

    monkeypatch.setattr(target.file, "sync", hangs_with_the_footer)
    waiter = asyncio.ensure_future(journal.synced(name))
    await asyncio.sleep(0)
    passing = asyncio.ensure_future(journal._syncer.sync_all())
    done, _ = await asyncio.wait({waiter}, timeout=1)
    hang.set()
    await passing
    await waiter
    assert done


async def test_no_footer_is_written_to_an_acknowledged_chunk_that_is_in_doubt(story: Story) -> None:
    first = await begun(story)
    name = first.append(b"a", kind=1)
    story.trouble.sync_fails_of, story.trouble.rename = "0000000001.chunk", FULL
    second = await begun(story)  # can neither sync it nor write it anew, so sends it as it reads
    await story.passes(second, 2)
    assert story.till.drain(second) == [b"a"]
    assert doubts(story) == ["0000000001.doubt"]
    story.trouble.sync_fails_of = story.trouble.rename = None
    third = await story.till.start({name.epoch: (Range(0, 0),)})
    await crash(third)
    await story.passes(third)
    data = (story.folder / "0000000001.chunk").read_bytes()
    (frame,) = (part for part in scan(data, FRAMES_START) if isinstance(part, Frame))
    assert read_footer(data[frame.end :]) is None, "its frames may be on no disk"


async def test_of_a_chunk_written_anew_late_nothing_stays_in_memory(story: Story) -> None:
    first = await begun(story)
    first.append(b"a", kind=1)
    story.trouble.sync_fails_of, story.trouble.rename = "0000000001.chunk", FULL
    second = await begun(story)
    await story.passes(second, 2)
    story.trouble.sync_fails_of = story.trouble.rename = None
    story.till.clock.turn(5)
    await story.passes(second, 2)
    assert second.inherited_safe
    assert not second._inherited._unfinished
    await second.close()


async def test_what_has_no_home_is_known_exactly(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tillstream_agent.journal.tags.EXACT", 0)
    journal = await begun(story)
    name = journal.append(b"a", kind=1, tag=tag(1))
    target = journal._chain.open
    assert target is not None
    sync = target.file.sync

    async def fails() -> None:
        monkeypatch.setattr(target.file, "sync", sync)
        journal.roll()
        story.trouble.create = FULL
        raise OSError(BROKEN, "planted")

    monkeypatch.setattr(target.file, "sync", fails)
    await story.passes(journal, 2)
    story.trouble.create = None
    journal.append(b"b", kind=1, tag=tag(2))
    seen = journal.find(tag(1))
    await story.passes(journal)
    assert seen is not None
    assert seen.name == name
    await journal.close()
