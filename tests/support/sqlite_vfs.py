"""What SQLite writes to its files, call by call, and every disk that a power cut could leave of it.

A VFS is registered over SQLite's own one in the very library that Python's `sqlite3` uses, so the code under test is
the real one and knows nothing of it. Reading, locking and shared memory stay native; writes, truncations, syncs and
deletions are noted before they are passed on. `Recording.after` then makes the files of a disk that lost its power
after any of these calls: what was synced is there, and of the rest whatever the disk happened to have written, in
part and in any order.

A disk is assumed to be what SQLite assumes: a write touches no byte beside its own, and a sync that returned holds.
"""

from __future__ import annotations

import _sqlite3
import ctypes
import ctypes.util
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final, Literal

OK: Final = 0

Step = Literal["create", "write", "truncate", "sync", "delete"]
Whim = Literal["dropped", "kept", "torn", "reordered", "random"]
"""What the disk makes of unsynced writes: none of them, all of them, all with the last one in part, only the last,
or each as chance has it."""
WHIMS: Final[tuple[Whim, ...]] = ("dropped", "kept", "torn", "reordered", "random")


@dataclass(frozen=True, slots=True)
class Call:
    """One call that changes a file. `offset` is the new size of a truncation."""

    step: Step
    name: str
    offset: int = 0
    data: bytes = b""


@dataclass
class Recording:
    """The calls on the files of one folder, from what lay there at the beginning."""

    folder: Path
    base: dict[str, bytes]
    calls: list[Call] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, path: str, step: Step, offset: int = 0, data: bytes = b"") -> None:
        """Keep a call if it concerns this folder."""
        file = Path(path)
        if file.parent == self.folder:
            with self.lock:
                self.calls.append(Call(step, file.name, offset, data))

    @property
    def position(self) -> int:
        """How many calls there have been."""
        with self.lock:
            return len(self.calls)

    def after(self, position: int, whim: Whim, chance: Random) -> dict[str, bytes]:
        """The files after a power cut that follows the first so many calls."""
        disk: dict[str, bytes] = dict(self.base)
        loose: dict[str, list[Call]] = {}
        for call in self.calls[:position]:
            waiting = loose.setdefault(call.name, [])
            waiting.append(call)
            if call.step == "sync":
                _apply(disk, waiting)
                waiting.clear()
        for waiting in loose.values():
            _apply(disk, list(_survivors(waiting, whim, chance)))
        return disk


def _survivors(waiting: Sequence[Call], whim: Whim, chance: Random) -> Iterator[Call]:
    for index, call in enumerate(waiting):
        last = index == len(waiting) - 1
        fate = "kept" if whim in ("kept", "torn") else "dropped"
        if whim == "random":
            fate = chance.choice(("kept", "kept", "dropped", "torn"))
        elif last and whim in ("torn", "reordered"):
            fate = "torn" if whim == "torn" else "kept"
        if fate == "torn" and call.step == "write":
            yield Call("write", call.name, call.offset, call.data[: chance.randrange(len(call.data) + 1)])
        elif fate != "dropped":
            yield call
        elif call.step == "delete":
            return  # the name still leads to the old file, and what was written since went to another one


def _apply(disk: dict[str, bytes], calls: Sequence[Call]) -> None:
    if not calls:
        return
    name = calls[0].name
    content = bytearray(disk[name]) if name in disk else None
    for call in calls:
        match call.step:
            case "delete":
                content = None
            case "create":
                content = content if content is not None else bytearray()
            case "truncate" if content is not None:
                del content[call.offset :]
            case "write":
                content = content if content is not None else bytearray()
                end = call.offset + len(call.data)
                content.extend(bytes(max(0, end - len(content))))
                content[call.offset : end] = call.data
            case _:
                pass
    if content is None:
        disk.pop(name, None)
    else:
        disk[name] = bytes(content)


# SQLite's structures, as sqlite3.h lays them out

_P: Final = ctypes.c_void_p
_Int: Final = ctypes.c_int
_Int64: Final = ctypes.c_int64
_OPEN: Final = ctypes.CFUNCTYPE(_Int, _P, _P, _P, _Int, ctypes.POINTER(_Int))
_DELETE: Final = ctypes.CFUNCTYPE(_Int, _P, ctypes.c_char_p, _Int)
_CLOSE: Final = ctypes.CFUNCTYPE(_Int, _P)
_WRITE: Final = ctypes.CFUNCTYPE(_Int, _P, _P, _Int, _Int64)
_TRUNCATE: Final = ctypes.CFUNCTYPE(_Int, _P, _Int64)
_SYNC: Final = ctypes.CFUNCTYPE(_Int, _P, _Int)


class _Methods(ctypes.Structure):
    """sqlite3_io_methods, version 3."""

    _fields_ = (
        ("version", _Int),
        ("close", _P),
        ("read", _P),
        ("write", _P),
        ("truncate", _P),
        ("sync", _P),
        ("others", _P * 13),
    )


class _File(ctypes.Structure):
    """sqlite3_file."""

    _fields_ = (("methods", ctypes.POINTER(_Methods)),)


class _Vfs(ctypes.Structure):
    """sqlite3_vfs, version 3."""

    _fields_ = (
        ("version", _Int),
        ("file_size", _Int),
        ("max_path", _Int),
        ("next", _P),
        ("name", ctypes.c_char_p),
        ("app_data", _P),
        ("open", _P),
        ("delete", _P),
        ("others", _P * 16),
    )


class Unavailable(Exception):
    """Python's `sqlite3` brings an SQLite of its own, in which no VFS can be registered from here."""


def library() -> ctypes.CDLL:
    """The SQLite that Python's `sqlite3` calls. Raises `Unavailable` where it is built into the module."""
    module = ctypes.CDLL(_sqlite3.__file__)
    if not hasattr(module, "sqlite3_vfs_find"):
        raise Unavailable("Python's sqlite3 is not linked to a library of SQLite that can be called from here")
    module.sqlite3_vfs_find.restype = ctypes.POINTER(_Vfs)
    module.sqlite3_vfs_find.argtypes = [ctypes.c_char_p]
    module.sqlite3_vfs_register.argtypes = [_P, _Int]
    module.sqlite3_vfs_unregister.argtypes = [_P]
    return module


class _Watch:
    """The VFS: its callbacks live as long as this object."""

    def __init__(self, native: Any, recording: Recording) -> None:
        self._recording = recording
        self._native = native
        self._paths: dict[int, str] = {}
        self._methods: dict[int, tuple[_Methods, tuple[Any, ...]]] = {}
        self.vfs = _Vfs.from_buffer_copy(native.contents)
        self.vfs.name = b"tillstream-watch"
        self._open = _OPEN(self._opened)
        self._delete = _DELETE(self._deleted)
        self.vfs.open = ctypes.cast(self._open, _P)
        self.vfs.delete = ctypes.cast(self._delete, _P)

    def _opened(self, _: int, name: int | None, file: int, flags: int, given: Any) -> int:
        path = ctypes.string_at(name).decode() if name else ""
        new = bool(path) and not Path(path).exists()
        native = ctypes.cast(self._native.contents.open, _OPEN)
        done: int = native(ctypes.addressof(self._native.contents), name, file, flags, given)
        if done == OK and path and Path(path).parent == self._recording.folder:
            if new:
                self._recording.note(path, "create")
            self._paths[file] = path
            opened = _File.from_address(file)
            opened.methods = ctypes.pointer(self._watched(opened.methods))
        return done

    def _deleted(self, _: int, name: bytes, sync_folder: int) -> int:
        native = ctypes.cast(self._native.contents.delete, _DELETE)
        done: int = native(ctypes.addressof(self._native.contents), name, sync_folder)
        if done == OK:
            self._recording.note(name.decode(), "delete")
            if sync_folder:
                self._recording.note(name.decode(), "sync")
        return done

    def _watched(self, native: Any) -> _Methods:
        """SQLite's methods for a kind of file, with ours in place of those that change it."""
        address = ctypes.addressof(native.contents)
        if address not in self._methods:
            methods = _Methods.from_buffer_copy(native.contents)
            calls = self._calls(_Methods.from_buffer_copy(native.contents))
            methods.close, methods.write, methods.truncate, methods.sync = (ctypes.cast(call, _P) for call in calls)
            self._methods[address] = methods, calls
        return self._methods[address][0]

    def _calls(self, native: _Methods) -> tuple[Any, ...]:
        close, write = ctypes.cast(native.close, _CLOSE), ctypes.cast(native.write, _WRITE)
        truncate, sync = ctypes.cast(native.truncate, _TRUNCATE), ctypes.cast(native.sync, _SYNC)
        note, paths = self._recording.note, self._paths

        def closed(file: int) -> int:
            paths.pop(file, None)
            return int(close(file))

        def written(file: int, data: int, size: int, offset: int) -> int:
            note(paths[file], "write", offset, ctypes.string_at(data, size))
            return int(write(file, data, size, offset))

        def truncated(file: int, size: int) -> int:
            note(paths[file], "truncate", size)
            return int(truncate(file, size))

        def synced(file: int, flags: int) -> int:
            done = int(sync(file, flags))
            if done == OK:
                note(paths[file], "sync")
            return done

        return _CLOSE(closed), _WRITE(written), _TRUNCATE(truncated), _SYNC(synced)


@contextmanager
def recording(folder: Path) -> Iterator[Recording]:
    """Note what SQLite does to the files of a folder that are opened inside this block, and closed before its end.

    Raises `Unavailable` where Python's SQLite cannot be reached.
    """
    sqlite = library()
    notes = Recording(folder, {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()})
    native = sqlite.sqlite3_vfs_find(None)
    watch = _Watch(native, notes)
    if sqlite.sqlite3_vfs_register(ctypes.byref(watch.vfs), 1) != OK:
        raise Unavailable("SQLite refuses another VFS")
    try:
        yield notes
    finally:
        sqlite.sqlite3_vfs_unregister(ctypes.byref(watch.vfs))
        sqlite.sqlite3_vfs_register(native, 1)
