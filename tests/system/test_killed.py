"""SIGKILL in short: at random points, at calls of the disk and of the system, and between commit and reply.

The long forms are `python -m crash.kills`, `crash.calls`, `crash.syscalls` and `crash.replies`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from crash import kills, replies, syscalls
from crash.calls import at_disk_calls, at_system_calls
from crash.cashier import Ack, sale
from crash.proof import compare
from crash.script import ENTRY
from crash.stand import Stand, standing
from crash.traced import strace_refuses
from support.zygote import AGENT, SERVER, Zygote

pytestmark = pytest.mark.system

needs_strace = pytest.mark.skipif(bool(strace_refuses()), reason=strace_refuses() or "strace may trace")


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with Zygote(AGENT, SERVER, ENTRY) as parent:
        yield parent


async def test_agent_and_server_killed_at_random_points_lose_and_double_nothing(zygote: Zygote, tmp_path: Path) -> None:
    told = await kills.run(tmp_path, kills.Plan(kills=15, seed=4, rate=200.0, seconds=60.0), zygote)
    assert told["kills"] == 15
    assert told["acknowledged"] > 300
    assert told["os"]
    assert told["disk"]
    assert kills.held_the_promise(told), told


async def test_a_server_killed_between_commit_and_reply_takes_nothing_twice(zygote: Zygote, tmp_path: Path) -> None:
    told = await replies.run(tmp_path, times=6, seconds=60.0, zygote=zygote)
    assert told["replies_swallowed"] == told["server_kills"] == 6
    assert kills.held_the_promise(told), told


def test_a_journal_killed_at_calls_of_its_disk_keeps_what_it_acknowledged(zygote: Zygote, tmp_path: Path) -> None:
    told = at_disk_calls(zygote, tmp_path / "disk", step=12)
    assert told["deaths"] > 20
    assert told["captured"] > 50
    assert told["wrong"] == []


@needs_strace
@pytest.mark.parametrize(("call", "step"), [("write", 12), ("fsync", 4)])
def test_a_journal_killed_at_system_calls_keeps_what_it_acknowledged(
    zygote: Zygote, tmp_path: Path, call: str, step: int
) -> None:
    told = at_system_calls(zygote, tmp_path / call, call, step=step)
    assert told["deaths"] >= 2
    assert told["captured"] > 12
    assert told["wrong"] == []


@needs_strace
@pytest.mark.parametrize(
    ("victim", "step", "calls"), [("agent", 9, ("write", "fdatasync")), ("server", 250, ("pwrite64",))]
)
async def test_a_whole_process_killed_at_system_calls_loses_and_doubles_nothing(
    zygote: Zygote, tmp_path: Path, victim: str, step: int, calls: tuple[str, ...]
) -> None:
    told = await syscalls.run(tmp_path, syscalls.Plan(victim, step, 120.0, calls), zygote)
    assert told["complete"]
    assert sum(told["deaths"].values()) >= 3
    assert kills.held_the_promise(told), told


class TestTheProofItself:
    """What is wrong must be found, or the figures of all the others say nothing."""

    @pytest.fixture
    async def stand(self, zygote: Zygote, tmp_path: Path) -> Stand:
        with standing(tmp_path, zygote) as stand:
            stand.enrol()
            await stand.open_till()
            body = sale("1", random.Random(1))
            assert await stand.ask({"call": "transactions", "body": body}) is not None
            await stand.drained(30)
            stand.server.stop()
        return stand

    async def test_it_finds_what_was_acknowledged_and_is_not_there(self, stand: Stand) -> None:
        assert compare(stand.data, {"2": Ack("00", 0, "os")})["lost"] == 1

    async def test_it_finds_what_is_there_under_another_name(self, stand: Stand) -> None:
        assert compare(stand.data, {"1": Ack("00", 0, "os")})["renamed"] == 1
