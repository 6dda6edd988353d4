"""Frames are found behind damage, cut to size, and never read beyond what is synced."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from support.disks import BROKEN
from support.stories import LEASE, Story, begun
from tillstream_agent.journal import Journal
from tillstream_agent.journal.chunks import Chunk
from tillstream_agent.journal.reader import _next_frame
from tillstream_agent.journal.reading import look_up
from tillstream_protocol.framing import FRAMES_START, MAX_FRAME, Frame, Spend, scan
from tillstream_protocol.limits import DEFAULT
from tillstream_protocol.messages import Range

FIRST = "0000000001.chunk"


@pytest.fixture
def story(tmp_path: Path) -> Story:
    return Story(tmp_path)


async def filled(story: Story, records: int) -> Journal:
    """A journal whose first chunk holds records of one size."""
    journal = await begun(story)
    for number in range(records):
        journal.append(b"record %d" % number, kind=1)
    await story.passes(journal)
    return journal


def frames(story: Story) -> list[Frame]:
    data = (story.folder / FIRST).read_bytes()
    return [part for part in scan(data, FRAMES_START) if isinstance(part, Frame)]


def frame_bytes(story: Story) -> bytes:
    (frame, *_) = frames(story)
    return (story.folder / FIRST).read_bytes()[frame.start : frame.end]


def flip(story: Story, seq: int) -> None:
    path = story.folder / FIRST
    data = bytearray(path.read_bytes())
    data[frames(story)[seq].start + 60] ^= 1
    path.write_bytes(bytes(data))


def claiming(length: int) -> bytes:
    return b"TSFR" + length.to_bytes(4, "big")


async def test_behind_damage_the_next_frame_is_found_wherever_it_begins(story: Story) -> None:
    journal = await filled(story, 1)
    frame = frame_bytes(story)
    damaged = frame[:60] + bytes([frame[60] ^ 1]) + frame[61:]
    assert _next_frame(b"X" + frame) == 1
    assert _next_frame(damaged + frame) == len(damaged)
    assert _next_frame(claiming(5000) + b"nothing" + frame) == 15, "not the one it was asked to leave"
    assert _next_frame(b"X" + damaged + damaged + frame) == 1 + 2 * len(damaged)
    assert _next_frame(b"XX" + damaged) == 2 + len(damaged) - 4, "the last bytes may begin one"
    await journal.close()


async def test_a_frame_that_reaches_beyond_what_was_read_may_be_one(story: Story) -> None:
    journal = await filled(story, 1)
    assert _next_frame(b"garbage" + frame_bytes(story)[:-10]) == 7
    assert _next_frame(b"X" + claiming(MAX_FRAME)) == 1
    assert _next_frame(b"X" + claiming(MAX_FRAME + 1)) == 5
    assert _next_frame(b"garbage" + claiming(0x01000100) + b"xx") == 13, "no frame is as long as that"
    await journal.close()


@pytest.mark.parametrize(("size", "step"), [(1, 1), (2, 1), (5, 1), (6, 2), (100, 96)])
def test_where_there_is_none_all_but_a_beginning_is_passed_over(size: int, step: int) -> None:
    assert _next_frame(bytes(size)) == step


async def test_one_record_behind_a_damaged_one_is_found_and_says_where_it_lies(story: Story) -> None:
    journal = await filled(story, 4)
    flip(story, 2)
    piece = journal.slice_of(journal.position.epoch, 3)
    assert piece is not None
    data = (story.folder / FIRST).read_bytes()
    assert data[piece.end - len(piece.frames) : piece.end] == piece.frames
    assert (piece.epoch, piece.chunk, piece.first, piece.last) == (journal.position.epoch, 1, 3, 3)
    assert piece.end == len(data)
    await journal.close()


async def test_a_damaged_frame_right_behind_what_was_acknowledged_is_named(story: Story) -> None:
    journal = await filled(story, 4)
    flip(story, 2)
    journal.acknowledge(journal.position.epoch, [Range(0, 1)])
    assert story.till.drain(journal) == [b"record 3"]
    assert [(one.first, one.last) for one in journal.damage] == [(2, 2)]
    await journal.close()


async def test_a_slice_may_be_exactly_as_long_as_it_was_asked_for(story: Story) -> None:
    journal = await filled(story, 3)
    two = 2 * len(frame_bytes(story))
    for size, last in ((two - 1, 0), (two, 1)):
        piece = journal.next_slice("live", size)
        assert piece is not None
        assert (piece.first, piece.last) == (0, last)
    await journal.close()


@pytest.mark.parametrize("size", [10, 6000])
async def test_what_is_not_synced_is_not_sent(tmp_path: Path, size: int) -> None:
    story = Story(tmp_path)
    story.till.limits = replace(DEFAULT, sync_interval=0.0, reserve=0)
    journal = await begun(story)
    journal.append(Random(1).randbytes(size), kind=1)
    await story.passes(journal)
    journal.append(b"not synced", kind=1)
    for most in (1, 1 << 20):
        piece = journal.next_slice("live", most)
        assert piece is not None
        assert (piece.first, piece.last) == (0, 0)
        assert len(story.till.keys.open(piece)) == 1
    await journal.close()


async def test_an_acknowledgement_that_was_under_way_while_the_server_was_put_back_skips_nothing(story: Story) -> None:
    journal = await filled(story, 3)
    epoch = journal.position.epoch
    first = journal.next_slice("live", 1)
    assert first is not None
    journal.acknowledge(epoch, [Range(0, 0)])
    under_way = journal.next_slice("live", 1)
    assert under_way is not None
    assert under_way.first == 1
    journal.unacknowledge(epoch, [Range(0, 0)])
    journal.acknowledge(epoch, [Range(1, 1)])
    assert story.till.drain(journal) == [b"record 0", b"record 2"]
    await journal.close()


async def test_the_age_of_the_queue_is_that_of_the_first_record_that_waits(story: Story) -> None:
    journal = await begun(story)
    epoch = journal.position.epoch
    for number in range(3):
        journal.append(b"%d" % number, kind=1)
        await story.passes(journal)
        story.till.clock.turn(10)
    journal.acknowledge(epoch, [Range(0, 1)])
    assert journal.queue().oldest_ms == 10_000
    journal.acknowledge(epoch, [Range(2, 2)])
    journal.append(b"not synced yet", kind=1)
    assert journal.queue().oldest_ms == 0
    await journal.close()


async def found_again(story: Story, tags: list[bytes], spends: tuple[Spend, ...] = ()) -> tuple[Journal, Chunk]:
    """A closed chunk whose records have these tags, as the next run finds it."""
    journal = await begun(story)
    for one in tags:
        journal.append(b"x", kind=1, tag=one, spends=spends)
    await journal.close()
    again = await begun(story)
    chunk = again._shelf.get(1)
    assert chunk is not None
    return again, chunk


_W = b"w" * 15
ODD = [b"q" * 16, _W + b"x", b"\0" + _W, _W + b"y"]
"""Tags that also occur across the borders of others."""


@pytest.mark.parametrize("spends", [(), (Spend(LEASE, 2),)])
async def test_a_tag_is_looked_up_in_the_footer(story: Story, spends: tuple[Spend, ...]) -> None:
    journal, chunk = await found_again(story, ODD, spends)
    found = [look_up(story.disk, chunk, one) for one in ODD]
    assert [one and one.seq for one in found] == [0, 1, 2, 3]
    assert all(one and isinstance(one.seq, int) for one in found)
    assert look_up(story.disk, chunk, b"n" * 16) is None
    assert journal.queue().bytes == chunk.frames_end - FRAMES_START
    assert chunk.frames_end == frames(story)[-1].end
    await journal.close()


async def test_what_is_not_there_or_still_written_is_not_looked_into(story: Story) -> None:
    journal = await begun(story)
    journal.append(b"x", kind=1, tag=ODD[0])
    assert look_up(story.disk, None, ODD[0]) is None
    assert look_up(story.disk, journal._shelf.get(1), ODD[0]) is None
    await journal.close()


async def test_a_file_that_can_no_longer_be_read_keeps_what_it_was_found_to_hold(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise OSError("planted")

    journal = await begun(story)
    journal.append(b"a", kind=1)
    story.trouble.sync = BROKEN
    await story.passes(journal)
    story.trouble.sync = None
    monkeypatch.setattr("tillstream_agent.journal.overlaps._keep", fails)
    again = await begun(story)
    assert again.queue().records == 2, "more than there is, and nothing lost"
    await again.close()
