"""The runner, as `make bench` calls it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from benchmarks import __main__ as runner
from benchmarks.__main__ import main
from benchmarks.figures import Answer, Conclusion, Run
from benchmarks.rivals import NothingDone
from benchmarks.sizes import QUICK, SHORT, Sizes

pytestmark = pytest.mark.system

ROOT = Path(__file__).parents[2]


@pytest.fixture
def room() -> Iterator[Path]:
    """A folder whose name is short enough for the sockets in it."""
    with tempfile.TemporaryDirectory(prefix="b-") as folder:
        yield Path(folder)


def test_one_question_gives_a_table_json_and_a_picture_and_leaves_nothing_behind(tmp_path: Path, room: Path) -> None:
    files = ["--json", str(tmp_path / "out.json"), "--plots", str(tmp_path / "plots"), "--folder", str(room)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--only", "journal", "--size", "short", *files],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "deploy")},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "journal, sealing" in done.stdout
    assert "journal" in done.stderr
    run = msgspec.json.decode((tmp_path / "out.json").read_bytes(), type=Run)
    assert run.size == "short"
    assert list(run.answers) == list(run.seconds) == ["journal"]
    assert [file.name for file in (tmp_path / "plots").iterdir()] == ["journal.svg"]
    assert list(room.iterdir()) == []


def test_a_run_that_is_told_to_stop_ends_what_it_started_and_leaves_nothing(tmp_path: Path, room: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "--only", "push", "--size", "quick", "--folder", str(room)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "deploy")}
    with (tmp_path / "said").open("wb") as said:
        running = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=said, stderr=said)
    try:
        ends = time.monotonic() + 60
        while len(processes_about(room)) < 3:  # itself, the server and the agent
            assert running.poll() is None, (tmp_path / "said").read_text()
            assert time.monotonic() < ends, "nothing was started"
            time.sleep(0.05)
        running.send_signal(signal.SIGTERM)
        assert running.wait(60) == 128 + signal.SIGTERM, (tmp_path / "said").read_text()
    finally:
        running.kill()
        running.wait()
    assert processes_about(room) == []
    assert list(room.iterdir()) == []


def processes_about(folder: Path) -> list[int]:
    """The processes whose command names a folder."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdecimal() and str(folder).encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def test_a_question_that_fails_is_told_and_the_others_are_asked_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def broken(folder: Path, sizes: Sizes) -> Answer:
        assert folder.is_dir()
        raise NothingDone(f"nothing was done in a {sizes.name} run")

    async def sound(_folder: Path, _sizes: Sizes) -> Answer:
        return Answer(conclusions=(Conclusion("sound", "it holds"),))

    async def endless(_folder: Path, _sizes: Sizes) -> Answer:
        await asyncio.Event().wait()
        return Answer()

    monkeypatch.setattr(runner, "QUESTIONS", {"broken": broken, "endless": endless, "sound": sound})
    monkeypatch.setattr(runner, "SIZES", {"full": replace(SHORT, limit_s=0.01)})
    assert main(["--json", str(tmp_path / "out.json")]) == 1
    said = capsys.readouterr().out
    assert "left out: everything: NothingDone: nothing was done in a short run" in said
    assert "left out: everything: TimeoutError" in said
    assert "it holds" in said
    answers = msgspec.json.decode((tmp_path / "out.json").read_bytes(), type=Run).answers
    assert {name: answer.failed for name, answer in answers.items()} == {
        "broken": True,
        "endless": True,
        "sound": False,
    }


@pytest.mark.parametrize(
    ("given", "changed"),
    [
        ([], {}),
        (["--ledger", "9", "--calls", "7"], {"ledger": 9, "calls": 7}),
        (["--queued", "50", "20"], {"queued": (20, 50)}),
    ],
)
def test_what_is_said_of_sizes_goes_on_top_of_the_named_one(given: list[str], changed: dict[str, object]) -> None:
    assert runner.sizes_of(runner.parsed(["--quick", *given])) == replace(QUICK, **changed)  # type: ignore[arg-type]


def test_a_question_that_there_is_not_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--only", "weather"])
    assert ended.value.code == 2
    assert "invalid choice: 'weather'" in capsys.readouterr().err
