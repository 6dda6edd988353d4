"""What the doctor says where somebody may not read: that, and neither that it is gone nor that the disk is ill."""

from __future__ import annotations

import os
import pwd
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import pytest

from support.agents import enrolled
from support.gateways import gateway
from support.tills import TestTill
from tillstream_agent.cli import main
from tillstream_agent.clock import SystemClock
from tillstream_agent.config import Config
from tillstream_agent.config_doors import Doors, DropSetting
from tillstream_agent.doctor import Doctor, Finding, Surroundings, findings_of_doors
from tillstream_agent.doctor.patient import as_owner, settings_or_complaint
from tillstream_agent.folder import Folder
from tillstream_agent.state import State
from tillstream_protocol.errors import TillstreamError

OWNER = pwd.getpwnam("nobody").pw_uid
GROUP = 12_346
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may be somebody else")


async def no_systemd() -> str | None:
    return None


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that every user may enter, which pytest's own is not."""
    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o755)
        yield Path(made)


@pytest.fixture
async def folder(place: Path) -> AsyncIterator[Folder]:
    """The state folder of an agent that runs as another user, with a chunk in it."""
    async with gateway() as server:
        folder = await enrolled(place / "state", server)
        journal = await TestTill(folder.journal).start()
        journal.append(b"x" * 100, kind=1)
        await journal.close()
        await (await State.open(folder.database)).close()
        for path in (folder.path, *folder.path.rglob("*")):
            os.chown(path, OWNER, GROUP)
        folder.hook_token()  # which reads what Python needs for it, too
        yield folder


@contextmanager
def a_stranger() -> Iterator[None]:
    os.seteuid(23_456)
    try:
        yield
    finally:
        os.seteuid(0)


async def problems(folder: Folder, complaint: TillstreamError | None = None) -> dict[str, Finding]:
    around = Surroundings({}, ask_service=no_systemd, machine_id=lambda: None)
    config = Config(hook_port=0, sync_timeout_s=2)
    doctor = Doctor(folder, config, SystemClock(), os.urandom, lambda: 0.0, surroundings=around, complaint=complaint)
    found = {finding.check: finding for finding in await doctor.examine() if finding.verdict == "problem"}
    assert not any("--replace" in finding.fix for finding in found.values())
    return found


async def test_nothing_is_found_with_the_owners_eyes(folder: Folder) -> None:
    with as_owner(folder.path):
        assert set(await problems(folder)) == {"agent", "queue"}  # it does not run, and its record is from long ago


async def test_who_is_not_the_agents_user_is_told_so_and_no_more(folder: Folder) -> None:
    with a_stranger():
        found = await problems(folder)
    assert set(found) == {"permissions"}
    assert found["permissions"].cause == "you are not the agent's user"
    assert f"sudo -u '#{OWNER}'" in found["permissions"].fix


def test_who_may_not_even_enter_its_parent_is_told_so(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "closed").mkdir(0o700)
    file = str(place / "bundle.tar.gz")
    import_module("tillstream_agent.bundle")  # which a stranger may not, where Python is root's alone
    with a_stranger():
        assert main(["doctor", "--state", str(place / "closed" / "state")]) == 6
    assert "PROBLEM permissions" in capsys.readouterr().out
    with a_stranger():
        assert main(["logs", "--state", str(place / "closed" / "state")]) == 1
    assert "as root, or as the agent's user" in capsys.readouterr().err
    place.chmod(0o777)
    with a_stranger():
        assert main(["bundle", "--state", str(place / "closed" / "state"), file]) == 0


@pytest.mark.parametrize(
    ("name", "check"),
    [
        ("identity.json", "permissions"),
        ("device.key", "identity"),
        ("tag.key", "identity"),
        ("hook-token", "identity"),
        ("state.db", "permissions"),
        ("journal", "journal"),
        ("journal/0000000001.chunk", "journal"),
    ],
)
async def test_what_its_user_may_not_read_is_neither_gone_nor_damaged(folder: Folder, name: str, check: str) -> None:
    (folder.path / name).chmod(0)
    with as_owner(folder.path):
        found = await problems(folder)
    finding = found[check]
    assert finding.cause == "its mode or owner was changed"
    assert Path(name).name in finding.detail
    assert "chmod" in finding.fix


async def test_where_the_state_file_may_not_be_read_the_agent_is_still_said_not_to_run(folder: Folder) -> None:
    folder.database.chmod(0)
    with as_owner(folder.path):
        found = await problems(folder)
    assert found["agent"].detail == "not running"
    assert found["queue"].cause.startswith("state.db")


async def test_a_journal_that_is_no_folder_is_named(folder: Folder) -> None:
    (folder.journal / "0000000001.chunk").unlink()
    folder.journal.rmdir()
    folder.journal.touch()
    os.chown(folder.journal, OWNER, GROUP)
    with as_owner(folder.path):
        assert "Not a directory" in (await problems(folder))["journal"].detail


@pytest.mark.parametrize("closed", ["agent.toml", "."])
async def test_settings_that_only_root_may_read_keep_the_agent_from_starting(
    folder: Folder, place: Path, closed: str
) -> None:
    file = place / "etc" / "agent.toml"
    file.parent.mkdir()
    file.write_text("[hook]\nport = 0\n")
    (file.parent / closed).chmod(0o700 if closed == "." else 0o600)
    assert settings_or_complaint(folder, file)[1] is None
    with as_owner(folder.path):
        _, complaint = settings_or_complaint(folder, file)
        found = await problems(folder, complaint)
    assert found["settings"].cause == "it is not the agent's user's to read"


def test_root_asks_for_settings_with_the_owners_eyes(
    place: Path, folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    file = place / "agent.toml"
    file.write_text("")
    file.chmod(0o600)
    assert main(["doctor", "--state", str(folder.path), "--config", str(file)]) == 6
    assert "PROBLEM settings" in capsys.readouterr().out


@pytest.mark.parametrize(("mode", "verdict"), [(0o750, "problem"), (0o770, "ok")])
def test_a_watched_folder_is_used_with_the_owners_rights_and_groups(
    place: Path, monkeypatch: pytest.MonkeyPatch, mode: int, verdict: str
) -> None:
    """Root may write anywhere; the agent's user where a group in common lets it, as the doctor advises."""
    state, drop = place / "state", place / "outbox"
    state.mkdir()
    os.chown(state, OWNER, GROUP)
    drop.mkdir()
    drop.chmod(mode)
    os.chown(drop, 0, 777)
    monkeypatch.setattr(os, "getgrouplist", lambda name, group: [group, 777] if name == "nobody" else [])
    with as_owner(state):
        (finding,) = findings_of_doors(Doors(drops=(DropSetting(drop, "odoo"),)))
    assert finding.verdict == verdict
