"""What lies in a chunk's file links every frame to the one before, and its folder is its own."""

from __future__ import annotations

import errno
import os
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from support.disks import BROKEN, FULL
from support.stories import Story, begun, tag
from tillstream_agent.journal import FolderDisk
from tillstream_protocol.framing import FRAMES_START, Frame, scan
from tillstream_protocol.sealing import TAG_SIZE


@pytest.fixture
def story(tmp_path: Path) -> Story:
    return Story(tmp_path)


async def test_every_frame_names_the_seal_of_the_one_before_also_across_chunks(story: Story) -> None:
    journal = await begun(story)
    for number in range(4):
        journal.append(b"%d" % number, kind=1)
        if number == 1:
            journal.roll()
    await story.passes(journal)
    seals, named = [bytes(TAG_SIZE)], []
    for path in sorted(story.folder.glob("*.chunk")):
        data = path.read_bytes()
        for part in scan(data, FRAMES_START):
            if isinstance(part, Frame):
                named.append(part.header.previous)
                seals.append(data[part.end - 4 - TAG_SIZE : part.end - 4])
    assert named == seals[:-1]
    assert len(set(seals)) == 5
    await journal.close()


async def test_a_chunk_without_room_for_its_footer_is_looked_up_in_memory(story: Story) -> None:
    journal = await begun(story)
    journal.append(b"first chunk", kind=1, tag=tag(9))
    journal.roll()
    for number in range(3):
        journal.append(b"%d" % number, kind=1, tag=tag(number + 1))
    story.trouble.write = FULL
    journal._chain.close()
    await story.passes(journal)
    story.trouble.write = None
    chunk = journal._shelf.get(2)
    assert chunk is not None
    assert chunk.index is not None
    journal._syncer._tags._recent.clear()
    found = [journal.find(tag(number + 1)) for number in range(3)]
    assert [seen and seen.name.seq for seen in found] == [1, 2, 3]
    await journal.close()


def test_a_folder_is_made_with_those_above_it_and_may_be_there_already(tmp_path: Path) -> None:
    for _ in range(2):
        assert FolderDisk(tmp_path / "a" / "b").names() == []
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700


def test_what_a_link_in_the_folder_points_to_is_no_file_of_it(tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(b"x")
    disk = FolderDisk(tmp_path / "journal")
    (tmp_path / "journal" / "0000000001.chunk").symlink_to(tmp_path / "outside")
    assert disk.names() == []
    with pytest.raises(OSError, match="symbolic links"):
        disk.append_to("0000000001.chunk")


def test_behind_the_end_of_a_file_there_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123")
    disk = FolderDisk(tmp_path)
    assert disk.read("file", 2, 10) == b"23"
    assert disk.read("file", 4, 10) == disk.read("file", 40, 10) == b""


async def test_a_copy_that_can_neither_be_synced_nor_removed_is_told_as_what_failed_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise OSError(errno.EIO, "first")

    def fails_too(*_: object) -> None:
        raise OSError(BROKEN, "second")

    disk = FolderDisk(tmp_path)
    (tmp_path / "from").write_bytes(b"x")
    monkeypatch.setattr("tillstream_agent.journal.disk._sync_data", fails)
    monkeypatch.setattr(disk, "unlink", fails_too)
    with pytest.raises(OSError, match="first"):
        await disk.copy("from", 0, 1, "to")


def test_what_the_system_writes_in_parts_is_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, parts, write = bytes(range(100)), [40, 30, 1, 29], os.write
    file = FolderDisk(tmp_path).create("file")
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, rest: write(fd, rest[: parts.pop(0)]))
        file.write(data)
    file.close()
    assert (tmp_path / "file").read_bytes() == data
    assert parts == []


class Syncs:
    """Which files and folders the system was asked to sync, and how."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[tuple[str, int]] = []
        for how in ("fsync", "fdatasync"):
            monkeypatch.setattr(os, how, partial(self._note, how), raising=False)

    def _note(self, how: str, fd: int) -> None:
        self.asked.append((how, os.fstat(fd).st_ino))


@pytest.mark.parametrize("how", ["fdatasync", "fsync"])
async def test_of_a_file_the_data_is_synced_and_all_of_it_where_the_system_knows_no_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    syncs = Syncs(monkeypatch)
    if how == "fsync":
        monkeypatch.delattr(os, "fdatasync")
    file = FolderDisk(tmp_path).create("file")
    await file.sync()
    file.close()
    assert syncs.asked == [(how, (tmp_path / "file").stat().st_ino)]


@pytest.mark.parametrize("platform", ["linux", "win32"])
async def test_a_folder_is_synced_where_the_system_can_do_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: str
) -> None:
    syncs = Syncs(monkeypatch)
    monkeypatch.setattr("tillstream_agent.journal.disk.sys", SimpleNamespace(platform=platform))
    await FolderDisk(tmp_path).sync_folder()
    assert syncs.asked == ([("fsync", tmp_path.stat().st_ino)] if platform == "linux" else [])


async def test_what_took_the_place_of_the_folder_is_not_synced_for_it(tmp_path: Path) -> None:
    disk = FolderDisk(tmp_path / "journal")
    (tmp_path / "journal").rmdir()
    (tmp_path / "journal").touch()
    with pytest.raises(NotADirectoryError):
        await disk.sync_folder()


def test_a_folder_that_somebody_else_makes_meanwhile_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    is_dir, folder = Path.is_dir, tmp_path / "journal"

    def is_dir_soon(path: Path) -> bool:
        if is_dir(path):
            return True
        path.mkdir()
        return False

    with monkeypatch.context() as patch:
        patch.setattr(Path, "is_dir", is_dir_soon)
        disk = FolderDisk(folder)
    assert disk.names() == []
