"""What the settings are, where each comes from, and everything that is wrong with them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tillstream_agent.cli import main
from tillstream_agent.config import load, read
from tillstream_agent.config_show import HIDDEN, Line, in_words, lines, wrongs

DOORS = """
[hook]
port = 9000
origins = ["https://pos.acme.example"]
[sync]
ca_file = "/etc/acme/ca.pem"
[display]
buttons = [{kind = "dog", label = "With a dog"}]
[adapters.kiosk]
adapter = "mapping"
options = "kiosk.json"
zone = "Europe/Berlin"
[[drop]]
folder = "/srv/acme/outbox"
adapter = "kiosk"
[[printer]]
to = "192.168.1.50:9100"
"""


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """A file with something of everything."""
    (tmp_path / "kiosk.json").write_text('{"acme": "secret"}')
    path = tmp_path / "agent.toml"
    path.write_text(DOORS)
    return path


def by_name(shown: list[Line]) -> dict[str, Line]:
    return {line.name: line for line in shown}


def test_every_setting_is_shown_with_where_it_comes_from(settings: Path) -> None:
    shown = by_name(lines(read(settings, {"TILLSTREAM_LOG_LEVEL": "debug"}, {"hook.port": "7"}), redact=False))
    assert (shown["hook.port"].value, shown["hook.port"].origin) == (7, "the command line")
    assert (shown["log.level"].value, shown["log.level"].origin) == ("debug", "TILLSTREAM_LOG_LEVEL")
    assert (shown["sync.ca_file"].value, shown["sync.ca_file"].origin) == ("/etc/acme/ca.pem", str(settings))
    assert (shown["sync.timeout_s"].value, shown["sync.timeout_s"].origin) == (30.0, "default")
    assert shown["display.buttons"].value == [{"kind": "dog", "labels": [["en", "With a dog"]]}]


def test_doors_are_shown_key_by_key(settings: Path) -> None:
    shown = by_name(lines(read(settings, {}), redact=False))
    assert shown["drop[0].folder"].value == "/srv/acme/outbox"
    assert shown["printer[0].to"].value == "192.168.1.50:9100"
    assert shown["adapters.kiosk.options"].value == {"acme": "secret"}
    assert shown["adapters.kiosk.zone"].value == "Europe/Berlin"


def test_redacted_nothing_names_a_host_or_a_folder(settings: Path) -> None:
    shown = lines(read(settings, {}), redact=True)
    text = msgspec.json.encode(shown).decode()
    assert [word for word in ("acme", "192.168", "outbox", str(settings)) if word in text] == []
    assert by_name(shown)["drop[0].folder"].value == HIDDEN
    assert by_name(shown)["hook.port"] == Line("hook.port", 9000, HIDDEN)
    assert by_name(shown)["sync.timeout_s"].origin == "default"


def test_redacted_what_is_not_set_is_still_told_apart(tmp_path: Path) -> None:
    shown = by_name(lines(read(None, {}), redact=True))
    assert (shown["hook.origins"].value, shown["sync.ca_file"].value) == ([], "")


def test_in_words_there_is_a_row_a_setting() -> None:
    rows = in_words(lines(read(None, {}), redact=False)).splitlines()
    assert rows[0].split() == ["hook.port", "8710", "default"]
    assert [row.split() for row in rows if row.startswith("journal.retain_s")] == [
        ["journal.retain_s", "259200", "default"]
    ]


def test_the_environment_names_the_file_where_no_flag_does(settings: Path, tmp_path: Path) -> None:
    assert load(environment={"TILLSTREAM_CONFIG": str(settings)}).hook_port == 9000
    (tmp_path / "other.toml").write_text("[hook]\nport = 1")
    assert load(tmp_path / "other.toml", {"TILLSTREAM_CONFIG": str(settings)}).hook_port == 1


def test_everything_wrong_is_named_with_field_and_value(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_text('[hook]\nport = "x"\nprot = 1\n[drop]\nfolder = 1\n[[printer]]\nto = "a"\n')
    found = {one.field: one.reason for one in wrongs(read(path, {"TILLSTREAM_LOG_LEVEL": "loud"}))}
    assert list(found) == ["printer[0].to", "hook.port", "log.level", "hook.prot", "drop.folder"]
    assert "'x'" in found["hook.port"]
    assert "'loud'" in found["log.level"]
    assert "'a'" in found["printer[0].to"]


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_certificates_that_cannot_be_used_are_named(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    (one,) = wrongs(read(None, {"TILLSTREAM_SYNC_CA_FILE": str(file)}))
    assert one.field == "sync.ca_file"
    assert str(file) in one.reason


def test_check_ends_with_2_and_names_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "agent.toml"
    path.write_text("[hook]\nport = 70000\n[log]\nlevel = 1\n")
    assert main(["config", "check", "--config", str(path)]) == 2
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        f"hook.port in {path} is 70000, which is not a whole number from 0 to 65535",
        f"log.level in {path} is 1, which is not debug, info, warning or error",
    ]
    assert said.err == "tillstream-agent: 2 of the settings cannot be meant\n"
    assert main(["config", "check", "--config", str(path), "--json"]) == 2
    assert [one["field"] for one in msgspec.json.decode(capsys.readouterr().out)["wrong"]] == ["hook.port", "log.level"]
    assert main(["config", "show", "--config", str(path)]) == 2


def test_check_says_that_all_is_well(settings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings.write_text("[hook]\nport = 9000\n")
    assert main(["config", "check", "--config", str(settings)]) == 0
    assert "1 are not at their default" in capsys.readouterr().out


def test_what_an_earlier_version_took_ends_no_agent_and_is_told(
    settings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings.write_text("[sync]\nheartbeat_s = 600\n")
    assert main(["config", "check", "--config", str(settings)]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "sync.heartbeat_s says more than holds, so 100 counts: seconds from 1 to 100"
    ]
    assert main(["config", "check", "--config", str(settings), "--json"]) == 0
    assert msgspec.json.decode(capsys.readouterr().out) == {"wrong": [], "lowered": ["sync.heartbeat_s"]}
    assert main(["config", "show", "--config", str(settings), "--json"]) == 0
    shown = msgspec.json.decode(capsys.readouterr().out)["settings"]
    assert [one["value"] for one in shown if one["name"] == "sync.heartbeat_s"] == [100]


def test_show_prints_json_too(settings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show", "--config", str(settings), "--redact", "--json"]) == 0
    told = msgspec.json.decode(capsys.readouterr().out)["settings"]
    assert {"name": "hook.port", "value": 9000, "origin": HIDDEN} in told
