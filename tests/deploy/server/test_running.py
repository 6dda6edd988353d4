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

from support.tools import SERVER, run
from tillstream_server import app
from tillstream_server.folder import Folder

PR_SET_MDWE = 65
"""Linux 6.3's own form of MemoryDenyWriteExecute; linux/prctl.h."""
PROGRAM = "import sys; from tillstream_server.cli import main; sys.exit(main())"
SHUT_IN = f"import ctypes; assert ctypes.CDLL(None).prctl({PR_SET_MDWE}, 1, 0, 0, 0) == 0; {PROGRAM}"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder as `init` makes it."""
    folder = Folder(tmp_path / "data")
    asyncio.run(app.init(folder, "EUR", os.urandom))
    return folder.root


def refuses_executable_memory() -> bool:
    """Whether this kernel can refuse what the unit refuses. Asked of another process: there is no way back."""
    code = f"import ctypes, sys; sys.exit(ctypes.CDLL(None).prctl({PR_SET_MDWE}, 1, 0, 0, 0) != 0)"
    return subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.system
def test_the_server_serves_without_the_right_to_make_memory_executable(data: Path) -> None:
    if sys.platform != "linux" or not refuses_executable_memory():
        pytest.skip("this kernel has no PR_SET_MDWE")
    arguments = [sys.executable, "-c", SHUT_IN, "serve", "--data", str(data), "--port", "0"]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        address = json.loads(process.stdout.readline())["listening"]
        with urllib.request.urlopen(f"{address}/readyz", timeout=30) as ready:
            assert json.load(ready) == {"status": "ready"}
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
