"""The agent's service may do little, and systemd understands how it is described."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from support.packages import ROOT, needs
from tillstream_agent.config import read

UNIT = ROOT / "deploy" / "agent" / "systemd" / "tillstream-agent.service"
SCRIPTS = sorted(
    path
    for folder in ("debian", "rpm", "bundle", ".")
    for path in (ROOT / "deploy" / "agent" / folder).iterdir()
    if (path.is_file() and path.name in {"postinst", "prerm", "postrm", "postinstall", "preremove", "postremove"})
    or path.suffix == ".sh"
)


def analyzed(*arguments: str | Path) -> str:
    done = subprocess.run(["systemd-analyze", *map(str, arguments)], capture_output=True, text=True, timeout=60)
    return done.stdout + done.stderr


@needs("systemd-analyze")
def test_its_exposure_is_at_most_2() -> None:
    said = analyzed("security", "--offline=true", "--no-pager", UNIT)
    found = re.search(r"Overall exposure level for tillstream-agent\.service: ([\d.]+)", said)
    assert found is not None, said
    assert float(found[1]) <= 2.0


@needs("systemd-analyze")
def test_systemd_knows_every_line_of_it() -> None:
    said = [line for line in analyzed("verify", "--man=no", UNIT).splitlines() if "tillstream-agent.service" in line]
    assert [line for line in said if "is not executable" not in line] == []


def test_it_tells_when_it_is_ready_and_is_watched() -> None:
    lines = UNIT.read_text(encoding="utf-8").splitlines()
    assert {"Type=notify", "WatchdogSec=60", "MemoryDenyWriteExecute=yes"} <= set(lines)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_plain_shell_reads_every_script(script: Path) -> None:
    done = subprocess.run(["sh", "-n", str(script)], capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_the_settings_file_suggests_can_be_meant(tmp_path: Path) -> None:
    shipped = (ROOT / "deploy" / "agent" / "etc" / "agent.toml").read_text(encoding="utf-8")
    taken = [line.removeprefix("# ") for line in shipped.splitlines() if re.match(r"# (\[|\w+ = )", line)]
    (tmp_path / "agent.toml").write_text("\n".join(taken))
    reading = read(tmp_path / "agent.toml", {})
    assert reading.wrong == ()
    assert set(reading.origins) == {"hook.port", "hook.origins", "sync.ca_file", "log.level"}


def test_the_unit_reads_the_folder_that_the_command_writes() -> None:
    unit = UNIT.read_text(encoding="utf-8")
    command = (ROOT / "deploy" / "agent" / "tillstream-agent.sh").read_text(encoding="utf-8")
    for place in ("/var/lib/tillstream-agent", "/etc/tillstream-agent/agent.toml"):
        assert f"={place}\n" in unit
        assert f"$root{place}" in command
