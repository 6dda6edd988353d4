"""What is to be sent again, what is passed over, and what an earlier enrolment or a broken sector leaves."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from nacl.public import PrivateKey

from support.disks import BROKEN, TroubledDisk
from support.tills import TestTill, TillKeys
from tillstream_agent.journal import Journal, JournalError, Name
from tillstream_agent.journal.shelf import RETRY_S
from tillstream_protocol.framing import FRAMES_START, ChunkHeader
from tillstream_protocol.limits import DEFAULT
from tillstream_protocol.messages import Range
from tillstream_protocol.sealing import key_id

ROOMY = replace(DEFAULT, sync_interval=0.0)


@pytest.fixture
def till(tmp_path: Path) -> TestTill:
    return TestTill(tmp_path / "journal", ROOMY)


async def filled(till: TestTill, records: int = 6) -> tuple[Journal, bytes]:
    journal = await till.start()
    await append(journal, records)
    return journal, journal.position.epoch


async def append(journal: Journal, records: int) -> Name:
    for _ in range(records):
        name = journal.append(b"%d" % journal.position.seq, kind=1)
    await journal.synced(name)
    return name


async def test_what_the_server_lost_again_is_sent_again_and_nothing_else(till: TestTill) -> None:
    journal, epoch = await filled(till)
    till.drain(journal)
    assert journal.unacknowledge(epoch, [Range(1, 2), Range(4, 4)]) == 3
    assert journal.acked() == {epoch: (Range(0, 0), Range(3, 3), Range(5, 5))}
    assert journal.queue().records == 3
    assert till.drain(journal) == [b"1", b"2", b"4"]
    await journal.close()


async def test_a_rewind_reaches_acknowledged_chunks_and_leaves_them_in_order(till: TestTill) -> None:
    journal, epoch = await filled(till, 2)
    for _ in range(2):
        journal.roll()
        await append(journal, 2)
    till.drain(journal)
    assert journal.unacknowledge(epoch, [Range(0, 99)]) == 6
    assert journal.acked() == {}
    assert till.drain(journal) == [b"%d" % i for i in range(6)]
    await journal.close()


async def test_a_rewind_of_what_was_swept_queues_nothing_but_is_not_claimed_again(till: TestTill) -> None:
    journal, epoch = await filled(till, 3)
    journal.roll()
    await append(journal, 1)
    till.drain(journal)
    till.clock.turn(DEFAULT.retain_age + 1)
    journal.discard(journal.sweep())
    assert journal.unacknowledge(epoch, [Range(0, 3)]) == 1
    assert journal.acked() == {}
    await journal.close()


async def test_what_was_done_before_a_restart_can_be_rewound_after_it(till: TestTill) -> None:
    first, epoch = await filled(till, 3)
    till.drain(first)
    acked = first.acked()
    await first.close()
    journal = await till.start(acked=acked)
    await append(journal, 1)
    till.drain(journal)
    assert journal.unacknowledge(epoch, [Range(0, 1)]) == 2
    assert journal.next_slice("backlog", 1 << 20) is None, "it was not synced in this run"
    await append(journal, 1)
    await journal._syncer.sync_all()
    assert till.drain(journal) == [b"0", b"1", b"1"]
    await journal.close()


async def test_a_rewind_of_what_was_never_acknowledged_changes_nothing(till: TestTill) -> None:
    journal, epoch = await filled(till, 3)
    assert journal.unacknowledge(epoch, [Range(0, 9)]) == 0
    assert journal.unacknowledge(bytes(16), [Range(0, 9)]) == 0
    assert journal.queue().records == 3
    await journal.close()


async def test_a_refused_record_is_passed_over_and_keeps_its_chunk(till: TestTill) -> None:
    journal, epoch = await filled(till)
    journal.set_aside(epoch, 2)
    assert till.drain(journal) == [b"0", b"1", b"3", b"4", b"5"]
    queue = journal.queue()
    assert (queue.records, queue.aside, queue.oldest_ms) == (0, 1, 0)
    journal.roll()
    await append(journal, 1)
    till.drain(journal)
    till.clock.turn(DEFAULT.retain_age * 30)
    assert journal.sweep().chunks == ()
    assert not journal.backlog_exists()
    assert journal.set_aside_names() == {epoch: (Range(2, 2),)}
    await journal.close()


async def test_what_was_set_aside_is_sent_when_it_is_taken_up(till: TestTill) -> None:
    journal, epoch = await filled(till)
    for seq in (1, 2, 4):
        journal.set_aside(epoch, seq)
    till.drain(journal)
    assert journal.take_up(epoch, [Range(2, 9)]) == 2
    assert till.drain(journal) == [b"2", b"4"]
    assert journal.set_aside_names() == {epoch: (Range(1, 1),)}
    assert journal.take_up(epoch, [Range(2, 2)]) == 0
    await journal.close()


async def test_what_was_set_aside_stays_so_over_a_restart(till: TestTill) -> None:
    journal, epoch = await filled(till, 3)
    journal.set_aside(epoch, 1)
    till.drain(journal)
    await journal.close()
    aside = {epoch: (Range(1, 1),), bytes(16): (Range(0, 0),)}
    again = await till.start(acked=journal.acked(), aside=aside)
    await append(again, 1)
    assert till.drain(again) == [b"0"]
    assert again.set_aside_names() == {epoch: (Range(1, 1),)}
    assert again.take_up(epoch, [Range(1, 1)]) == 1
    assert till.drain(again) == [b"1"]
    await again.close()


async def test_what_was_acknowledged_since_is_not_set_aside_over_a_restart(till: TestTill) -> None:
    journal, epoch = await filled(till, 3)
    await journal.close()
    again = await till.start(acked={epoch: (Range(0, 1),)}, aside={epoch: (Range(1, 2),)})
    assert again.set_aside_names() == {epoch: (Range(2, 2),)}
    await again.close()
    third = await till.start(aside={epoch: (Range(1, 1),)})
    assert third.set_aside_names() == {epoch: (Range(1, 1),)}
    await third.close()


async def test_an_acknowledgement_ends_it_and_what_is_acknowledged_or_unknown_is_not_set_aside(till: TestTill) -> None:
    journal, epoch = await filled(till, 3)
    journal.set_aside(epoch, 1)
    journal.acknowledge(epoch, [Range(0, 1)])
    assert journal.set_aside_names() == {}
    journal.set_aside(epoch, 0)
    journal.set_aside(epoch, 77)
    journal.set_aside(bytes(16), 0)
    assert journal.set_aside_names() == {}
    assert till.drain(journal) == [b"2"]
    await journal.close()


async def test_one_record_comes_as_it_travels(till: TestTill) -> None:
    journal, epoch = await filled(till)
    piece = journal.slice_of(epoch, 3)
    assert piece is not None
    assert till.keys.open(piece) == [(3, b"3")]
    assert (piece.lane, piece.first, piece.last) == ("live", 3, 3)
    journal.acknowledge(epoch, [Range(3, 3)])
    assert journal.slice_of(epoch, 3) is None
    assert journal.slice_of(epoch, 99) is None
    assert journal.slice_of(bytes(16), 0) is None
    journal.append(b"not synced", kind=1)
    assert journal.slice_of(epoch, 6) is None
    await journal.close()


async def test_one_record_is_found_behind_a_damaged_one_and_is_none_if_it_is_damaged_itself(till: TestTill) -> None:
    journal, epoch = await filled(till, 3)
    (path,) = till.folder.glob("*.chunk")
    data = bytearray(path.read_bytes())
    data[data.index(b"TSFR") + 60] ^= 1
    path.write_bytes(bytes(data))
    behind = journal.slice_of(epoch, 2)
    assert behind is not None
    assert till.keys.open(behind) == [(2, b"2")]
    assert journal.slice_of(epoch, 0) is None
    await journal.close()


async def test_one_record_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    disk = TroubledDisk(tmp_path)
    till = TestTill(tmp_path, ROOMY, disk)
    journal, epoch = await filled(till, 1)
    disk.trouble.read = BROKEN
    with pytest.raises(JournalError, match=r"0000000001\.chunk"):
        journal.slice_of(epoch, 0)
    await journal.close()


async def test_what_another_till_left_in_the_folder_has_a_lane_of_its_own(till: TestTill) -> None:
    first, former = await filled(till, 2)
    old = till.keys
    device = old.device.key_id
    await first.close()
    till.keys = TillKeys()
    journal, _ = await filled(till, 1)
    assert journal.former_epochs() == {former}
    assert journal.devices() == {device, till.keys.device.key_id}
    assert journal.parent == Name(bytes(16), 0), "its own first epoch follows nothing"
    assert not journal.backlog_exists()
    piece = journal.next_slice("former", 1 << 20)
    assert piece is not None
    assert (piece.lane, old.open(piece)) == ("former", [(0, b"0"), (1, b"1")])
    assert journal.next_slice("backlog", 1 << 20) is None
    live = journal.next_slice("live", 1 << 20)
    assert live is not None
    assert till.keys.open(live) == [(0, b"0")]
    assert journal.queue().records == 3
    await journal.close()


@pytest.mark.parametrize("records", [0, 2])
async def test_chunks_are_sealed_to_new_keys_from_then_on(till: TestTill, records: int) -> None:
    journal = await till.start()
    if records:
        await append(journal, records)
    server, escrow = PrivateKey.generate(), PrivateKey.generate()
    journal.use_keys(bytes(server.public_key), bytes(escrow.public_key))
    chunks = len(list(till.folder.glob("*.chunk")))
    journal.use_keys(bytes(server.public_key), bytes(escrow.public_key))
    assert len(list(till.folder.glob("*.chunk"))) == chunks == 2, "the same keys again begin nothing"
    name = await append(journal, 1)
    old_keys, till.keys = till.keys, replace(till.keys, server=server, escrow=escrow)
    piece = journal.slice_of(name.epoch, name.seq)
    assert piece is not None
    header = ChunkHeader.decode(piece.header)
    assert (header.server_key_id, header.escrow_key_id) == (
        key_id(bytes(server.public_key)),
        key_id(bytes(escrow.public_key)),
    )
    assert till.keys.open(piece) == till.keys.open(piece, by_escrow=True) == [(records, b"%d" % records)]
    for seq in range(records):
        before = journal.slice_of(name.epoch, seq)
        assert before is not None
        assert old_keys.open(before) == [(seq, b"%d" % seq)]
    await journal.close()


async def test_without_room_for_a_chunk_under_new_keys_nothing_is_sealed_to_the_old_ones(tmp_path: Path) -> None:
    disk = TroubledDisk(tmp_path)
    till = TestTill(tmp_path, ROOMY, disk)
    journal, _ = await filled(till, 1)
    disk.trouble.create = BROKEN
    server = PrivateKey.generate()
    journal.use_keys(bytes(server.public_key), bytes(till.keys.escrow.public_key))
    with pytest.raises(JournalError):
        journal.append(b"refused", kind=1)
    disk.trouble.create = None
    name = await append(journal, 1)
    piece = journal.slice_of(name.epoch, name.seq)
    assert piece is not None
    assert ChunkHeader.decode(piece.header).server_key_id == key_id(bytes(server.public_key))
    await journal.close()


async def test_a_chunk_that_cannot_be_read_holds_up_no_other(tmp_path: Path) -> None:
    disk = TroubledDisk(tmp_path)
    till = TestTill(tmp_path, ROOMY, disk)
    journal, _ = await filled(till, 2)
    journal.roll()
    await append(journal, 1)
    journal.roll()
    await append(journal, 1)
    disk.trouble.unreadable = "0000000001.chunk"
    piece = journal.next_slice("backlog", 1 << 20)
    assert piece is not None
    assert till.keys.open(piece) == [(2, b"2")]
    journal.acknowledge(piece.epoch, [Range(2, 2)])
    with pytest.raises(JournalError, match=r"0000000001\.chunk"):
        journal.next_slice("backlog", 1 << 20)
    disk.trouble.unreadable = None
    assert till.drain(journal) == [b"0", b"1", b"3"]
    await journal.close()


async def test_a_chunk_that_could_not_be_read_has_its_turn_again_after_a_while(tmp_path: Path) -> None:
    disk = TroubledDisk(tmp_path)
    till = TestTill(tmp_path, ROOMY, disk)
    journal, _ = await filled(till, 1)
    journal.roll()
    await append(journal, 1)
    journal.roll()

    def next_plain() -> bytes:
        piece = journal.next_slice("backlog", 1 << 20)
        assert piece is not None
        return till.keys.open(piece)[0][1]

    disk.trouble.unreadable = "0000000001.chunk"
    assert next_plain() == b"1"
    disk.trouble.unreadable = None
    assert next_plain() == b"1", "not at once"
    till.clock.turn(RETRY_S)
    assert next_plain() == b"0"
    await journal.close()


async def test_a_file_that_somebody_cut_while_the_till_runs_is_a_loss_and_no_endless_search(till: TestTill) -> None:
    journal, epoch = await filled(till, 3)
    journal.roll()
    await append(journal, 1)
    path = till.folder / "0000000001.chunk"
    os.truncate(path, path.read_bytes().rindex(b"TSFR"))
    assert till.drain(journal) == [b"0", b"1", b"3"]
    assert [(one.first, one.last) for one in journal.damage] == [(2, 2)]
    journal.unacknowledge(epoch, [Range(0, 1)])
    journal.set_aside(epoch, 0)
    assert till.drain(journal) == [b"1"]
    assert journal.next_slice("backlog", 1 << 20) is None
    await journal.close()


async def test_acknowledgements_are_told_with_the_oldest_epoch_first(till: TestTill) -> None:
    epochs = []
    acked: dict[bytes, tuple[Range, ...]] = {}
    for _ in range(4):
        journal = await till.start(acked=acked)
        epochs.append(journal.position.epoch)
        await append(journal, 1)
        till.drain(journal)
        acked = dict(journal.acked())
        await journal.close()
    assert list(acked) == epochs


async def test_the_queue_is_as_large_as_the_frames_that_wait(till: TestTill) -> None:
    journal, epoch = await filled(till, 4)
    all_of_it = (till.folder / "0000000001.chunk").stat().st_size - FRAMES_START
    assert journal.queue().bytes == all_of_it
    piece = journal.next_slice("live", 1)
    assert piece is not None
    journal.acknowledge(epoch, [Range(piece.first, piece.last)])
    assert journal.queue().bytes == all_of_it - len(piece.frames)
    await journal.close()


async def test_a_record_that_is_here_has_the_lane_of_its_chunk(till: TestTill) -> None:
    journal, epoch = await filled(till, 2)
    journal.roll()
    name = await append(journal, 1)
    assert [journal.lane_of(epoch, seq) for seq in (0, 1, 2, 3)] == ["backlog", "backlog", "live", None]
    assert journal.lane_of(bytes(16), 0) is None
    till.drain(journal)
    assert journal.lane_of(name.epoch, name.seq) == "live", "also once it was acknowledged"
    await journal.close()
