"""A disk that is really full, at the till and at the server: refused at once, nothing lost, healed by itself."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from crash.cashier import Ack, sale
from crash.proof import compare, counts
from crash.stand import Stand, standing
from support.mounts import empty, fill, mounting_refuses, small_disk
from support.zygote import AGENT, SERVER, Zygote

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(bool(mounting_refuses()), reason=mounting_refuses() or "mounting is permitted"),
]

DISK = 8 * 1024 * 1024
RESERVE = 1024 * 1024
WAIT_S = 60


class Pos:
    """Sells over the till's socket, and remembers what was acknowledged."""

    def __init__(self, stand: Stand) -> None:
        self.stand = stand
        self.acknowledged: dict[str, Ack] = {}
        self._chance = random.Random(1)

    async def sells(self, pos_id: str) -> dict[str, Any]:
        """One sale; the reply to it."""
        call = {"call": "transactions", "ack": "disk", "body": sale(pos_id, self._chance)}
        reply = await self.stand.ask(call)
        assert reply is not None, "the agent did not answer"
        if reply["status"] in (200, 201):
            body = reply["body"]
            self.acknowledged[pos_id] = Ack(body["epoch"], body["seq"], body["ack"])
        return reply

    async def sells_many(self, prefix: str, count: int) -> None:
        """So many sales, each acknowledged."""
        for number in range(count):
            reply = await self.sells(f"{prefix}-{number}")
            assert reply["status"] == 201, reply

    async def is_refused(self, prefix: str) -> dict[str, Any]:
        """Sell until a sale is refused; the reply to that one."""
        for number in range(10_000):
            reply = await self.sells(f"{prefix}-{number}")
            if reply["status"] != 201:
                return reply
        raise AssertionError("nothing was refused")

    async def can_sell_again(self, prefix: str) -> None:
        """Try until a sale is taken."""
        number = iter(range(100_000))
        await until(lambda: self._sold(f"{prefix}-{next(number)}"))

    async def _sold(self, pos_id: str) -> bool:
        return bool((await self.sells(pos_id))["status"] == 201)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    ends = time.monotonic() + WAIT_S
    while not await condition():
        assert time.monotonic() < ends, "it does not come about"
        await asyncio.sleep(0.05)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", DISK) as place:
        yield place


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with Zygote(AGENT, SERVER) as parent:
        yield parent


@pytest.fixture(params=[RESERVE, 0], ids=["short of its reserve", "without a byte left"])
def reserve(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@contextmanager
def till_on(disk: Path, reserve: int, folder: Path, zygote: Zygote) -> Iterator[Stand]:
    """A till whose state folder lies on the disk, and a server that has room."""
    with standing(folder, zygote, state=disk / "till") as stand:
        settings = folder / "agent.toml"
        settings.write_text(f"[journal]\nreserve_bytes = {reserve}\n")
        stand.till.arguments += ["--config", str(settings)]
        stand.enrol()
        yield stand


async def health_of(stand: Stand) -> str:
    status = await stand.status()
    assert status is not None
    headers = {"Authorization": f"Bearer {(stand.state / 'hook-token').read_text().strip()}"}
    where = f"http://127.0.0.1:{status['http_port']}/healthz"
    async with aiohttp.ClientSession(headers=headers) as http, http.get(where) as response:
        return str((await response.json())["status"])


def problems_of(stand: Stand, folder: Path) -> list[dict[str, Any]]:
    """What `doctor` complains of."""
    out, log = folder / "doctor.out", folder / "doctor.log"
    pid = stand.zygote.start(AGENT, ["doctor", "--json", "--state", str(stand.state)], out=out, log=log)
    assert stand.zygote.wait(pid, WAIT_S) == 6, log.read_text()
    return [finding for finding in json.loads(out.read_text())["findings"] if finding["verdict"] == "problem"]


async def test_a_till_on_a_full_disk_refuses_sales_at_once_says_so_and_heals_by_itself(
    zygote: Zygote, tmp_path: Path, disk: Path, reserve: int
) -> None:
    with till_on(disk, reserve, tmp_path / "stand", zygote) as stand:
        await stand.open_till()
        pos = Pos(stand)
        stand.server.kill()
        await pos.sells_many("before", 30)
        fill(disk, leave=reserve // 2)
        refused = await pos.is_refused("full")
        assert refused["status"] == 507
        assert refused["error"]["code"] == "journal_full"
        assert refused["error"]["retryable"]
        status = await stand.status()
        assert status is not None
        assert "journal_full" in status["trouble"]
        assert not status["capturing"]
        assert await health_of(stand) == "failing"
        assert any("journal_full" in problem["detail"] for problem in problems_of(stand, tmp_path))
        empty(disk)
        await pos.can_sell_again("healed")
        assert await health_of(stand) != "failing"
        stand.serve()
        await stand.drained(WAIT_S)
        assert compare(stand.data, pos.acknowledged) == NOTHING_WRONG


async def test_a_till_that_starts_on_a_full_disk_comes_up_with_everything_and_captures_once_there_is_room(
    zygote: Zygote, tmp_path: Path, disk: Path, reserve: int
) -> None:
    with till_on(disk, reserve, tmp_path / "stand", zygote) as stand:
        await stand.open_till()
        pos = Pos(stand)
        stand.server.kill()
        await pos.sells_many("before", 30)
        fill(disk, leave=reserve // 2)
        stand.till.kill()
        await stand.open_till()
        assert (await pos.is_refused("full"))["error"]["code"] == "journal_full"
        stand.serve()
        await stand.drained(WAIT_S)
        assert compare(stand.data, pos.acknowledged) == NOTHING_WRONG
        empty(disk)
        await pos.can_sell_again("healed")
        await stand.drained(WAIT_S)
        assert compare(stand.data, pos.acknowledged) == NOTHING_WRONG


async def test_a_server_on_a_full_disk_acknowledges_nothing_that_it_could_not_keep_and_heals_by_itself(
    zygote: Zygote, tmp_path: Path, disk: Path
) -> None:
    with standing(tmp_path / "stand", zygote, data=disk / "server") as stand:
        stand.enrol()
        await stand.open_till()
        pos = Pos(stand)
        await pos.sells_many("before", 30)
        await stand.drained(WAIT_S)
        fill(disk)
        number = iter(range(10_000))

        async def waits() -> bool:
            await pos.sells_many(f"full-{next(number)}", 20)
            status = await stand.status()
            assert status is not None
            return bool(status["queue"]["records"] and "unavailable" in status["trouble"])

        await until(waits)
        status = await stand.status()
        assert status is not None
        assert status["capturing"], "the till sells on"
        assert counts(stand.data)["ledger"] <= len(pos.acknowledged) - status["queue"]["records"] + 1
        assert shutil.disk_usage(disk).free < 64 * 1024
        empty(disk)
        await stand.drained(WAIT_S)
        assert compare(stand.data, pos.acknowledged) == NOTHING_WRONG


NOTHING_WRONG = {
    "lost": 0,
    "renamed": 0,
    "more_than_once": 0,
    "holes": 0,
    "duplicates": 0,
    "conflicts": 0,
    "dead_letters": 0,
    "quarantines": 0,
}
