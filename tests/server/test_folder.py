"""The data folder: made once, read at every start, written by one."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tillstream_server import app
from tillstream_server.folder import FORMAT, Folder, FolderBusy, FolderError, Settings, check_currency
from tillstream_server.keys import load


@pytest.fixture
async def folder(tmp_path: Path) -> Folder:
    """A data folder as `init` makes it."""
    made = Folder(tmp_path / "data")
    await app.init(made, "EUR", os.urandom)
    return made


async def test_init_makes_everything_that_serve_needs(folder: Folder) -> None:
    assert folder.settings() == Settings(FORMAT, "EUR")
    assert folder.ledger.exists()
    assert folder.vault_keys.exists()
    load(folder.keys)


async def test_only_the_owner_may_look_inside(folder: Folder) -> None:
    assert stat.S_IMODE(folder.root.stat().st_mode) == 0o700
    assert stat.S_IMODE(folder.escrow_file.stat().st_mode) == 0o600


async def test_the_escrow_key_lies_nowhere_but_in_its_own_file(folder: Folder) -> None:
    private = bytes.fromhex(folder.escrow_file.read_text())
    others = [path for path in folder.root.rglob("*") if path.is_file() and path != folder.escrow_file]
    assert not any(private in path.read_bytes() for path in others)


async def test_init_never_touches_a_folder_that_is_in_use(folder: Folder) -> None:
    before = folder.escrow_file.read_bytes()
    with pytest.raises(FolderError, match="already"):
        await app.init(folder, "USD", os.urandom)
    assert folder.escrow_file.read_bytes() == before


async def test_init_wants_a_folder_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(FolderError, match="not empty"):
        await app.init(Folder(tmp_path), "USD", os.urandom)


async def test_init_says_when_it_cannot_make_the_folder(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="cannot make"):
        await app.init(Folder(tmp_path / ("d" * 300)), "USD", os.urandom)


def test_a_folder_that_is_no_servers_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="not a server's") as caught:
        Folder(tmp_path).settings()
    assert "init" in str(caught.value.hint)


@pytest.mark.parametrize("name", ["", "below"])
async def test_a_file_is_told_to_be_no_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("dear")
    folder = Folder(tmp_path / "file" / name)
    with pytest.raises(FolderError, match="a file, not a folder") as caught:
        folder.settings()
    assert "--data" in str(caught.value.hint)
    with pytest.raises(FolderError, match="a file, not a folder"):
        await app.init(folder, "USD", os.urandom)
    assert (tmp_path / "file").read_text() == "dear"


@pytest.mark.parametrize("name", ["identity.json", "agent.lock"])
async def test_an_agents_folder_is_told_as_such(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("")
    with pytest.raises(FolderError, match="of an agent") as caught:
        Folder(tmp_path).settings()
    assert "init" not in str(caught.value.hint)
    with pytest.raises(FolderError, match="of an agent"):
        await app.init(Folder(tmp_path), "USD", os.urandom)


@pytest.mark.parametrize("text", ["{}", "nonsense", '{"format": 1, "currency": "usd"}'])
def test_damaged_settings_are_told_as_such(tmp_path: Path, text: str) -> None:
    folder = Folder(tmp_path)
    folder.settings_file.write_text(text)
    with pytest.raises(FolderError, match="damaged"):
        folder.settings()


def test_a_folder_of_another_format_is_refused(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.settings_file.write_text('{"format": 2, "currency": "USD"}')
    with pytest.raises(FolderError, match="format 2"):
        folder.settings()


def test_one_process_writes_at_a_time(tmp_path: Path) -> None:
    with Folder(tmp_path).writing(), pytest.raises(FolderBusy), Folder(tmp_path).writing():
        pass
    with Folder(tmp_path).writing():
        pass


def test_a_folder_that_is_not_there_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="cannot write"), Folder(tmp_path / "none").writing():
        pass


def test_a_currency_is_three_letters() -> None:
    assert check_currency("SEK") == "SEK"
    with pytest.raises(FolderError, match="'kr'"):
        check_currency("kr")
