"""The disk as the journal sees it. What differs between platforms lies here, and so does what tests replace.

Every method raises `OSError` as the operating system does; the journal translates.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Protocol

from .blocking import OffTheLoop, Threads

_OPEN = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
_NEW = _OPEN | os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND


class File(Protocol):
    """One file, open for appending."""

    def write(self, data: bytes) -> None:
        """Append all of `data`; on an error an unknown part of it was appended."""

    def cut(self, size: int) -> None:
        """Cut the file to `size` bytes; the next write goes there."""

    async def sync(self) -> None:
        """Return when everything written before the call survives a power cut."""

    def sync_now(self) -> bool:
        """Sync while the event loop waits, for as long as a good disk takes; whether that was enough.

        If not, the next `sync` raises what came of it.
        """

    def close(self) -> None:
        """Close it. Never syncs."""


class Disk(Protocol):
    """One flat folder."""

    def names(self) -> list[str]:
        """Every file's name."""

    def size(self, name: str) -> int:
        """In bytes."""

    def read(self, name: str, start: int, size: int) -> bytes:
        """At most `size` bytes from `start` on."""

    def create(self, name: str) -> File:
        """A new, empty file; raises `FileExistsError`."""

    def append_to(self, name: str) -> File:
        """An existing file."""

    async def copy(self, name: str, start: int, size: int, to: str) -> None:
        """Lay down at most `size` bytes of a file, from `start` on, as a new one that survives a power cut.

        Its name may not yet. Where this fails nothing is left, as far as that can be had.
        """

    def rename(self, name: str, to: str) -> None:
        """Give a file another name in the folder; one that had it before is gone."""

    def unlink(self, name: str) -> None:
        """Remove a file."""

    async def sync_folder(self) -> None:
        """Return when the creations, renames and removals before the call survive a power cut."""

    def free(self) -> int:
        """Bytes that this user may still write."""


class _OsFile:
    def __init__(self, fd: int, threads: Threads) -> None:
        self._fd = fd
        self._syncing = OffTheLoop(threads)
        self._changed = False
        """Whether it was written to since the sync that may be under way was begun."""

    def write(self, data: bytes) -> None:
        self._changed = True
        _write(self._fd, data)

    def cut(self, size: int) -> None:
        self._changed = True
        os.ftruncate(self._fd, size)

    async def sync(self) -> None:
        changed = self._changed
        if not await self._syncing.ended() or changed:
            await self._syncing.run(partial(_sync_data, self._fd))

    def sync_now(self) -> bool:
        if not self._syncing.swift:
            return False
        self._changed = False
        return self._syncing.run_now(partial(_sync_data, self._fd))

    def close(self) -> None:
        os.close(self._fd)


class FolderDisk:
    """A folder of the real file system, made for its owner only."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._threads = Threads()
        self._syncing = OffTheLoop(self._threads)
        self._copying = OffTheLoop(self._threads)
        if not folder.is_dir():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _sync_names(folder.parent)

    def names(self) -> list[str]:
        """Every file's name."""
        return [entry.name for entry in os.scandir(self._folder) if entry.is_file(follow_symlinks=False)]

    def size(self, name: str) -> int:
        """In bytes."""
        return (self._folder / name).stat().st_size

    def read(self, name: str, start: int, size: int) -> bytes:
        """At most `size` bytes from `start` on."""
        with (self._folder / name).open("rb", buffering=0) as file:
            file.seek(start)
            return file.read(size) or b""

    def create(self, name: str) -> File:
        """A new, empty file; raises `FileExistsError`."""
        return _OsFile(os.open(self._folder / name, _NEW, 0o600), self._threads)

    def append_to(self, name: str) -> File:
        """An existing file."""
        return _OsFile(os.open(self._folder / name, _OPEN | os.O_WRONLY | os.O_APPEND), self._threads)

    async def copy(self, name: str, start: int, size: int, to: str) -> None:
        """Lay down a part of a file as a new one, synced. It is read and written off the loop."""
        await self._copying.run(partial(self._copy, name, start, size, to))

    def rename(self, name: str, to: str) -> None:
        """Give a file another name in the folder; one that had it before is gone."""
        (self._folder / name).replace(self._folder / to)

    def unlink(self, name: str) -> None:
        """Remove a file."""
        (self._folder / name).unlink()

    async def sync_folder(self) -> None:
        """Return when creations, renames and removals survive a power cut; at once where folders cannot be synced."""
        await self._syncing.run(partial(_sync_names, self._folder))

    def _copy(self, name: str, start: int, size: int, to: str) -> None:
        data = self.read(name, start, size)
        fd = os.open(self._folder / to, _NEW, 0o600)
        try:
            _write(fd, data)
            _sync_data(fd)
        except OSError:
            with contextlib.suppress(OSError):
                self.unlink(to)
            raise
        finally:
            os.close(fd)

    def free(self) -> int:
        """Bytes that this user may still write."""
        return shutil.disk_usage(self._folder).free


def _write(fd: int, data: bytes) -> None:
    written = os.write(fd, data)
    while written < len(data):
        written += os.write(fd, memoryview(data)[written:])


def _sync_data(fd: int) -> None:
    if hasattr(os, "fdatasync"):
        os.fdatasync(fd)
    else:
        os.fsync(fd)  # FlushFileBuffers on Windows


def _sync_names(folder: Path) -> None:
    if sys.platform != "win32":  # there is no such call there
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
