"""The command line of the server, in this process: what it says, and with which exit code."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tillstream_server import cli


@dataclass(frozen=True)
class Done:
    """A command that has come to its end."""

    returncode: int
    stdout: str
    stderr: str


Run = Callable[..., Done]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command."""

    def run(*arguments: str | Path) -> Done:
        capsys.readouterr()
        try:
            code = cli.main(list(map(str, arguments)))
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        said = capsys.readouterr()
        return Done(code, said.out, said.err)

    return run


def result(run: Run, *arguments: str | Path) -> dict[str, Any]:
    """Run a command that succeeds, and read the JSON it prints."""
    done = run(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


@pytest.fixture
def data(tmp_path: Path, run: Run) -> Path:
    """A data folder made by `init`."""
    folder = tmp_path / "data"
    assert run("init", "--data", folder).returncode == 0
    return folder


def test_a_backup_says_what_the_operator_has_to_look_after(data: Path, tmp_path: Path, run: Run) -> None:
    done = run("backup", "--data", data, "--to", tmp_path / "backup", "--json")
    assert "escrow-private.key" in done.stderr
    assert "holds the server's keys" in done.stderr
    (data / "escrow-private.key").unlink()
    assert "escrow" not in run("backup", "--data", data, "--to", tmp_path / "second").stderr
    assert "revocations" in run("restore", "--from", tmp_path / "backup", "--data", tmp_path / "new").stderr


def test_a_damaged_backup_is_one_sentence_that_names_the_file(data: Path, tmp_path: Path, run: Run) -> None:
    result(run, "backup", "--data", data, "--to", tmp_path / "backup")
    (tmp_path / "backup" / "keys" / "sign.key").write_bytes(bytes(32))
    done = run("restore", "--from", tmp_path / "backup", "--data", tmp_path / "new")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "sign.key is not as it was made" in done.stderr
    assert not (tmp_path / "new").exists()


def test_an_import_tells_what_is_no_export_and_takes_an_empty_one(data: Path, tmp_path: Path, run: Run) -> None:
    file = tmp_path / "queue"
    file.write_bytes(b"TSEXPRT1")
    assert result(run, "batch", "import", "--data", data, file) == {
        "batches": 0,
        "stored": 0,
        "repeat": 0,
        "refused": [],
    }
    file.write_bytes(b"something else")
    done = run("batch", "import", "--data", data, file)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "queue export" in done.stderr
    assert run("batch", "import", "--data", data, tmp_path / "none").returncode == 2


def test_a_batch_that_is_refused_at_the_import_is_an_error(data: Path, tmp_path: Path, run: Run) -> None:
    file = tmp_path / "queue"
    file.write_bytes(b"TSEXPRT1" + (3).to_bytes(4, "big") + b"bad")
    done = run("batch", "import", "--data", data, file, "--json")
    assert done.returncode == 1
    assert [one["code"] for one in json.loads(done.stdout)["refused"]] == ["invalid_input"]


def test_alarms_and_dead_letters_can_be_asked_for_and_tried_again(data: Path, run: Run) -> None:
    assert result(run, "till", "alarms", "--data", data, "--settled") == {"alarms": [], "next": None}
    assert run("till", "alarms", "--data", data).stdout == ""
    assert result(run, "dead-letter", "retry", "--data", data, "--all")["retried"] == 0
    assert result(run, "dead-letters", "retry", "--data", data, "--id", "1", "--id", "2")["retried"] == 0
    assert run("dead-letters", "retry", "--data", data).returncode == 2
    place = ("--retailer", "a", "--store", "b", "--till", "c")
    for command in (("gaps",), ("settle", "--alarm", "1", "--note", "x")):
        done = run("till", *command, "--data", data, *place)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert "no till 'c'" in done.stderr


def test_a_recovery_takes_no_foreign_key(data: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "foreign").write_text("ab" * 32)
    done = run("key", "recover", "--data", data, "--escrow", tmp_path / "foreign")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "not an escrow key of this server" in done.stderr
