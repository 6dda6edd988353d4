"""What happened, line by line: the same seed gives the same lines, and so the same digest."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from typing import TextIO, cast


class History:
    """Lines with their made-up time, and the digest of all of them."""

    def __init__(self, time: Callable[[], float], *, logs: bool = False) -> None:
        self.lines: list[str] = []
        self._time = time
        self._hash = hashlib.sha256()
        self._logs = logs
        self.heard: Callable[[str, str], None] = lambda _who, _line: None
        """Told of every line that a process logs."""

    def say(self, who: str, what: str) -> None:
        """Something happened."""
        line = f"{self._time():12.6f} {who:8} {what}"
        self.lines.append(line)
        self._hash.update(line.encode() + b"\n")

    @property
    def digest(self) -> str:
        """Of all lines so far, in hex."""
        return self._hash.hexdigest()

    def log_of(self, who: str) -> TextIO:
        """Where a process writes its log: into the lines if that was asked for, but never into the digest."""
        return cast(TextIO, _Log(self, who))

    def note(self, who: str, what: str) -> None:
        """A line of a process's log, which is no part of the digest."""
        self.heard(who, what)
        if self._logs:
            self.lines.append(f"{self._time():12.6f} {who:8}   | {what}")


class _Log(io.TextIOBase):
    def __init__(self, history: History, who: str) -> None:
        self._history = history
        self._who = who

    def write(self, text: str) -> int:
        if text.strip():
            self._history.note(self._who, text.rstrip())
        return len(text)
