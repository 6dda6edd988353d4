"""What differs between Linux and Windows outside the journal, whose own differences lie in `journal/disk.py`.

On Windows: a lock is one locked byte. A folder needs no sync, since NTFS keeps names in a journal of its own. Secrets
are sealed by the Data Protection API to the machine, so that a disk alone gives none away; who may read the files on
the running machine is a matter of the folder's access list, which `tillstream-agent service install` sets. Signals do
not reach an event loop by themselves. Other programs reach the agent by a named pipe instead of a Unix socket.

The Windows half is checked by mypy for that platform. It has not been run yet.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol, cast

NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
"""How a file is opened that must not be there yet."""
LOCK_FILE: Final = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)
_PIPES: Final = "\\\\.\\pipe\\"


class Listening(Protocol):
    """What listens until it is closed."""

    def close(self) -> None:
        """Take no more."""


def pipe_name(file: Path) -> str:
    """The named pipe that stands for the Unix socket `file`: one for each state folder, however its path is written."""
    digest = hashlib.blake2b(str(file.absolute()).casefold().encode(), digest_size=8).hexdigest()
    return f"{_PIPES}tillstream-agent-{digest}"


if sys.platform == "win32":
    import ctypes
    import msvcrt
    from ctypes import wintypes

    _Readers = Callable[[], asyncio.StreamReaderProtocol]  # what typeshed asks for; the loop takes any protocol
    _LOCAL_MACHINE: Final = 0x4
    _UI_FORBIDDEN: Final = 0x1

    class _Blob(ctypes.Structure):
        _fields_ = (("size", wintypes.DWORD), ("data", ctypes.POINTER(ctypes.c_ubyte)))

    def hold(handle: int) -> None:
        """Lock an open file until it is closed. Raises `OSError` where somebody holds it."""
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)

    def sync_folder(path: Path) -> None:
        """Make the names in a folder survive a power cut."""

    def protect(secret: bytes) -> bytes:
        """A secret as it may lie on the disk. Raises `OSError`."""
        return _dpapi("CryptProtectData", secret)

    def unprotect(data: bytes) -> bytes:
        """The secret again. Raises `OSError`."""
        return _dpapi("CryptUnprotectData", data)

    def belongs_to_another(found: os.stat_result) -> bool:  # noqa: ARG001 (Linux looks)
        """Whether a file is open to others or another user's. Windows' access lists say that, not its modes."""
        return False

    def stop_on_signals(stop: asyncio.Event) -> None:
        """Set `stop` when the process is asked to end."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop.set))

    async def listen(factory: Callable[[], asyncio.Protocol], file: Path) -> Listening:
        """Listen on the pipe that stands for `file`. Raises `OSError`.

        Windows gives such a pipe to administrators, to the system and to its owner; others may open it to read alone,
        and so can ask nothing.
        """
        loop = asyncio.get_running_loop()
        assert isinstance(loop, asyncio.ProactorEventLoop)
        (server,) = await loop.start_serving_pipe(cast("_Readers", factory), pipe_name(file))
        return server

    async def connect(file: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Speak to who listens there. Raises `OSError`."""
        loop = asyncio.get_running_loop()
        assert isinstance(loop, asyncio.ProactorEventLoop)
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        transport, _ = await loop.create_pipe_connection(lambda: protocol, pipe_name(file))
        return reader, asyncio.StreamWriter(transport, protocol, reader, loop)

    def _dpapi(name: str, data: bytes) -> bytes:
        given = (ctypes.c_ubyte * len(data)).from_buffer_copy(data)
        taken, made = _Blob(len(data), given), _Blob()
        call = getattr(ctypes.WinDLL("crypt32", use_last_error=True), name)
        flags = _UI_FORBIDDEN | (_LOCAL_MACHINE if name == "CryptProtectData" else 0)
        if not call(ctypes.byref(taken), None, None, None, None, flags, ctypes.byref(made)):
            raise ctypes.WinError(ctypes.get_last_error())
        try:
            return ctypes.string_at(made.data, made.size)
        finally:
            free = ctypes.WinDLL("kernel32").LocalFree
            free.argtypes = [ctypes.c_void_p]
            free(made.data)
else:
    import fcntl

    def hold(handle: int) -> None:
        """Lock an open file until it is closed. Raises `OSError` where somebody holds it."""
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def sync_folder(path: Path) -> None:
        """Make the names in a folder survive a power cut. Raises `OSError`."""
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def protect(secret: bytes) -> bytes:
        """A secret as it may lie on the disk: as it is, in a file that is its user's alone."""
        return secret

    def unprotect(data: bytes) -> bytes:
        """The secret again."""
        return data

    def belongs_to_another(found: os.stat_result) -> bool:
        """Whether a file is open to others or another user's."""
        return bool(found.st_mode & 0o077) or found.st_uid != os.geteuid()

    def stop_on_signals(stop: asyncio.Event) -> None:
        """Set `stop` when the process is asked to end."""
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)

    async def listen(factory: Callable[[], asyncio.Protocol], file: Path) -> Listening:
        """Listen on a Unix socket that is this user's alone. Raises `OSError`."""
        server = await asyncio.get_running_loop().create_unix_server(factory, file)
        file.chmod(0o600)
        return server

    async def connect(file: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Speak to who listens there. Raises `OSError`."""
        return await asyncio.open_unix_connection(file)
