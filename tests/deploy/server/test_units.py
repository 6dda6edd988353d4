"""The units are what systemd understands, and leave the server nothing of the machine that it does not need."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from support.mounts import mounting_refuses
from support.tools import SERVER, run, tool

UNITS = SERVER / "systemd"
SERVICES = ("tillstream-server.service", "tillstream-server-backup.service")
WHY = "it comes with systemd"
MOST_EXPOSED = 20
"""Of 100: systemd-analyze calls that 2.0 of 10."""


@pytest.fixture
def units(tmp_path: Path) -> list[Path]:
    """The units with programs that are there."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("tillstream-server", "tillstream-server-backup"):
        (programs / name).write_text("#!/bin/sh\n")
        (programs / name).chmod(0o755)
    copies = []
    for unit in sorted(UNITS.glob("*.service")) + sorted(UNITS.glob("*.timer")):
        copy = tmp_path / unit.name
        copy.write_text(unit.read_text().replace("/opt/tillstream-server/bin/", f"{programs}/"))
        copies.append(copy)
    return copies


def test_systemd_has_nothing_to_say_against_them(units: list[Path]) -> None:
    done = run([tool("systemd-analyze", WHY), "verify", "--man=no", "--recursive-errors=no", *units])
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_systemd_would_say_what_is_wrong(units: list[Path]) -> None:
    units[0].write_text(units[0].read_text().replace("Type=oneshot", "Type=sometimes\nRestartSecs=1"))
    done = run([tool("systemd-analyze", WHY), "verify", "--man=no", "--recursive-errors=no", units[0]])
    assert "RestartSecs" in done.stderr


@pytest.mark.parametrize("name", SERVICES)
def test_the_services_are_shut_in(name: str) -> None:
    done = run([tool("systemd-analyze", WHY), "security", "--offline=yes", f"--threshold={MOST_EXPOSED}", UNITS / name])
    assert done.returncode == 0, done.stdout
    exposed = re.search(r"exposure level for \S+: ([\d.]+)", done.stdout)
    assert exposed is not None
    assert float(exposed[1]) <= MOST_EXPOSED / 10


def test_the_figures_of_the_process_are_there_as_the_unit_shuts_it_in() -> None:
    """Prometheus' own collector gives none of them where it cannot read when the machine was started."""
    if reason := mounting_refuses():
        pytest.skip(reason)
    hidden = re.findall(r"^ProcSubset=(\w+)$", (UNITS / SERVICES[0]).read_text(), re.MULTILINE)
    options = ",".join(["hidepid=invisible", *(f"subset={subset}" for subset in hidden)])
    mounts = f"mount --make-rprivate / && mount -t proc -o {options} proc /proc"
    done = run(["unshare", "--mount", "sh", "-c", f'{mounts} && exec "$0" -c "$1"', sys.executable, _TELL])
    assert done.returncode == 0, done.stderr
    for name in ("start_time_seconds", "resident_memory_bytes", "cpu_seconds_total", "open_fds", "max_fds"):
        assert f"\nprocess_{name} " in done.stdout


_TELL = """
from prometheus_client import CollectorRegistry, generate_latest
from tillstream_server.metrics import Metrics
registry = CollectorRegistry()
Metrics(registry)
print(generate_latest(registry).decode())
"""


def test_the_timer_comes_daily() -> None:
    when = re.search(r"^OnCalendar=(.+)$", (UNITS / "tillstream-server-backup.timer").read_text(), re.MULTILINE)
    assert when is not None
    done = run([tool("systemd-analyze", WHY), "calendar", "--iterations=2", when[1]])
    assert done.returncode == 0, done.stderr
    first, second = re.findall(r"(?:elapse|Iter. #2): \w+ (\d{4}-\d\d-\d\d \d\d:\d\d)", done.stdout)
    assert first[11:] == second[11:] == "03:15"
    assert first[:10] != second[:10]


@pytest.mark.parametrize("name", SERVICES)
def test_user_and_folders_are_those_that_are_made(name: str) -> None:
    unit = (UNITS / name).read_text()
    assert "User=tillstream-server\n" in unit
    assert "u tillstream-server " in (UNITS / "sysusers.conf").read_text()
    for folder in re.findall(r"^ReadWritePaths=(.+)$", unit, re.MULTILINE):
        assert f"d {folder} 0700 tillstream-server" in (UNITS / "tmpfiles.conf").read_text()
