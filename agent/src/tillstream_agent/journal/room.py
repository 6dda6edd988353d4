"""How much room the disk has, without asking it at every record."""

from __future__ import annotations

from typing import Final

from tillstream_protocol.limits import Limits

from ..clock import Clock
from .disk import Disk
from .errors import JournalFull

RECHECK_S: Final = 0.25
"""While there is no room, the disk is asked at most this often."""
EASE_CHUNKS: Final = 2
"""Acknowledged chunks are given up for room when less than this many chunks fit above the reserve."""


class Room:
    """Keeps the reserve free. `free` is what the disk said last, less what was written since; None if it won't say."""

    def __init__(self, disk: Disk, clock: Clock, limits: Limits) -> None:
        self._disk = disk
        self._clock = clock
        self._limits = limits
        self._asked = 0.0
        self.free: int | None = None
        self.refresh()

    def refresh(self) -> None:
        """Ask the disk."""
        self._asked = self._clock.monotonic()
        try:
            self.free = self._disk.free()
        except OSError:
            self.free = None

    def take(self, size: int) -> None:
        """So many bytes were written."""
        if self.free is not None:
            self.free -= size

    def claim(self) -> None:
        """Raise `JournalFull` while there is less room than the reserve."""
        if self.free is None or self.free >= self._limits.reserve:
            return
        if self._clock.monotonic() - self._asked >= RECHECK_S:
            self.refresh()
        if self.short:
            raise JournalFull(
                "the disk has only its reserve left",
                field="journal",
                limit=f"{self._limits.reserve} bytes free",
                hint="make room on the disk",
            )

    @property
    def short(self) -> bool:
        """Whether captures are refused."""
        return self.free is not None and self.free < self._limits.reserve

    @property
    def wanted(self) -> int:
        """How many bytes of acknowledged chunks should be given up."""
        if self.free is None:
            return 0
        return max(0, self._limits.reserve + EASE_CHUNKS * self._limits.chunk - self.free)
