"""Which chunks are in doubt because a sync failed, or nobody saw how it ended; the next run knows it too.

After a failed sync the system forgets what it could not write, and says yes to the next one: a run that starts after
a crash would call safe what is on no disk. A marker beside the chunk tells it. The marker needs no sync of its own,
since it has to survive only the process: after a power cut nothing is read but what is on the disk.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from .chunks import file_name
from .disk import Disk

DOUBT_SUFFIX = ".doubt"


class Doubts:
    """The markers in a folder, of which `names` are the files; where the disk takes none, this run knows them still."""

    def __init__(self, disk: Disk, names: Iterable[str]) -> None:
        self._disk = disk
        files = set(names)
        stems = [name.removesuffix(DOUBT_SUFFIX) for name in files if name.endswith(DOUBT_SUFFIX)]
        self._marked = {int(stem) for stem in stems if stem.isascii() and stem.isdecimal()}
        for number in [number for number in self._marked if file_name(number) not in files]:
            self.clear(number)

    def __contains__(self, number: int) -> bool:
        return number in self._marked

    def mark(self, number: int) -> None:
        """A sync failed on which this chunk depends."""
        if number not in self._marked:
            self._marked.add(number)
            with contextlib.suppress(OSError):
                self._disk.create(file_name(number, DOUBT_SUFFIX)).close()

    def clear(self, number: int) -> None:
        """The chunk was written anew, or is needed no more."""
        if number in self._marked:
            self._marked.discard(number)
            with contextlib.suppress(OSError):
                self._disk.unlink(file_name(number, DOUBT_SUFFIX))
