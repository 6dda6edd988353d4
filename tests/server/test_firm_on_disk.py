"""What a backup, a restore or a change of keys says is done survives a power cut: files first, then their names.

A disk that loses everything but what was synced is watched: of each file its content counts as firm as of its last
sync, of each folder which file lies under which name.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from support.pipelining import Server as Parts
from support.pipelining import member, prepare, sale, server_at
from tillstream_server import backup, keys
from tillstream_server.backup import Copying
from tillstream_server.folder import Folder, Settings

NOW = 1_790_000_000_000

Content = bytes | frozenset[tuple[str, int]]


def content(path: Path) -> Content:
    """A file's bytes; a folder's names, each with the file that has it."""
    if path.is_dir():
        return frozenset((one.name, one.stat().st_ino) for one in path.iterdir())
    return path.read_bytes()


def everything(root: Path) -> list[Path]:
    """A file, or a folder with all that is in it."""
    return [root, *sorted(root.rglob("*"))]


@dataclass
class Watch:
    """Sees every sync and every rename."""

    firm: dict[int, Content] = field(default_factory=dict)
    """What a power cut leaves, by file."""
    renamed: list[str] = field(default_factory=list)
    too_early: list[str] = field(default_factory=list)
    """What was not firm when something took a name that counts."""

    def synced(self, handle: int) -> None:
        """A sync has returned."""
        self.firm[os.fstat(handle).st_ino] = content(Path(f"/proc/self/fd/{handle}").readlink())

    def about_to_rename(self, source: Path, target: Path) -> None:
        """A name is about to be given."""
        self.renamed.append(target.name)
        self.too_early += self.loose(source)

    def loose(self, root: Path) -> list[str]:
        """What of a file or folder a power cut would take."""
        return [one.name for one in everything(root) if self.firm.get(one.stat().st_ino) != content(one)]

    def loose_names(self, folder: Path) -> set[str]:
        """The names in a folder that a power cut would give back to other files, take away, or bring back."""
        kept, now = self.firm.get(folder.stat().st_ino, frozenset()), content(folder)
        assert isinstance(kept, frozenset)
        assert isinstance(now, frozenset)
        return {name for name, _ in kept ^ now}


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    """Watches from now on."""
    seen = Watch()
    fsync, rename = os.fsync, os.rename

    def noted(handle: int) -> None:
        fsync(handle)
        seen.synced(handle)

    def checked(source: Path, target: Path) -> None:
        seen.about_to_rename(Path(source), Path(target))
        rename(source, target)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(os, "rename", checked)
    return seen


@pytest.fixture
async def folder(tmp_path: Path) -> Folder:
    """A data folder of a server that has taken a sale."""
    server_keys = await prepare(tmp_path / "data")
    made = Folder(tmp_path / "data")
    made.finish(Settings(1, "USD"))
    made.config_file.write_text("port = 8700\n")
    async with server_at(made.root, server_keys=server_keys) as server:
        await takes_a_sale(server)
    return made


async def takes_a_sale(server: Parts) -> None:
    await server.take(sale("1", customer=member("4711")))


Copy = Callable[[Folder, Path], Awaitable[None]]


def around() -> Copying:
    return Copying(lambda: NOW, os.urandom, "1.2.3")


async def backs_up(folder: Folder, to: Path) -> None:
    backup.backup(folder, to, around())


async def restores(folder: Folder, to: Path) -> None:
    backup.backup(folder, to.with_name("source"), around())
    await backup.restore(to.with_name("source"), Folder(to), around())


@pytest.mark.parametrize("copies", [backs_up, restores])
async def test_a_copy_has_its_name_only_once_everything_in_it_is_on_the_disk(
    folder: Folder, tmp_path: Path, watch: Watch, copies: Copy
) -> None:
    await copies(folder, tmp_path / "copy")
    assert watch.renamed[-1] == "copy"
    assert watch.too_early == []
    assert watch.loose(tmp_path / "copy") == []
    assert len(everything(tmp_path / "copy")) > 10


@pytest.mark.parametrize("copies", [backs_up, restores])
async def test_a_copy_that_is_said_to_be_made_keeps_its_name(
    folder: Folder, tmp_path: Path, watch: Watch, copies: Copy
) -> None:
    await copies(folder, tmp_path / "copy")
    assert "copy" not in watch.loose_names(tmp_path)


def test_the_keys_that_are_made_at_first_are_on_the_disk_with_their_names(tmp_path: Path, watch: Watch) -> None:
    keys.create(tmp_path / "keys", os.urandom)
    assert watch.loose(tmp_path / "keys") == []
    assert len(everything(tmp_path / "keys")) == 7


Change = Callable[[Path, bytes], object]
CHANGES: dict[str, Change] = {
    "box.key": lambda folder, _escrow: keys.rotate_box(folder, os.urandom, NOW),
    "escrow.pub": lambda folder, _escrow: keys.rotate_escrow(folder, keys.new_escrow(os.urandom), NOW),
    "escrow.key": lambda folder, escrow: keys.recover(folder, escrow, os.urandom, NOW),
    "generation": lambda folder, _escrow: keys.advance(folder, NOW),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_key_is_on_the_disk_before_it_takes_the_place_of_another(tmp_path: Path, watch: Watch, name: str) -> None:
    _, escrow = keys.create(tmp_path, os.urandom)
    CHANGES[name](tmp_path, escrow)
    assert name in watch.renamed
    assert watch.too_early == []


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_of_keys_that_is_said_to_be_made_stays_made(tmp_path: Path, watch: Watch, name: str) -> None:
    _, escrow = keys.create(tmp_path, os.urandom)
    CHANGES[name](tmp_path, escrow)
    assert watch.loose_names(tmp_path) == set()
    assert watch.loose(tmp_path) == []


def test_a_former_key_is_on_the_disk_with_its_name_before_the_new_one_takes_its_place(
    tmp_path: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys.create(tmp_path, os.urandom)
    loose: dict[str, set[str]] = {}
    about_to_rename = watch.about_to_rename

    def look(source: Path, target: Path) -> None:
        loose[target.name] = watch.loose_names(tmp_path) - {source.name}
        about_to_rename(source, target)

    monkeypatch.setattr(watch, "about_to_rename", look)
    keys.rotate_box(tmp_path, os.urandom, NOW)
    keys.rotate_escrow(tmp_path, keys.new_escrow(os.urandom), NOW)
    assert len(loose) == 5
    assert {name: names for name, names in loose.items() if names} == {}


def test_an_escrow_key_that_is_said_to_be_forgotten_does_not_come_back(tmp_path: Path, watch: Watch) -> None:
    _, escrow = keys.create(tmp_path, os.urandom)
    keys.recover(tmp_path, escrow, os.urandom, NOW)
    assert keys.forget_escrow(tmp_path)
    assert watch.loose_names(tmp_path) == set()
