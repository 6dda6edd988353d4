"""What the journal tells whoever watches it."""

from __future__ import annotations


class JournalObserver:
    """Hears what happens; by default it does nothing. Counts are of bytes, times in seconds."""

    def opened(self, chunk: int) -> None:
        """A chunk was begun."""

    def synced(self, records: int, seconds: float) -> None:
        """A group of records reached the disk."""

    def sync_failed(self, chunk: int, reason: str) -> None:
        """A chunk is no longer trusted; its unsynced records go into another."""

    def sync_stuck(self, records: int, seconds: float) -> None:
        """So many records could not be synced for so long: they are in memory, and in files that are not trusted."""

    def torn(self, chunk: int, size: int) -> None:
        """A torn tail was found at start."""

    def damaged(self, chunk: int, start: int, end: int) -> None:
        """Bytes of a chunk hold no frame."""

    def set_aside(self, name: str, reason: str) -> None:
        """A file that cannot be used is kept, under another name if it is damaged."""

    def lost(self, chunk: int, first: int, last: int | None, reason: str) -> None:
        """Records of a chunk may be lost; without `last` it is not known how many."""

    def given_up(self, chunk: int, size: int) -> None:
        """An acknowledged chunk was unlinked before its time, because the disk is short of room."""

    def discarded(self, chunk: int) -> None:
        """An acknowledged chunk was unlinked after its time."""
