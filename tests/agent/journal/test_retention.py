"""Acknowledged chunks stay for their time, whatever the clock says; the age of the queue is never absurd."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from support.stories import chunk_header
from support.tills import TestTill
from tillstream_agent.journal import Journal
from tillstream_agent.journal.chunks import Chunk
from tillstream_agent.journal.retention import choose, lived, oldest_ms
from tillstream_protocol.framing import ChunkHeader
from tillstream_protocol.limits import DEFAULT
from tillstream_protocol.messages import Range

HOUR = 3600
DAY = 24 * HOUR
YEAR_MS = 365 * DAY * 1000
KEEP = replace(DEFAULT, sync_interval=0.0, reserve=0)


@pytest.fixture
def till(tmp_path: Path) -> TestTill:
    return TestTill(tmp_path / "journal", KEEP)


async def sent(journal: Journal, till: TestTill) -> None:
    await journal.synced(journal.append(b"x", kind=1))
    till.drain(journal)
    journal.roll()


@pytest.mark.parametrize("jump", [10 * YEAR_MS, -10 * YEAR_MS, -1_700_000_000_000, -HOUR * 1000])
async def test_a_clock_that_jumps_while_the_till_runs_throws_nothing_away(till: TestTill, jump: int) -> None:
    journal = await till.start()
    await sent(journal, till)
    till.clock.jump(jump)
    await sent(journal, till)
    assert journal.sweep().chunks == ()
    till.clock.turn(KEEP.retain_age + 1)
    assert journal.sweep().chunks == (1, 2)
    await journal.close()


async def test_a_clock_that_jumped_while_the_till_was_off_throws_nothing_away(till: TestTill) -> None:
    first = await till.start()
    await sent(first, till)
    acked = first.acked()
    await first.close()
    till.clock.jump(10 * YEAR_MS)
    second = await till.start(acked=acked)
    till.clock.turn(25 * HOUR)
    assert second.sweep().chunks == (2,), "an empty one may go"
    till.clock.turn(2 * DAY)
    assert 1 in second.sweep().chunks
    await second.close()


async def test_the_time_counts_from_the_acknowledgement(till: TestTill) -> None:
    journal = await till.start()
    await journal.synced(journal.append(b"x", kind=1))
    journal.roll()
    till.clock.turn(30 * DAY)
    assert journal.sweep().chunks == ()
    till.drain(journal)
    assert journal.sweep().chunks == (), "a server that loses it now may still ask for it"
    till.clock.turn(KEEP.retain_age + 1)
    assert journal.sweep().chunks == (1,)
    await journal.close()


async def test_what_an_earlier_run_had_acknowledged_stays_for_a_day_at_least(till: TestTill) -> None:
    first = await till.start()
    for _ in range(5):
        await sent(first, till)
        till.clock.turn(DAY)
    acked = first.acked()
    await first.close()
    second = await till.start(acked=acked)
    assert not any(number <= 2 for number in second.sweep().chunks)
    till.clock.turn(DAY)
    assert {1, 2} <= set(second.sweep().chunks)
    await second.close()


async def test_nothing_that_waits_is_ever_dropped_by_age(till: TestTill) -> None:
    journal = await till.start()
    for _ in range(30):
        journal.append(b"x", kind=1)
        journal.roll()
        till.clock.turn(DAY)
    assert journal.sweep().chunks == ()
    await journal.close()
    till.clock.jump(10 * YEAR_MS)
    again = await till.start()
    till.clock.turn(400 * DAY)
    swept = again.sweep().chunks
    again.discard(again.sweep())
    assert again.queue().records == 30
    assert all(number > 30 for number in swept)
    await again.close()


async def test_a_rewound_chunk_begins_its_time_anew(till: TestTill) -> None:
    journal = await till.start()
    await sent(journal, till)
    epoch = journal.position.epoch
    till.clock.turn(KEEP.retain_age)
    journal.unacknowledge(epoch, [Range(0, 0)])
    till.clock.turn(10)
    assert journal.sweep().chunks == ()
    till.drain(journal)
    till.clock.turn(10)
    assert journal.sweep().chunks == ()
    await journal.close()


@pytest.mark.parametrize("jump", [10 * YEAR_MS, -10 * YEAR_MS, -1_700_000_000_000])
async def test_the_age_of_what_waits_is_not_the_clocks_jump(till: TestTill, jump: int) -> None:
    journal = await till.start()
    await journal.synced(journal.append(b"x", kind=1))
    till.clock.jump(jump)
    till.clock.turn(5)
    assert journal.queue().oldest_ms == 5000
    await journal.close()
    again = await till.start()
    till.clock.turn(5)
    assert journal.queue().records == 1
    assert 0 <= again.queue().oldest_ms <= DAY * 1000 + 10_000
    till.clock.jump(-jump)
    assert again.queue().oldest_ms == 10_000
    await again.close()


async def test_the_age_over_a_restart_includes_the_time_that_the_till_was_off(till: TestTill) -> None:
    journal = await till.start()
    await journal.synced(journal.append(b"x", kind=1))
    await journal.close()
    till.clock.jump(60 * HOUR * 1000)
    again = await till.start()
    assert again.queue().oldest_ms == 60 * HOUR * 1000
    await again.close()


async def test_the_age_stays_right_over_many_small_syncs_and_takes_little_room(till: TestTill) -> None:
    journal = await till.start()
    for _ in range(3000):
        journal._shelf.note_synced(journal.append(b"x", kind=1).seq)
        till.clock.turn(1)
    await journal.synced(journal.append(b"x", kind=1))
    assert len(journal._shelf._synced_at) <= 1024
    assert journal.queue().oldest_ms == 3_000_000
    journal.acknowledge(journal.position.epoch, [Range(0, 1499)])
    assert abs(journal.queue().oldest_ms - 1_500_000) <= 8_000
    await journal.close()


async def test_a_clock_before_1970_still_opens_chunks(till: TestTill) -> None:
    till.clock.jump(-1_800_000_000_000)
    journal = await till.start()
    await journal.synced(journal.append(b"x", kind=1))
    piece = journal.next_slice("live", 4096)
    assert piece is not None
    assert ChunkHeader.decode(piece.header).created == 0
    assert till.drain(journal) == [b"x"]
    await journal.close()


def opened_by_another_run(number: int, created_s: int) -> Chunk:
    return Chunk(
        number,
        chunk_header(number, first_seq=number, created=created_s * 1000),
        b"",
        present=(Range(number, number),),
        closed=True,
        done=True,
        size=1000,
    )


def test_a_chunk_has_lived_as_long_as_this_run_and_the_steps_before_it() -> None:
    chunks = [opened_by_another_run(number, created) for number, created in ((1, 0), (2, 90), (3, 90), (4, 50))]
    assert lived(chunks, 107.0, 100.0) == {4: 7.0, 3: 7.0, 2: 7.0, 1: 97.0}


def test_no_step_counts_for_more_than_a_day() -> None:
    chunks = [opened_by_another_run(number, created) for number, created in ((1, 0), (2, 5 * DAY))]
    assert lived(chunks, 0.0, 0.0) == {2: 0.0, 1: DAY}


@pytest.mark.parametrize(
    ("now_ms", "age_ms"),
    [
        (50_000, 0),
        (50_001, 1),
        (49_999, 3000),
        (50_000 + (3 + 31 * DAY) * 1000, (3 + 31 * DAY) * 1000),
        (50_001 + (3 + 31 * DAY) * 1000, 3000),
    ],
)
def test_the_wall_clock_is_believed_as_far_as_it_is_plausible(now_ms: int, age_ms: int) -> None:
    assert oldest_ms(opened_by_another_run(1, 50), 3.0, now_ms) == age_ms


def test_a_chunk_is_old_when_its_time_is_over_and_not_before() -> None:
    limits = replace(DEFAULT, retain_age=100.0)
    earlier, newest = opened_by_another_run(1, 0), opened_by_another_run(2, 0)
    assert choose([earlier, newest], 100.0, 0.0, limits, 0).chunks == ()
    assert choose([earlier, newest], 101.0, 0.0, limits, 0).chunks == (1,)
    earlier.done_at = 50.0
    assert choose([earlier, newest], 150.0, 0.0, limits, 0).chunks == ()
    assert choose([earlier, newest], 151.0, 0.0, limits, 0).chunks == (1,)


@pytest.mark.parametrize(("room", "gone"), [(3000, ()), (2999, (1,)), (2000, (1,)), (1999, (1, 2))])
def test_one_byte_over_the_room_kept_takes_one_chunk(room: int, gone: tuple[int, ...]) -> None:
    limits = replace(DEFAULT, retain_bytes=room)
    chunks = [opened_by_another_run(number, 0) for number in (1, 2, 3, 4)]
    assert choose(chunks, 0.0, 0.0, limits, 0).chunks == gone


async def test_a_file_that_was_closed_empty_goes_once_the_server_was_told(till: TestTill) -> None:
    await (await till.start()).close()
    journal = await till.start()
    assert journal.queue().records == 0
    assert journal.sweep().chunks == ()
    journal.told(journal.parent.epoch)
    assert journal.sweep().chunks == (1,)
    await journal.close()


async def test_what_is_asked_for_again_after_it_was_swept_is_not_discarded(till: TestTill) -> None:
    journal = await till.start()
    await sent(journal, till)
    till.clock.turn(KEEP.retain_age + 1)
    swept = journal.sweep()
    assert swept.chunks == (1,)
    assert journal.unacknowledge(journal.position.epoch, [Range(0, 0)]) == 1
    journal.discard(swept)
    assert till.drain(journal) == [b"x"]
    await journal.close()
