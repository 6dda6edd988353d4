"""The agent takes another device key: when it is time or asked for, and never without one that speaks for its till."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import aiohttp
import msgspec
import pytest
from aiohttp import web

from support.agents import Telling, enrolled, running_agent, sale
from support.gateways import Gateway, gateway
from tillstream_agent import folder as folders
from tillstream_agent.folder import Folder, in_thread, write_private
from tillstream_agent.sync import rotate
from tillstream_agent.sync.keys import write_down
from tillstream_protocol.framing import ChunkHeader
from tillstream_protocol.messages import Rotate
from tillstream_protocol.signing import SignKey


@pytest.fixture
async def server() -> AsyncIterator[Gateway]:
    async with gateway() as opened:
        yield opened


@pytest.fixture
async def folder(server: Gateway, tmp_path: Path) -> Folder:
    return await enrolled(tmp_path / "state", server)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rotate, "RETRY_S", 0.05)


async def sells(folder: Folder, port: int, pos_id: str) -> None:
    headers = {"Authorization": f"Bearer {folder.hook_token()}", "Content-Type": "application/json"}
    url, data = f"http://127.0.0.1:{port}/v1/transactions?ack=disk", msgspec.json.encode(sale(pos_id))
    async with aiohttp.ClientSession() as client, client.post(url, data=data, headers=headers) as reply:
        assert reply.status == 201


async def presented(server: Gateway, other_than: bytes) -> bytes:
    """The key that the till presents itself with, once it is another one."""
    await server.until(lambda server: bool(server.presents) and server.presents[-1].device_key_id != other_than)
    return server.presents[-1].device_key_id


async def test_it_rotates_when_asked_and_what_the_former_key_wrote_still_arrives(
    server: Gateway, folder: Folder
) -> None:
    former = folder.identity().device_key_id
    async with running_agent(folder) as (port, _):
        await server.until(lambda server: bool(server.vitals))
        server.answers(503, times=2)
        await sells(folder, port, "1")
        await server.push(1, Rotate("a test"))
        new = await presented(server, former)
        await sells(folder, port, "2")
        await server.until(lambda server: len(server.records) == 2)
        who = folder.identity()
        assert (who.device_key_id, server.signers[-1]) == (new, new)
        assert folder.device_key(who).key_id == new
        assert not folder.is_rotation_asked
        assert who.certificate is not None
    writers = {ChunkHeader.decode(batch.header).device_key_id for batch in server.batches}
    assert writers == {former, new}
    async with running_agent(folder) as (port, _):
        await sells(folder, port, "3")
        await server.until(lambda server: len(server.records) == 3)


@pytest.mark.parametrize(("days", "rotates"), [(89, False), (91, True)])
async def test_it_rotates_by_itself_when_its_key_is_old(
    server: Gateway, tmp_path: Path, days: int, rotates: bool
) -> None:
    server.clock_ms -= days * 86_400_000
    folder = await enrolled(tmp_path / "state", server)
    server.clock_ms += days * 86_400_000
    former = folder.identity().device_key_id
    async with running_agent(folder):
        await server.until(lambda server: bool(server.vitals))
        if rotates:
            await presented(server, former)
        else:
            await asyncio.sleep(0.3)
            assert folder.identity().device_key_id == former


async def test_an_answer_that_got_lost_is_asked_for_again_with_the_same_key(server: Gateway, folder: Folder) -> None:
    former = folder.identity().device_key_id
    asked: list[bytes] = []

    async def lose(request: web.Request) -> web.Response:
        assert request.path == rotate.PATH
        asked.append(folder.following_device_key_file.read_bytes())
        await server._rotate(request)
        return web.Response(status=503)

    async with running_agent(folder):
        await server.until(lambda server: bool(server.vitals))
        server._troubles.append(lose)
        await server.push(1, Rotate("a test"))
        new = await presented(server, former)
    assert SignKey(asked[0]).key_id == new


async def test_a_key_that_the_server_will_not_have_makes_way_for_another(server: Gateway, folder: Folder) -> None:
    former = folder.identity().device_key_id
    refused: list[bytes] = []

    async def refuse(request: web.Request) -> web.Response:
        refused.append(folder.following_device_key_file.read_bytes())
        body = msgspec.json.encode({"error": {"code": "device_taken", "message": "taken"}})
        return web.Response(status=403, body=body, content_type="application/json")

    async with running_agent(folder) as (_, log):
        await server.until(lambda server: bool(server.vitals))
        server._troubles.append(refuse)
        await server.push(1, Rotate("a test"))
        new = await presented(server, former)
    assert SignKey(refused[0]).key_id != new
    assert "rotation_failed" in log.getvalue()


async def test_a_server_that_certifies_another_key_is_not_believed(
    server: Gateway, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    former = folder.identity().device_key_id
    given = server.certificate
    monkeypatch.setattr(server, "certificate", lambda _device: given(bytes(32)))
    async with running_agent(folder) as (_, log):
        await server.until(lambda server: bool(server.vitals))
        await server.push(1, Rotate("a test"))
        async with asyncio.timeout(10):
            while "foreign_certificate" not in log.getvalue():
                await asyncio.sleep(0.02)
        assert folder.identity().device_key_id == former
        assert folder.is_rotation_asked, "it is tried again"


async def test_a_server_from_before_there_were_revisions_is_not_asked(server: Gateway, folder: Folder) -> None:
    server.revisions = False
    folder.remember_rotation()
    async with running_agent(folder):
        await server.until(lambda server: bool(server.vitals))
        await asyncio.sleep(0.2)
    assert not folder.following_device_key_file.exists()


async def test_a_rotation_cut_short_after_its_decisive_step_is_finished(folder: Folder) -> None:
    who = folder.identity()
    new = SignKey(folder.next_rotation_seed(lambda size: b"n" * size))
    folder.rewrite(replace(who, device_key_id=new.key_id))
    assert folder.device_key(folder.identity()).key_id == new.key_id
    assert not folder.following_device_key_file.exists()


async def test_a_key_without_a_certificate_is_old_and_so_is_one_that_cannot_be_read(
    server: Gateway, folder: Folder
) -> None:
    who = folder.identity()
    former = who.device_key_id
    folder.rewrite(replace(who, certificate=None))
    async with running_agent(folder):
        await presented(server, former)
    assert folder.identity().certificate is not None


async def test_new_keys_to_seal_to_do_not_bring_the_former_device_key_back(server: Gateway, folder: Folder) -> None:
    known_to_the_parts = folder.identity()
    new = SignKey(folder.next_rotation_seed(lambda size: b"n" * size))
    folder.rotated(new.key_id, server.certificate(new.public))
    newest = replace(known_to_the_parts, box_public=b"b" * 32, escrow_public=b"e" * 32)
    await write_down(folder, newest, Telling().events)
    who = folder.identity()
    assert folder.device_key(who).key_id == new.key_id
    assert (who.box_public, who.escrow_public) == (b"b" * 32, b"e" * 32)
    assert who.certificate == server.certificate(new.public)


async def test_a_rotation_keeps_the_keys_to_seal_to_that_came_before_it(server: Gateway, folder: Folder) -> None:
    former = folder.identity().device_key_id
    async with running_agent(folder):
        await server.until(lambda server: bool(server.vitals))
        folder.seal_to(b"b" * 32, b"e" * 32)
        await server.push(1, Rotate("a test"))
        async with asyncio.timeout(10):
            while (who := folder.identity()).device_key_id == former:
                await asyncio.sleep(0.005)
        assert who.box_public == b"b" * 32


async def test_a_rotation_that_is_cancelled_while_it_is_written_down_is_there_whole(
    server: Gateway, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = SignKey(folder.next_rotation_seed(lambda size: b"n" * size))
    begun, may = threading.Event(), threading.Event()

    def slow(file: Path, content: bytes) -> None:
        begun.set()
        may.wait(10)
        write_private(file, content)

    monkeypatch.setattr(folders, "write_private", slow)
    writing = asyncio.create_task(in_thread(partial(folder.rotated, new.key_id, server.certificate(new.public))))
    await asyncio.to_thread(begun.wait, 10)
    writing.cancel()
    asyncio.get_running_loop().call_later(0.05, may.set)
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert folder.identity().device_key_id == new.key_id
    assert SignKey(folder.device_key_file.read_bytes()).key_id == new.key_id
