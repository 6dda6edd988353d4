"""A disk that fails when told to."""

from __future__ import annotations

import contextlib
import errno
from pathlib import Path

from tillstream_agent.journal import Disk, File, FolderDisk


class Trouble:
    """What goes wrong from now on; each is an errno, or None for nothing."""

    def __init__(self) -> None:
        self.write: int | None = None
        self.write_part = 0
        """How many bytes of a failing write are written all the same."""
        self.cut: int | None = None
        self.close: int | None = None
        """The file is closed all the same, as it is where the system says so."""
        self.sync: int | None = None
        self.sync_fails_of: str | None = None
        """One file, as it is now, that cannot be synced."""
        self.create: int | None = None
        self.append_to: int | None = None
        self.rename: int | None = None
        self.sync_folder: int | None = None
        self.read: int | None = None
        self.unreadable: str | None = None
        """One file that cannot be read."""
        self.unlink: int | None = None
        self.syncs = 0
        self.folder_syncs = 0
        self.creates = 0
        self.free: int | None = None
        """What the disk says is free, in bytes; None for the truth."""
        self.free_error: int | None = None
        self.times_asked = 0


class TroubledFile:
    """A file of a troubled disk."""

    def __init__(self, file: File, trouble: Trouble, name: str) -> None:
        self._file = file
        self._trouble = trouble
        self._name = name

    def write(self, data: bytes) -> None:
        if self._trouble.write is not None:
            self._file.write(data[: self._trouble.write_part])
            raise OSError(self._trouble.write, "planted")
        self._file.write(data)

    def cut(self, size: int) -> None:
        _maybe(self._trouble.cut)
        self._file.cut(size)

    async def sync(self) -> None:
        self._trouble.syncs += 1
        _maybe(BROKEN if self._name == self._trouble.sync_fails_of else self._trouble.sync)
        await self._file.sync()

    def sync_now(self) -> bool:
        return False

    def close(self) -> None:
        self._file.close()
        _maybe(self._trouble.close)


async def copy_by_steps(disk: Disk, name: str, start: int, size: int, to: str) -> None:
    """What a disk's `copy` does, by its other calls, so that each of them can fail."""
    data = disk.read(name, start, size)
    file = disk.create(to)
    try:
        file.write(data)
        await file.sync()
    except OSError:
        with contextlib.suppress(OSError):
            disk.unlink(to)
        raise
    finally:
        file.close()


class TroubledDisk(FolderDisk):
    """A real folder behind `trouble`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.trouble = Trouble()

    def create(self, name: str) -> File:
        self.trouble.creates += 1
        _maybe(self.trouble.create)
        return TroubledFile(super().create(name), self.trouble, name)

    def append_to(self, name: str) -> File:
        _maybe(self.trouble.append_to)
        return TroubledFile(super().append_to(name), self.trouble, name)

    async def copy(self, name: str, start: int, size: int, to: str) -> None:
        await copy_by_steps(self, name, start, size, to)

    def rename(self, name: str, to: str) -> None:
        _maybe(self.trouble.rename)
        super().rename(name, to)

    async def sync_folder(self) -> None:
        self.trouble.folder_syncs += 1
        _maybe(self.trouble.sync_folder)
        await super().sync_folder()

    def free(self) -> int:
        self.trouble.times_asked += 1
        _maybe(self.trouble.free_error)
        return super().free() if self.trouble.free is None else self.trouble.free

    def read(self, name: str, start: int, size: int) -> bytes:
        _maybe(BROKEN if name == self.trouble.unreadable else self.trouble.read)
        return super().read(name, start, size)

    def unlink(self, name: str) -> None:
        _maybe(self.trouble.unlink)
        super().unlink(name)


def _maybe(code: int | None) -> None:
    if code is not None:
        raise OSError(code, "planted")


FULL = errno.ENOSPC
BROKEN = errno.EIO
