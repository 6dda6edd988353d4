"""Uploads over a real connection, through everything that can happen to one."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from support.agents import Telling
from support.disks import TroubledDisk
from support.gateways import Gateway, gateway
from support.tills import TestTill
from tillstream_agent.clock import SystemClock
from tillstream_agent.journal import Journal
from tillstream_agent.sync import upload
from tillstream_agent.sync.link import Link
from tillstream_agent.sync.transport import Transport
from tillstream_agent.sync.upload import Uploader, UploadFlow
from tillstream_protocol.limits import DEFAULT

LIMITS = replace(DEFAULT, sync_interval=0.0, batch=4096)


@dataclass
class Till:
    """A till that uploads to a stand-in server."""

    server: Gateway
    journal: Journal
    uploader: Uploader
    telling: Telling
    link: Link
    disk: TroubledDisk

    async def captures(self, count: int = 1) -> None:
        for _ in range(count):
            name = self.journal.append(os.urandom(200), kind=1)
        await self.journal.synced(name)

    async def drains(self, until: Callable[[], bool] | None = None) -> None:
        """Return when everything was acknowledged."""
        async with asyncio.timeout(10):
            while not (until() if until else self.journal.queue().records == 0):
                await self.uploader.acknowledged.wait()
                self.uploader.acknowledged.clear()


@asynccontextmanager
async def uploading(folder: Path) -> AsyncIterator[Till]:
    async with gateway() as server:
        disk = TroubledDisk(folder)
        till = TestTill(folder, LIMITS, disk)
        server.device = till.keys.device.public
        server.max_bytes = 4096
        journal = await till.start()
        telling = Telling()
        clock = SystemClock()
        link = Link(clock, lambda _link: None)
        transport = Transport(server.address, tls=None, timeout=5)
        flow = UploadFlow(journal, telling.events, link, lambda: 0.01, LIMITS)
        uploader = Uploader(flow, transport, till.keys.device, clock, telling.events)
        journal.set_wakeup(uploader.wake)
        task = asyncio.create_task(uploader.run())
        try:
            yield Till(server, journal, uploader, telling, link, disk)
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            await transport.close()
            await journal.close()


@pytest.fixture
async def till(tmp_path: Path) -> AsyncIterator[Till]:
    async with uploading(tmp_path / "journal") as opened:
        yield opened


async def test_records_arrive_signed_and_once(till: Till) -> None:
    await till.captures(50)
    await till.drains()
    assert till.server.seqs() == list(range(50))
    assert till.server.repeated == []
    assert till.link.online
    assert till.link.last_contact_ms is not None


async def test_records_captured_while_it_rests_are_sent_at_once(till: Till) -> None:
    for number in range(3):
        await till.captures()
        await till.drains()
        assert till.server.seqs() == list(range(number + 1))


async def test_a_lost_reply_makes_a_repeat_and_no_loss(till: Till) -> None:
    till.server.drops_replies(2)
    await till.captures(3)
    await till.drains()
    assert till.server.seqs() == [0, 1, 2]
    assert len(till.server.repeated) == 6
    assert till.telling.counted("sync_batches", outcome="unavailable") == 2


@pytest.mark.parametrize(("status", "code"), [(503, "busy"), (500, "error"), (429, "busy"), (404, "lost")])
async def test_a_server_in_trouble_is_tried_again(till: Till, status: int, code: str) -> None:
    till.server.answers(status, code, times=3)
    await till.captures(3)
    await till.drains()
    assert till.server.seqs() == [0, 1, 2]


async def test_an_answer_that_cannot_be_read_is_no_acknowledgement(till: Till) -> None:
    till.server.answers_nonsense()
    await till.captures()
    await till.drains()
    assert till.server.seqs() == [0]
    assert till.telling.counted("sync_batches", outcome="confused") == 1


@pytest.mark.parametrize(("status", "trouble"), [(401, "authentication"), (403, "revoked")])
async def test_a_refused_device_keeps_its_queue(
    till: Till, status: int, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "SLOW_S", {"authentication": 0.01, "revoked": 0.01, "version": 0.01})
    seen: list[tuple[str, ...]] = []
    failed = till.telling.events.upload_failed

    def note(*about: Any, **more: Any) -> None:
        seen.append(till.link.trouble)
        failed(*about, **more)

    monkeypatch.setattr(till.telling.events, "upload_failed", note)
    till.server.answers(status, "no", times=3)
    await till.captures(3)
    await till.drains()
    assert till.server.seqs() == [0, 1, 2]
    assert seen == [(trouble,)] * 3
    assert till.link.trouble == ()


async def test_a_batch_too_large_for_the_server_arrives_in_pieces(till: Till) -> None:
    till.server.answers(413, "too_large", times=2)
    await till.captures(10)
    await till.drains()
    assert till.server.seqs() == list(range(10))
    assert len(till.server.batches) > 1


async def test_an_unreadable_journal_is_read_again_later(till: Till, monkeypatch: pytest.MonkeyPatch) -> None:
    till.disk.trouble.read = errno.EIO
    await till.captures()
    async with asyncio.timeout(5):
        while "housekeeping_failed" not in till.telling.said():
            await asyncio.sleep(0.01)
    till.disk.trouble.read = None
    await till.drains()
    assert till.server.seqs() == [0]


async def test_after_an_outage_everything_arrives_with_the_live_records_ahead(till: Till) -> None:
    till.server.answers(503, "down", times=5)
    till.server.backlog_pause_ms = 100
    await till.captures(80)
    await till.drains(until=till.journal.backlog_exists)
    await till.captures(1)
    await till.drains()
    assert till.server.seqs() == list(range(81))
    lanes = [batch.lane for batch in till.server.batches]
    assert "live" in lanes[1:-1]
    assert lanes[-1] == "backlog"


async def test_it_ends_also_when_news_comes_at_the_same_moment(till: Till) -> None:
    till.uploader.wake()
    await till.captures()
    await till.drains()
    resting = asyncio.create_task(till.uploader.run())
    await asyncio.sleep(0.01)
    till.uploader.wake()
    resting.cancel()
    async with asyncio.timeout(5):
        with contextlib.suppress(asyncio.CancelledError):
            await resting
