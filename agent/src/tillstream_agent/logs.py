"""The end of the agent's log, kept in the state folder, so that it can be read wherever standard error goes.

    agent.log      what was said last
    agent.log.1    what was said before, once that had grown to half of what is kept

No line is worth a capture: what cannot be written is left out, and tried again with the next line.
"""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, TextIO

NAME: Final = "agent.log"
FORMER: Final = "agent.log.1"
POLL_S: Final = 0.25
_TAIL: Final = 16 * 1024 * 1024
_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0)


class KeptLog(io.TextIOBase):
    """Writes what it is given to a stream, and to the log of a state folder, of which at most `limit` bytes stay."""

    def __init__(self, stream: TextIO, folder: Path, limit: int) -> None:
        self._stream = stream
        self._file = folder / NAME
        self._former = folder / FORMER
        self._half = limit // 2
        self._handle: int | None = None
        self._size = 0

    def write(self, text: str) -> int:
        """Take some text, which ends where a line ends."""
        self._stream.write(text)
        if self._half:
            with suppress(OSError):
                self._keep(text.encode("utf-8", "replace"))
        return len(text)

    def flush(self) -> None:
        """Nothing is held back here."""
        self._stream.flush()

    def close(self) -> None:
        """Close the file; the stream is somebody else's."""
        self._let_go()
        super().close()

    def _keep(self, data: bytes) -> None:
        if self._handle is not None and self._size + len(data) > self._half:
            self._let_go()
            self._file.replace(self._former)
        if self._handle is None:
            self._handle = os.open(self._file, _FLAGS, 0o600)
            self._size = os.fstat(self._handle).st_size
        try:
            self._size += os.write(self._handle, data)
        except OSError:
            self._let_go()
            raise

    def _let_go(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            with suppress(OSError):
                os.close(handle)


def kept_lines(folder: Path) -> list[str]:
    """Every line that is kept, the oldest first. Raises `OSError` where there is none."""
    former = b""
    with suppress(FileNotFoundError):
        former = _tail(folder / FORMER)
    return (former + _tail(folder / NAME)).decode("utf-8", "replace").splitlines()


async def follow(folder: Path, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> AsyncIterator[str]:
    """What is written from now on, line by line and without end. Raises `OSError` where there is no log."""
    opened = (folder / NAME).open("rb")
    opened.seek(0, os.SEEK_END)
    begun = b""
    try:
        while True:
            turned = _turned(opened, folder / NAME)
            *lines, begun = (begun + opened.read()).split(b"\n")
            for line in lines:
                yield line.decode("utf-8", "replace")
            if turned:
                opened.close()
                opened, begun = (folder / NAME).open("rb"), b""
            else:
                await sleep(POLL_S)
    finally:
        opened.close()


def _turned(opened: io.BufferedReader, file: Path) -> bool:
    """Whether the log goes on in another file, so that what is read from here now is all."""
    try:
        return file.stat().st_ino != os.fstat(opened.fileno()).st_ino
    except OSError:
        return False


def _tail(file: Path) -> bytes:
    with file.open("rb") as opened:
        opened.seek(max(0, opened.seek(0, os.SEEK_END) - _TAIL))
        return opened.read()
