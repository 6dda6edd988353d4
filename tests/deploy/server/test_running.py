"""The server runs as its unit has it, and the script that the timer calls makes backups."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from support.shut_in import CANNOT
from support.tools import ROOT, SERVER, run, tool
from tillstream_server import app
from tillstream_server.cli import main
from tillstream_server.folder import Folder

TESTS = ROOT / "tests"
UNIT = SERVER / "systemd" / "tillstream-server.service"
PROGRAM = "import sys; from tillstream_server.cli import main; sys.exit(main())"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder as `init` makes it."""
    folder = Folder(tmp_path / "data")
    asyncio.run(app.init(folder, "EUR", os.urandom))
    return folder.root


def calls_in(name: str) -> set[str]:
    """The calls of one of systemd's sets, and of the sets in it."""
    done = run([tool("systemd-analyze", "it comes with systemd"), "syscall-filter", name])
    words = [line.strip() for line in done.stdout.splitlines()[1:]]
    found = {word for word in words if word and word[0] not in "#@"}
    return found.union(*(calls_in(word) for word in words if word.startswith("@")))


def allowed_calls() -> set[str]:
    """What the unit's SystemCallFilter lines leave."""
    allowed: set[str] = calls_in("@default")
    for line in re.findall(r"^SystemCallFilter=(.+)$", UNIT.read_text(), re.MULTILINE):
        sets = set().union(*(calls_in(name) for name in line.removeprefix("~").split()))
        allowed = allowed - sets if line.startswith("~") else allowed | sets
    return allowed


@pytest.fixture
def shut_in(tmp_path: Path) -> list[str]:
    """How a program is started under what the unit forbids."""
    assert "MemoryDenyWriteExecute=yes" in UNIT.read_text()
    calls = tmp_path / "calls"
    calls.write_text("\n".join(sorted(allowed_calls())))
    return [sys.executable, "-m", "support.shut_in", str(calls)]


def forbidden(how: list[str]) -> None:
    """Skip the test where the machine cannot forbid what the unit forbids; fail it where that forbids nothing."""
    for statement in ("os.sched_setaffinity(0, {0})", "mmap.mmap(-1, 4096, prot=7)"):
        code = f"import mmap, os\ndef main(_):\n  try: {statement}\n  except PermissionError: return 0\n  return 1\n"
        place = Path(how[-1]).with_name("tries.py")
        place.write_text(code)
        environment = {"PYTHONPATH": f"{place.parent}{os.pathsep}{TESTS}"}
        done = run([*how, "tries"], environment=environment)
        if done.returncode == CANNOT:
            pytest.skip("this machine has no PR_SET_MDWE (Linux 6.3) or no libseccomp")
        assert done.returncode == 0, f"{statement} was allowed: {done.stderr}"


@pytest.mark.system
def test_the_server_serves_under_what_its_unit_forbids(data: Path, shut_in: list[str]) -> None:
    forbidden(shut_in)
    arguments = [*shut_in, "tillstream_server.cli", "serve", "--data", str(data), "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])}
    process = subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=TESTS
    )
    try:
        assert process.stdout is not None
        address = json.loads(process.stdout.readline())["listening"]
        with urllib.request.urlopen(f"{address}/readyz", timeout=30) as ready:
            assert json.load(ready) == {"status": "ready"}
        assert main(["key", "create", "--data", str(data), "--role", "viewer"]) == 0
        process.terminate()
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 0, errors
    finally:
        process.kill()
        process.communicate()


REAL = f'exec {sys.executable} -c "{PROGRAM}" "$@"'


def scripted(tmp_path: Path, *arguments: str | Path, does: str = REAL) -> subprocess.CompletedProcess[str]:
    """Run the script with the real server command on its path, or with one that does something else."""
    programs = tmp_path / "bin"
    programs.mkdir(exist_ok=True)
    program = programs / "tillstream-server"
    program.write_text(f"#!/bin/sh\n{does}\n")
    program.chmod(0o755)
    path = {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    return run(["sh", SERVER / "tillstream-server-backup", *arguments], environment=path)


def former(place: Path, name: str, *, whole: bool = True) -> Path:
    made = place / name
    made.mkdir(parents=True)
    if whole:
        (made / "manifest.json").write_text("{}")
    return made


@pytest.mark.system
def test_a_backup_is_made_and_only_the_oldest_whole_ones_go(data: Path, tmp_path: Path) -> None:
    place = tmp_path / "back ups"
    old = [former(place, f"2026010{day}T031500Z") for day in (1, 2, 3)]
    torn = former(place, "20250101T031500Z", whole=False)
    foreign = former(place, "before-the-move")
    left, fresh = former(place, ".20250101T031500Z.ab.part"), former(place, ".20250102T031500Z.cd.part")
    os.utime(left, (time.time() - 3 * 86_400,) * 2)
    done = scripted(tmp_path, data, place, "2")
    assert done.returncode == 0, done.stderr
    (new,) = (one for one in place.iterdir() if (one / "ledger.db").exists())
    assert re.fullmatch(r"2\d{7}T\d{6}Z", new.name)
    assert set(place.iterdir()) == {new, old[2], torn, foreign, fresh}


def test_a_backup_that_fails_costs_no_former_one(tmp_path: Path) -> None:
    place = tmp_path / "backups"
    old = [former(place, f"2026010{day}T031500Z") for day in (1, 2, 3)]
    done = scripted(tmp_path, tmp_path / "data", place, "1", does="exit 3")
    assert done.returncode == 3
    assert sorted(place.iterdir()) == old


@pytest.mark.parametrize("arguments", [(), ("data",), ("data", "place", "0"), ("data", "place", "few")])
def test_wrong_usage_ends_with_2(arguments: tuple[str, ...], tmp_path: Path) -> None:
    done = scripted(tmp_path, *arguments, does="exit 0")
    assert done.returncode == 2
    assert done.stderr
