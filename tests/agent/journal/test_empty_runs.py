"""Runs that captured nothing: the server is told of them, once, since later runs name them as what they follow."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from support.disks import TroubledDisk
from support.tills import TestTill, TillKeys
from tillstream_protocol.framing import FRAMES_START, HEADER_SIZE, ChunkHeader
from tillstream_protocol.limits import DEFAULT
from tillstream_protocol.messages import Range

RESERVE = 100_000
LIMITS = replace(DEFAULT, sync_interval=0.0, reserve=RESERVE)


@pytest.fixture
def till(tmp_path: Path) -> TestTill:
    return TestTill(tmp_path / "journal", LIMITS, TroubledDisk(tmp_path / "journal"))


def chunk_file(till: TestTill, number: int) -> Path:
    return till.folder / f"{number:010d}.chunk"


async def ended(till: TestTill, records: int = 0) -> bytes:
    """A run that captures so many records and ends; its epoch."""
    journal = await till.start()
    for _ in range(records):
        await journal.synced(journal.append(b"x", kind=1))
    await journal.close()
    return journal.position.epoch


async def test_its_header_alone_is_to_be_told_until_the_server_knows(till: TestTill) -> None:
    epoch = await ended(till)
    journal = await till.start()
    header = journal.next_header()
    assert header is not None
    assert header.header == chunk_file(till, 1).read_bytes()[:HEADER_SIZE]
    assert ChunkHeader.decode(header.header).epoch == header.epoch == epoch
    assert (header.frames, header.first, header.last) == (b"", 0, -1)
    assert (header.lane, header.chunk, header.end) == ("backlog", 1, FRAMES_START)
    journal.told(journal.position.epoch)
    assert journal.next_header() == header
    journal.told(epoch)
    assert journal.next_header() is None
    await journal.close()


async def test_a_run_that_captured_something_needs_no_word_of_its_own(till: TestTill) -> None:
    await ended(till, records=1)
    journal = await till.start()
    assert journal.next_header() is None
    await journal.close()


async def test_what_is_left_of_a_run_is_not_taken_for_all_of_it(till: TestTill) -> None:
    journal = await till.start()
    await journal.synced(journal.append(b"x", kind=1))
    journal.roll()
    await journal.close()
    chunk_file(till, 1).unlink()
    journal = await till.start()
    assert journal.next_header() is None
    await journal.close()


async def test_a_run_whose_records_the_server_holds_was_not_empty(till: TestTill) -> None:
    epoch = await ended(till, records=2)
    file = chunk_file(till, 1)
    file.write_bytes(file.read_bytes()[:FRAMES_START])
    journal = await till.start(acked={epoch: [Range(0, 1)]})
    assert journal.next_header() is None
    await journal.close()


async def test_the_runs_of_an_earlier_enrolment_are_not_told_of(till: TestTill) -> None:
    await ended(till)
    till.keys = TillKeys()
    journal = await till.start()
    assert journal.next_header() is None
    await journal.close()


async def test_a_header_that_the_server_was_not_told_makes_no_room(till: TestTill) -> None:
    disk = till.disk
    assert isinstance(disk, TroubledDisk)
    epoch = await ended(till)
    disk.trouble.free = RESERVE // 2
    journal = await till.start()
    await journal._syncer.sync_all()
    assert chunk_file(till, 1).exists()
    journal.told(epoch)
    await journal._syncer.sync_all()
    assert not chunk_file(till, 1).exists()
    disk.trouble.free = None
    await journal.close()
