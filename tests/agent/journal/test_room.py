"""A disk that runs full: captures are refused at once, what can be given up is, and it heals by itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from support.disks import BROKEN, TroubledDisk
from support.tills import TestTill, crash
from tillstream_agent.journal import Journal, JournalFull
from tillstream_agent.journal.room import EASE_CHUNKS
from tillstream_protocol.framing import FRAMES_START, Spend
from tillstream_protocol.limits import DEFAULT

RESERVE = 100_000
SMALL = replace(DEFAULT, chunk=4096, sync_interval=0.0, reserve=RESERVE)
ROOM = RESERVE + 1_000_000
LEASE = b"l" * 16


class Story:
    """A till on a disk that says what is free on it."""

    def __init__(self, folder: Path) -> None:
        self.disk = TroubledDisk(folder)
        self.trouble = self.disk.trouble
        self.trouble.free = ROOM
        self.till = TestTill(folder, SMALL, self.disk)

    async def begin(self) -> Journal:
        journal = await self.till.start()
        await crash(journal)
        return journal

    async def fill(self, journal: Journal, chunks: int, spends: tuple[Spend, ...] = ()) -> None:
        """Acknowledged chunks, and an open one; the acknowledgements were kept."""
        for _ in range(chunks):
            journal.append(bytes(500), kind=1, spends=spends)
            journal.roll()
        await self.passes(journal)
        self.till.drain(journal)
        journal.kept(dict(journal.acked()))

    async def passes(self, journal: Journal, count: int = 1) -> None:
        for _ in range(count):
            await journal._syncer.sync_all()


@pytest.fixture
def story(tmp_path: Path) -> Story:
    return Story(tmp_path)


async def test_below_the_reserve_captures_are_refused_and_say_what_to_do(story: Story) -> None:
    story.trouble.free = RESERVE - 1
    journal = await story.begin()
    with pytest.raises(JournalFull) as caught:
        journal.append(b"refused", kind=1)
    assert caught.value.code == "journal_full"
    assert caught.value.limit == f"{RESERVE} bytes free"
    assert caught.value.hint == "make room on the disk"
    assert caught.value.retryable
    assert journal.position.seq == 0
    story.trouble.free = RESERVE
    story.till.clock.turn(0.25)
    journal.append(b"taken", kind=1)
    await journal.close()


async def test_while_it_is_full_the_disk_is_asked_four_times_a_second_at_most(story: Story) -> None:
    story.trouble.free = 0
    journal = await story.begin()
    asked = story.trouble.times_asked
    for _ in range(100):
        with pytest.raises(JournalFull):
            journal.append(b"refused", kind=1)
    assert story.trouble.times_asked == asked
    story.till.clock.turn(0.25)
    for _ in range(100):
        with pytest.raises(JournalFull):
            journal.append(b"refused", kind=1)
    assert story.trouble.times_asked == asked + 1
    await journal.close()


async def test_while_there_is_room_to_the_byte_the_disk_is_not_asked(story: Story) -> None:
    story.trouble.free = RESERVE
    journal = await story.begin()
    asked = story.trouble.times_asked
    story.till.clock.turn(1)
    journal.append(b"taken", kind=1)
    assert story.trouble.times_asked == asked
    await journal.close()


async def test_what_is_written_counts_before_the_disk_is_asked_again(story: Story) -> None:
    story.trouble.free = RESERVE + 1000
    journal = await story.begin()
    asked = story.trouble.times_asked
    journal.append(bytes(range(256)) * 8, kind=1)
    journal.append(bytes(range(256)) * 8, kind=1)
    for _ in range(20):
        try:
            journal.append(bytes(range(256)), kind=1)
        except JournalFull:
            break
    else:
        raise AssertionError("the reserve was used up")
    assert story.trouble.times_asked == asked
    await journal.close()


async def test_the_next_sync_learns_of_new_room(story: Story) -> None:
    story.trouble.free = 0
    journal = await story.begin()
    story.trouble.free = ROOM
    await story.passes(journal)
    journal.append(b"taken", kind=1)
    await journal.close()


async def test_footers_and_homeless_records_may_use_the_reserve(story: Story) -> None:
    journal = await story.begin()
    journal.append(b"a", kind=1)
    await story.passes(journal)
    journal.append(b"b", kind=1)
    story.trouble.free = 0
    story.trouble.sync = BROKEN
    await story.passes(journal)
    story.trouble.sync = None
    await story.passes(journal)
    assert story.till.drain(journal) == [b"a", b"b"]
    await journal.close()
    story.trouble.free = ROOM
    again = await story.till.start()
    assert again.clean_end
    await again.close()


async def test_a_disk_that_does_not_say_what_is_free_is_trusted_to_refuse_by_itself(story: Story) -> None:
    story.trouble.free_error = BROKEN
    journal = await story.begin()
    journal.append(b"taken", kind=1)
    await story.passes(journal)
    assert story.till.drain(journal) == [b"taken"]
    await journal.close()


async def test_short_of_room_acknowledged_chunks_are_given_up_oldest_first(story: Story) -> None:
    journal = await story.begin()
    await story.fill(journal, 7)
    story.trouble.free = RESERVE + 2 * SMALL.chunk - 1500
    await story.passes(journal)
    assert [line for line in story.till.diary.lines if line.startswith("given up")] == [
        "given up 1 1184",
        "given up 2 1184",
    ]
    story.trouble.free = 0
    await story.passes(journal)
    assert [line for line in story.till.diary.lines if line.startswith("given up")][2:] == [
        "given up 3 1184",
        "given up 4 1184",
        "given up 5 1184",
        "given up 6 1184",
    ]
    await story.passes(journal, 3)
    assert "given up 7 1184" in story.till.diary.lines
    assert "given up 8 1184" not in story.till.diary.lines, "the newest stays"
    await journal.close()


async def test_what_is_not_acknowledged_is_never_given_up(story: Story) -> None:
    journal = await story.begin()
    await story.fill(journal, 1)
    journal.append(b"waits", kind=1)
    journal.roll()
    story.trouble.free = 0
    await story.passes(journal, 5)
    assert journal.sweep().chunks == ()
    assert story.till.drain(journal) == [b"waits"]
    await journal.close()


async def test_chunks_with_spends_go_only_when_those_were_kept(story: Story) -> None:
    journal = await story.begin()
    await story.fill(journal, 2, (Spend(LEASE, 3),))
    story.trouble.free = 0
    await story.passes(journal, 3)
    assert not any(line.startswith("given up") for line in story.till.diary.lines)
    sweep = journal.sweep()
    assert sweep.chunks == (1, 2)
    assert sweep.spends == {(1, LEASE): 3, (2, LEASE): 3}
    journal.discard(sweep)
    assert "discarded 2" in story.till.diary.lines
    await journal.close()


async def test_what_cannot_be_given_up_stays_on_the_shelf(story: Story) -> None:
    journal = await story.begin()
    await story.fill(journal, 1)
    story.trouble.free, story.trouble.unlink = 0, BROKEN
    await story.passes(journal)
    assert not any(line.startswith("given up") for line in story.till.diary.lines)
    story.trouble.unlink = None
    await story.passes(journal)
    assert "given up 1 1184" in story.till.diary.lines
    await journal.close()


@pytest.mark.parametrize(("beyond", "gone"), [(0, [1]), (1, [1, 2])])
async def test_no_more_chunks_are_given_up_than_make_room(story: Story, beyond: int, gone: list[int]) -> None:
    journal = await story.begin()
    story.till.diary.lines.clear()
    await story.fill(journal, 4)
    size = (story.till.folder / "0000000001.chunk").stat().st_size
    story.trouble.free = RESERVE + EASE_CHUNKS * SMALL.chunk - size - beyond
    journal._syncer._room.refresh()
    assert journal._shelf.give_room(journal._syncer._room) == gone
    await journal.close()


async def test_a_damaged_chunk_is_not_given_up_though_its_loss_was_reported(story: Story) -> None:
    journal = await story.begin()
    for plain in (b"a", b"b"):
        journal.append(plain, kind=1)
    journal.roll()
    await story.passes(journal)
    path = story.till.folder / "0000000001.chunk"
    data = bytearray(path.read_bytes())
    data[FRAMES_START + 60] ^= 1
    path.write_bytes(bytes(data))
    assert story.till.drain(journal) == [b"b"]
    journal.reported(journal.damage[0])
    story.trouble.free = 0
    await story.passes(journal)
    assert path.exists()
    await journal.close()


async def test_of_an_epoch_that_is_gone_nothing_is_remembered(story: Story) -> None:
    first = await story.begin()
    await story.fill(first, 2)
    epoch = first.position.epoch
    first._chain.close()
    await story.passes(first)
    journal = await story.till.start(acked=first.acked())
    await crash(journal)
    story.trouble.free = 0
    await story.passes(journal, 2)
    assert epoch not in journal.acked()
    assert epoch not in journal._shelf._acked
    await journal.close()


async def test_what_the_next_run_would_call_missing_goes_only_while_captures_are_refused(story: Story) -> None:
    journal = await story.begin()
    await story.fill(journal, 2)
    journal.kept({})
    story.trouble.free = RESERVE
    await story.passes(journal)
    assert len(list(story.till.folder.glob("*.chunk"))) == 3
    story.trouble.free = RESERVE - 1
    await story.passes(journal)
    assert len(list(story.till.folder.glob("*.chunk"))) == 1
    await journal.close()


async def test_what_was_kept_before_a_restart_is_kept_after_it(story: Story) -> None:
    first = await story.begin()
    await story.fill(first, 1)
    journal = await story.till.start(acked=first.acked())
    await crash(journal)
    story.trouble.free = RESERVE
    await story.passes(journal)
    assert not (story.till.folder / "0000000001.chunk").exists()
    await journal.close()
