"""Who waits for the disk waits for one sync, on a good disk without a turn of the loop, and never in the loop's way."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from support.simdisk import Short, SimDisk
from support.stories import all_is_safe
from support.tills import TestTill, crash
from tillstream_agent.journal import FolderDisk, Journal, JournalError, blocking, disk
from tillstream_agent.journal.directory import Directory, FailedBefore
from tillstream_agent.journal.doubts import Doubts
from tillstream_protocol.limits import DEFAULT


class Syncs:
    """What stands for `fdatasync`: counts, and fails or blocks as planted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.error: OSError | None = None
        self.open = threading.Event()
        self.open.set()
        self._sync: Callable[[int], None] = disk._sync_data
        self._monkeypatch = monkeypatch
        monkeypatch.setattr(disk, "_sync_data", self)

    def __call__(self, fd: int) -> None:
        self.count += 1
        assert self.open.wait(30)
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        self._sync(fd)

    def block(self, seconds: float = 0.02) -> None:
        """From now on, until the loop has run for so long; which waits no longer than it does in earnest."""
        self._monkeypatch.setattr(blocking, "SWIFT_S", 0.001)
        self.open.clear()
        asyncio.get_running_loop().call_later(seconds, self.open.set)


@pytest.fixture
def till(tmp_path: Path) -> TestTill:
    limits = replace(DEFAULT, reserve=0, sync_interval=3600)
    return TestTill(tmp_path, limits, FolderDisk(tmp_path))


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> Syncs:
    monkeypatch.setattr(blocking, "SWIFT_S", 10)
    return Syncs(monkeypatch)


async def begun(till: TestTill, syncs: Syncs) -> Journal:
    """A journal that has synced its header, and lets records wait for an hour."""
    journal = await till.start()
    async with asyncio.timeout(5):
        while journal._syncer._passing or not syncs.count:
            await asyncio.sleep(0.001)
    syncs.count = 0
    return journal


def drained(till: TestTill, journal: Journal) -> list[bytes]:
    return till.drain(journal)


async def test_one_who_waits_alone_waits_for_one_sync_and_no_pass(till: TestTill, syncs: Syncs) -> None:
    journal = await begun(till, syncs)
    name = journal.append(b"a", kind=1)
    passes = journal._syncer._began
    await journal.synced(name)
    assert syncs.count == 1
    assert all_is_safe(journal)
    assert journal._syncer._began == passes
    assert journal._syncer.burden == 0
    assert drained(till, journal) == [b"a"]
    await journal.synced(name)
    assert syncs.count == 1, "nothing is synced twice"
    await journal.close()


async def test_the_pass_that_follows_syncs_nothing_again(till: TestTill, syncs: Syncs) -> None:
    journal = await begun(till, syncs)
    await crash(journal)
    await journal.synced(journal.append(b"a", kind=1))
    woken: list[int] = []
    journal.set_wakeup(lambda: woken.append(1))
    await journal._syncer.sync_all()
    assert syncs.count == 1
    assert woken, "it tells that there is something to send"
    journal.append(b"b", kind=1)
    await journal._syncer.sync_all()
    assert syncs.count == 2
    await journal._syncer.sync_all()
    assert syncs.count == 2
    await journal.close()


async def test_whoever_sends_is_woken_at_once_and_not_by_the_pass_that_follows(till: TestTill, syncs: Syncs) -> None:
    journal = await begun(till, syncs)
    passes = journal._syncer._began
    woken: list[int] = []
    journal.set_wakeup(lambda: woken.append(journal.queue().records))
    await journal.synced(journal.append(b"a", kind=1))
    assert woken == [1]
    assert journal._syncer._began == passes
    await journal.close()


async def test_sixteen_who_come_at_once_share_a_sync(till: TestTill, syncs: Syncs) -> None:
    journal = await begun(till, syncs)

    async def capture(number: int) -> None:
        await journal.synced(journal.append(b"%d" % number, kind=1))

    await asyncio.gather(*(capture(number) for number in range(16)))
    assert syncs.count == 1
    assert all_is_safe(journal)
    await journal.close()


async def test_a_disk_that_hangs_does_not_hold_up_the_loop(till: TestTill, syncs: Syncs) -> None:
    journal = await begun(till, syncs)
    syncs.block()
    async with asyncio.timeout(10):
        await journal.synced(journal.append(b"a", kind=1))
    assert syncs.count == 1, "the sync that was begun is waited for, and no other is asked for"
    assert all_is_safe(journal)
    await journal.close()


async def test_what_is_written_while_a_sync_hangs_gets_its_own(till: TestTill, syncs: Syncs) -> None:
    journal = await begun(till, syncs)
    syncs.block()
    first = asyncio.create_task(journal.synced(journal.append(b"a", kind=1)))
    while not syncs.count:
        await asyncio.sleep(0)
    second = journal.append(b"b", kind=1)
    async with asyncio.timeout(10):
        await asyncio.gather(first, journal.synced(second))
    assert syncs.count == 2
    assert all_is_safe(journal)
    assert drained(till, journal) == [b"a", b"b"]
    await journal.close()


async def test_a_sync_that_fails_while_the_loop_waits_has_the_record_sealed_anew(till: TestTill, syncs: Syncs) -> None:
    journal = await begun(till, syncs)
    syncs.error = OSError(5, "planted")
    async with asyncio.timeout(10):
        await journal.synced(journal.append(b"a", kind=1))
    assert [line for line in till.diary.lines if line.startswith("sync failed")]
    assert journal.position.seq == 1
    assert all_is_safe(journal)
    assert drained(till, journal) == [b"a"]
    await journal.close()


async def test_nobody_syncs_beside_a_pass(till: TestTill, syncs: Syncs) -> None:
    journal = await begun(till, syncs)
    await crash(journal)
    journal.append(b"a", kind=1)
    syncs.open.clear()
    passing = asyncio.create_task(journal._syncer.sync_all())
    while not syncs.count:
        await asyncio.sleep(0)
    waiting = asyncio.create_task(journal.synced(journal.append(b"b", kind=1)))
    await asyncio.sleep(0.01)
    assert syncs.count == 1
    syncs.open.set()
    await passing
    assert not waiting.done(), "the pass had begun before its record came"
    await journal._syncer.sync_all()
    await waiting
    assert syncs.count == 2
    await journal.close()


async def test_while_the_disk_fails_or_a_chunk_closes_a_pass_sees_to_it(till: TestTill, syncs: Syncs) -> None:
    journal = await begun(till, syncs)
    await crash(journal)
    journal.append(b"a", kind=1)
    journal.roll()
    waiting = asyncio.create_task(journal.synced(journal.append(b"b", kind=1)))
    await asyncio.sleep(0.01)
    assert syncs.count == 0
    await journal._syncer.sync_all()
    await waiting
    journal._syncer._failures = 1
    waiting = asyncio.create_task(journal.synced(journal.append(b"c", kind=1)))
    count = syncs.count
    await asyncio.sleep(0.01)
    assert syncs.count == count
    await journal._syncer.sync_all()
    await waiting
    await journal.close()


async def test_what_was_done_to_a_file_since_decides_whether_a_sync_under_way_is_enough(
    tmp_path: Path, syncs: Syncs, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"safe")
    file = FolderDisk(tmp_path).append_to("a")
    changes: list[tuple[Callable[[], None], int]] = [
        (lambda: None, 0),
        (lambda: file.write(b"more"), 1),
        (lambda: file.cut(4), 1),
    ]
    for change, more in changes:
        monkeypatch.setattr(blocking, "SWIFT_S", 30)
        await file.sync()
        syncs.count = 0
        syncs.block()
        assert not file.sync_now()
        change()
        assert not file.sync_now(), "one is under way"
        await file.sync()
        assert syncs.count == 1 + more
    file.close()


async def test_a_sync_whose_caller_went_away_is_enough_for_a_file_that_was_only_opened(
    tmp_path: Path, syncs: Syncs
) -> None:
    (tmp_path / "a").write_bytes(b"not safe yet")
    file = FolderDisk(tmp_path).append_to("a")
    syncs.block()
    gone = asyncio.create_task(file.sync())
    await asyncio.sleep(0)
    gone.cancel()
    await file.sync()
    assert syncs.count == 1
    file.close()


async def test_a_file_whose_name_may_be_lost_is_not_said_to_be_safe(tmp_path: Path) -> None:
    class Failing(FolderDisk):
        fails = False

        async def sync_folder(self) -> None:
            if self.fails:
                raise OSError(5, "planted")
            await super().sync_folder()

    folder = Failing(tmp_path)
    directory = Directory(folder, Doubts(folder, ()))
    first = directory.enter(1)
    assert not directory.holds(first)
    await directory.sync(first)
    assert directory.holds(first)
    second = directory.enter(2)
    assert not directory.holds(second)
    folder.fails = True
    with pytest.raises(OSError, match="planted"):
        await directory.sync(second)
    folder.fails = False
    third = directory.enter(3)
    await directory.sync(third)
    with pytest.raises(FailedBefore):
        await directory.sync(second)
    assert [directory.holds(entry) for entry in (first, second, third)] == [True, False, True]


@pytest.mark.parametrize("meanwhile", [False, True])
async def test_what_a_failed_write_left_is_cut_for_good(till: TestTill, meanwhile: bool) -> None:
    till.disk = simulated = SimDisk()
    journal = await till.start()
    await crash(journal)
    await journal._syncer.sync_all()
    journal.append(b"a", kind=1)
    syncing = asyncio.create_task(journal._syncer.sync_all())
    while meanwhile and journal._syncer._pending_since is None:
        await asyncio.sleep(0)
    if not meanwhile:
        await syncing
    simulated.judge = lambda operation, _, __: Short(1 << 20, errno.EIO) if operation == "write" else None
    with pytest.raises(JournalError):
        journal.append(b"refused", kind=1)
    simulated.judge = None
    await syncing
    await journal._syncer.sync_all()
    for seed in range(20):
        till.disk = simulated.power_cut("reordered", Random(seed))
        again = await till.start()
        await crash(again)
        await again._syncer.sync_all()
        assert drained(till, again) == [b"a"]
        assert not again.damage


async def test_nobody_waits_for_a_journal_that_has_ended(
    till: TestTill, syncs: Syncs, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = await begun(till, syncs)
    monkeypatch.setattr(blocking, "SWIFT_S", 0)
    ending = asyncio.create_task(journal.close())
    waiting: list[asyncio.Task[None]] = []
    while not ending.done():
        waiting.append(asyncio.create_task(journal.synced(journal.append(b"a", kind=1))))
        await asyncio.sleep(0)
    _, forgotten = await asyncio.wait(waiting, timeout=5)
    assert not forgotten
