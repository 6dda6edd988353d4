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
from support.tills import TestTill, TurnedClock
from tillstream_agent.clock import Clock, SystemClock
from tillstream_agent.journal import Journal
from tillstream_agent.journal.reader import Lane, Slice
from tillstream_agent.letters import Letters
from tillstream_agent.sync import flow as flow_module
from tillstream_agent.sync.link import Link
from tillstream_agent.sync.transport import Transport
from tillstream_agent.sync.upload import Uploader, UploadFlow, prepare
from tillstream_protocol.codec import message_decoder
from tillstream_protocol.framing import HEADER_SIZE
from tillstream_protocol.limits import DEFAULT
from tillstream_protocol.messages import Batch
from tillstream_protocol.signing import SignKey

YEAR_MS = 365 * 86_400_000
REAL_MS = 1_790_000_000_000
LIMITS = replace(DEFAULT, sync_interval=0.0, batch=4096)


class Returning:
    """A till's way back to a server that has forgotten it; it works if `works`."""

    def __init__(self) -> None:
        self.asked = 0
        self.works: Callable[[], bool] = lambda: False

    async def ask(self) -> bool:
        self.asked += 1
        return self.works()


@dataclass
class Till:
    """A till that uploads to a stand-in server."""

    server: Gateway
    journal: Journal
    uploader: Uploader
    telling: Telling
    link: Link
    disk: TroubledDisk
    device: SignKey
    former: SignKey | None
    devices: dict[bytes, SignKey]
    returning: Returning

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
async def uploading(folder: Path, clock: Clock, earlier: int = 0) -> AsyncIterator[Till]:
    """A till that uploads; `earlier` records were captured as another till, by another device."""
    async with gateway() as server:
        disk = TroubledDisk(folder)
        till = TestTill(folder, LIMITS, disk)
        if isinstance(clock, TurnedClock):
            till.clock = clock
        former = await _captured_before(till, server, earlier) if earlier else None
        server.device = till.keys.device.public
        server.max_bytes = 4096
        journal = await till.start()
        telling = Telling()
        devices: dict[bytes, SignKey] = {}
        returning = Returning()
        link = Link(clock, lambda _link: None)
        transport = Transport(server.address, tls=None, timeout=5)
        flow = UploadFlow(journal, telling.events, link, lambda: 0.01, LIMITS, Letters(clock))
        uploader = Uploader(flow, transport, till.keys.device, clock, devices=devices, returning=returning.ask)
        journal.set_wakeup(uploader.wake)
        task = asyncio.create_task(uploader.run())
        try:
            yield Till(server, journal, uploader, telling, link, disk, till.keys.device, former, devices, returning)
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            await transport.close()
            await journal.close()


@pytest.fixture
async def till(tmp_path: Path) -> AsyncIterator[Till]:
    async with uploading(tmp_path / "journal", SystemClock()) as opened:
        yield opened


async def _captured_before(till: TestTill, server: Gateway, count: int) -> SignKey:
    """The key of the device that captured."""
    journal = await till.start()
    for _ in range(count):
        name = journal.append(os.urandom(200), kind=1)
    await journal.synced(name)
    await journal.close()
    former = till.keys.device
    server.former[former.key_id] = former.public
    till.keys.device, till.keys.till_id = SignKey(os.urandom(32)), os.urandom(16)
    return former


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


@pytest.mark.parametrize(("lane", "told"), [("live", "live"), ("backlog", "backlog"), ("former", "backlog")])
def test_a_batch_says_whether_it_is_live(lane: Lane, told: str) -> None:
    body, _ = prepare(Slice(bytes(HEADER_SIZE), b"frames", bytes(16), 0, 0, lane, 1, 6), SignKey(bytes(32)), 0)
    assert message_decoder(Batch, limit=1000)(body).lane == told


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
    monkeypatch.setattr(flow_module, "SLOW_S", {"authentication": 0.01, "revoked": 0.01, "version": 0.01})
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


async def test_a_server_that_has_forgotten_the_device_is_asked_to_take_it_back_and_told_everything(till: Till) -> None:
    device, till.server.device = till.server.device, None

    def take_back() -> bool:
        till.server.device = device
        return True

    till.returning.works = take_back
    await till.captures(3)
    await till.drains()
    assert till.server.seqs() == [0, 1, 2]
    assert till.returning.asked == 1
    assert till.link.trouble == ()


async def test_one_that_does_not_take_it_back_is_asked_again_after_each_slow_wait_and_no_sooner(
    till: Till, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow_module, "SLOW_S", {"authentication": 0.02})
    device, till.server.device = till.server.device, None
    await till.captures(3)
    async with asyncio.timeout(10):
        while till.returning.asked < 3:
            await asyncio.sleep(0.005)
    refused = till.telling.counted("sync_batches", outcome="authentication")
    assert till.returning.asked - 1 <= refused <= till.returning.asked
    assert till.link.trouble == ("authentication",)
    till.server.device = device
    await till.drains()
    assert till.server.seqs() == [0, 1, 2]


async def test_being_taken_back_for_nothing_is_no_loop(till: Till, monkeypatch: pytest.MonkeyPatch) -> None:
    till.returning.works = lambda: True
    device, till.server.device = till.server.device, None
    await till.captures(1)
    async with asyncio.timeout(10):
        while not till.telling.counted("sync_batches", outcome="authentication"):
            await asyncio.sleep(0.005)
    assert till.returning.asked == 1
    till.server.device = device


async def test_what_an_earlier_enrolment_left_is_signed_by_its_own_device(tmp_path: Path) -> None:
    async with uploading(tmp_path / "journal", SystemClock(), earlier=3) as till:
        former = till.former
        assert former is not None
        till.devices[former.key_id] = former
        await till.captures(2)
        await till.drains()
        assert len(till.server.records) == 5
        assert {batch.lane for batch in till.server.batches} == {"live", "backlog"}
        assert set(till.server.signers) == {former.key_id, till.device.key_id}


async def test_without_its_device_key_it_waits_and_holds_up_nothing(tmp_path: Path) -> None:
    async with uploading(tmp_path / "journal", SystemClock(), earlier=3) as till:
        await till.captures(2)
        await till.drains(until=lambda: len(till.server.records) == 2)
        assert till.journal.queue().records == 3
        assert till.link.trouble == ()
        assert till.returning.asked == 0


@pytest.mark.parametrize(
    "now_ms", [-10 * YEAR_MS, -1, 0, 1_000, REAL_MS - 10 * YEAR_MS, REAL_MS + 10 * YEAR_MS, 10**16]
)
async def test_however_wrong_the_clock_is_everything_arrives_in_order(tmp_path: Path, now_ms: int) -> None:
    clock = TurnedClock(now_ms)
    async with uploading(tmp_path / "journal", clock) as till:
        await till.captures(20)
        await till.drains()
        assert till.server.seqs() == list(range(20))
        assert till.server.repeated == []
        assert till.returning.asked == 0
