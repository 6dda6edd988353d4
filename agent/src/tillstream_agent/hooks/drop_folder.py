"""A watched folder on the disk: what lies in it, and what becomes of a file. Everything here may block.

    NAME            what the POS wrote
    .tillstream/    files on their way out: named as they are, a number before it
    done/           what was captured, where that is kept, and what held no transaction
    error/          what could not be read, each with NAME.error.json beside it

Names that begin with a dot or end like an unfinished file's are left alone, and so is whatever is no regular file. A
file leaves by a rename into `.tillstream/` first: that takes whatever has the name at this moment, so that a file which
the POS put in its place meanwhile is seen for what it is, and is never removed unread. What a killed agent left there
is read again, and is a repeat.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

import msgspec

from tillstream_protocol.adapters.base import MAX_PAYLOAD
from tillstream_protocol.errors import ErrorBody, TooLarge

from ..platforms import NEW_FILE

LEAVING: Final = ".tillstream"
DONE: Final = "done"
ERROR: Final = "error"
REPORT: Final = ".error.json"
MOST_FILES: Final = 5_000
"""Files that one look returns; the others have their turn when these are gone."""
UNFINISHED: Final = (".tmp", ".part", ".partial", ".filepart", ".crdownload", "~")
_LONGEST: Final = 180
"""Bytes of a name that are kept where something is added to it; file systems allow 255."""
OTHERS: Final = 0o007
# Windows has none of these, and no watched folders yet: `config_doors.py` refuses them there.
_READ: Final = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0)
_NOFOLLOW: Final = getattr(os, "O_NOFOLLOW", 0)
_NONBLOCK: Final = getattr(os, "O_NONBLOCK", 0)
_DIRECTORY: Final = getattr(os, "O_DIRECTORY", 0)


@dataclass(frozen=True, slots=True)
class Shape:
    """What tells a file from another one, or from itself after a change."""

    device: int
    inode: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, found: os.stat_result) -> Shape:
        """The shape that a `stat` tells."""
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class Dropped:
    """A file as it was seen: where it lies, under which name, and what the POS called it."""

    inner: str
    """The inner folder; empty for the watched one itself."""
    entry: str
    name: str
    shape: Shape

    @property
    def place(self) -> str:
        """Where it lies, from the watched folder on."""
        return f"{self.inner}/{self.entry}" if self.inner else self.entry


@dataclass(frozen=True, slots=True)
class Look:
    """What lay in the folder: files to be read, and the names of what is not one."""

    files: tuple[Dropped, ...]
    odd: tuple[str, ...]
    open_to_others: bool


class Report(msgspec.Struct, frozen=True, omit_defaults=True):
    """`NAME.error.json`."""

    file: str
    adapter: str
    error: ErrorBody


class DropFolder:
    """One watched folder. Every method may raise `OSError`.

    The POS's user may write here, and need not be trusted with more: folders are held open while they are used, so that
    no link that is put in the place of one leads the agent to files of its own.
    """

    def __init__(self, path: Path, pattern: str) -> None:
        self.path = path
        self._pattern = pattern

    def look(self) -> Look:
        """What is there now."""
        with self._opened() as folder:
            files, odd = list(self._leaving()), []
            with os.scandir(folder) as entries:
                for entry in entries:
                    if not self._is_meant(entry.name):
                        continue
                    with suppress(FileNotFoundError):  # it went meanwhile
                        found = entry.stat(follow_symlinks=False)
                        if stat.S_ISREG(found.st_mode):
                            if not found.st_size:
                                continue
                            files.append(Dropped("", entry.name, entry.name, Shape.of(found)))
                        else:
                            odd.append(entry.name)
                    if len(files) >= MOST_FILES:
                        break
            files.sort(key=lambda file: (file.shape.mtime_ns, file.name))
            return Look(tuple(files), tuple(sorted(odd)), bool(os.fstat(folder).st_mode & OTHERS))

    def read(self, file: Dropped) -> bytes | None:
        """A file's bytes; None if it is no longer what was seen. Raises `TooLarge`."""
        try:
            with self._opened(file.inner) as folder:
                handle = os.open(file.entry, _READ | _NONBLOCK | _NOFOLLOW, dir_fd=folder)
        except FileNotFoundError:
            return None
        with open(handle, "rb") as opened:  # noqa: PTH123 (a handle)
            if Shape.of(os.fstat(handle)) != file.shape:
                return None
            if file.shape.size > MAX_PAYLOAD:
                raise TooLarge(f"{file.shape.size} bytes", field="body", limit=f"{MAX_PAYLOAD} bytes")
            data = opened.read(file.shape.size + 1)
            return data if Shape.of(os.fstat(handle)) == file.shape and len(data) == file.shape.size else None

    def remove(self, file: Dropped) -> bool:
        """Remove a file; False if another lay in its place, which stays to be read."""
        with self._opened(LEAVING, make=True) as leaving:
            taken = self._take(file, leaving)
            if taken is not None:
                os.unlink(taken, dir_fd=leaving)
            return taken is not None

    def keep(self, file: Dropped) -> bool:
        """Move a file to `done/`; False if another lay in its place, which stays to be read."""
        with self._opened(LEAVING, make=True) as leaving, self._opened(DONE, make=True) as done:
            taken = self._take(file, leaving)
            if taken is not None:
                os.rename(taken, _free_name(done, file.name), src_dir_fd=leaving, dst_dir_fd=done)
            return taken is not None

    def set_aside(self, file: Dropped, report: Report) -> bool:
        """Move a file to `error/`, with the report beside it; False if another lay in its place."""
        with self._opened(LEAVING, make=True) as leaving, self._opened(ERROR, make=True) as error:
            taken = self._take(file, leaving)
            if taken is not None:
                name = _free_name(error, file.name)
                _write(error, f"{name}{REPORT}", msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
                os.rename(taken, name, src_dir_fd=leaving, dst_dir_fd=error)
            return taken is not None

    def refused(self) -> list[str]:
        """The names of what lies in `error/`, without the reports."""
        with suppress(FileNotFoundError), self._opened(ERROR) as error:
            return sorted(printable(name) for name in os.listdir(error) if not name.endswith(REPORT))  # noqa: PTH208
        return []

    def _is_meant(self, name: str) -> bool:
        if name.startswith(".") or name.lower().endswith(UNFINISHED) or name in (DONE, ERROR):
            return False
        return fnmatchcase(name, self._pattern)

    def _leaving(self) -> Iterator[Dropped]:
        with suppress(FileNotFoundError), self._opened(LEAVING) as leaving, os.scandir(leaving) as entries:
            for entry in entries:
                found = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(found.st_mode):
                    yield Dropped(LEAVING, entry.name, entry.name.partition("-")[2] or entry.name, Shape.of(found))

    def _take(self, file: Dropped, leaving: int) -> str | None:
        """A file's name on its way out, where nobody else looks for it; None if it is not the one that was seen."""
        taken = file.entry
        with suppress(FileNotFoundError):  # somebody else has removed it
            if file.inner != LEAVING:
                taken = f"{file.shape.inode:x}-{_cut(file.name)}"
                with self._opened() as folder:
                    os.rename(file.entry, taken, src_dir_fd=folder, dst_dir_fd=leaving)
            if Shape.of(os.stat(taken, dir_fd=leaving, follow_symlinks=False)) == file.shape:
                return taken
        return None

    @contextmanager
    def _opened(self, inner: str = "", *, make: bool = False) -> Iterator[int]:
        """The watched folder, or one in it; a link in its place is not followed."""
        place = self.path / inner
        if make:
            place.mkdir(mode=0o700, exist_ok=True)
        handle = os.open(place, _READ | _DIRECTORY | (_NOFOLLOW if inner else 0))
        try:
            yield handle
        finally:
            os.close(handle)


def _write(folder: int, name: str, content: bytes) -> None:
    """Write a file of mode 0600 anew. What a killed agent left of one goes."""
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)
    handle = os.open(name, NEW_FILE, 0o600, dir_fd=folder)
    with open(handle, "wb") as opened:  # noqa: PTH123
        opened.write(content)
        opened.flush()
        os.fsync(handle)


def printable(name: str) -> str:
    """A file's name as text, whatever its bytes are."""
    return os.fsencode(name).decode("utf-8", "replace")


def _free_name(folder: int, name: str) -> str:
    """A name that nothing in an open folder has yet."""
    if name == _cut(name) and not _exists(folder, name):
        return name
    name, number = _cut(name), 1
    while _exists(folder, f"{name}.{number}"):
        number += 1
    return f"{name}.{number}"


def _exists(folder: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _cut(name: str) -> str:
    """The end of a name, with room for what is added."""
    return os.fsdecode(os.fsencode(name)[-_LONGEST:])
