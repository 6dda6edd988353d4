"""The till's clock is advisory: whatever it says, nothing is lost, seq orders, and nothing expires by it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import msgspec
import pytest

from support.agents import HOUR_MS, NOW_MS, WELCOME, enrolled, member, offer_push, running_agent, sale
from support.gateways import Gateway, gateway
from support.tills import TurnedClock
from tillstream_agent.clock import MAX_SKEW_MS, CorrectedClock, SystemClock
from tillstream_agent.folder import Folder
from tillstream_agent.inspection import look
from tillstream_agent.state import State
from tillstream_protocol.messages import PackPush

YEARS_MS = 3_652 * 24 * HOUR_MS
"""Ten of them."""


class JumpingClock:
    """The machine's clock, set wrong by hand; its monotonic time goes on."""

    def __init__(self, off_ms: int = 0) -> None:
        self.off_ms = off_ms

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000 + self.off_ms

    def monotonic(self) -> float:
        return time.monotonic()


JUMPS = {
    "an hour back": -HOUR_MS,
    "ten years back": -YEARS_MS,
    "ten years ahead": YEARS_MS,
    "1970": -(time.time_ns() // 1_000_000),
}
jumps = pytest.mark.parametrize("jump", JUMPS.values(), ids=JUMPS)


def test_until_the_server_is_heard_the_machines_own_clock_is_all_there_is() -> None:
    clock = TurnedClock(NOW_MS)
    corrected = CorrectedClock(clock)
    assert (corrected.now_ms(), corrected.past_ms(), corrected.ahead_ms, corrected.trusted) == (NOW_MS, 0, None, True)
    clock.turn(3)
    assert (corrected.now_ms(), corrected.monotonic()) == (NOW_MS + 3000, 3.0)


@pytest.mark.parametrize("jump", [-HOUR_MS, -YEARS_MS, YEARS_MS, -NOW_MS])
def test_a_clock_that_is_set_wrong_changes_nothing_once_the_server_was_heard(jump: int) -> None:
    clock = TurnedClock(NOW_MS)
    corrected = CorrectedClock(clock)
    corrected.hear(NOW_MS + 7)
    clock._now_ms += jump
    clock.turn(10)
    assert corrected.now_ms() == corrected.past_ms() == NOW_MS + 7 + 10_000
    assert corrected.ahead_ms == jump - 7
    assert not corrected.trusted
    clock._now_ms -= jump
    assert corrected.trusted


def test_a_small_difference_is_trusted() -> None:
    clock = TurnedClock(NOW_MS)
    corrected = CorrectedClock(clock)
    corrected.hear(NOW_MS - MAX_SKEW_MS)
    assert corrected.trusted
    corrected.hear(NOW_MS - MAX_SKEW_MS - 1)
    assert not corrected.trusted


@pytest.fixture
async def server() -> AsyncIterator[Gateway]:
    async with gateway() as opened:
        yield opened


@pytest.fixture
async def folder(server: Gateway, tmp_path: Path) -> Folder:
    return await enrolled(tmp_path / "state", server)


async def post(folder: Folder, port: int, path: str, body: object) -> tuple[str, int]:
    headers = {"Authorization": f"Bearer {folder.hook_token()}", "Content-Type": "application/json"}
    url = f"http://127.0.0.1:{port}{path}"
    async with (
        aiohttp.ClientSession() as client,
        client.post(url, data=msgspec.json.encode(body), headers=headers) as reply,
    ):
        said = msgspec.json.decode(await reply.read())
        assert reply.status == 201, said
        return said["epoch"], said["seq"]


async def page(folder: Folder, port: int) -> str:
    headers = {"Authorization": f"Bearer {folder.hook_token()}"}
    async with (
        aiohttp.ClientSession() as client,
        client.get(f"http://127.0.0.1:{port}/display", headers=headers) as reply,
    ):
        return await reply.text()


async def drained(folder: Folder) -> None:
    async with asyncio.timeout(10):
        while (await look(folder, SystemClock())).queue.records:
            await asyncio.sleep(0.005)


@jumps
async def test_a_clock_that_jumps_while_the_agent_runs_loses_nothing_and_changes_no_order(
    server: Gateway, folder: Folder, jump: int
) -> None:
    clock = JumpingClock()
    who = folder.identity()
    async with running_agent(folder, clock=clock) as (port, _):
        names = [await post(folder, port, "/v1/transactions?ack=disk", sale("1"))]
        await server.until(lambda server: len(server.records) == 1)
        clock.off_ms = jump
        names += [await post(folder, port, "/v1/transactions?ack=disk", sale(str(n))) for n in range(2, 6)]
        await server.until(lambda server: len(server.records) == 5)
        clock.off_ms = 0
        names.append(await post(folder, port, "/v1/transactions?ack=disk", sale("6")))
        await drained(folder)
    assert [seq for _, seq in names] == list(range(6))
    assert {(epoch.hex(), seq) for epoch, seq in server.records} == set(names)
    assert folder.identity() == who
    assert (len(server.enrolments), server.returns) == (1, [])


@jumps
async def test_a_clock_that_is_wrong_from_the_start_loses_nothing_and_is_told_of(
    server: Gateway, folder: Folder, jump: int
) -> None:
    async with running_agent(folder) as (port, _):
        await post(folder, port, "/v1/transactions?ack=disk", sale("1"))
    async with running_agent(folder, clock=JumpingClock(jump)) as (port, _):
        await post(folder, port, "/v1/transactions?ack=disk", sale("2"))
        await server.until(lambda server: bool(server.vitals) and len(server.records) == 2)
        await drained(folder)
        offset = (await look(folder, SystemClock())).clock_offset_ms
        assert offset is not None
        assert abs(offset - jump) < MAX_SKEW_MS
    async with running_agent(folder) as (port, _):
        await post(folder, port, "/v1/transactions?ack=disk", sale("3"))
        await server.until(lambda server: len(server.records) == 3)
        await drained(folder)
    assert len(server.enrolments) == 1


@jumps
async def test_an_offer_that_the_server_holds_good_is_shown_whatever_the_tills_clock_says(
    server: Gateway, folder: Folder, jump: int
) -> None:
    expires = server.clock_ms + HOUR_MS
    async with running_agent(folder) as (port, _):
        await server.until(lambda server: bool(server.vitals))
        await server.push(1, offer_push(1, basket="b1", text="Kept from before", expires_ms=expires), expires)
        await server.until(lambda server: server.receipts == [1])
    server.vitals.clear()
    async with running_agent(folder, clock=JumpingClock(jump)) as (port, _):
        await server.until(lambda server: bool(server.vitals))
        await server.push(2, offer_push(2, basket="b1", text="New today", expires_ms=expires), expires)
        await server.until(lambda server: server.receipts == [1, 2])
        await post(folder, port, "/v1/members/identify", member("e1", "b1"))
        shown = await page(folder, port)
    assert "Kept from before" in shown
    assert "New today" in shown


@jumps
async def test_an_offer_that_is_over_is_not_shown_whatever_the_tills_clock_says(
    server: Gateway, folder: Folder, jump: int
) -> None:
    async with running_agent(folder, clock=JumpingClock(jump)) as (port, _):
        await server.until(lambda server: bool(server.vitals))
        await server.push(1, offer_push(1, basket="b1", expires_ms=server.clock_ms - 1), server.clock_ms - 1)
        await server.push(2, offer_push(2, basket="b1", expires_ms=server.clock_ms - 1))
        await server.until(lambda server: server.receipts == [1, 2])
        await post(folder, port, "/v1/members/identify", member("e1", "b1"))
        assert "A coffee on us" not in await page(folder, port)
    state = await State.open(folder.database)
    assert [kept.seq for kept in await state.load_offers(0)] == [2]
    await state.close()


@jumps
async def test_offers_of_the_tills_own_are_off_while_its_clock_is_wrong(
    server: Gateway, folder: Folder, jump: int
) -> None:
    clock = JumpingClock()
    server.campaigns = (WELCOME,)
    shown = []
    async with running_agent(folder, clock=clock) as (port, _):
        await server.push(1, PackPush(server.pack(version=2)))
        await server.until(lambda server: server.receipts == [1])
        for number, off_ms in enumerate((0, jump, 0)):
            clock.off_ms = off_ms
            await post(folder, port, "/v1/members/identify", member(f"e{number}", f"b{number}"))
            shown.append("Nice to see you" in await page(folder, port))
    assert shown == [True, False, True]
