"""The command line of the server, in this process: what it says, and with which exit code."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
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
    done = run("till", "alarms", "--data", data)
    assert (done.returncode, done.stdout, done.stderr.splitlines()[-1]) == (0, "", "no alarms")
    assert result(run, "dead-letter", "retry", "--data", data, "--all")["retried"] == 0
    done = run("dead-letters", "retry", "--data", data, "--id", "1", "--id", "2")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "there is no dead letter 1, 2" in done.stderr
    assert run("dead-letters", "retry", "--data", data).returncode == 2
    place = ("--retailer", "a", "--store", "b", "--till", "c")
    for command in (("gaps",), ("settle", "--alarm", "1", "--note", "x")):
        done = run("till", *command, "--data", data, *place)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert "no till 'c'" in done.stderr


def test_people_read_moments_and_programs_milliseconds(data: Path, run: Run) -> None:
    till, epoch = bytes(16), b"e" * 16
    with closing(sqlite3.connect(data / "ledger.db")) as conn, conn:
        conn.execute("INSERT INTO till VALUES (?, 'acme', 'north', '1', 1767225599999, NULL, 0)", (till,))
        status = (
            "(till_id, epoch, position, queued, oldest_queued_ms, hook_p50, hook_p99, hook_max, disk_free, clock_ms"
        )
        conn.execute(
            f"INSERT INTO till_status {status}, agent_version, last_error, seen_ms) VALUES"
            f" (?, ?, 0, 1, 5000, 0, 0, 0, 0, {2**62}, '1', '', 0)",
            (till, epoch),
        )
        conn.execute(
            "INSERT INTO alarm VALUES (1, ?, 'missing', ?, ?, 0, 9, 1767225600000, NULL, NULL)", (till, epoch, epoch)
        )
    place = ("--retailer", "acme", "--store", "north", "--till", "1")
    shown = run("till", "show", "--data", data, *place).stdout
    row = dict(line.split(": ", 1) for line in shown.splitlines() if ": " in line)
    assert (row["created"], row["seen"]) == ("2025-12-31T23:59:59Z", "1970-01-01T00:00:00Z")
    assert (row["oldest_queued_ms"], row["clock_ms"]) == ("5000", str(2**62))
    assert "first_seen=2026-01-01T00:00:00Z" in run("till", "alarms", "--data", data).stdout
    (alarm,) = result(run, "till", "alarms", "--data", data)["alarms"]
    assert alarm["first_seen_ms"] == 1767225600000


def test_people_read_tables_and_programs_json(data: Path, run: Run) -> None:
    assert run("till", "list", "--data", data).stderr.splitlines()[-1] == "no tills"
    with closing(sqlite3.connect(data / "ledger.db")) as conn, conn:
        for number in range(3):
            row = (bytes([number]) * 16, f"till-{number}")
            conn.execute("INSERT INTO till VALUES (?, 'acme', 'north', ?, 0, NULL, 0)", row)
    done = run("till", "list", "--data", data, "--limit", "2")
    heading, first, _ = done.stdout.splitlines()
    assert heading.split()[:4] == ["store", "till", "state", "seen"]
    assert first.split() == ["north", "till-0", "new", "never", "acme"]
    assert done.stderr.splitlines()[-1] == f"there are more: add --after {'01' * 16}"
    page = result(run, "till", "list", "--data", data, "--state", "new", "--after", "01" * 16)
    assert [(till["till"], till["state"]) for till in page["tills"]] == [("till-2", "new")]
    assert run("till", "list", "--data", data, "--state", "odd").returncode == 2


def test_settings_are_made_staged_shown_and_taken_back(data: Path, run: Run) -> None:
    acme = ("--data", data, "--retailer", "acme")
    wanted = ("display.language=de", "hook.origins=https://a.example/?x=1")
    assert "--even-if-the-pos-must-follow" in run("config", "set", *acme, *wanted).stderr
    version = result(run, "config", "set", *acme, *wanted, "--even-if-the-pos-must-follow")["version"]
    assert run("config", "show", *acme).stdout.splitlines()[-3:] == [
        "rollout: not staged",
        "display.language: de",
        "hook.origins: https://a.example/?x=1",
    ]
    result(
        run,
        "config",
        "stage",
        *acme,
        "--version",
        str(version),
        "--percent",
        "10",
        "--store",
        "north",
        "--store",
        "south",
    )
    assert "10 % north, south" in run("config", "history", *acme).stdout
    result(run, "config", "halt", *acme, "--version", str(version), "--why", "a doubt")
    assert "halted: a doubt" in run("config", "history", *acme).stdout
    back = ("config", "roll-back", *acme, "--to", "0")
    assert run(*back).returncode == 1
    assert result(run, *back, "--even-if-the-pos-must-follow")["version"] > version
    assert run("config", "history", "--data", data, "--retailer", "b").stderr.splitlines()[-1].startswith("nothing")
    for wrong in (("a",), ("=1",), ("log.level=info", "log.level=debug")):
        assert run("config", "set", *acme, *wrong).returncode == 2
    refused = run("config", "set", *acme, "hook.prot=1")
    assert (refused.returncode, "'hook.prot' cannot be set from afar" in refused.stderr) == (1, True)


def test_nothing_that_a_till_says_is_obeyed_by_a_terminal(data: Path, run: Run) -> None:
    with closing(sqlite3.connect(data / "ledger.db")) as conn, conn:
        conn.execute("INSERT INTO till VALUES (?, 'acme', 'north', '1', 0, NULL, 0)", (bytes(16),))
        conn.execute(
            "INSERT INTO till_status (till_id, epoch, position, queued, oldest_queued_ms, hook_p50, hook_p99, hook_max,"
            " disk_free, clock_ms, agent_version, last_error, seen_ms, dead_letters, damaged_files)"
            " VALUES (?, ?, 0, 0, 0, 0, 0, 0, 0, 0, '0.1', 'x\x1b[2J\nstate: ok\x9b1m', 1, 0, 0)",
            (bytes(16), bytes(16)),
        )
        conn.execute("INSERT INTO till_config VALUES (?, 0, 1, 'refused', 'why\x9b2J', 1)", (bytes(16),))
    shown = run("till", "show", "--data", data, "--retailer", "acme", "--store", "north", "--till", "1").stdout
    assert "last_error: x�[2J�state: ok�1m" in shown.splitlines()
    assert not {char for char in shown if not char.isprintable()} - {"\n"}


def test_tokens_are_listed_by_where_they_lead(data: Path, run: Run) -> None:
    assert run("token", "list", "--data", data).stderr.splitlines()[-1] == "no token lets anybody in"
    result(run, "token", "create", "--data", data, "--retailer", "acme", "--store", "north", "--uses", "3")
    assert run("token", "list", "--data", data).stdout.splitlines()[1].split()[:4] == ["acme", "north", "any", "3"]
    (token,) = result(run, "token", "list", "--data", data)["tokens"]
    assert (token["uses_left"], token["till"]) == (3, None)
    assert token.keys() == {"retailer", "store", "till", "uses_left", "created_ms", "expires_ms"}


def test_an_alarm_that_was_settled_keeps_its_note(data: Path, run: Run) -> None:
    with closing(sqlite3.connect(data / "ledger.db")) as conn, conn:
        conn.execute("INSERT INTO till VALUES (?, 'acme', 'north', '1', 0, NULL, 0)", (bytes(16),))
        conn.execute(
            "INSERT INTO alarm VALUES (1, ?, 'missing', ?, ?, 0, 9, 0, NULL, NULL)", (bytes(16), bytes(16), bytes(16))
        )
    settle = ("till", "settle", "--data", data, "--retailer", "acme", "--store", "north", "--till", "1", "--alarm", "1")
    assert run(*settle, "--note", "a new disk").returncode == 0
    done = run(*settle, "--note", "something else")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "settled already, with the note: a new disk" in done.stderr


def test_a_recovery_takes_no_foreign_key(data: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "foreign").write_text("ab" * 32)
    done = run("key", "recover", "--data", data, "--escrow", tmp_path / "foreign")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "not an escrow key of this server" in done.stderr


def test_users_are_made_listed_given_another_password_and_removed(data: Path, tmp_path: Path, run: Run) -> None:
    made = result(run, "user", "create", "--data", data, "--name", "ada", "--role", "operator")
    assert len(made["password"]) == 24
    file = tmp_path / "password"
    file.write_text("umbrella kettle marmot violin\n")
    who = ("--name", "lin", "--role", "manager", "--retailer", "acme", "--store", "north")
    assert "password" not in result(run, "user", "create", "--data", data, *who, "--password-file", file)
    done = run("user", "list", "--data", data)
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [
        ["name=ada", "role=operator"],
        ["name=lin", "role=manager"],
    ]
    assert result(run, "user", "password", "--data", data, "--name", "lin")["password"] != made["password"]
    for name in ("ada", "lin"):
        assert run("user", "remove", "--data", data, "--name", name).returncode == 0
    assert "nobody may sign in yet" in run("user", "list", "--data", data).stderr
    done = run("user", "create", "--data", data, "--name", "a b", "--role", "admin")
    assert (done.returncode, "name" in done.stderr) == (1, True)


def test_a_time_zone_that_there_is_not_is_named(data: Path, run: Run) -> None:
    (data / "server.toml").write_text('time_zone = "Mars/Olympus"')
    done = run("user", "list", "--data", data)
    assert done.returncode == 1
    assert "there is no time zone 'Mars/Olympus'" in done.stderr
