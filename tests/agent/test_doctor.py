"""The doctor finds what is wrong, says why, and what to do."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import pytest

from support.agents import enrolled, running_agent
from support.gateways import Gateway, gateway
from support.tills import TestTill, TurnedClock
from tillstream_agent import doctor
from tillstream_agent.clock import SystemClock
from tillstream_agent.config import Config
from tillstream_agent.config_doors import Address, Doors, DropSetting, PrinterSetting
from tillstream_agent.doctor import Doctor, Finding, findings_of, findings_of_doors
from tillstream_agent.folder import Folder, write_private
from tillstream_agent.inspection import read_stopped
from tillstream_agent.status import QueueStatus, Status
from tillstream_protocol.framing import FRAMES_START, HEADER_SIZE, Frame, scan
from tillstream_protocol.limits import DEFAULT
from tillstream_protocol.messages import HookLatency
from tillstream_protocol.signing import SignKey

LIMITS = replace(DEFAULT, sync_interval=0.0, reserve=0)


@dataclass
class Practice:
    """A folder, its server, and a doctor."""

    server: Gateway
    folder: Folder

    async def finds(self, doctor: Doctor | None = None) -> dict[str, Finding]:
        seen = doctor or Doctor(self.folder, Config(sync_timeout_s=2), SystemClock(), os.urandom)
        return {finding.check: finding for finding in await seen.examine()}

    async def problem(self, check: str, doctor: Doctor | None = None) -> Finding:
        finding = (await self.finds(doctor))[check]
        assert finding.verdict == "problem", finding
        assert finding.cause
        assert finding.fix
        return finding


@pytest.fixture
async def practice(tmp_path: Path) -> AsyncIterator[Practice]:
    async with gateway() as server:
        yield Practice(server, await enrolled(tmp_path / "state", server))


async def test_a_healthy_agent_has_no_problems(practice: Practice) -> None:
    async with running_agent(practice.folder):
        await practice.server.until(lambda server: bool(server.vitals))
        found = await practice.finds()
    assert {finding.verdict for finding in found.values()} == {"ok"}
    assert {
        "identity",
        "permissions",
        "disk space",
        "disk speed",
        "journal",
        "server",
        "clock",
        "agent",
        "queue",
    } <= set(found)


async def test_a_folder_that_is_not_enrolled_is_the_only_finding(tmp_path: Path) -> None:
    examiner = Doctor(Folder(tmp_path), Config(), SystemClock(), os.urandom)
    (finding,) = await examiner.examine()
    assert (finding.check, finding.verdict) == ("identity", "problem")
    assert "enroll" in finding.fix


async def test_a_stopped_agent_is_a_problem(practice: Practice) -> None:
    assert (await practice.problem("agent")).detail == "not running"


async def test_an_agent_that_hangs_is_a_problem(practice: Practice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.running, "PATIENCE_S", 0.2)
    with practice.folder.locked():
        assert "does not answer" in (await practice.problem("agent")).detail


async def test_a_missing_key_is_a_problem(practice: Practice) -> None:
    practice.folder.tag_key_file.unlink()
    assert "tag.key" in (await practice.problem("identity")).detail


async def test_a_file_open_to_others_is_a_problem(practice: Practice) -> None:
    practice.folder.device_key_file.chmod(0o644)
    assert "device.key" in (await practice.problem("permissions")).detail


async def test_a_full_disk_is_a_problem(practice: Practice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.files, "MIN_FREE", 2**62)
    await practice.problem("disk space")


async def test_a_slow_disk_is_a_problem(practice: Practice) -> None:
    ticks = iter(range(1_000))
    slow = Doctor(practice.folder, Config(), SystemClock(), os.urandom, timer=lambda: float(next(ticks)))
    assert "000.0 ms" in (await practice.problem("disk speed", slow)).detail
    assert not list(practice.folder.path.glob(".doctor*"))


async def test_a_disk_that_cannot_be_written_is_a_problem(practice: Practice) -> None:
    (practice.folder.path / f".doctor-{os.getpid()}").mkdir()
    assert "cannot write" in (await practice.problem("disk speed")).detail


async def test_a_chunk_set_aside_is_a_problem(practice: Practice) -> None:
    practice.folder.journal.mkdir()
    (practice.folder.journal / "0000000001.damaged").touch()
    assert "0000000001.damaged" in (await practice.problem("journal")).detail


@pytest.fixture
async def chunk(practice: Practice) -> Path:
    """A closed chunk with three records."""
    till = TestTill(practice.folder.journal, LIMITS)
    journal = await till.start()
    for number in range(3):
        journal.append(b"%d" % number * 100, kind=1)
    await journal.close()
    (file,) = practice.folder.journal.glob("*.chunk")
    return file


def flipped(file: Path, at: int) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 0xFF
    file.write_bytes(content)


async def test_a_whole_chunk_is_none_nor_is_one_that_a_crash_cut_off(practice: Practice, chunk: Path) -> None:
    assert (await practice.finds())["journal"].verdict == "ok"
    *_, last = (part for part in scan(chunk.read_bytes(), FRAMES_START) if isinstance(part, Frame))
    os.truncate(chunk, last.end - 1)
    assert (await practice.finds())["journal"].detail == "no damaged files"


@pytest.mark.parametrize("number", [0, 1, 2])
async def test_a_chunk_with_a_damaged_record_is_named(practice: Practice, chunk: Path, number: int) -> None:
    frames = [part for part in scan(chunk.read_bytes(), FRAMES_START) if isinstance(part, Frame)]
    flipped(chunk, (frames[number].start + frames[number].end) // 2)
    assert chunk.name in (await practice.problem("journal")).detail


@pytest.mark.parametrize("headers", [(0,), (1,), (0, 1)])
async def test_a_chunk_with_a_damaged_header_is_named(
    practice: Practice, chunk: Path, headers: tuple[int, ...]
) -> None:
    for header in headers:
        flipped(chunk, header * HEADER_SIZE + 40)
    assert chunk.name in (await practice.problem("journal")).detail


async def test_a_chunk_that_cannot_be_read_is_named(practice: Practice) -> None:
    (practice.folder.journal / "0000000001.chunk").mkdir(parents=True)
    assert "0000000001.chunk" in (await practice.problem("journal")).detail


async def test_a_chunk_that_is_gone_by_now_is_no_trouble(practice: Practice) -> None:
    practice.folder.journal.mkdir()
    (practice.folder.journal / "0000000001.chunk").symlink_to(practice.folder.journal / "nowhere")
    assert (await practice.finds())["journal"].verdict == "ok"


async def test_a_server_that_is_not_there_is_a_problem(practice: Practice) -> None:
    practice.server.answers(503)
    await practice.problem("server")


async def test_another_server_in_its_place_is_a_problem(practice: Practice) -> None:
    practice.server.key = SignKey(os.urandom(32))
    assert "not the one" in (await practice.problem("server")).detail


async def test_a_server_with_new_sealing_keys_is_still_the_one(practice: Practice) -> None:
    practice.server.box_public = os.urandom(32)
    assert (await practice.finds())["server"].verdict == "ok"


async def test_a_damaged_state_file_that_was_set_aside_is_a_problem(practice: Practice) -> None:
    (practice.folder.path / "state.db.damaged").touch()
    (practice.folder.path / "state.db.damaged-wal").touch()
    assert (await practice.problem("state")).detail == "set aside: state.db.damaged"


async def test_torn_ends_are_told_of_and_no_problem(practice: Practice) -> None:
    practice.folder.journal.mkdir()
    (practice.folder.journal / "0000000001.torn").touch()
    found = (await practice.finds())["journal"]
    assert (found.verdict, "1 torn" in found.detail) == ("ok", True)


async def test_the_reserve_counts_as_taken(practice: Practice) -> None:
    reserved = Doctor(practice.folder, Config(journal_reserve_bytes=2**62), SystemClock(), os.urandom)
    assert "in reserve" in (await practice.problem("disk space", reserved)).detail


async def test_an_address_that_was_altered_is_a_problem(practice: Practice) -> None:
    altered = replace(practice.folder.identity(), server="http://head.example")
    write_private(practice.folder.identity_file, altered.encode())
    assert "plain HTTP" in (await practice.problem("server")).detail


@pytest.mark.parametrize(("offset", "word"), [(3600, "ahead of"), (-3600, "behind")])
async def test_a_clock_far_off_is_a_problem(practice: Practice, offset: int, word: str) -> None:
    wrong = TurnedClock(SystemClock().now_ms() + offset * 1000)
    found = await practice.problem("clock", Doctor(practice.folder, Config(), wrong, os.urandom))
    assert word in found.detail


async def stopped(practice: Practice) -> Status:
    return await read_stopped(practice.folder, SystemClock())


@pytest.mark.parametrize("trouble", sorted(doctor.TROUBLES))
async def test_each_trouble_of_a_running_agent_has_cause_and_fix(practice: Practice, trouble: str) -> None:
    status = msgspec.structs.replace(await stopped(practice), running=True, capturing=True, trouble=(trouble,))
    (finding,) = [f for f in findings_of(status) if f.verdict == "problem"]
    assert finding.detail == trouble
    assert finding.cause
    assert finding.fix


async def test_slow_hooks_and_an_old_queue_are_problems(practice: Practice) -> None:
    slow = HookLatency(100, 50_000, 60_000, 10)
    old = QueueStatus(5, 500, 2 * 3_600_000)
    status = msgspec.structs.replace(await stopped(practice), capturing=True, hook=slow, queue=old)
    assert [f.check for f in findings_of(status) if f.verdict == "problem"] == ["hook", "queue"]
    refused = msgspec.structs.replace(status, queue=QueueStatus(5, 500, 0, aside=2), dead_letters=3)
    details = {f.check: f.detail for f in findings_of(refused)}
    assert "2 refused ones" in details["queue"]
    assert details["dead letters"].startswith("3 records")
    quick = msgspec.structs.replace(status, hook=HookLatency(10, 20, 30, 4), queue=QueueStatus(0, 0, 0))
    assert {f.verdict for f in findings_of(quick)} == {"ok"}


def found_of(folder: Path) -> Finding:
    (finding,) = findings_of_doors(Doors(drops=(DropSetting(folder, "odoo"),)))
    return finding


def test_a_drop_folder_is_looked_over(tmp_path: Path) -> None:
    folder = tmp_path / "pos"
    assert "No such file" in found_of(folder).detail
    folder.mkdir(mode=0o700)
    (folder / "a.json").write_bytes(b"{}")
    assert (found_of(folder).verdict, found_of(folder).detail) == ("ok", f"{folder}: 1 files wait")
    (folder / "link").symlink_to(tmp_path)
    assert "link" in found_of(folder).detail
    folder.chmod(0o755)
    assert "open to every user" in found_of(folder).detail
    (folder / "error").mkdir()
    for name in ("bad.json", "bad.json.error.json"):
        (folder / "error" / name).touch()
    assert found_of(folder).detail.endswith("1 in error/: bad.json")
    assert {found_of(folder).verdict, found_of(folder).check} == {"problem", "drop folder"}


def test_a_printers_port_on_the_network_is_a_problem() -> None:
    here = PrinterSetting(Address("10.0.0.9", 9100))
    open_to_all = PrinterSetting(Address("10.0.0.9", 9100), Address("0.0.0.0", 9100))
    first, second = findings_of_doors(Doors(printers=(here, open_to_all)))
    assert (first.verdict, second.verdict) == ("ok", "problem")
    assert "0.0.0.0:9100" in second.detail


async def test_the_doors_are_among_what_the_doctor_looks_over(practice: Practice, tmp_path: Path) -> None:
    settings = Config(sync_timeout_s=2, doors=Doors(drops=(DropSetting(tmp_path / "none", "odoo"),)))
    await practice.problem("drop folder", Doctor(practice.folder, settings, SystemClock(), os.urandom))
