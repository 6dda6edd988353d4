"""What earlier runs left on disk, in odd shapes and great numbers, is read, closed and sent as it should be."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import ParamSpec, TypeVar

import pytest

from support.disks import TroubledDisk
from support.tills import TestTill, crash
from tillstream_agent.journal import FolderDisk, Journal, disk, overlaps, shelf
from tillstream_agent.journal.seqs import without
from tillstream_protocol.framing import FRAMES_START, Footer, Frame, Spend, read_footer, scan
from tillstream_protocol.limits import DEFAULT
from tillstream_protocol.messages import Range
from tillstream_protocol.ranges import merge

QUICK = replace(DEFAULT, sync_interval=0.0, reserve=0)
LEASE = b"l" * 16
P = ParamSpec("P")
R = TypeVar("R")
FIRST, SECOND = "0000000001.chunk", "0000000002.chunk"


async def sealed_twice(folder: Path) -> TestTill:
    """A till whose first chunk holds seqs 0 to 5, of which 3 to 5 were sealed anew into the second."""
    trouble = TroubledDisk(folder)
    till = TestTill(folder, QUICK, trouble)
    journal = await till.start()
    await crash(journal)
    for seq in range(6):
        if seq == 3:
            await journal._syncer.sync_all()
            trouble.trouble.sync_fails_of = FIRST
        journal.append(b"%d" % seq, kind=1, spends=[Spend(LEASE, 1)])
    await journal._syncer.sync_all()
    trouble.trouble.sync_fails_of = None
    assert (folder / SECOND).exists()
    return till


def frames(file: Path) -> list[Frame]:
    return [part for part in scan(file.read_bytes(), FRAMES_START) if isinstance(part, Frame)]


def footer(file: Path) -> Footer | None:
    data = file.read_bytes()
    return read_footer(data[int(frames(file)[-1].end) :])


async def test_a_footer_that_is_written_late_lists_only_what_its_file_still_holds(tmp_path: Path) -> None:
    till = await sealed_twice(tmp_path)
    await (await till.start()).close()
    found = footer(tmp_path / FIRST)
    assert found is not None
    assert (found.first_seq, len(found.entries)) == (0, len(frames(tmp_path / FIRST))) == (0, 3)


async def test_a_copy_stays_while_the_later_one_is_damaged(tmp_path: Path) -> None:
    till = await sealed_twice(tmp_path)
    second = tmp_path / SECOND
    data = bytearray(second.read_bytes())
    data[frames(second)[1].start + 60] ^= 1
    second.write_bytes(data)
    journal = await till.start()
    await journal._syncer.sync_all()
    assert journal.queue().records == 6
    assert journal.spent == {LEASE: 6}
    assert sorted(till.drain(journal)) == [b"%d" % seq for seq in range(6)], "each of them once"
    assert footer(tmp_path / FIRST) is None, "it could not say which it holds"
    assert journal.damage == ()
    await crash(journal)


async def test_a_file_with_an_impossible_number_is_sent_and_refuses_no_start(tmp_path: Path) -> None:
    till = TestTill(tmp_path, QUICK)
    journal = await till.start()
    journal.append(b"a", kind=1)
    await journal.close()
    (tmp_path / FIRST).rename(tmp_path / "4294967295.chunk")
    journal = await till.start()
    await journal.synced(journal.append(b"b", kind=1))
    assert sorted(till.drain(journal)) == [b"a", b"b"]
    await journal.close()


def counted(call: Callable[P, R], calls: list[None]) -> Callable[P, R]:
    def counting(*args: P.args, **kwargs: P.kwargs) -> R:
        calls.append(None)
        return call(*args, **kwargs)

    return counting


async def many_chunks(till: TestTill, count: int) -> Journal:
    journal = await till.start()
    await crash(journal)
    for _ in range(count):
        journal.append(b"x", kind=1)
        journal._chain.close()
    await journal._syncer.sync_all()
    return journal


async def test_a_start_looks_at_each_chunk_of_a_long_outage_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    till = TestTill(tmp_path, QUICK)
    await many_chunks(till, 60)
    calls: list[None] = []
    monkeypatch.setattr(overlaps, "without", counted(without, calls))
    await crash(await till.start())
    assert len(calls) <= 61


async def test_what_is_passed_over_is_put_together_once_for_all_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = await many_chunks(TestTill(tmp_path, QUICK), 60)
    epoch = journal.position.epoch
    for seq in range(0, 60, 2):
        journal.set_aside(epoch, seq)
    calls: list[None] = []
    monkeypatch.setattr(shelf, "merge", counted(merge, calls))
    assert journal.queue().records == 30
    assert journal.next_slice("live", 4096) is not None
    assert len(calls) == 1
    journal.acknowledge(epoch, [Range(0, 58)])
    assert journal.queue().records == 1
    journal.take_up(epoch, [Range(0, 59)])
    assert journal.queue().records == 1


class StuckSync:
    """A sync that hangs until it is let go, and then fails."""

    def __init__(self) -> None:
        self.begun, self.let_go = threading.Event(), threading.Event()

    def __call__(self, _what: int | Path) -> None:
        self.begun.set()
        self.let_go.wait(10)
        raise OSError(errno.EIO, "planted")


@pytest.mark.parametrize("of", ["file", "folder"])
async def test_a_sync_that_failed_while_nobody_waited_is_told_to_the_next_one_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of: str
) -> None:
    stuck = StuckSync()
    folder = FolderDisk(tmp_path)
    file = folder.create("file")
    sync = file.sync if of == "file" else folder.sync_folder
    with monkeypatch.context() as patch:
        patch.setattr(disk, "_sync_data" if of == "file" else "_sync_names", stuck)
        waiting = asyncio.create_task(sync())
        await asyncio.to_thread(stuck.begun.wait, 10)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    stuck.let_go.set()
    with pytest.raises(OSError, match="planted"):
        await sync()
    await sync()
    file.close()


async def test_a_chunk_whose_sync_was_cut_short_by_the_end_of_a_run_is_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    till = TestTill(tmp_path, QUICK)
    journal = await till.start()
    journal.append(b"a", kind=1)
    await crash(journal)
    before = (tmp_path / FIRST).stat().st_ino
    stuck = StuckSync()
    with monkeypatch.context() as patch:
        patch.setattr(disk, "_sync_data", stuck)
        journal = await till.start()
        await asyncio.to_thread(stuck.begun.wait, 10)
        await crash(journal)
    stuck.let_go.set()
    await journal.close()
    assert journal.safe
    assert (tmp_path / FIRST).stat().st_ino != before


async def test_a_part_of_a_file_is_laid_down_as_another(tmp_path: Path) -> None:
    folder = FolderDisk(tmp_path)
    (tmp_path / "from").write_bytes(b"0123456789")
    await folder.copy("from", 3, 4, "part")
    await folder.copy("from", 8, 100, "end")
    assert (tmp_path / "part").read_bytes() == b"3456"
    assert (tmp_path / "part").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "end").read_bytes() == b"89"
    with pytest.raises(FileExistsError):
        await folder.copy("from", 0, 1, "part")
    assert (tmp_path / "part").read_bytes() == b"3456"


async def test_a_copy_that_cannot_be_synced_is_not_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_fd: int) -> None:
        raise OSError(errno.EIO, "planted")

    folder = FolderDisk(tmp_path)
    (tmp_path / "from").write_bytes(b"0123456789")
    monkeypatch.setattr(disk, "_sync_data", fails)
    with pytest.raises(OSError, match="planted"):
        await folder.copy("from", 0, 10, "to")
    assert [path.name for path in tmp_path.iterdir()] == ["from"]


async def test_a_large_file_is_copied_while_captures_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stuck = StuckSync()
    folder = FolderDisk(tmp_path)
    (tmp_path / "from").write_bytes(b"0123456789")
    monkeypatch.setattr(disk, "_sync_data", stuck)
    copying = asyncio.create_task(folder.copy("from", 0, 10, "to"))
    await asyncio.to_thread(stuck.begun.wait, 10)
    assert not copying.done(), "the loop runs on meanwhile"
    stuck.let_go.set()
    with pytest.raises(OSError, match="planted"):
        await copying
