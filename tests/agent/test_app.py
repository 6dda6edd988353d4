"""A whole agent in this process: from the hook to a stand-in server and back to the cashier's page."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from support.agents import enrolled, member, offer_push, running_agent, sale
from support.gateways import TILL_ID, Gateway, gateway
from tillstream_agent.app import World, run
from tillstream_agent.clock import SystemClock
from tillstream_agent.config import Config
from tillstream_agent.folder import AlreadyRunning, Folder, NotEnrolled
from tillstream_agent.hooks.http import PortInUse
from tillstream_agent.inspection import look
from tillstream_agent.state import State
from tillstream_protocol.events import KIND_NUMBERS, RecordsLost
from tillstream_protocol.framing import FRAMES_START, ChunkHeader, Frame, scan
from tillstream_protocol.messages import PackPush, Range
from tillstream_protocol.sealing import key_id
from tillstream_protocol.signing import SignKey
from tillstream_protocol.transaction import Customer, Identifier

CARD = "4111111111111111"
PHONE = "+4915112345678"


@pytest.fixture
async def server() -> AsyncIterator[Gateway]:
    async with gateway() as opened:
        yield opened


@pytest.fixture
async def folder(server: Gateway, tmp_path: Path) -> Folder:
    return await enrolled(tmp_path / "state", server)


async def post(folder: Folder, port: int, path: str, body: object) -> tuple[int, dict[str, Any]]:
    headers = {"Authorization": f"Bearer {folder.hook_token()}", "Content-Type": "application/json"}
    async with (
        aiohttp.ClientSession() as client,
        client.post(f"http://127.0.0.1:{port}{path}", data=msgspec.json.encode(body), headers=headers) as reply,
    ):
        return reply.status, msgspec.json.decode(await reply.read())


async def page(folder: Folder, port: int) -> str:
    headers = {"Authorization": f"Bearer {folder.hook_token()}"}
    async with (
        aiohttp.ClientSession() as client,
        client.get(f"http://127.0.0.1:{port}/display", headers=headers) as reply,
    ):
        return await reply.text()


async def drained(folder: Folder) -> None:
    """Return when the agent knows that the server holds everything."""
    async with asyncio.timeout(10):
        while (await look(folder, SystemClock())).queue.records:
            await asyncio.sleep(0.005)


async def test_a_sale_goes_all_the_way(server: Gateway, folder: Folder) -> None:
    async with running_agent(folder) as (port, log):
        status, reply = await post(folder, port, "/v1/transactions?ack=disk", sale())
        assert status == 201
        await server.until(lambda server: server.seqs() == [0])
        assert (bytes.fromhex(reply["epoch"]), 0) in server.records
    events = [msgspec.json.decode(line)["event"] for line in log.getvalue().splitlines()]
    assert events[0] == "started"
    assert events[-1] == "stopping"


async def test_an_offer_comes_back_to_the_page_and_is_reported_as_shown(server: Gateway, folder: Folder) -> None:
    async with running_agent(folder) as (port, _):
        _, reply = await post(folder, port, "/v1/members/identify", member("e1", "b1"))
        await server.until(lambda server: bool(server.records) and bool(server.vitals))
        await server.push(1, offer_push(1, bytes.fromhex(reply["epoch"]), reply["seq"], expires_ms=4 * 10**12))
        await server.until(lambda server: server.receipts == [1])
        assert "A coffee on us" in await page(folder, port)
        await server.until(lambda server: server.seqs() == [0, 1])


async def test_without_its_server_it_captures_and_sends_later(server: Gateway, folder: Folder) -> None:
    server.answers(503, times=6)
    async with running_agent(folder) as (port, _):
        for number in range(20):
            assert (await post(folder, port, "/v1/transactions", sale(str(number))))[0] == 201
        await server.until(lambda server: server.seqs() == list(range(20)))


async def test_what_was_not_sent_is_sent_by_the_next_run_and_what_was_is_not(server: Gateway, folder: Folder) -> None:
    async with running_agent(folder) as (port, _):
        _, first = await post(folder, port, "/v1/transactions?ack=disk", sale("1"))
        await drained(folder)
    server.answers(503, times=1000)
    async with running_agent(folder) as (port, _):
        await post(folder, port, "/v1/transactions?ack=disk", sale("2"))
    server.heals()
    async with running_agent(folder) as (port, _):
        assert (await post(folder, port, "/v1/transactions", sale("2")))[0] == 200
        await server.until(lambda server: len(server.records) == 2)
    assert (bytes.fromhex(first["epoch"]), 0) not in server.repeated


async def test_acknowledgements_are_kept(server: Gateway, folder: Folder) -> None:
    async with running_agent(folder) as (port, _):
        _, reply = await post(folder, port, "/v1/transactions?ack=disk", sale("1"))
        await drained(folder)
    state = await State.open(folder.database)
    assert await state.load_acked() == {bytes.fromhex(reply["epoch"]): (Range(0, 0),)}
    await state.close()


async def test_neither_cards_nor_people_are_found_in_the_folder_or_the_log(server: Gateway, folder: Folder) -> None:
    who = Customer(identifiers=(Identifier("phone", PHONE),), name="Ada Canary")
    told = msgspec.structs.replace(sale(), customer=who, note=f"card {CARD}")
    async with running_agent(folder) as (port, log):
        assert (await post(folder, port, "/v1/transactions?ack=disk", told))[0] == 201
        assert (await post(folder, port, "/v1/transactions", {**msgspec.to_builtins(told), "total": "x"}))[0] == 400
        await server.until(lambda server: len(server.records) == 1)
        files = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    assert any(path.suffix == ".chunk" for path in files)
    for canary in (CARD, PHONE, "Canary"):
        assert canary not in log.getvalue()
        for path, content in files.items():
            assert canary.encode() not in content, path


async def test_one_agent_a_folder(folder: Folder) -> None:
    async with running_agent(folder):
        with pytest.raises(AlreadyRunning):
            async with running_agent(folder):
                pass


async def test_a_port_in_use_ends_it_and_frees_the_folder(folder: Folder) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(PortInUse):
        async with running_agent(folder, Config(hook_port=taken.getsockname()[1])):
            pass
    assert not folder.is_running()
    async with running_agent(folder):
        pass


async def test_without_an_identity_it_does_not_start(tmp_path: Path) -> None:
    world = World(SystemClock(), os.urandom, lambda: 0.5, io.StringIO())
    with pytest.raises(NotEnrolled):
        await run(Folder(tmp_path), Config(), world, stop=asyncio.Event())


async def test_a_pack_that_was_altered_on_disk_is_told_of_and_not_used(folder: Folder) -> None:
    state = await State.open(folder.database)
    pack = await state.load_pack()
    assert pack is not None
    await state.save_pack(msgspec.structs.replace(pack, payload=pack.payload + b"x"))
    await state.close()
    async with running_agent(folder) as (_, log):
        assert "push_refused" in log.getvalue()
        assert (await look(folder, SystemClock())).pack_version == 0


async def test_a_restart_seals_to_the_keys_of_the_newest_pack_from_its_first_chunk_on(
    server: Gateway, folder: Folder
) -> None:
    async with running_agent(folder):
        await server.until(lambda server: bool(server.vitals))
        server.box_public, server.escrow_public = SignKey(b"1" * 32).public, SignKey(b"2" * 32).public
        await server.push(1, PackPush(server.pack(version=2)))
        await server.until(lambda server: server.receipts == [1])
    who = folder.identity()
    assert (who.box_public, who.escrow_public) == (server.box_public, server.escrow_public)
    async with running_agent(folder):
        newest = max(folder.journal.glob("*.chunk"))
        header, _ = ChunkHeader.read(newest.read_bytes()[:FRAMES_START])
    assert header.server_key_id == key_id(server.box_public)
    assert header.escrow_key_id == key_id(server.escrow_public)


async def test_keys_that_could_not_be_written_down_are_taken_from_the_stored_pack(
    server: Gateway, folder: Folder
) -> None:
    before = folder.identity()
    server.box_public = SignKey(b"1" * 32).public
    state = await State.open(folder.database)
    await state.save_pack(server.pack(version=2))
    await state.close()
    async with running_agent(folder):
        header, _ = ChunkHeader.read(max(folder.journal.glob("*.chunk")).read_bytes()[:FRAMES_START])
    assert header.server_key_id == key_id(server.box_public) != key_id(before.box_public)
    assert folder.identity().box_public == server.box_public


def kinds(server: Gateway) -> list[int]:
    """The kinds of all records that the server was sent, as their clear headers name them."""
    parts = (part for batch in server.batches for part in scan(batch.frames))
    return [part.header.kind for part in parts if isinstance(part, Frame)]


async def runs_of(folder: Folder) -> dict[bytes, str]:
    """The runs that have not ended well so far, by epoch."""
    state = await State.open(folder.database)
    try:
        return await state.load_runs()
    finally:
        await state.close()


async def test_a_power_cut_is_reported_to_the_server_and_a_good_end_is_not(server: Gateway, folder: Folder) -> None:
    async with running_agent(folder, boot="monday") as (port, _):
        _, reply = await post(folder, port, "/v1/transactions?ack=disk", sale("1"))
        cut_short = await runs_of(folder)
    assert cut_short == {bytes.fromhex(reply["epoch"]): "monday"}
    async with running_agent(folder, boot="tuesday") as (port, _):
        await post(folder, port, "/v1/transactions?ack=disk", sale("2"))
        await drained(folder)
    assert KIND_NUMBERS[RecordsLost] not in kinds(server)
    state = await State.open(folder.database)
    await state.begin_run(bytes.fromhex(reply["epoch"]), "monday")
    await state.close()
    async with running_agent(folder, boot="tuesday") as (_, log):
        await server.until(lambda server: KIND_NUMBERS[RecordsLost] in kinds(server))
        await drained(folder)
        async with asyncio.timeout(10):
            while bytes.fromhex(reply["epoch"]) in await runs_of(folder):
                await asyncio.sleep(0.005)
    assert '"power_cut"' in log.getvalue()
    assert await runs_of(folder) == {}


async def test_damage_that_is_found_when_a_record_is_to_be_sent_is_reported_at_once(
    server: Gateway, folder: Folder
) -> None:
    server.answers(503, times=1_000_000)
    async with running_agent(folder) as (port, log):
        for number in range(3):
            await post(folder, port, "/v1/transactions?ack=disk", sale(str(number)))
        (chunk,) = folder.journal.glob("*.chunk")
        _, second, _ = (part for part in scan(chunk.read_bytes(), FRAMES_START) if isinstance(part, Frame))
        with chunk.open("r+b") as file:
            file.seek((second.start + second.end) // 2)
            file.write(b"\xff\xff")
        tries = log.getvalue().count('"upload_failed"')
        async with asyncio.timeout(10):  # what was read before the damage may be on its way still: it must not arrive
            while log.getvalue().count('"upload_failed"') == tries:
                await asyncio.sleep(0.005)
        server.heals()
        await server.until(lambda server: KIND_NUMBERS[RecordsLost] in kinds(server))
        assert server.seqs()[:2] == [0, 2]
    events = [msgspec.json.decode(line)["event"] for line in log.getvalue().splitlines()]
    assert events.index("journal_lost") < events.index("records_lost")


async def test_a_server_that_lost_records_is_sent_them_again(server: Gateway, folder: Folder) -> None:
    async with running_agent(folder) as (port, _):
        for number in range(5):
            await post(folder, port, "/v1/transactions?ack=disk", sale(str(number)))
        await drained(folder)
        server.loses()
        await server.hangs_up()
        await server.until(lambda server: server.seqs() == list(range(5)))
        await drained(folder)
    state = await State.open(folder.database)
    assert [part for ranges in (await state.load_acked()).values() for part in ranges] == [Range(0, 4)]
    await state.close()


async def test_a_till_that_becomes_another_still_sends_what_it_captured_before(server: Gateway, folder: Folder) -> None:
    server.answers(503, times=1000)
    async with running_agent(folder) as (port, _):
        _, former = await post(folder, port, "/v1/transactions?ack=disk", sale("1"))
    server.heals()
    device = folder.identity().device_key_id
    server.till_id = b"2" * 16
    await enrolled(folder.path, server, replace=True)
    async with running_agent(folder) as (port, _):
        _, own = await post(folder, port, "/v1/transactions?ack=disk", sale("2"))
        await server.until(lambda server: len(server.records) == 2)
        await drained(folder)
    signers = {
        ChunkHeader.decode(batch.header).till: signer
        for batch, signer in zip(server.batches, server.signers, strict=True)
    }
    assert signers == {TILL_ID: device, b"2" * 16: folder.identity().device_key_id}
    assert set(server.records) == {(bytes.fromhex(name["epoch"]), 0) for name in (former, own)}
    server.presents.clear()
    async with running_agent(folder):
        await server.until(lambda server: bool(server.presents))
    claimed = {one.epoch for one in server.presents[0].acked}
    assert bytes.fromhex(own["epoch"]) in claimed
    assert bytes.fromhex(former["epoch"]) not in claimed


async def test_a_server_that_forgot_the_till_takes_it_back_and_the_identity_stays(
    server: Gateway, folder: Folder
) -> None:
    who = folder.identity()
    async with running_agent(folder) as (port, _):
        await server.until(lambda server: bool(server.vitals))
        server.forgets_till()
        await post(folder, port, "/v1/transactions?ack=disk", sale("1"))
        await server.until(lambda server: server.seqs() == [0])
        await drained(folder)
    assert server.returns == [TILL_ID]
    assert folder.identity() == who


async def test_a_till_that_was_taken_back_for_a_batch_hears_pushes_at_once_too(server: Gateway, folder: Folder) -> None:
    async with running_agent(folder) as (port, log):
        await server.until(lambda server: bool(server.vitals))
        server.forgets_till()
        server.passes()
        server.answers(403, "not_yet")
        await server.hangs_up()
        async with asyncio.timeout(10):
            while "return_refused" not in log.getvalue():
                await asyncio.sleep(0.005)
        await post(folder, port, "/v1/transactions?ack=disk", sale("1"))
        await server.until(lambda server: len(server.presents) == 2)


async def test_below_its_reserve_nothing_is_captured_and_the_pos_is_told_so(folder: Folder) -> None:
    async with running_agent(folder, Config(hook_port=0, journal_reserve_bytes=2**50)) as (port, _):
        status, reply = await post(folder, port, "/v1/transactions", sale("1"))
    assert status in (503, 507)
    assert reply["error"]["code"] == "journal_full"


async def test_it_leaves_no_socket_and_no_port_behind(folder: Folder) -> None:
    async with running_agent(folder) as (port, _):
        assert folder.socket.exists()
        assert folder.port_file.read_text() == f"{port}\n"
    assert not folder.socket.exists()
    assert not folder.port_file.exists()
    with pytest.raises(OSError) as caught:
        socket.create_connection(("127.0.0.1", port), timeout=1)
    assert caught.value.errno == errno.ECONNREFUSED
