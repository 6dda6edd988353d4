"""A cloned till and a restored image: the server notices, both journals are kept, one command puts a clone right."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from support.agents import running_agent, sale
from support.serving import Server, serving
from tillstream_agent.clock import SystemClock
from tillstream_agent.folder import Folder
from tillstream_agent.inspection import look
from tillstream_agent.sync import enrol
from tillstream_agent.sync.asking import Asker
from tillstream_protocol.framing import FRAMES_START
from tillstream_protocol.messages import Token
from tillstream_server.ledger import export
from tillstream_server.reading import reading

WAIT_S = 30
NOWHERE = "http://127.0.0.1:1"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with serving(tmp_path / "server") as opened:
        yield opened


@pytest.fixture
async def original(server: Server, tmp_path: Path) -> Folder:
    return await joins(Folder(tmp_path / "till"), server, "till-1")


async def joins(folder: Folder, server: Server, till: str, *, replace: bool = False) -> Folder:
    """What `tillstream-agent enroll` does."""
    client = Asker(server.address, tls=None, timeout=10)
    try:
        joining = enrol.Enrolment(folder, client, SystemClock(), os.urandom, "1.0")
        await joining.join(server.address, Token.parse(await server.token(till)), replace=replace)
    finally:
        await client.close()
    return folder


async def sells(folder: Folder, port: int, *names: str) -> None:
    """A POS that sells at this till."""
    headers = {"Authorization": f"Bearer {folder.hook_token()}", "Content-Type": "application/json"}
    async with aiohttp.ClientSession() as client:
        for name in names:
            url = f"http://127.0.0.1:{port}/v1/transactions?ack=disk"
            async with client.post(url, data=msgspec.json.encode(sale(name)), headers=headers) as reply:
                assert reply.status == 201, await reply.text()


@asynccontextmanager
async def open_shop(folder: Folder, *names: str, boot: str = "monday") -> AsyncIterator[int]:
    """An agent that runs and sells these, until all that it has is acknowledged; its port."""
    async with running_agent(folder, boot=boot) as (port, _):
        await sells(folder, port, *names)
        yield port
        await drained(folder)


async def drained(folder: Folder) -> None:
    async with asyncio.timeout(WAIT_S):
        while (await look(folder, SystemClock())).queue.records:
            await asyncio.sleep(0.02)


async def alarmed(server: Server) -> None:
    """Wait for an alarm."""
    async with asyncio.timeout(WAIT_S):
        while not alarms(server):
            await asyncio.sleep(0.02)


async def sells_offline(folder: Folder, *names: str) -> None:
    """Sell without reaching any server, and stop."""
    who = folder.identity()
    folder.rewrite(replace(who, server=NOWHERE))
    async with running_agent(folder) as (port, _):
        await sells(folder, port, *names)
    folder.rewrite(who)


def copied(folder: Folder, to: Path) -> Folder:
    """An image of a till's disk."""
    shutil.copytree(folder.path, to, ignore=shutil.ignore_patterns("hook.sock"))
    return Folder(to)


async def ledger(server: Server, kind: str = "transaction") -> list[dict[str, Any]]:
    """Every record of a kind."""
    async with reading(server.folder.ledger) as conn:
        rows = [json.loads(export.line(row)) async for row in export.rows(conn)]
    return [row for row in rows if row["type"] == kind]


async def sold(server: Server) -> list[str]:
    """The POS ids of all sales in the ledger."""
    return sorted(row["body"]["pos_id"] for row in await ledger(server))


def alarms(server: Server) -> set[str]:
    """The kinds of alarm that the server has raised."""
    return {line["kind"] for line in server.logged("alarm")}


async def test_a_clone_is_noticed_loses_nothing_and_is_put_right_by_one_command(
    server: Server, original: Folder, tmp_path: Path
) -> None:
    async with open_shop(original, "before"):
        pass
    clone = copied(original, tmp_path / "clone")

    async with open_shop(original, "original-1"), open_shop(clone, "clone-1"):
        pass
    assert alarms(server) == {"forked"}

    await sells_offline(clone, "clone-2", "clone-3")
    former = clone.identity()
    await joins(clone, server, "till-2", replace=True)
    assert clone.identity().till_id != former.till_id
    assert set(clone.former_keys()) == {former.device_key_id}
    async with open_shop(original, "original-2"), open_shop(clone, "clone-4"):
        pass

    assert await sold(server) == sorted(
        ["before", "original-1", "original-2", "clone-1", "clone-2", "clone-3", "clone-4"]
    )
    own = [row["body"]["pos_id"] for row in await ledger(server) if row["till"] == clone.identity().till_id.hex()]
    assert own == ["clone-4"]
    assert alarms(server) == {"forked"}


@pytest.mark.parametrize("torn", [False, True])
async def test_a_clone_is_noticed_although_the_original_ran_and_captured_nothing_in_between(
    server: Server, original: Folder, tmp_path: Path, *, torn: bool
) -> None:
    """Also if that run died in its first write."""
    async with open_shop(original, "before"):
        pass
    clone = copied(original, tmp_path / "clone")
    async with open_shop(original):
        pass
    if torn:
        newest = max((original.path / "journal").glob("*.chunk"))
        begun = b"TSFR\0\0\1\0" + bytes(8) + b"\1\0\0\0" + b"x" * 60
        newest.write_bytes(newest.read_bytes()[:FRAMES_START] + begun)
    async with open_shop(clone, "clone-1"), open_shop(original, "original-1"):
        await alarmed(server)
    assert alarms(server) == {"forked"}
    assert await sold(server) == ["before", "clone-1", "original-1"]


async def test_a_copy_of_a_till_that_had_sold_nothing_yet_is_a_copy(
    server: Server, original: Folder, tmp_path: Path
) -> None:
    async with open_shop(original):
        pass
    clone = copied(original, tmp_path / "clone")
    async with open_shop(original, "original-1"), open_shop(clone, "clone-1"):
        await alarmed(server)
    assert alarms(server) == {"forked"}


async def test_an_image_of_a_run_that_had_sold_nothing_yet_is_an_image(
    server: Server, original: Folder, tmp_path: Path
) -> None:
    async with open_shop(original, "before"):
        pass
    async with running_agent(original) as (port, _):
        image = copied(original, tmp_path / "image")
        await sells(original, port, "after")
        await drained(original)
    async with open_shop(image, "restored"):
        await alarmed(server)
    assert alarms(server) == {"restored_image"}


async def test_a_clone_that_never_reached_the_server_loses_nothing_either(
    server: Server, original: Folder, tmp_path: Path
) -> None:
    async with open_shop(original, "before"):
        pass
    clone = copied(original, tmp_path / "clone")
    await sells_offline(original, "original-1")
    await sells_offline(clone, "clone-1")
    await joins(clone, server, "till-2", replace=True)
    async with open_shop(clone, "clone-2"):
        pass
    async with open_shop(original, "original-2"):
        pass
    assert await sold(server) == sorted(["before", "clone-1", "clone-2", "original-1", "original-2"])
    assert alarms(server) == {"forked"}


async def test_a_restored_image_is_noticed_and_nothing_is_lost_or_taken_twice(
    server: Server, original: Folder, tmp_path: Path
) -> None:
    async with open_shop(original, "1", "2"):
        pass
    image = copied(original, tmp_path / "image")
    async with open_shop(original, "3", "4"):
        pass
    shutil.rmtree(original.path)
    copied(image, original.path)
    # The POS asks again for what the image knows nothing of: the server knows it by its content.
    async with open_shop(original, "4", "5"):
        pass
    assert alarms(server) == {"forked"}
    assert await sold(server) == ["1", "2", "3", "4", "5"]


async def test_an_image_of_a_running_till_that_is_put_back_is_noticed_and_says_what_it_cannot_know(
    server: Server, original: Folder, tmp_path: Path
) -> None:
    async with open_shop(original, "1", "2") as port:
        await drained(original)
        image = copied(original, tmp_path / "image")
        await sells(original, port, "3", "4")
    shutil.rmtree(original.path)
    copied(image, original.path)
    async with open_shop(original, "5", boot="tuesday"):
        async with asyncio.timeout(WAIT_S):
            while not (lost := await ledger(server, "records_lost")):
                await asyncio.sleep(0.05)
    assert alarms(server) == {"restored_image"}
    assert await sold(server) == ["1", "2", "3", "4", "5"]
    first = min(await ledger(server), key=lambda row: int(row["id"]))
    assert [(row["body"]["epoch"], row["body"]["first"], row["body"]["reason"]) for row in lost] == [
        (first["epoch"], 2, "power_cut")
    ]
