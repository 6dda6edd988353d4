"""The doctor is done in time whatever hangs, sees with the agent's user's eyes, and asks systemd how the unit is."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from support.agents import enrolled
from support.gateways import gateway
from support.tills import TestTill, TurnedClock
from tillstream_agent import doctor
from tillstream_agent.boot import machine_id
from tillstream_agent.clock import SystemClock
from tillstream_agent.config import Config
from tillstream_agent.doctor import Doctor, Surroundings
from tillstream_agent.doctor.files import Files
from tillstream_agent.doctor.finding import Finding, patiently, some
from tillstream_agent.doctor.patient import as_owner
from tillstream_agent.doctor.service import ask_systemd, look_at_service
from tillstream_agent.folder import Folder


@pytest.fixture
async def folder(tmp_path: Path) -> AsyncIterator[Folder]:
    async with gateway() as server:
        yield await enrolled(tmp_path / "state", server)


@pytest.fixture
def hanging() -> Iterator[threading.Event]:
    """What hangs until it is set."""
    released = threading.Event()
    yield released
    released.set()


def quickly(folder: Folder) -> dict[str, Finding]:
    """What takes no time to find."""
    files = Files(folder, SystemClock(), 0, None, time.perf_counter)
    return {finding.check: finding for finding in files.quick(folder.identity())}


async def test_work_that_hangs_is_left_behind(hanging: threading.Event) -> None:
    with pytest.raises(TimeoutError):
        await patiently(hanging.wait, 0.05)
    assert await patiently(lambda: 7, 5) == 7
    with pytest.raises(ZeroDivisionError):
        await patiently(lambda: 1 // 0, 5)


async def test_work_that_ends_after_its_loop_ended_hurts_nobody(hanging: threading.Event) -> None:
    def elsewhere() -> None:
        with pytest.raises(TimeoutError):
            asyncio.run(patiently(hanging.wait, 0.01))

    await asyncio.to_thread(elsewhere)
    (left,) = [thread for thread in threading.enumerate() if thread.name == "doctor"]
    hanging.set()
    await asyncio.to_thread(left.join, 5)
    assert not left.is_alive()


async def test_a_disk_that_hangs_is_named_within_ten_seconds(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, hanging: threading.Event
) -> None:
    monkeypatch.setattr(doctor, "FIRST_S", 0.05)
    monkeypatch.setattr(Files, "quick", lambda *_: hanging.wait())
    (finding,) = await Doctor(folder, Config(), SystemClock(), os.urandom).examine()
    assert (finding.check, "hangs" in finding.cause) == ("disk speed", True)


async def test_a_part_that_hangs_keeps_no_other_from_being_told(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never() -> str:
        await asyncio.sleep(3600)
        return ""

    monkeypatch.setattr(doctor, "REST_S", 0.5)
    around = Surroundings({}, ask_service=never)
    slow = Doctor(folder, Config(), SystemClock(), os.urandom, surroundings=around)
    found = {one.check: one for one in await slow.examine()}
    assert found["service"].detail == "no result within 0.5 s"
    assert found["server"].verdict == "ok"


def test_the_limits_one_after_the_other_leave_time_for_the_start_within_ten_seconds() -> None:
    first, last = doctor.FIRST_S, doctor.FIRST_S / 2
    assert first + doctor.REST_S + last < 9
    assert doctor.files.LOOK_S < doctor.REST_S


async def test_a_folder_that_may_not_be_entered_is_told_of(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "STATE")

    monkeypatch.setattr(Files, "quick", refuse)
    (finding,) = await Doctor(folder, Config(), SystemClock(), os.urandom).examine()
    assert (finding.check, finding.detail) == ("permissions", "STATE: Permission denied")


async def test_the_journal_is_looked_through_for_so_long_only(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.files, "LOOK_S", 0.0)
    folder.journal.mkdir()
    (folder.journal / "0000000001.chunk").touch()
    found = Files(folder, SystemClock(), 0, None, time.perf_counter).journal()
    assert found.detail == "no damaged files among the newest 0 of 1"


async def test_the_newest_chunk_says_how_late_it_is_at_least(folder: Folder) -> None:
    journal = await TestTill(folder.journal).start()
    journal.append(b"x" * 100, kind=1)
    await journal.close()
    captured = TestTill(folder.journal).clock.now_ms()
    (folder.journal / "0000000009.chunk").write_bytes(b"nothing that has a header")
    files = Files(folder, TurnedClock(captured - 86_400_000), 0, None, time.perf_counter)
    long_enrolled = replace(folder.identity(), enrolled_ms=0)
    assert files.calendar(long_enrolled).detail.startswith("86400 s before")
    files = Files(folder, TurnedClock(captured + 1), 0, None, time.perf_counter)
    assert files.calendar(long_enrolled).verdict == "ok"


async def test_too_many_files_are_a_problem_too(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.files, "MIN_FILES", 2**62)
    found = quickly(folder)
    assert found["disk space"].cause == "too many files on the disk"


async def test_who_is_not_the_agents_user_is_told_so(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = folder.path.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    found = quickly(folder)
    assert f"sudo -u '#{owner}'" in found["permissions"].fix


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may be somebody else")
def test_root_looks_with_the_owners_eyes(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    os.chown(theirs, 12_345, 12_346)
    with as_owner(theirs):
        assert (os.geteuid(), os.getegid()) == (12_345, 12_346)
    assert (os.geteuid(), os.getegid()) == (0, 0)
    for place in (tmp_path, tmp_path / "nowhere"):
        with as_owner(place):
            assert os.geteuid() == 0


def test_a_machine_has_an_id_or_none(tmp_path: Path) -> None:
    file = tmp_path / "machine-id"
    assert machine_id(file) is None
    file.write_text("uninitialized\n")
    assert machine_id(file) is None
    file.write_text("a" * 32 + "\n")
    assert machine_id(file) == "a" * 32


async def test_a_folder_knows_its_machine(folder: Folder) -> None:
    here, elsewhere = "a" * 32, "b" * 32
    assert not folder.is_of_another_machine(here)
    folder.bind(here)
    assert here not in folder.machine_file.read_text()
    assert (folder.is_of_another_machine(here), folder.is_of_another_machine(elsewhere)) == (False, True)
    folder.bind(None)
    assert not folder.machine_file.exists()


async def of(**unit: str) -> Finding:
    async def told() -> str:
        return "".join(f"{name}={value}\n" for name, value in unit.items())

    (finding,) = await look_at_service(told)
    return finding


async def test_a_unit_is_read_as_systemd_tells_of_it() -> None:
    assert (await of(LoadState="loaded", ActiveState="active", UnitFileState="enabled")).verdict == "ok"
    assert "not installed" in (await of(LoadState="not-found")).detail
    assert (await of()).verdict == "ok"
    assert "unmask" in (await of(LoadState="masked", ActiveState="inactive")).fix
    assert "memory" in (await of(LoadState="loaded", ActiveState="failed", Result="oom-kill")).cause
    assert "hung" in (await of(LoadState="loaded", ActiveState="failed", Result="watchdog")).cause
    assert "error" in (await of(LoadState="loaded", ActiveState="failed", Result="exit-code")).cause
    assert "systemctl start" in (await of(LoadState="loaded", ActiveState="inactive", UnitFileState="enabled")).fix
    flapping = await of(LoadState="loaded", ActiveState="active", UnitFileState="enabled", NRestarts="9")
    assert (flapping.verdict, "again and again" in flapping.cause) == ("problem", True)


async def test_systemd_is_asked_where_it_runs_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "systemctl"
    program.write_text('#!/bin/sh\necho LoadState=loaded\necho "ActiveState=$2"\n')
    program.chmod(0o700)
    assert await ask_systemd(tmp_path / "not booted", str(program)) is None
    assert await ask_systemd(tmp_path, str(tmp_path / "none")) is None
    assert await ask_systemd(tmp_path, str(program)) == "LoadState=loaded\nActiveState=tillstream-agent.service\n"
    monkeypatch.setattr(doctor.service, "_ASK_S", 0.05)
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    assert await ask_systemd(tmp_path, str(program)) is None


def test_many_names_are_cut_short() -> None:
    assert some(["a", "b"]) == "a, b"
    assert some(list("abcdefg")) == "a, b, c, d, e …"
