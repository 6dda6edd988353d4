"""Commands: over the socket of a running server, and without one."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import msgspec
import pytest
from msgspec import structs
from prometheus_client import CollectorRegistry

from support.serving import Server, SetClock, campaign_document, sale, serving
from tillstream_protocol.errors import TillstreamError
from tillstream_server import admin, app, office, office_fleet
from tillstream_server.config import Config
from tillstream_server.events import Events, json_logger
from tillstream_server.folder import Folder, FolderBusy, FolderError
from tillstream_server.metrics import Metrics
from tillstream_server.office import Office

CREATE = office.TokenCreate("acme", "north")


@asynccontextmanager
async def here(folder: Folder) -> AsyncIterator[Office]:
    """The office without a server, as the CLI opens it."""
    around = app.Surroundings(SetClock(), os.urandom, events())
    async with app.opened(folder, Config(), around) as parts:
        yield parts.office


async def test_the_socket_is_its_owners_alone(server: Server) -> None:
    assert stat.S_IMODE(server.folder.admin_socket.stat().st_mode) == 0o600


async def test_a_command_runs_without_a_server_as_with_one(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "data")
    await app.init(folder, "USD", os.urandom)
    alone = msgspec.json.decode(await admin.order(folder, CREATE, here))
    async with serving(folder.root) as server:
        served = await server.order(CREATE)
    assert alone.keys() == served.keys()
    assert not folder.admin_socket.exists()


async def test_a_socket_that_a_killed_server_left_is_no_obstacle(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "data")
    await app.init(folder, "USD", os.urandom)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(folder.admin_socket))
    assert folder.admin_socket.exists()
    assert b"token" in await admin.order(folder, CREATE, here)
    async with serving(folder.root) as server:
        assert "token" in await server.order(CREATE)


async def test_a_folder_that_somebody_holds_without_listening_is_busy(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "data")
    await app.init(folder, "USD", os.urandom)
    with folder.writing(), pytest.raises(FolderBusy):
        await admin.order(folder, CREATE, here, patience=0.01)


async def test_a_command_waits_for_a_server_that_starts(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "data")
    await app.init(folder, "USD", os.urandom)
    with folder.writing():
        ordered = asyncio.create_task(admin.order(folder, CREATE, here, patience=60))
        await asyncio.sleep(0.01)
        async with admin.listening(folder, cast("Office", QuickOffice()), events()):
            assert await ordered == b'{"done":true}'


async def test_a_command_waits_for_another_one(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "data")
    await app.init(folder, "USD", os.urandom)
    with folder.writing():
        ordered = asyncio.create_task(admin.order(folder, CREATE, here, patience=60))
        await asyncio.sleep(0.01)
    assert b"token" in await ordered


async def test_a_server_waits_for_a_command(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    served = False

    async def serve() -> None:
        nonlocal served
        with folder.writing():
            served = True

    with folder.writing():
        waiting = asyncio.create_task(admin.wait_to_serve(folder, serve, patience=60))
        await asyncio.sleep(0.01)
        assert not served
        with pytest.raises(FolderBusy):
            await admin.wait_to_serve(folder, serve, patience=0.01)
    await waiting
    assert served


async def test_a_second_server_is_told_of_the_first_at_once(server: Server) -> None:
    async def serve() -> None:
        pytest.fail("served twice")

    with pytest.raises(FolderBusy, match="another server serves"):
        await admin.wait_to_serve(server.folder, serve, patience=3600)


def events() -> Events:
    """A log and metrics of their own."""
    return Events(Metrics(CollectorRegistry()), json_logger())


class QuickOffice:
    """Does everything at once."""

    async def run(self, _: office.Command) -> office.Result:
        return {"done": True}


async def test_a_refusal_crosses_the_socket_with_field_limit_and_hint(server: Server) -> None:
    with pytest.raises(TillstreamError) as caught:
        await server.order(office.TokenCreate("acme", "north", "till-1", uses=2))
    error = caught.value
    assert (error.code, error.field, error.limit) == ("invalid_input", "uses", "1")
    assert error.hint


@pytest.mark.parametrize(
    ("line", "field"),
    [
        (b"nonsense\n", "body"),
        (b'{"type": "open_sesame"}\n', "type"),
        (b'{"type": "token_create", "retailer": "acme"}\n', "store"),
        (b'{"type": "key_create", "role": "king"}\n', "role"),
        (b"no newline", "command"),
        (b"x" * (admin.MAX_COMMAND + 2), "command"),
    ],
)
async def test_what_is_no_command_is_refused_and_the_server_goes_on(server: Server, line: bytes, field: str) -> None:
    reader, writer = await asyncio.open_unix_connection(server.folder.admin_socket)
    writer.write(line)
    writer.write_eof()
    answer = msgspec.json.decode(await reader.read(-1))
    writer.close()
    assert answer["error"]["field"] == field
    assert "token" in await server.order(CREATE)


async def test_a_path_too_long_for_a_socket_is_told_at_the_start(tmp_path: Path) -> None:
    folder = Folder(tmp_path / ("d" * 120))
    await app.init(folder, "USD", os.urandom)
    with pytest.raises(FolderError, match="too long"):
        async with serving(folder.root):
            pass
    assert b"token" in await admin.order(folder, CREATE, here)


async def test_a_server_that_stops_before_it_answers_is_told(tmp_path: Path) -> None:
    folder = Folder(tmp_path)

    def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_unix_server(hang_up, folder.admin_socket):
        with pytest.raises(FolderError, match="before it answered"):
            await admin.order(folder, CREATE, here)


async def test_the_projections_are_rebuilt_while_serving(server: Server) -> None:
    till = await server.till()
    await till.sends(sale(1), sale(2))
    key = await server.key()
    before = (await server.get("/api/v1/ledger/summary", key)).json()
    assert (await server.order(office.Rebuild()))["transactions"] == 2
    assert (await server.get("/api/v1/ledger/summary", key)).json() == before


async def test_campaigns_are_listed_with_every_version(server: Server) -> None:
    for version in (1, 2):
        await server.order(office.CampaignPut("acme", campaign_document(version=version)))
    listed = (await server.order(office.CampaignList()))["campaigns"]
    assert [(one["campaign"]["version"], one["active"]) for one in listed] == [(1, False), (2, True)]


async def test_dead_letters_are_listed_with_their_reason(server: Server) -> None:
    till = await server.till()
    reply = await till.sends(sale(1), sale(2), structs.replace(sale(3), business_date="2026-99-99"))
    assert [letter.seq for letter in reply.dead] == [2]
    (letter,) = (await server.order(office.DeadLettersList()))["dead_letters"]
    assert (letter["seq"], letter["retailer"]) == (2, "acme")
    assert letter["reason"]


async def test_a_till_that_is_not_there_cannot_be_revoked(server: Server) -> None:
    with pytest.raises(TillstreamError, match="no till 'x'") as caught:
        await server.order(office_fleet.TillRevoke("acme", "north", "x"))
    assert caught.value.code == "unknown_till"


async def test_a_command_that_has_begun_comes_to_its_end_when_the_server_stops(tmp_path: Path) -> None:
    folder, office_ = Folder(tmp_path), SlowOffice()
    async with admin.listening(folder, cast("Office", office_), events()):
        ordered = asyncio.create_task(admin.order(folder, CREATE, here))
        await office_.begun.wait()
        asyncio.get_running_loop().call_soon(office_.go.set)
    assert office_.ended
    assert await ordered == b'{"done":true}'


class SlowOffice:
    """Takes until it is told to go on."""

    def __init__(self) -> None:
        self.begun, self.go = asyncio.Event(), asyncio.Event()
        self.ended = False

    async def run(self, _: office.Command) -> office.Result:
        self.begun.set()
        await self.go.wait()
        self.ended = True
        return {"done": True}
