"""What may be lost is said once, by a record that survives; and what nothing needs any more is forgotten."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from support.agents import SERVER, Telling, sale
from support.disks import BROKEN, FULL, TroubledDisk
from support.tills import TestTill, crash
from tillstream_agent.aftermath import EVERY_S, MARK, Aftermath, Runs
from tillstream_agent.capture import Capture, Enrolment
from tillstream_agent.folder import Folder, write_private
from tillstream_agent.journal import Journal
from tillstream_agent.offers.edge import Edge
from tillstream_agent.state import State, StateUnavailable
from tillstream_protocol.codec import record_decoder
from tillstream_protocol.events import RecordsLost
from tillstream_protocol.framing import FRAMES_START, Frame, scan
from tillstream_protocol.limits import DEFAULT
from tillstream_protocol.messages import Range
from tillstream_protocol.signing import SignKey

LIMITS = replace(DEFAULT, sync_interval=0.0, reserve=0)
decode = record_decoder(limit=DEFAULT.record)


@dataclass
class Run:
    """One run of a till, as far as it cares for what was before."""

    stand: Stand
    journal: Journal
    capture: Capture
    state: State
    runs: Runs
    aftermath: Aftermath
    telling: Telling

    async def sells(self, *pos_ids: str) -> None:
        """Capture sales and wait until they are on the disk."""
        for pos_id in pos_ids:
            captured = self.capture.transaction(sale(pos_id))
            await self.journal.synced(captured.name)

    def losses(self) -> list[RecordsLost]:
        """What is said of losses among all that is queued."""
        bodies = [decode(plain).body for plain in self.stand.till.drain(self.journal)]
        return [body for body in bodies if isinstance(body, RecordsLost)]

    async def ends(self) -> None:
        """End as an agent does that is asked to."""
        self.stand.acked = dict(self.journal.acked())
        await self.journal.close()
        await self.runs.finish()
        await self.state.close()

    async def is_killed(self) -> None:
        """End as with SIGKILL."""
        self.stand.acked = dict(self.journal.acked())
        await crash(self.journal)
        await self.state.close()


@dataclass
class Stand:
    """A till's folder, and the ways in which a run on it begins."""

    folder: Folder
    till: TestTill
    acked: dict[bytes, tuple[Range, ...]] = field(default_factory=dict)

    async def starts(self, boot: str | None = "monday") -> Run:
        """A run in a boot of the machine, as far as its first look round."""
        journal = await self.till.start(self.acked)
        telling = Telling()
        state = await State.open(self.folder.database)
        edge = Edge(server_public_key=SERVER.public, till_id=self.till.keys.till_id, clock=self.till.clock)
        where = Enrolment(self.till.keys.till_id, "acme", "north", "1", "USD")
        key = self.till.keys.tag_key
        capture = Capture(journal, edge, where, tag_key=key, clock=self.till.clock, randomness=os.urandom)
        runs = Runs(state, journal, boot, telling.events, self.folder.path / MARK)
        aftermath = Aftermath(journal, capture, runs, self.folder, telling.events)
        await runs.begin()
        return Run(self, journal, capture, state, runs, aftermath, telling)


@pytest.fixture
def stand(tmp_path: Path) -> Stand:
    return Stand(Folder(tmp_path), TestTill(tmp_path / "journal", LIMITS))


async def test_a_run_that_ended_well_has_lost_nothing(stand: Stand) -> None:
    run = await stand.starts("monday")
    await run.sells("1")
    await run.ends()
    run = await stand.starts("tuesday")
    await run.aftermath.round()
    assert run.losses() == []
    await run.ends()


async def test_a_killed_run_has_lost_nothing_while_the_machine_stays_up(stand: Stand) -> None:
    run = await stand.starts("monday")
    await run.sells("1")
    await run.is_killed()
    run = await stand.starts("monday")
    await run.aftermath.round()
    assert run.losses() == []
    await run.ends()


async def test_a_power_cut_is_told_of_with_the_place_from_which_records_may_be_lost(stand: Stand) -> None:
    run = await stand.starts("monday")
    await run.sells("1", "2", "3")
    epoch = run.journal.position.epoch
    await run.is_killed()
    run = await stand.starts("tuesday")
    await run.aftermath.round()
    (lost,) = run.losses()
    assert (lost.epoch, lost.first, lost.last, lost.reason) == (epoch, 3, None, "power_cut")
    assert lost.chunk > 0
    assert run.telling.counted("losses", reason="power_cut") == 1
    assert run.telling.said().count("records_lost") == 1
    await run.ends()


async def test_a_power_cut_is_told_of_once_however_often_the_agent_starts_after_it(stand: Stand) -> None:
    run = await stand.starts("monday")
    await run.sells("1")
    await run.is_killed()
    run = await stand.starts("tuesday")
    await run.aftermath.round()
    await run.aftermath.round()
    assert len(run.losses()) == 1
    await run.is_killed()
    run = await stand.starts("tuesday")
    await run.aftermath.round()
    assert run.losses() == []
    await run.ends()
    run = await stand.starts("wednesday")
    await run.aftermath.round()
    assert run.losses() == []
    await run.ends()


async def test_a_power_cut_soon_after_a_kill_is_told_of_for_both_runs(stand: Stand) -> None:
    """The killed run's last records were still on their way to the disk when the power went."""
    first = await stand.starts("monday")
    await first.sells("1")
    await first.is_killed()
    second = await stand.starts("monday")
    await second.is_killed()
    third = await stand.starts("tuesday")
    await third.aftermath.round()
    assert {lost.epoch for lost in third.losses()} == {
        first.journal.position.epoch,
        second.journal.position.epoch,
    }
    await third.ends()


async def test_a_killed_run_is_forgotten_once_all_it_wrote_is_on_the_disk(stand: Stand) -> None:
    first = await stand.starts("monday")
    await first.sells("1")
    await first.is_killed()
    second = await stand.starts("monday")
    await second.sells("2")
    await second.aftermath.round()
    assert set(await second.state.load_runs()) == {second.journal.position.epoch}
    await second.is_killed()
    third = await stand.starts("tuesday")
    await third.aftermath.round()
    assert [lost.epoch for lost in third.losses()] == [second.journal.position.epoch]
    await third.ends()


async def test_where_boots_have_no_name_nothing_is_claimed(stand: Stand) -> None:
    run = await stand.starts(None)
    await run.sells("1")
    await run.is_killed()
    run = await stand.starts(None)
    await run.aftermath.round()
    assert run.losses() == []
    await run.ends()


@pytest.mark.parametrize("mark", [None, b"", b"\0" * 40, b"another run's"])
async def test_without_a_memory_of_the_run_an_unclean_end_may_have_been_a_power_cut(
    stand: Stand, mark: bytes | None
) -> None:
    run = await stand.starts("monday")
    await run.sells("1", "2")
    epoch = run.journal.position.epoch
    await run.is_killed()
    stand.folder.database.unlink()
    file = stand.folder.path / MARK
    if mark is None:
        file.unlink()
    else:
        file.write_bytes(mark)
    run = await stand.starts("monday")
    await run.aftermath.round()
    assert [(lost.epoch, lost.first) for lost in run.losses()] == [(epoch, 2)]
    await run.ends()


async def test_a_killed_run_whose_state_was_lost_has_lost_nothing_while_the_machine_stays_up(stand: Stand) -> None:
    run = await stand.starts("monday")
    await run.sells("1")
    await run.is_killed()
    stand.folder.database.unlink()
    run = await stand.starts("monday")
    await run.aftermath.round()
    assert run.losses() == []
    await run.ends()


async def test_a_power_cut_that_also_took_the_state_is_told_of(stand: Stand) -> None:
    run = await stand.starts("monday")
    await run.sells("1")
    epoch = run.journal.position.epoch
    await run.is_killed()
    stand.folder.database.unlink()
    run = await stand.starts("tuesday")
    await run.aftermath.round()
    assert [lost.epoch for lost in run.losses()] == [epoch]
    await run.ends()


async def test_a_power_cut_that_also_took_the_state_is_told_of_by_the_run_that_has_the_time(stand: Stand) -> None:
    first = await stand.starts("monday")
    await first.sells("1")
    await first.is_killed()
    stand.folder.database.unlink()
    await (await stand.starts("tuesday")).is_killed()
    third = await stand.starts("tuesday")
    await third.aftermath.round()
    assert [lost.epoch for lost in third.losses()] == [first.journal.position.epoch]
    await third.ends()


async def test_a_run_that_ended_well_is_no_power_cut_behind_one_that_captured_nothing(stand: Stand) -> None:
    first = await stand.starts("monday")
    await first.sells("1")
    await first.ends()
    await (await stand.starts("monday")).is_killed()
    stand.folder.database.unlink()
    third = await stand.starts("tuesday")
    await third.aftermath.round()
    assert third.losses() == []
    await third.ends()


async def test_a_killed_run_whose_state_was_lost_is_remembered_until_all_it_wrote_is_on_the_disk(stand: Stand) -> None:
    first = await stand.starts("monday")
    await first.sells("1")
    await first.is_killed()
    stand.folder.database.unlink()
    second = await stand.starts("monday")
    await second.is_killed()
    third = await stand.starts("tuesday")
    await third.aftermath.round()
    assert {lost.epoch for lost in third.losses()} == {first.journal.position.epoch, second.journal.position.epoch}
    await third.ends()


async def test_the_file_beside_the_state_is_its_owners_alone_and_is_not_needed(stand: Stand) -> None:
    file = stand.folder.path / MARK
    run = await stand.starts("monday")
    assert file.stat().st_mode & 0o777 == 0o600
    await run.ends()
    file.unlink()
    file.mkdir()
    run = await stand.starts("monday")
    assert await run.state.load_runs() == {run.journal.position.epoch: "monday"}
    await run.ends()


async def test_a_run_that_ended_before_anything_was_captured_has_nothing_to_lose(stand: Stand) -> None:
    run = await stand.starts("monday")
    await run.is_killed()
    stand.folder.database.unlink()
    run = await stand.starts("tuesday")
    await run.aftermath.round()
    assert run.losses() == []
    await run.ends()


async def test_a_killed_run_is_remembered_while_the_disk_refuses_to_sync_what_it_wrote(tmp_path: Path) -> None:
    disk = TroubledDisk(tmp_path / "journal")
    stand = Stand(Folder(tmp_path), TestTill(tmp_path / "journal", LIMITS, disk))
    first = await stand.starts("monday")
    first.capture.transaction(sale("1"))
    await first.is_killed()
    disk.trouble.sync = BROKEN
    second = await stand.starts("monday")
    await second.aftermath.round()
    assert not second.journal.inherited_safe
    assert first.journal.position.epoch in await second.state.load_runs()
    await second.is_killed()


async def test_a_state_that_cannot_be_written_is_tried_again(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken:

        async def unavailable(*_about: object) -> None:
            raise StateUnavailable("planted")

        broken.setattr(State, "begin_run", unavailable)
        run = await stand.starts("monday")
    assert "housekeeping_failed" in run.telling.said()
    await run.aftermath.round()
    assert await run.state.load_runs() == {run.journal.position.epoch: "monday"}
    await run.ends()


async def test_a_run_whose_last_records_the_disk_refused_is_not_forgotten(tmp_path: Path) -> None:
    disk = TroubledDisk(tmp_path / "journal")
    stand = Stand(Folder(tmp_path), TestTill(tmp_path / "journal", LIMITS, disk))
    run = await stand.starts("monday")
    run.capture.transaction(sale("1"))
    disk.trouble.sync = BROKEN
    await run.journal.close()
    await run.runs.finish()
    assert run.journal.position.epoch in await run.state.load_runs()
    await run.state.close()


@asynccontextmanager
async def after_damage(stand: Stand) -> AsyncIterator[Run]:
    """A run that finds the second of three records damaged."""
    run = await stand.starts()
    await run.sells("1", "2", "3")
    await run.is_killed()
    chunk = min(stand.till.folder.glob("*.chunk"))
    content = bytearray(chunk.read_bytes())
    _, second, _ = (part for part in scan(bytes(content), FRAMES_START) if isinstance(part, Frame))
    content[(second.start + second.end) // 2] ^= 0xFF
    chunk.write_bytes(content)
    run = await stand.starts()
    yield run


async def test_a_damaged_record_is_named_in_a_record_and_the_finding_is_done_with(stand: Stand) -> None:
    async with after_damage(stand) as run:
        (found,) = run.journal.damage
        await run.aftermath.round()
        assert run.losses() == [RecordsLost(found.epoch, 1, found.chunk, "damaged_frame", 1)]
        assert run.journal.damage == ()
        await run.ends()
    again = await stand.starts()
    await again.aftermath.round()
    assert again.losses() == []
    await again.ends()


async def test_a_finding_is_not_done_with_before_the_record_of_it_is_on_the_disk(tmp_path: Path) -> None:
    disk = TroubledDisk(tmp_path / "journal")
    stand = Stand(Folder(tmp_path), TestTill(tmp_path / "journal", LIMITS, disk))
    async with after_damage(stand) as run:
        reported: list[object] = []
        forget = run.journal.reported

        def noted(found: object) -> None:
            reported.append(run.journal.next_slice("live", 1 << 20))
            forget(found)  # type: ignore[arg-type]

        run.journal.reported = noted  # type: ignore[method-assign, assignment]
        await run.aftermath.round()
        assert len(reported) == 1
        assert reported[0] is not None
        await run.ends()


async def test_a_finding_that_a_killed_run_told_of_is_done_with_once_that_is_on_the_disk(tmp_path: Path) -> None:
    disk = TroubledDisk(tmp_path / "journal")
    stand = Stand(Folder(tmp_path), TestTill(tmp_path / "journal", LIMITS, disk))
    async with after_damage(stand) as run:
        (found,) = run.journal.damage
        run.capture.lost(RecordsLost(found.epoch, found.first, found.chunk, found.reason, found.last))
        await run.is_killed()
    disk.trouble.sync = BROKEN
    run = await stand.starts()
    await run.aftermath.round()
    assert run.telling.counted("losses", reason="damaged_frame") == 0
    assert [one.reason for one in run.journal.damage] == ["damaged_frame"]
    await run.is_killed()
    disk.trouble.sync = None
    run = await stand.starts()
    await run.sells("4")
    await run.aftermath.round()
    assert list(run.journal.damage) == []
    await run.ends()


async def test_what_there_is_no_room_for_is_told_later(tmp_path: Path) -> None:
    disk = TroubledDisk(tmp_path / "journal")
    stand = Stand(Folder(tmp_path), TestTill(tmp_path / "journal", LIMITS, disk))
    async with after_damage(stand) as run:
        disk.trouble.write = BROKEN
        await run.aftermath.round()
        assert [found.reason for found in run.journal.damage] == ["damaged_frame"]
        assert "housekeeping_failed" in run.telling.said()
        disk.trouble.write = None
        await run.aftermath.round()
        assert list(run.journal.damage) == []
        assert [lost.reason for lost in run.losses()] == ["damaged_frame"]
        await run.ends()


async def nothing_is_left_to_report(run: Run) -> None:
    """Wait for less than the time after which everything is tried again."""
    async with asyncio.timeout(EVERY_S / 4):
        while run.journal.damage:
            await asyncio.sleep(0)


async def test_a_loss_found_later_is_reported_at_once(stand: Stand) -> None:
    async with after_damage(stand) as run:
        chunk = run.journal._shelf.get(run.journal.damage[0].chunk)
        assert chunk is not None
        task = asyncio.create_task(run.aftermath.run())
        await nothing_is_left_to_report(run)
        run.journal._shelf.lose(chunk, [Range(2, 2)])
        run.aftermath.found.set()
        await nothing_is_left_to_report(run)
        task.cancel()
        assert [lost.first for lost in run.losses()] == [1, 2]
        await run.ends()


async def test_what_could_not_be_reported_is_not_tried_in_a_loop_however_much_is_found(tmp_path: Path) -> None:
    disk = TroubledDisk(tmp_path / "journal")
    stand = Stand(Folder(tmp_path), TestTill(tmp_path / "journal", LIMITS, disk))
    async with after_damage(stand) as run:
        disk.trouble.write = BROKEN
        task = asyncio.create_task(run.aftermath.run())
        while "housekeeping_failed" not in run.telling.said():
            await asyncio.sleep(0)
        for _ in range(100):
            run.aftermath.found.set()
            await asyncio.sleep(0)
        assert run.telling.said().count("housekeeping_failed") == 1
        task.cancel()
        await run.is_killed()


async def test_a_former_key_stays_as_long_as_the_journal_holds_something_of_its_device(stand: Stand) -> None:
    seeds = {SignKey(seed).key_id: seed for seed in (bytes([n]) * 32 for n in range(2))}
    stand.folder.former.mkdir()
    for key_id, seed in seeds.items():
        write_private(stand.folder.former / f"{key_id.hex()}.key", seed)
    used, unused = seeds
    stand.till.keys.device = SignKey(seeds[used])
    run = await stand.starts()
    await run.sells("1")
    await run.ends()
    stand.till.keys.device = SignKey(b"new" + bytes(29))
    run = await stand.starts()
    await run.sells("2")
    await run.aftermath.round()
    assert set(stand.folder.former_keys()) == {used}
    assert unused not in stand.folder.former_keys()
    for slice_ in iter(lambda: run.journal.next_slice("backlog", 1 << 20), None):
        run.journal.acknowledge(slice_.epoch, [Range(slice_.first, slice_.last)])
    stand.till.clock.turn(LIMITS.retain_age + 1)
    run.journal.discard(run.journal.sweep())
    await run.aftermath.round()
    assert stand.folder.former_keys() == {}
    await run.ends()


async def test_a_run_that_was_forgotten_as_safe_is_no_power_cut_though_it_has_no_footer(tmp_path: Path) -> None:
    disk = TroubledDisk(tmp_path / "journal")
    stand = Stand(Folder(tmp_path), TestTill(tmp_path / "journal", LIMITS, disk))
    first = await stand.starts("monday")
    await first.sells("1")
    disk.trouble.write = FULL
    await first.ends()
    disk.trouble.write = None
    second = await stand.starts("tuesday")
    await second.aftermath.round()
    assert second.losses() == []
    await second.ends()


@pytest.mark.parametrize("boot", ["monday", "tuesday"])
async def test_damage_in_what_the_server_holds_is_no_power_cut_two_runs_later(stand: Stand, boot: str) -> None:
    first = await stand.starts("monday")
    await first.sells("1", "2", "3")
    stand.till.drain(first.journal)
    await first.is_killed()
    path = stand.folder.path / "journal" / "0000000001.chunk"
    data = bytearray(path.read_bytes())
    data[FRAMES_START + 60] ^= 1
    path.write_bytes(data)
    second = await stand.starts("monday")
    await second.aftermath.round()
    assert second.losses() == []
    await second.ends()
    third = await stand.starts(boot)
    await third.aftermath.round()
    assert third.losses() == []
    await third.ends()


async def test_a_file_that_was_written_anew_late_is_no_power_cut_two_runs_later(tmp_path: Path) -> None:
    disk = TroubledDisk(tmp_path / "journal")
    stand = Stand(Folder(tmp_path), TestTill(tmp_path / "journal", LIMITS, disk))
    first = await stand.starts("monday")
    await first.sells("1")
    await first.is_killed()
    disk.trouble.sync_fails_of, disk.trouble.rename = "0000000001.chunk", FULL
    second = await stand.starts("monday")
    while not second.journal._inherited.doubtful:
        await second.journal._syncer.sync_all()
    disk.trouble.sync_fails_of = disk.trouble.rename = None
    stand.till.clock.turn(5)
    await second.journal._syncer.sync_all()
    await second.aftermath.round()
    await second.ends()
    third = await stand.starts("tuesday")
    await third.aftermath.round()
    assert third.losses() == []
    await third.ends()
