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
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

import msgspec

from tillstream_protocol.adapters.base import MAX_PAYLOAD
from tillstream_protocol.errors import ErrorBody, TooLarge

from ..folder import write_private

LEAVING: Final = ".tillstream"
DONE: Final = "done"
ERROR: Final = "error"
MOST_FILES: Final = 5_000
"""Files that one look returns; the others have their turn when these are gone."""
UNFINISHED: Final = (".tmp", ".part", ".partial", ".filepart", ".crdownload", "~")
_LONGEST: Final = 180
"""Bytes of a name that are kept where something is added to it; file systems allow 255."""
OTHERS: Final = 0o007


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
    """A file as it was seen. `name` is the one that the POS gave it."""

    path: Path
    name: str
    shape: Shape


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
    """One watched folder. Every method may raise `OSError`."""

    def __init__(self, path: Path, pattern: str) -> None:
        self.path = path
        self._pattern = pattern

    def look(self) -> Look:
        """What is there now."""
        files, odd = list(self._leaving()), []
        with os.scandir(self.path) as entries:
            for entry in entries:
                if not self._is_meant(entry.name):
                    continue
                with suppress(FileNotFoundError):  # it went meanwhile
                    found = entry.stat(follow_symlinks=False)
                    if stat.S_ISREG(found.st_mode):
                        files.append(Dropped(self.path / entry.name, entry.name, Shape.of(found)))
                    else:
                        odd.append(entry.name)
                if len(files) >= MOST_FILES:
                    break
        files.sort(key=lambda file: (file.shape.mtime_ns, file.name))
        return Look(tuple(files), tuple(sorted(odd)), bool(self.path.stat().st_mode & OTHERS))

    def read(self, file: Dropped) -> bytes | None:
        """A file's bytes; None if it is no longer what was seen. Raises `TooLarge`."""
        try:
            handle = os.open(file.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
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
        leaving = self._take(file)
        if leaving is not None:
            leaving.unlink(missing_ok=True)
        return leaving is not None

    def keep(self, file: Dropped) -> bool:
        """Move a file to `done/`; False if another lay in its place, which stays to be read."""
        leaving = self._take(file)
        if leaving is not None:
            done = self._folder(DONE)
            leaving.rename(done / _free_name(done, file.name))
        return leaving is not None

    def set_aside(self, file: Dropped, report: Report) -> bool:
        """Move a file to `error/`, with the report beside it; False if another lay in its place."""
        leaving = self._take(file)
        if leaving is not None:
            folder = self._folder(ERROR)
            name = _free_name(folder, file.name)
            content = msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"
            write_private(folder / f"{name}.error.json", content)
            leaving.rename(folder / name)
        return leaving is not None

    def refused(self) -> list[str]:
        """The names of what lies in `error/`, without the reports."""
        with suppress(FileNotFoundError):
            names = [printable(path.name) for path in (self.path / ERROR).iterdir()]
            return sorted(name for name in names if not name.endswith(".error.json"))
        return []

    def _is_meant(self, name: str) -> bool:
        if name.startswith(".") or name.lower().endswith(UNFINISHED) or name in (DONE, ERROR):
            return False
        return fnmatchcase(name, self._pattern)

    def _leaving(self) -> Iterator[Dropped]:
        with suppress(FileNotFoundError):
            for path in (self.path / LEAVING).iterdir():
                found = path.lstat()
                if stat.S_ISREG(found.st_mode):
                    yield Dropped(path, path.name.partition("-")[2] or path.name, Shape.of(found))

    def _take(self, file: Dropped) -> Path | None:
        """A file's place on its way out, where nobody else looks for it; None if it is not the one that was seen.

        What somebody else removed has left already: the place then leads nowhere.
        """
        if file.path.parent.name == LEAVING:
            return file.path if Shape.of(file.path.lstat()) == file.shape else None
        place = self._folder(LEAVING) / f"{file.shape.inode:x}-{_cut(file.name)}"
        try:
            file.path.rename(place)
        except FileNotFoundError:
            return None
        return place if Shape.of(place.lstat()) == file.shape else None

    def _folder(self, name: str) -> Path:
        folder = self.path / name
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder


def printable(name: str) -> str:
    """A file's name as text, whatever its bytes are."""
    return os.fsencode(name).decode("utf-8", "replace")


def _free_name(folder: Path, name: str) -> str:
    """A name that nothing in the folder has yet."""
    if not os.path.lexists(folder / name) and name == _cut(name):
        return name
    name, number = _cut(name), 1
    while os.path.lexists(folder / f"{name}.{number}"):
        number += 1
    return f"{name}.{number}"


def _cut(name: str) -> str:
    """The end of a name, with room for what is added."""
    return os.fsdecode(os.fsencode(name)[-_LONGEST:])
