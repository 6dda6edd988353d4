"""The journal keeps what it acknowledged, names it for ever, and hands it on as it lies on disk."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.disks import BROKEN, FULL, TroubledDisk
from support.tills import TestTill, crash
from tillstream_agent.journal import JournalError, JournalFull, Name, Seen
from tillstream_protocol.errors import TooLarge
from tillstream_protocol.framing import FRAMES_START, NO_EPOCH, ChunkHeader, Spend
from tillstream_protocol.limits import DEFAULT
from tillstream_protocol.messages import Range

SMALL = replace(DEFAULT, chunk=4096, sync_interval=0.0)
LEASE = b"l" * 16


def tag(number: int) -> bytes:
    return number.to_bytes(16, "big")


@pytest.fixture
def till(tmp_path: Path) -> TestTill:
    return TestTill(tmp_path / "journal", SMALL)


def chunk_files(till: TestTill) -> list[Path]:
    return sorted(till.folder.glob("*.chunk"))


async def test_what_was_appended_comes_out_in_order_and_opens_with_both_keys(till: TestTill) -> None:
    journal = await till.start()
    names = [journal.append(b"record %d" % i, kind=1) for i in range(5)]
    await journal.synced(names[-1])
    piece = journal.next_slice("live", 1 << 20)
    assert piece is not None
    assert till.keys.open(piece) == [(i, b"record %d" % i) for i in range(5)]
    assert till.keys.open(piece, by_escrow=True) == till.keys.open(piece)
    await journal.close()


async def test_names_count_from_nought_in_every_epoch_and_never_come_again(till: TestTill) -> None:
    first = await till.start()
    a = first.append(b"a", kind=1)
    await first.close()
    second = await till.start()
    b = second.append(b"b", kind=1)
    await second.close()
    assert (a.seq, b.seq) == (0, 0)
    assert a.epoch != b.epoch


async def test_each_epoch_names_the_one_it_follows_and_how_many_records_that_had(till: TestTill) -> None:
    first = await till.start()
    for i in range(3):
        first.append(b"x%d" % i, kind=1)
    epoch = first.position.epoch
    await crash(first)
    second = await till.start()
    await second.close()
    headers = [ChunkHeader.read(path.read_bytes()[:FRAMES_START])[0] for path in chunk_files(till)]
    assert (headers[0].parent, headers[0].parent_position) == (NO_EPOCH, 0)
    assert (headers[-1].parent, headers[-1].parent_position) == (epoch, 3)


async def test_nothing_is_sent_before_it_is_synced(tmp_path: Path) -> None:
    disk = TroubledDisk(tmp_path)
    till = TestTill(tmp_path, replace(SMALL, sync_interval=3600), disk)
    journal = await till.start()
    name = journal.append(b"not yet safe", kind=1)
    assert journal.next_slice("live", 1 << 20) is None
    await journal.synced(name)
    assert till.drain(journal) == [b"not yet safe"]
    await journal.close()


async def test_a_killed_process_loses_nothing_it_acknowledged(till: TestTill) -> None:
    journal = await till.start()
    for i in range(50):
        journal.append(b"%d" % i, kind=1)
    await crash(journal)
    again = await till.start()
    await again.synced(again.append(b"after", kind=1))
    assert till.drain(again) == [*(b"%d" % i for i in range(50)), b"after"]
    await again.close()


async def test_a_torn_tail_is_cut_and_the_rest_kept(till: TestTill) -> None:
    journal = await till.start()
    journal.append(b"whole", kind=1)
    journal.append(b"torn", kind=1)
    await crash(journal)
    (path,) = chunk_files(till)
    path.write_bytes(path.read_bytes()[:-7])
    again = await till.start()
    await again.synced(again.append(b"new", kind=1))
    assert till.drain(again) == [b"whole", b"new"]
    assert "torn 1" in till.diary.lines
    await again.close()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.floats(0, 1), flip=st.integers(1, 255))
def test_damage_anywhere_costs_at_most_the_record_it_hits(
    tmp_path_factory: pytest.TempPathFactory, where: float, flip: int
) -> None:
    async def story() -> None:
        till = TestTill(tmp_path_factory.mktemp("journal"), replace(SMALL, chunk=1 << 20))
        journal = await till.start()
        records = [os.urandom(20) for _ in range(20)]
        for record in records:
            journal.append(record, kind=1)
        await crash(journal)
        (path,) = chunk_files(till)
        data = bytearray(path.read_bytes())
        data[int(where * (len(data) - 1))] ^= flip
        path.write_bytes(bytes(data))
        again = await till.start()
        await again.synced(again.append(b"new", kind=1))
        found = till.drain(again)
        assert found[-1] == b"new"
        lost = [record for record in records if record not in found]
        assert len(lost) <= 1
        assert set(found) <= {*records, b"new"}
        await again.close()

    asyncio.run(story())


async def test_a_chunk_whose_headers_are_both_gone_is_set_aside_and_kept(till: TestTill) -> None:
    journal = await till.start()
    journal.append(b"lost", kind=1)
    await journal.close()
    (path,) = chunk_files(till)
    path.write_bytes(bytes(FRAMES_START) + path.read_bytes()[FRAMES_START:])
    again = await till.start()
    (damage,) = again.damage
    assert (damage.first, damage.last, damage.reason) == (0, 0, "damaged_header")
    assert path.exists(), "until somebody was told"
    again.reported(damage)
    assert till.folder.joinpath("0000000001.damaged").exists()
    assert "set aside 0000000001.chunk" in till.diary.lines
    assert again.queue().records == 0
    await again.close()


async def test_a_chunk_that_cannot_be_read_just_now_is_left_where_it_is(tmp_path: Path) -> None:
    disk = TroubledDisk(tmp_path)
    till = TestTill(tmp_path, SMALL, disk)
    journal = await till.start()
    journal.append(b"still there", kind=1)
    await journal.close()
    disk.trouble.read = BROKEN
    blind = await till.start()
    await blind.close()
    assert "set aside 0000000001.chunk" in till.diary.lines
    disk.trouble.read = None
    again = await till.start()
    await again.synced(again.append(b"new", kind=1))
    assert till.drain(again) == [b"still there", b"new"]
    await again.close()


async def test_tags_and_spends_are_read_back_from_footers_and_from_scans_alike(till: TestTill) -> None:
    closed = await till.start()
    first = closed.append(b"a", kind=1, tag=tag(1), spends=[Spend(LEASE, 2)])
    await closed.close()
    killed = await till.start()
    second = killed.append(b"b", kind=1, tag=tag(2), spends=[Spend(LEASE, 3)])
    await crash(killed)
    journal = await till.start()
    seen = [journal.find(tag(1)), journal.find(tag(2))]
    assert [s.name if s else None for s in seen] == [first, second]
    assert all(s is not None and s.check is None for s in seen)
    assert journal.find(tag(3)) is None
    assert journal.spent == {LEASE: 5}
    await journal.close()


async def test_a_late_record_is_found_with_the_check_it_was_captured_with(till: TestTill) -> None:
    journal = await till.start()
    a, b = journal.append(b"a", kind=1, tag=tag(1), check=7), journal.append(b"b", kind=1, tag=tag(2))
    assert (journal.find(tag(1)), journal.find(tag(2))) == (Seen(a, 7), Seen(b, 0))
    await journal.close()


async def test_spends_add_up_lease_by_lease_as_they_are_captured(till: TestTill) -> None:
    journal = await till.start()
    journal.append(b"a", kind=1, spends=[Spend(LEASE, 3)])
    assert journal.spent == {LEASE: 3}
    journal.append(b"b", kind=1, spends=[Spend(LEASE, 5), Spend(bytes(16), 2)])
    assert journal.spent == {LEASE: 8, bytes(16): 2}
    await journal.close()


async def test_spends_that_were_kept_count_once_their_chunk_is_gone(till: TestTill) -> None:
    first = await till.start()
    first.append(b"a", kind=1, spends=[Spend(LEASE, 3)])
    first.roll()
    first.append(b"b", kind=1, spends=[Spend(LEASE, 5)])
    await first.close()
    kept = {(1, LEASE): 3, (77, LEASE): 10, (77, bytes(16)): 20, (78, bytes(16)): 1}
    journal = await till.start(settled=kept)
    assert journal.spent == {LEASE: 18, bytes(16): 21}
    await journal.close()


async def test_chunks_roll_by_size_and_by_age(till: TestTill) -> None:
    journal = await till.start()
    for _ in range(8):
        journal.append(os.urandom(1000), kind=1)
    assert len(chunk_files(till)) == 3
    till.clock.turn(SMALL.chunk_age + 1)
    journal.append(b"later", kind=1)
    assert len(chunk_files(till)) == 4
    await journal.close()


async def test_after_a_roll_what_is_new_goes_ahead_of_what_waits(till: TestTill) -> None:
    journal = await till.start()
    journal.append(b"old", kind=1)
    journal.roll()
    await journal.synced(journal.append(b"new", kind=1))
    live, backlog = journal.next_slice("live", 4096), journal.next_slice("backlog", 4096)
    assert live is not None
    assert backlog is not None
    assert till.keys.open(live) == [(1, b"new")]
    assert till.keys.open(backlog) == [(0, b"old")]
    assert journal.backlog_exists()
    journal.acknowledge(backlog.epoch, [Range(0, 0)])
    assert not journal.backlog_exists()
    journal.roll()
    journal.roll()
    assert len(chunk_files(till)) == 3, "an empty chunk is fresh enough"
    await journal.close()


async def test_a_slice_stays_within_its_size_but_holds_at_least_one_record(till: TestTill) -> None:
    journal = await till.start()
    for _ in range(4):
        last = journal.append(os.urandom(900), kind=1)
    await journal.synced(last)
    two = journal.next_slice("live", 2100)
    one = journal.next_slice("live", 10)
    assert two is not None
    assert one is not None
    assert (two.first, two.last) == (0, 1)
    assert (one.first, one.last) == (0, 0)
    await journal.close()


async def test_a_record_larger_than_a_batch_travels_alone(tmp_path: Path) -> None:
    till = TestTill(tmp_path)
    journal = await till.start()
    large = os.urandom(700_000)
    journal.append(large, kind=1)
    await journal.synced(journal.append(b"small", kind=1))
    assert till.drain(journal, max_bytes=1000) == [large, b"small"]
    await journal.close()


async def test_acknowledged_seqs_are_left_out_wherever_they_lie(till: TestTill) -> None:
    journal = await till.start()
    for i in range(6):
        last = journal.append(b"%d" % i, kind=1)
    await journal.synced(last)
    journal.acknowledge(last.epoch, [Range(0, 1), Range(3, 3)])
    assert journal.queue().records == 3
    assert till.drain(journal) == [b"2", b"4", b"5"]
    assert journal.queue().records == 0
    assert journal.acked() == {last.epoch: (Range(0, 5),)}
    await journal.close()


async def test_acknowledgements_of_earlier_runs_are_honoured_and_without_them_all_is_sent_again(
    till: TestTill,
) -> None:
    journal = await till.start()
    name = journal.append(b"once", kind=1)
    await journal.close()
    knowing = await till.start(acked={name.epoch: (Range(0, 0),)})
    await knowing.synced(knowing.append(b"x", kind=1))
    assert till.drain(knowing) == [b"x"]
    await knowing.close()
    forgetful = await till.start()
    await forgetful.synced(forgetful.append(b"y", kind=1))
    assert till.drain(forgetful) == [b"once", b"x", b"y"]
    await forgetful.close()


async def test_the_queue_tells_how_much_waits_and_for_how_long(till: TestTill) -> None:
    journal = await till.start()
    assert journal.queue().records == 0
    await journal.synced(journal.append(b"x" * 100, kind=1))
    till.clock.turn(5)
    queue = journal.queue()
    assert queue.records == 1
    assert queue.bytes > 100
    assert queue.oldest_ms == 5000
    await journal.close()


async def test_a_failed_write_acknowledges_nothing_and_the_next_one_takes_its_name(tmp_path: Path) -> None:
    disk = TroubledDisk(tmp_path)
    till = TestTill(tmp_path, SMALL, disk)
    journal = await till.start()
    journal.append(b"before", kind=1)
    disk.trouble.write, disk.trouble.write_part = FULL, 30
    with pytest.raises(JournalFull):
        journal.append(b"refused", kind=1, tag=tag(1))
    assert journal.find(tag(1)) is None
    disk.trouble.write = None
    name = journal.append(b"after", kind=1)
    assert name.seq == 1
    await journal.synced(name)
    assert till.drain(journal) == [b"before", b"after"]
    await journal.close()


async def test_a_file_whose_end_is_unknown_is_left_and_the_name_given_up(tmp_path: Path) -> None:
    disk = TroubledDisk(tmp_path)
    till = TestTill(tmp_path, SMALL, disk)
    journal = await till.start()
    journal.append(b"before", kind=1)
    disk.trouble.write, disk.trouble.cut, disk.trouble.write_part = BROKEN, BROKEN, 30
    with pytest.raises(JournalError):
        journal.append(b"refused", kind=1)
    disk.trouble.write = disk.trouble.cut = None
    name = journal.append(b"after", kind=1)
    assert name.seq == 2
    await journal.synced(name)
    assert till.drain(journal) == [b"before", b"after"]
    await journal.close()


async def test_with_no_room_for_a_chunk_it_still_opens_and_heals_when_there_is(tmp_path: Path) -> None:
    disk = TroubledDisk(tmp_path)
    disk.trouble.write = FULL
    till = TestTill(tmp_path, SMALL, disk)
    journal = await till.start()
    with pytest.raises(JournalFull):
        journal.append(b"refused", kind=1)
    disk.trouble.write, disk.trouble.create = None, BROKEN
    with pytest.raises(JournalError):
        journal.append(b"refused", kind=1)
    disk.trouble.create = None
    await journal.synced(journal.append(b"taken", kind=1))
    assert till.drain(journal) == [b"taken"]
    await journal.close()


async def test_after_a_failed_sync_the_records_move_to_a_new_chunk_under_their_own_names(tmp_path: Path) -> None:
    disk = TroubledDisk(tmp_path)
    till = TestTill(tmp_path, SMALL, disk)
    journal = await till.start()
    await journal.synced(journal.append(b"safe", kind=1))
    disk.trouble.sync = BROKEN
    name = journal.append(b"unsafe", kind=1, tag=tag(7))
    waiting = asyncio.create_task(journal.synced(name))
    while "sync failed 1" not in till.diary.lines:
        await asyncio.sleep(0)
    assert not waiting.done()
    disk.trouble.sync = None
    await waiting
    assert name == Name(journal.position.epoch, 1)
    assert till.drain(journal) == [b"safe", b"unsafe"]
    seen = journal.find(tag(7))
    assert seen is not None
    assert seen.name == name
    await journal.close()
    again = await till.start()
    assert again.find(tag(7)) is not None
    await again.close()


async def test_a_disk_that_fails_for_long_delays_the_records_but_loses_none(tmp_path: Path) -> None:
    disk = TroubledDisk(tmp_path)
    till = TestTill(tmp_path, replace(SMALL, sync_interval=0), disk)
    journal = await till.start()
    disk.trouble.sync = BROKEN
    for i in range(5):
        journal.append(b"%d" % i, kind=1)
        syncs = disk.trouble.syncs
        while disk.trouble.syncs < syncs + 3:
            await asyncio.sleep(0)
    disk.trouble.sync, disk.trouble.create = None, FULL
    for _ in range(20):
        await asyncio.sleep(0)
    disk.trouble.create = None
    await journal.synced(journal.append(b"last", kind=1))
    assert sorted(till.drain(journal)) == [b"0", b"1", b"2", b"3", b"4", b"last"]
    await journal.close()


async def test_a_record_over_the_limit_is_refused_by_size(till: TestTill) -> None:
    journal = await till.start()
    with pytest.raises(TooLarge) as caught:
        journal.append(bytes(SMALL.record + 1), kind=1)
    assert caught.value.limit == f"{SMALL.record} bytes"
    assert journal.position.seq == 0
    await journal.close()


async def test_acknowledged_chunks_go_after_their_time_and_their_spends_are_kept_by_the_caller(
    till: TestTill,
) -> None:
    journal = await till.start()
    for i in range(10):
        name = journal.append(os.urandom(1000), kind=1, tag=tag(i), spends=[Spend(LEASE, 1)])
    await journal.synced(name)
    assert journal.sweep().chunks == ()
    till.drain(journal)
    assert journal.sweep().chunks == ()
    till.clock.turn(SMALL.retain_age + 1)
    sweep = journal.sweep()
    assert sweep.chunks == (1, 2, 3)
    assert sum(sweep.spends.values()) == 9
    journal.discard(sweep)
    assert journal.find(tag(0)) is None
    assert journal.find(tag(9)) is not None
    await journal.close()
    again = await till.start(settled=dict(sweep.spends))
    assert again.spent == {LEASE: 10}
    await again.close()


async def test_more_than_the_room_kept_for_acknowledged_chunks_goes_oldest_first(tmp_path: Path) -> None:
    till = TestTill(tmp_path, replace(SMALL, retain_bytes=9000))
    journal = await till.start()
    for _ in range(16):
        name = journal.append(os.urandom(1000), kind=1)
    await journal.synced(name)
    till.drain(journal)
    assert journal.sweep().chunks == (1, 2, 3)
    await journal.close()


async def test_what_cannot_be_unlinked_is_swept_again(tmp_path: Path) -> None:
    disk = TroubledDisk(tmp_path)
    till = TestTill(tmp_path, SMALL, disk)
    await (await till.start()).close()
    journal = await till.start()
    journal.told(journal.parent.epoch)
    disk.trouble.unlink = BROKEN
    with pytest.raises(JournalError):
        journal.discard(journal.sweep())
    disk.trouble.unlink = None
    journal.discard(journal.sweep())
    assert "discarded 1" in till.diary.lines
    await journal.close()


async def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    tmp_path.joinpath("journal").write_text("a file stands in the way")
    with pytest.raises(JournalError, match="journal"):
        await TestTill(tmp_path / "journal").start()


async def test_a_chunk_that_cannot_be_read_while_sending_is_named(tmp_path: Path) -> None:
    disk = TroubledDisk(tmp_path)
    till = TestTill(tmp_path, SMALL, disk)
    journal = await till.start()
    await journal.synced(journal.append(b"x", kind=1))
    disk.trouble.read = BROKEN
    with pytest.raises(JournalError, match=r"0000000001\.chunk"):
        journal.next_slice("live", 4096)
    await journal.close()


async def test_closing_leaves_nobody_waiting(tmp_path: Path) -> None:
    disk = TroubledDisk(tmp_path)
    till = TestTill(tmp_path, SMALL, disk)
    journal = await till.start()
    disk.trouble.sync = BROKEN
    waiting = asyncio.create_task(journal.synced(journal.append(b"x", kind=1)))
    await asyncio.sleep(0)
    await journal.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_files_and_folder_are_the_owners_alone(till: TestTill) -> None:
    journal = await till.start()
    await journal.close()
    assert till.folder.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in chunk_files(till))
