"""The service manager is told what it asked for, and nobody else anything."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from support.agents import enrolled
from support.gateways import gateway
from tillstream_agent.app import World, run
from tillstream_agent.clock import SystemClock
from tillstream_agent.config import Config
from tillstream_agent.notify import NotTold, Supervisor

PID = 41


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """A service manager's socket, in the folder's `notify`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.setblocking(False)
        yield listening


def heard(manager: socket.socket) -> list[str]:
    """Every line that has come."""
    lines: list[str] = []
    with suppress(BlockingIOError):
        while True:
            lines += manager.recv(4096).decode().splitlines()
    return lines


def of(address: object, **more: str) -> Supervisor:
    return Supervisor.of({"NOTIFY_SOCKET": str(address), **more}, PID)


def test_it_is_told_that_the_agent_is_ready_and_that_it_stops(manager: socket.socket, tmp_path: Path) -> None:
    told = of(tmp_path / "notify")
    told.ready("till 1")
    told.stopping()
    assert heard(manager) == ["READY=1", "STATUS=till 1", "STOPPING=1"]


def test_a_leading_at_sign_is_an_abstract_name() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("")  # the kernel chooses an abstract name
        listening.setblocking(False)
        of("@" + listening.getsockname()[1:].decode()).stopping()
        assert heard(listening) == ["STOPPING=1"]


@pytest.mark.parametrize("address", ["", "notify", "vsock:2:1"])
def test_who_gave_no_address_is_told_nothing(address: str) -> None:
    assert of(address) == Supervisor()
    of(address).ready("nobody hears")


@pytest.mark.parametrize(
    ("more", "seconds"),
    [
        ({}, 0.0),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(PID)}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 0.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
        ({"WATCHDOG_USEC": "-1"}, 0.0),
    ],
)
def test_a_watchdog_counts_where_it_is_meant_for_this_process(more: dict[str, str], seconds: float) -> None:
    assert of("/run/notify", **more).watchdog_s == seconds


async def test_signs_of_life_come_more_often_than_they_are_expected(manager: socket.socket, tmp_path: Path) -> None:
    task = asyncio.create_task(Supervisor(str(tmp_path / "notify"), 0.003).live())
    said: list[str] = []
    while len(said) < 3:
        await asyncio.sleep(0.001)
        said += heard(manager)
    task.cancel()
    assert set(said) == {"WATCHDOG=1"}


async def test_without_a_watchdog_there_are_none(manager: socket.socket, tmp_path: Path) -> None:
    task = asyncio.create_task(of(tmp_path / "notify").live())
    await asyncio.sleep(0.01)
    assert not task.done()
    assert heard(manager) == []
    task.cancel()


def test_nobody_at_the_address_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NotTold, match="No such file"):
        of(tmp_path / "notify").stopping()


async def test_an_agent_says_when_its_doors_are_open_and_when_it_stops(manager: socket.socket, tmp_path: Path) -> None:
    said, log = await _a_short_life(tmp_path, of(tmp_path / "notify", WATCHDOG_USEC="60000000"), manager)
    assert said[0] == "READY=1"
    assert said[1].startswith("STATUS=till 1 of store north, port ")
    assert set(said[2:]) == {"WATCHDOG=1", "STOPPING=1"}
    assert "housekeeping_failed" not in log


async def test_an_agent_serves_though_nobody_can_be_told(manager: socket.socket, tmp_path: Path) -> None:
    said, log = await _a_short_life(tmp_path, of(tmp_path / "gone"), manager)
    assert said == []
    assert log.count("tell the service manager") == 2


async def _a_short_life(folder: Path, supervisor: Supervisor, manager: socket.socket) -> tuple[list[str], str]:
    """What was said, and logged, by an agent that ran for a moment."""
    log = (folder / "log").open("w+")
    async with gateway() as server:
        state = await enrolled(folder / "state", server)
        stop, ready = asyncio.Event(), asyncio.Event()
        world = World(SystemClock(), lambda size: bytes(size), lambda: 0.0, log, supervisor=supervisor)
        settings = Config(hook_port=0)
        task = asyncio.create_task(run(state, settings, world, stop=stop, started=lambda _: ready.set()))
        await ready.wait()
        await asyncio.sleep(0.02)
        stop.set()
        await task
    with log:
        log.seek(0)
        return heard(manager), log.read()
