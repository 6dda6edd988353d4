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


class LogReader:
    """What is kept of a log, and from exactly there on what is said. Raises `OSError` where there is none."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / NAME
        self._opened = self._file.open("rb")
        former = b""
        with suppress(OSError), (folder / FORMER).open("rb") as before:
            if not os.path.sameopenfile(before.fileno(), self._opened.fileno()):  # else it was turned just now
                former = _tail(before)
        *lines, self._begun = (former + _tail(self._opened)).split(b"\n")
        self.lines = [_text(line) for line in lines]
        """The whole lines that there were, the oldest first."""

    def close(self) -> None:
        """Close the file."""
        self._opened.close()

    async def follow(self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> AsyncIterator[str]:
        """What is written from then on, line by line and without end."""
        while True:
            turned = _turned(self._opened, self._file)
            *lines, self._begun = (self._begun + self._opened.read()).split(b"\n")
            for line in lines:
                yield _text(line)
            if turned:
                self._opened.close()
                self._opened, self._begun = self._file.open("rb"), b""
            else:
                await sleep(POLL_S)


def kept_lines(folder: Path) -> list[str]:
    """Every whole line that is kept, the oldest first. Raises `OSError` where there is none."""
    reader = LogReader(folder)
    reader.close()
    return reader.lines


def _text(line: bytes) -> str:
    return line.decode("utf-8", "replace")


def _turned(opened: io.BufferedReader, file: Path) -> bool:
    """Whether the log goes on in another file, so that what is read from here now is all."""
    try:
        return file.stat().st_ino != os.fstat(opened.fileno()).st_ino
    except OSError:
        return False


def _tail(opened: io.BufferedReader) -> bytes:
    """The end of a file, up to its end."""
    opened.seek(max(0, opened.seek(0, os.SEEK_END) - _TAIL))
    return opened.read()
