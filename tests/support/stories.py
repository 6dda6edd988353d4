"""A journal on a disk that can be made to fail, driven pass by pass."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

from support.disks import TroubledDisk
from support.tills import TestTill, crash
from tillstream_agent.journal import Journal
from tillstream_protocol.framing import ChunkHeader
from tillstream_protocol.limits import DEFAULT

QUICK = replace(DEFAULT, chunk=4096, sync_interval=0.0, reserve=0)
LEASE = b"l" * 16


def tag(number: int) -> bytes:
    return number.to_bytes(16, "big")


class Story:
    """A till on a disk that can be made to fail."""

    def __init__(self, folder: Path) -> None:
        self.disk = TroubledDisk(folder)
        self.trouble = self.disk.trouble
        self.till = TestTill(folder, QUICK, self.disk)
        self.folder = folder

    async def passes(self, journal: Journal, count: int = 1) -> None:
        """Let the journal try to sync so many times."""
        for _ in range(count):
            await journal._syncer.sync_all()

    def chunks(self) -> list[str]:
        return sorted(path.name for path in self.folder.glob("*.chunk"))


async def begun(story: Story) -> Journal:
    """A journal whose own task sleeps, so that every pass is the test's."""
    journal = await story.till.start()
    await crash(journal)
    return journal


def inherited_is_safe(journal: Journal) -> bool:
    return journal.inherited_safe


def all_is_safe(journal: Journal) -> bool:
    return journal.safe


async def retry_of(journal: Journal) -> asyncio.TimerHandle | None:
    """What wakes the syncer for a doubtful file, once the pass that found it is over."""
    async with asyncio.timeout(5):
        while journal._syncer._again is None:
            await asyncio.sleep(0.001)
    return journal._syncer._again


def doubts(story: Story) -> list[str]:
    return sorted(path.name for path in story.folder.glob("*.doubt"))


def chunk_header(
    number: int, *, epoch: bytes = b"e" * 16, first_seq: int = 0, created: int = 0, **more: Any
) -> ChunkHeader:
    """A header that nobody signed and no key was sealed in."""
    fields: dict[str, Any] = {
        "till": b"t" * 16,
        "parent": bytes(16),
        "parent_position": 0,
        "device_key_id": bytes(8),
        "server_key_id": bytes(8),
        "server_sealed_key": bytes(80),
        "escrow_key_id": bytes(8),
        "escrow_sealed_key": bytes(80),
        **more,
    }
    return ChunkHeader(chunk=number, epoch=epoch, first_seq=first_seq, created=created, **fields)
