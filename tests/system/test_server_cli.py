"""The real `tillstream-server` command."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.system

COMMAND = [str(Path(sys.executable).with_name("tillstream-server"))]


def run(*arguments: str | Path, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], input=stdin, capture_output=True, text=True, timeout=60, check=False
    )


def result(*arguments: str | Path, stdin: str | None = None) -> dict[str, Any]:
    """Run a command that succeeds, and read the JSON it prints."""
    done = run(*arguments, "--json", stdin=stdin)
    assert done.returncode == 0, done.stderr
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder made by `init`."""
    folder = tmp_path / "data"
    assert run("init", "--data", folder).returncode == 0
    return folder


@contextmanager
def server(data: Path, *arguments: str) -> Iterator[str]:
    """A serving process; gives its address."""
    process = subprocess.Popen(
        [*COMMAND, "serve", "--data", str(data), "--port", "0", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield str(json.loads(process.stdout.readline())["listening"])
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 0, errors
        events = [json.loads(line)["event"] for line in errors.splitlines()]
        assert (events[0], events[-1]) == ("serving", "stopping")
    finally:
        process.kill()
        process.communicate()


def get(address: str, key: str | None = None) -> Any:
    """GET JSON."""
    request = urllib.request.Request(address, headers={"Authorization": f"Bearer {key}"} if key else {})
    with urllib.request.urlopen(request, timeout=30) as reply:
        return json.load(reply)


def test_init_tells_the_operator_to_take_the_escrow_key_away(tmp_path: Path) -> None:
    done = run("init", "--data", tmp_path / "data", "--json")
    assert done.returncode == 0
    facts = json.loads(done.stdout)
    assert Path(facts["escrow_private_key"]).exists()
    assert "Take" in done.stderr
    assert facts["escrow_private_key"] in done.stderr
    assert Path(facts["escrow_private_key"]).read_text().strip() not in done.stdout + done.stderr


def test_serve_takes_commands_and_requests_and_stops_on_sigterm(data: Path, tmp_path: Path) -> None:
    before = result("key", "create", "--data", data, "--role", "viewer")["key"]
    campaign = {
        "id": "thanks",
        "version": 1,
        "name": "Thanks",
        "trigger": "transaction",
        "condition": {">=": [{"var": "sale.total"}, 1000]},
        "effects": [{"type": "cashier_message", "text": "Say thanks"}],
    }
    file = tmp_path / "campaign.json"
    file.write_text(json.dumps(campaign))
    with server(data) as address:
        assert get(address + "/healthz") == {"status": "ok"}
        assert get(address + "/api/v1/ledger/summary", before)["transactions"] == 0
        during = result("key", "create", "--data", data, "--role", "operator")["key"]
        assert get(address + "/api/v1/tills", during) == {"tills": [], "next": None}
        token = result("token", "create", "--data", data, "--retailer", "acme", "--store", "north", "--ttl", "1h")
        assert token["token"].startswith("ts1.")
        assert result("campaign", "put", "--data", data, "--retailer", "acme", file)["changed"] is True
        listed = get(address + "/api/v1/campaigns/acme", before)["campaigns"]
        assert [one["campaign"]["id"] for one in listed] == ["thanks"]
        exported = run("ledger", "export", "--data", data)
        assert (exported.returncode, exported.stdout) == (0, "")
    assert result("campaign", "end", "--data", data, "--retailer", "acme", "thanks")["active"] is False


def test_serve_runs_on_asyncios_own_loop_too(data: Path) -> None:
    with server(data, "--no-uvloop") as address:
        assert get(address + "/readyz") == {"status": "ready"}


def test_a_server_that_was_killed_starts_again(data: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, "serve", "--data", str(data), "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.kill()
    process.communicate()
    assert (data / "admin.sock").exists()
    result("key", "create", "--data", data, "--role", "viewer")
    with server(data) as address:
        assert get(address + "/readyz") == {"status": "ready"}


def test_a_campaign_can_come_through_a_pipe_and_is_checked(data: Path) -> None:
    done = run("campaign", "put", "--data", data, "--retailer", "acme", "-", stdin='{"id": "x"}')
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "version" in done.stderr


def test_without_json_people_can_read_it(data: Path) -> None:
    done = run("key", "create", "--data", data, "--role", "viewer")
    assert done.stdout.splitlines()[0].startswith("key: tsk_")
    assert run("till", "list", "--data", data).stdout == ""
    assert run("quarantine", "list", "--data", data).stdout == ""
    assert run("dead-letters", "list", "--data", data).stdout == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("serve",), "run: tillstream-server init"),
        (("token", "create", "--retailer", "a", "--store", "b"), "run: tillstream-server init"),
        (("ledger", "export"), "run: tillstream-server init"),
        (("rebuild",), "run: tillstream-server init"),
    ],
)
def test_a_wrong_data_folder_is_one_sentence_that_says_what_to_do(
    tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    done = run(*arguments, "--data", tmp_path)
    assert done.returncode == 1
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_missing_keys_are_one_sentence(data: Path) -> None:
    (data / "keys" / "box.key").unlink()
    done = run("serve", "--data", data, "--port", "0")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "box.key" in done.stderr


def test_a_port_in_use_is_one_sentence(data: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = run("serve", "--data", data, "--port", str(taken.getsockname()[1]))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "--port" in done.stderr


def test_a_setting_that_cannot_be_used_is_one_sentence(data: Path) -> None:
    (data / "server.toml").write_text('port = "many"\n')
    done = run("serve", "--data", data)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "server.toml" in done.stderr
    assert "many" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("serve",),
        ("token", "create", "--data", "x", "--retailer", "a"),
        ("token", "create", "--data", "x", "--retailer", "a", "--store", "b", "--ttl", "soon"),
        ("key", "create", "--data", "x", "--role", "king"),
        ("campaign", "put", "--data", "x", "--retailer", "a", "/no/such/file"),
    ],
)
def test_wrong_usage_is_told_apart(arguments: tuple[str, ...]) -> None:
    assert run(*arguments).returncode == 2


TOKEN = ("token", "create", "--retailer", "a", "--store", "b")


@pytest.mark.parametrize(
    ("arguments", "flag", "value", "allowed"),
    [
        ((*TOKEN, "--uses", "0"), "--uses", "'0'", "from 1 to 100000"),
        ((*TOKEN, "--uses", "-1"), "--uses", "'-1'", "from 1 to 100000"),
        ((*TOKEN, "--uses", "many"), "--uses", "'many'", "from 1 to 100000"),
        ((*TOKEN, "--store", ""), "--store", "''", "1 to 64 characters"),
        ((*TOKEN, "--ttl", "400d"), "--ttl", "'400d'", "1s to 366d"),
        (("serve", "--port", "99999"), "--port", "'99999'", "from 0 to 65535"),
        (("serve", "--host", ""), "--host", "''", "1 to 253 characters"),
        (("till", "list", "--limit", "0"), "--limit", "'0'", "from 1 to 1000"),
        (("ledger", "export", "--after", "-1"), "--after", "'-1'", "at least 0"),
    ],
)
def test_what_is_out_of_range_is_wrong_usage_that_names_flag_value_and_what_is_allowed(
    data: Path, arguments: tuple[str, ...], flag: str, value: str, allowed: str
) -> None:
    done = run(*arguments, "--data", data)
    assert done.returncode == 2
    said = done.stderr.splitlines()[-1]
    assert all(word in said for word in (flag, value, allowed)), said


@pytest.mark.parametrize("arguments", [("init",), ("serve",), TOKEN])
def test_a_file_as_data_folder_is_one_sentence_that_says_what_to_do(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    (tmp_path / "file").write_text("")
    done = run(*arguments, "--data", tmp_path / "file")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "not a folder" in done.stderr
    assert "--data" in done.stderr
    assert "Errno" not in done.stderr


def test_an_address_that_is_not_ours_is_one_sentence_that_says_what_to_do(data: Path) -> None:
    done = run("serve", "--data", data, "--host", "192.0.2.1", "--port", "0")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "cannot listen" in done.stderr
    assert "--host" in done.stderr


def test_commands_right_after_the_servers_start_are_carried_out(data: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, "serve", "--data", str(data), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for _ in range(3):
            assert result(*TOKEN, "--data", data)["uses"] == 1
        assert process.stdout is not None
        assert "listening" in process.stdout.readline()
        second = run("serve", "--data", data, "--port", "0")
        assert (second.returncode, second.stderr.count("\n")) == (1, 1)
        assert "another server" in second.stderr
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 0, errors
    finally:
        process.kill()
        process.communicate()


def test_no_secret_is_logged(data: Path) -> None:
    done = run("token", "create", "--data", data, "--retailer", "a", "--store", "b", "--json")
    assert json.loads(done.stdout)["token"] not in done.stderr
    assert os.environ.get("NO_COLOR") is None or "\x1b" not in done.stderr


def test_a_backup_of_a_serving_server_is_restored_into_a_new_folder(data: Path, tmp_path: Path) -> None:
    key = result("key", "create", "--data", data, "--role", "viewer")["key"]
    with server(data):
        made = result("backup", "--data", data, "--to", tmp_path / "backup")
    assert made["backup"] == str(tmp_path / "backup")
    again = run("backup", "--data", data, "--to", tmp_path / "backup")
    assert (again.returncode, again.stderr.count("\n")) == (1, 1)
    assert "there already" in again.stderr
    restored = result("restore", "--from", tmp_path / "backup", "--data", tmp_path / "new")
    assert restored["files"] == made["files"]
    with server(tmp_path / "new") as address:
        assert get(address + "/api/v1/ledger/summary", key)["transactions"] == 0


def test_keys_are_rotated_while_the_server_serves_on_at_the_same_address(data: Path) -> None:
    (data / "escrow-private.key").unlink()
    with server(data) as address:
        rotated = result("key", "rotate-box", "--data", data)
        escrow = result("key", "rotate-escrow", "--data", data)
        assert Path(escrow["escrow_private_key"]).exists()
        assert escrow["box_key_id"] == rotated["box_key_id"]
        until_ready(address)
    assert len(result("key", "rotate-box", "--data", data)["former_box_key_ids"]) == 2


def until_ready(address: str) -> None:
    """Wait for a server that begins again."""
    for _ in range(600):
        try:
            assert get(address + "/readyz") == {"status": "ready"}
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError("the server did not come back")


def test_a_lost_box_key_is_recovered_with_the_escrow_key_and_that_is_forgotten_again(data: Path) -> None:
    escrow = data.parent / "safe"
    (data / "escrow-private.key").rename(escrow)
    (data / "keys" / "box.key").unlink()
    refused = run("serve", "--data", data, "--port", "0")
    assert refused.returncode == 1
    assert "key recover --escrow" in refused.stderr
    done = run("key", "recover", "--data", data, "--escrow", escrow, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["escrow_key_online"] is True
    assert "forget-escrow" in done.stderr
    assert escrow.read_text().strip() not in done.stdout + done.stderr
    with server(data) as address:
        assert result("key", "forget-escrow", "--data", data) == {"forgotten": True}
        until_ready(address)
    assert not (data / "keys" / "escrow.key").exists()


def test_a_recovery_is_refused_while_a_server_serves(data: Path) -> None:
    with server(data):
        done = run("key", "recover", "--data", data, "--escrow", data / "escrow-private.key")
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert "stop it first" in done.stderr
