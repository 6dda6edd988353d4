"""Settings come from a file, the environment and flags, in this order; what cannot be meant is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from tillstream_agent.config import Button, Config, ConfigError, load, standing


def file(folder: Path, text: str) -> Path:
    path = folder / "agent.toml"
    path.write_text(text)
    return path


def test_nothing_given_means_the_defaults() -> None:
    assert load(environment={}) == Config()


def test_a_file_sets_everything(tmp_path: Path) -> None:
    settings = file(
        tmp_path,
        """
        [hook]
        port = 9000
        origins = ["https://pos.example", "http://10.0.0.1:8080"]
        connections = 9
        request_s = 1
        calls_s = 50
        [sync]
        heartbeat_s = 5
        timeout_s = 2.5
        ca_file = "/etc/ca.pem"
        [journal]
        retain_s = 60
        retain_bytes = 0
        reserve_bytes = 1048576
        [log]
        level = "debug"
        [run]
        uvloop = false
        [display]
        language = "hi"
        member = "kind"
        buttons = [{kind = "dog", label = "With a dog"}]
        """,
    )
    assert load(settings, environment={}) == Config(
        hook_port=9000,
        hook_origins=("https://pos.example", "http://10.0.0.1:8080"),
        hook_connections=9,
        hook_request_s=1.0,
        hook_calls_s=50.0,
        sync_heartbeat_s=5.0,
        sync_timeout_s=2.5,
        sync_ca_file="/etc/ca.pem",
        journal_retain_s=60.0,
        journal_retain_bytes=0,
        journal_reserve_bytes=1_048_576,
        log_level="debug",
        uvloop=False,
        display_language="hi",
        display_member="kind",
        display_buttons=(Button("dog", (("en", "With a dog"),)),),
    )


def test_heartbeats_further_apart_than_allowed_are_lowered_wherever_they_are_set(tmp_path: Path) -> None:
    settings = file(tmp_path, "[sync]\nheartbeat_s = 600")
    running = standing(settings, {})
    own = running({})
    assert (own.sync_heartbeat_s, own.lowered) == (100, ("sync.heartbeat_s",))
    assert running({"sync.heartbeat_s": "3600"}) == own
    assert running({"sync.heartbeat_s": "100", "hook.port": "9000"}) == Config(hook_port=9000, sync_heartbeat_s=100)
    assert load(settings, {"TILLSTREAM_SYNC_HEARTBEAT_S": "30"}) == Config(sync_heartbeat_s=30)
    with pytest.raises(ConfigError, match="seconds from 1 to 100"):
        running({"sync.heartbeat_s": "3601"})


def test_the_environment_wins_over_the_file_and_a_flag_over_both(tmp_path: Path) -> None:
    settings = file(tmp_path, "[hook]\nport = 1\n[log]\nlevel = 'error'\n[sync]\ntimeout_s = 7")
    environment = {"TILLSTREAM_HOOK_PORT": "2", "TILLSTREAM_LOG_LEVEL": "debug", "TILLSTREAM_RUN_UVLOOP": "no"}
    loaded = load(settings, environment, {"hook.port": "3", "log.level": None})
    assert (loaded.hook_port, loaded.log_level, loaded.sync_timeout_s, loaded.uvloop) == (3, "debug", 7.0, False)


def test_origins_in_the_environment_are_parted_by_commas() -> None:
    loaded = load(environment={"TILLSTREAM_HOOK_ORIGINS": "https://a.example,https://b.example:8443"})
    assert loaded.hook_origins == ("https://a.example", "https://b.example:8443")


@pytest.mark.parametrize(
    ("variable", "value", "field"),
    [
        ("TILLSTREAM_HOOK_PORT", "eight", "hook.port"),
        ("TILLSTREAM_HOOK_PORT", "65536", "hook.port"),
        ("TILLSTREAM_SYNC_TIMEOUT_S", "0", "sync.timeout_s"),
        ("TILLSTREAM_LOG_LEVEL", "loud", "log.level"),
        ("TILLSTREAM_RUN_UVLOOP", "maybe", "run.uvloop"),
        ("TILLSTREAM_HOOK_ORIGINS", "pos.example", "hook.origins"),
        ("TILLSTREAM_HOOK_ORIGINS", "https://pos.example/path", "hook.origins"),
    ],
)
def test_a_wrong_value_is_named_with_its_place(variable: str, value: str, field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(environment={variable: value})
    assert caught.value.field == field
    assert variable in caught.value.message
    assert repr(value) in caught.value.message


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("[hook]\nport = true", "hook.port"),
        ("[hook]\nport = 1.5", "hook.port"),
        ("[hook]\norigins = 7", "hook.origins"),
        ("[hook]\norigins = [7]", "hook.origins"),
        ("[sync]\nheartbeat_s = false", "sync.heartbeat_s"),
        ("[sync]\nca_file = 1", "sync.ca_file"),
        ("[hook]\nprot = 1", "hook.prot"),
        ("prot = 1", "prot"),
        ("= 1", "config"),
    ],
)
def test_a_wrong_file_is_refused_by_field(tmp_path: Path, text: str, field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(file(tmp_path, text), environment={})
    assert caught.value.field == field


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "none.toml", environment={})


@pytest.mark.parametrize(
    "buttons",
    [
        "[{kind = 'Dog', label = 'x'}]",
        "[{kind = 'dog'}]",
        "[{label = 'x'}]",
        "[{kind = 'dog', label = ''}]",
        "[{kind = 'dog', label = {}}]",
        "[{kind = 'dog', label = {tlh = 'x'}}]",
        "[{kind = 'dog', label = {en = 1}}]",
        "[{kind = 'dog', label = 7}]",
        "[{kind = 'dog', label = 'x', colour = 'red'}]",
        "[{kind = 'dog', label = 'x'}, {kind = 'dog', label = 'y'}]",
        "['dog']",
        "[7]",
        "7",
        "[" + ",".join(f"{{kind = 'dog{n}', label = 'x'}}" for n in range(9)) + "]",
        "[{kind = 'dog', label = '" + "x" * 41 + "'}]",
    ],
)
def test_buttons_that_cannot_be_meant_are_named(tmp_path: Path, buttons: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(file(tmp_path, f"[display]\nbuttons = {buttons}"), environment={})
    assert caught.value.field == "display.buttons"


def test_no_buttons_are_not_the_pages_own(tmp_path: Path) -> None:
    assert load(file(tmp_path, "[display]\nbuttons = []"), environment={}).display_buttons == ()
    given = {"TILLSTREAM_DISPLAY_BUTTONS": '[{"kind": "dog", "label": {"de": "Mit Hund"}}]'}
    assert load(environment=given).display_buttons == (Button("dog", (("de", "Mit Hund"),)),)


@pytest.mark.parametrize(("name", "value"), [("DISPLAY_LANGUAGE", "tlh"), ("DISPLAY_MEMBER", "name")])
def test_a_language_or_a_strip_that_there_is_not_is_refused(name: str, value: str) -> None:
    with pytest.raises(ConfigError):
        load(environment={f"TILLSTREAM_{name}": value})
