"""Whether the names of files survive a power cut.

A name is an entry of the folder, which needs a sync of its own. As with a file, a failed sync leaves nobody knowing
what is on the disk, and the next one may report success: so it says nothing of what was entered before the failure.
"""

from __future__ import annotations

import errno

from .disk import Disk
from .doubts import Doubts


class FailedBefore(OSError):
    """Nothing failed now: an earlier sync of the folder did, after the file was begun."""

    def __init__(self) -> None:
        super().__init__(errno.EIO, "the folder's sync failed after the file was begun")


class Directory:
    """The folder's entries, numbered as they are made."""

    def __init__(self, disk: Disk, doubts: Doubts) -> None:
        self._disk = disk
        self._doubts = doubts
        self._entered = 0
        self._safe = 0
        self._doubtful: set[int] = set()
        self._waiting: dict[int, tuple[int, ...]] = {}

    def enter(self, *chunks: int) -> int:
        """The files of these chunks were created or renamed; the number of their entry."""
        self._entered += 1
        self._waiting[self._entered] = chunks
        return self._entered

    def holds(self, entry: int) -> bool:
        """Whether an entry is known to survive a power cut."""
        return entry <= self._safe and entry not in self._doubtful

    async def sync(self, entry: int) -> None:
        """Return when an entry survives a power cut.

        Raises `OSError` if the disk fails now, `FailedBefore` where it can't be had for this entry any more.
        """
        if entry > self._safe:
            last = self._entered
            try:
                await self._disk.sync_folder()
            except OSError:
                self._doubt()
                raise
            self._safe = last
            self._waiting = {number: chunks for number, chunks in self._waiting.items() if number > last}
        if entry in self._doubtful:
            raise FailedBefore

    def _doubt(self) -> None:
        self._doubtful.update(self._waiting)
        for chunks in self._waiting.values():
            for number in chunks:
                self._doubts.mark(number)
        self._waiting.clear()
