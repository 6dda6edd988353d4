"""The keys change while the server serves: it begins again at the same port, and tills hear of it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import aiohttp
import pytest
from nacl.public import PrivateKey
from prometheus_client import CollectorRegistry

from support.serving import Server, SetClock, Till, sale
from tillstream_protocol import messages, versions
from tillstream_protocol.errors import TillstreamError
from tillstream_protocol.messages import PackPush
from tillstream_protocol.pack import open_pack
from tillstream_server import admin, app, keys, office
from tillstream_server.config import Config
from tillstream_server.events import Events, json_logger
from tillstream_server.folder import Folder
from tillstream_server.metrics import Metrics
from tillstream_server.office import Office

PATIENCE_S = 60


@asynccontextmanager
async def beginning_again(server: Server) -> AsyncIterator[None]:
    """Until the server answers again after what is ordered in the block."""
    times = len(server.logged("serving"))
    yield
    async with asyncio.timeout(PATIENCE_S):
        while len(server.logged("serving")) == times:
            await asyncio.sleep(0.01)


async def introduction(server: Server) -> messages.Introduction:
    """What the server says of itself to whoever wants to join."""
    reply = await Till(server).posts("/till/v1/hello", messages.Hello(os.urandom(16), versions.PROTOCOL))
    return messages.decode_introduction(reply.body)


async def test_tills_seal_to_the_new_key_and_what_they_sealed_before_is_still_read(server: Server) -> None:
    till = await server.till()
    await till.sends(sale(1))
    before = till.introduction.box_public_key
    async with beginning_again(server):
        told = await server.order(office.KeyRotateBox())
    after = (await introduction(server)).box_public_key
    assert after != before
    assert told["former_box_key_ids"]
    reply = await till.sends(sale(2))  # in the chunk that was sealed to the former key
    assert [(one.first, one.last) for one in reply.acked] == [(0, 1)]
    newcomer = await server.till()
    assert newcomer.introduction.box_public_key == after
    assert (await newcomer.sends(sale(3))).dead == ()


async def test_a_till_that_was_connected_finds_the_server_again_and_gets_the_keys_in_its_pack(server: Server) -> None:
    till = await server.till()
    former = open_pack(till.reply.pack, till.introduction.server_public_key, till.reply.till_id)
    async with till.on_push() as pushes, beginning_again(server):
        await server.order(office.KeyRotateBox())
        code, _ = await pushes.is_closed()
    assert code in (aiohttp.WSCloseCode.OK, aiohttp.WSCloseCode.GOING_AWAY, aiohttp.WSCloseCode.SERVICE_RESTART)
    async with till.on_push(pack_version=former.version) as pushes:
        _, body = await pushes.next(PackPush)
    pack = open_pack(body.pack, till.introduction.server_public_key, till.reply.till_id)
    assert pack.version > former.version
    assert pack.box_public_key == (await introduction(server)).box_public_key != former.box_public_key


async def test_a_new_escrow_key_is_left_for_the_operator_before_any_till_seals_to_it(server: Server) -> None:
    with pytest.raises(TillstreamError, match="still there") as caught:
        await server.order(office.KeyRotateEscrow())
    assert "take it away" in str(caught.value.hint)
    former = server.folder.escrow_file.read_text()
    server.folder.escrow_file.unlink()
    async with beginning_again(server):
        told = await server.order(office.KeyRotateEscrow())
    assert told["escrow_private_key"] == str(server.folder.escrow_file)
    private = keys.escrow_from(server.folder.escrow_file.read_text())
    assert private.hex() != former.strip()
    assert (await introduction(server)).escrow_public_key == bytes(PrivateKey(private).public_key)
    assert private.hex() not in server.log.getvalue() + repr(told)


async def test_the_escrow_key_is_forgotten_by_a_serving_server(server: Server) -> None:
    assert (await server.order(office.KeyForgetEscrow())) == {"forgotten": False}
    assert len(server.logged("serving")) == 1
    escrow = keys.escrow_from(server.folder.escrow_file.read_text())
    keys.recover(server.folder.keys, escrow, os.urandom, 0)
    async with beginning_again(server):
        assert (await server.order(office.KeyForgetEscrow())) == {"forgotten": True}
    assert keys.load(server.folder.keys).escrow_private is None


@asynccontextmanager
async def here(folder: Folder) -> AsyncIterator[Office]:
    """The office without a server, as the CLI opens it."""
    around = app.Surroundings(SetClock(), os.urandom, Events(Metrics(CollectorRegistry()), json_logger()))
    async with app.opened(folder, Config(), around) as parts:
        yield parts.office


async def test_commands_in_a_row_are_all_carried_out_whenever_the_server_begins_again(server: Server) -> None:
    async with beginning_again(server):
        for _ in range(5):
            await admin.order(server.folder, office.KeyRotateBox(), here, patience=PATIENCE_S)
    assert len(keys.load(server.folder.keys).former_box) == 5
    await until_it_answers(server)
    await server.till()


async def until_it_answers(server: Server) -> None:
    """Wait for the address to be listened at."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with suppress(aiohttp.ClientConnectionError):
                assert (await server.get("/readyz")).status == 200
                return
            await asyncio.sleep(0.01)
