"""What the platform does for the agent, as far as this one shows it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tillstream_agent import config_doors
from tillstream_agent.config import ConfigError, load
from tillstream_agent.platforms import belongs_to_another, pipe_name, protect, unprotect


def test_a_pipe_is_named_after_the_state_folder_however_it_is_written(tmp_path: Path) -> None:
    name = pipe_name(tmp_path / "hook.sock")
    assert name.startswith("\\\\.\\pipe\\tillstream-agent-")
    assert name == pipe_name(Path(str(tmp_path).upper()) / "HOOK.sock")
    assert name != pipe_name(tmp_path / "other" / "hook.sock")


def test_a_secret_comes_back() -> None:
    secret = os.urandom(32)
    assert unprotect(protect(secret)) == secret


def test_a_file_that_is_open_to_others_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch(mode=0o600)
    assert not belongs_to_another(file.stat())
    file.chmod(0o640)
    assert belongs_to_another(file.stat())


def test_where_folders_are_not_watched_the_setting_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_doors, "WATCHES_FOLDERS", False)
    (tmp_path / "agent.toml").write_text('[[drop]]\nfolder = "x"\nadapter = "odoo"\n')
    with pytest.raises(ConfigError, match="not watched on Windows"):
        load(tmp_path / "agent.toml", {})
