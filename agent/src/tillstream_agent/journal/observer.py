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

    def torn(self, chunk: int, size: int) -> None:
        """A torn tail was cut at start."""

    def damaged(self, chunk: int, start: int, end: int) -> None:
        """Bytes of a chunk hold no frame."""

    def set_aside(self, name: str, reason: str) -> None:
        """A file that cannot be read was renamed, and kept."""

    def discarded(self, chunk: int) -> None:
        """An acknowledged chunk was unlinked after its time."""
