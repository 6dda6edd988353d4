"""Asking after an agent from outside: the running one answers itself, of a stopped one only the folder is read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.agents import enrolled, running_agent, sale
from support.gateways import Gateway, gateway
from tillstream_agent.clock import SystemClock
from tillstream_agent.folder import Folder, NotEnrolled
from tillstream_agent.inspection import NoAnswer, ask, look
from tillstream_protocol.codec import encode


@pytest.fixture
async def server() -> AsyncIterator[Gateway]:
    async with gateway() as opened:
        yield opened


@pytest.fixture
async def folder(server: Gateway, tmp_path: Path) -> Folder:
    return await enrolled(tmp_path / "state", server)


async def sells(folder: Folder, count: int = 1) -> None:
    """Sales over the socket, on the disk."""
    reader, writer = await asyncio.open_unix_connection(folder.socket)
    for number in range(count):
        writer.write(encode({"call": "transactions", "body": sale(str(number)), "ack": "disk"}))
        assert await reader.read(65_536)
    writer.close()


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*.*") if path.is_file()}


async def test_a_running_agent_tells_how_it_is(server: Gateway, folder: Folder) -> None:
    async with running_agent(folder) as (port, _):
        await server.until(lambda server: bool(server.vitals))
        status = await look(folder, SystemClock())
    assert (status.running, status.capturing, status.online) == (True, True, True)
    assert (status.http_port, status.till, status.pack_version) == (port, "1", 1)
    assert status.position == 0
    assert status.disk_free is not None


async def test_of_a_stopped_agent_the_queue_is_counted_and_nothing_changed(server: Gateway, folder: Folder) -> None:
    server.answers(503, times=1000)
    async with running_agent(folder):
        await sells(folder, 3)
    before = contents(folder.journal)
    status = await look(folder, SystemClock())
    assert (status.running, status.online, status.queue.records) == (False, False, 3)
    assert status.queue.bytes > 0
    assert contents(folder.journal) == before


async def test_a_torn_journal_of_a_killed_agent_is_not_touched(server: Gateway, folder: Folder) -> None:
    server.answers(503, times=1000)
    async with running_agent(folder):
        await sells(folder, 3)
    chunk = next(folder.journal.glob("*.chunk"))
    chunk.write_bytes(chunk.read_bytes()[:-200])
    before = contents(folder.journal)
    status = await look(folder, SystemClock())
    assert status.queue.records == 2
    assert contents(folder.journal) == before


async def test_what_was_acknowledged_is_not_counted(server: Gateway, folder: Folder) -> None:
    async with running_agent(folder):
        await sells(folder, 2)
        async with asyncio.timeout(5):
            while (await ask(folder)).queue.records:
                await asyncio.sleep(0.005)
    assert (await look(folder, SystemClock())).queue.records == 0


async def test_a_folder_that_never_ran_has_an_empty_queue(folder: Folder) -> None:
    assert (await look(folder, SystemClock())).queue.records == 0
    assert not folder.journal.exists()


async def test_a_folder_without_identity_is_not_enrolled(tmp_path: Path) -> None:
    with pytest.raises(NotEnrolled):
        await look(Folder(tmp_path / "none"), SystemClock())
    assert not (tmp_path / "none").exists()


async def test_an_agent_that_starts_is_waited_for(folder: Folder) -> None:
    asking = asyncio.create_task(ask(folder, patience=60))
    await asyncio.sleep(0)
    async with running_agent(folder) as (port, _):
        assert (await asking).http_port == port


async def test_an_agent_that_does_not_answer_is_told_of(folder: Folder) -> None:
    with folder.locked(), pytest.raises(NoAnswer):
        await ask(folder, patience=0.01)

    async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    silent = await asyncio.start_unix_server(hang_up, folder.socket)
    with pytest.raises(NoAnswer):
        await ask(folder)
    silent.close()
    await silent.wait_closed()
