"""File < environment < flags, and errors that name field and value."""

from __future__ import annotations

from pathlib import Path

import pytest

from tillstream_server.config import Config, ConfigError, load


def test_without_anything_the_server_listens_on_loopback(tmp_path: Path) -> None:
    assert load(tmp_path / "server.toml", {}, {}) == Config()
    assert (Config().host, Config().port) == ("127.0.0.1", 8700)


def test_flags_outdo_the_environment_and_that_the_file(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text('host = "10.0.0.1"\nport = 1\nbatch_bytes = 4096\n')
    found = load(file, {"TILLSTREAM_SERVER_PORT": "2", "TILLSTREAM_SERVER_UVLOOP": "false"}, {"port": 3, "host": None})
    assert (found.host, found.port, found.batch_bytes, found.uvloop) == ("10.0.0.1", 3, 4096, False)


def test_a_wrong_value_is_named_with_its_field_and_origin(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"environment.*port.*99999"):
        load(tmp_path / "server.toml", {"TILLSTREAM_SERVER_PORT": "99999"}, {})


def test_a_flag_is_checked_as_well(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"flags.*port.*-1"):
        load(tmp_path / "server.toml", {}, {"port": -1})


def test_an_unknown_field_in_the_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text("prot = 1\n")
    with pytest.raises(ConfigError, match="prot"):
        load(file, {}, {})


def test_a_file_that_is_no_toml_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text("port 1\n")
    with pytest.raises(ConfigError, match="cannot read"):
        load(file, {}, {})


def test_a_file_that_cannot_be_read_is_told_in_words(tmp_path: Path) -> None:
    (tmp_path / "server.toml").mkdir()
    with pytest.raises(ConfigError, match="cannot read") as caught:
        load(tmp_path / "server.toml", {}, {})
    assert "Errno" not in caught.value.message
    assert caught.value.hint


def test_a_certificate_needs_its_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="go together"):
        load(tmp_path / "server.toml", {}, {"tls_certificate": "cert.pem"})
