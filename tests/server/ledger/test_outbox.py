"""Pushes wait for their till until it has them, or until they are of no more use."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.campaigning import NOW, Server, campaign, sale, server_at
from tillstream_protocol.messages import PackPush, Push, Revoked
from tillstream_server.devices import Device
from tillstream_server.ledger import outbox
from tillstream_server.ledger.outbox import UnknownTill

WORD = Revoked("for a test")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with server_at(tmp_path / "ledger.db") as server:
        yield server


async def waiting(server: Server, device: Device, seq: int = 0, now_ms: int = NOW) -> list[Push]:
    async with server.database.read() as conn:
        return await outbox.after(conn, device.till_id, seq, now_ms)


async def confirms(server: Server, device: Device, seq: int, now_ms: int = NOW) -> None:
    async with server.database.write() as conn:
        await outbox.receive(conn, device.till_id, seq, now_ms)


async def test_a_push_waits_until_it_is_confirmed(server: Server) -> None:
    till = await server.enrols()
    async with server.database.write() as conn:
        pushes = await outbox.enqueue(conn, till.till_id, [(WORD, NOW + 1), (WORD, NOW + 1)], NOW)
    assert await waiting(server, till) == pushes
    assert await waiting(server, till, seq=1) == pushes[1:]
    await confirms(server, till, 1)
    assert await waiting(server, till) == pushes[1:]


async def test_a_push_past_its_time_is_not_handed_out(server: Server) -> None:
    till = await server.enrols()
    async with server.database.write() as conn:
        await outbox.enqueue(conn, till.till_id, [(WORD, NOW + 10)], NOW)
    assert len(await waiting(server, till, now_ms=NOW + 9)) == 1
    assert await waiting(server, till, now_ms=NOW + 10) == []


async def test_nothing_to_push_takes_no_number(server: Server) -> None:
    till = await server.enrols()
    async with server.database.write() as conn:
        assert await outbox.enqueue(conn, till.till_id, [], NOW) == []
        [push] = await outbox.enqueue(conn, till.till_id, [(WORD, NOW + 1)], NOW)
    assert push.seq == 1


async def test_a_push_for_a_till_that_is_not_there_is_refused(server: Server) -> None:
    async with server.database.write() as conn:
        with pytest.raises(UnknownTill):
            await outbox.enqueue(conn, b"?" * 16, [(WORD, NOW + 1)], NOW)


async def test_a_newer_pack_takes_the_place_of_the_one_that_waits(server: Server) -> None:
    till, other = await server.enrols("1"), await server.enrols("2")
    async with server.database.write() as conn:
        pack = PackPush(await server.packs.issue(conn, till, NOW))
        await outbox.enqueue(conn, till.till_id, [(pack, NOW + 9), (WORD, NOW + 9)], NOW)
        await outbox.enqueue(conn, other.till_id, [(pack, NOW + 9)], NOW)
        await outbox.enqueue(conn, till.till_id, [(pack, NOW + 9)], NOW)
    assert [push.seq for push in await waiting(server, till)] == [2, 3]
    assert [push.seq for push in await waiting(server, other)] == [1]


async def test_a_confirmed_offer_is_noted_as_received_once(server: Server) -> None:
    till = await server.enrols()
    await server.puts(campaign())
    [push] = await server.processes(server.sells(till, sale()))
    await confirms(server, till, push.seq, NOW + 5)
    await confirms(server, till, push.seq, NOW + 7)
    assert [row.received_ms for row in await server.decisions()] == [NOW + 5]


async def test_an_offer_that_expired_on_its_way_was_not_received(server: Server) -> None:
    till = await server.enrols()
    await server.puts(campaign())
    [push] = await server.processes(server.sells(till, sale()))
    await confirms(server, till, push.seq, push.expires_ms)
    assert [row.received_ms for row in await server.decisions()] == [None]


async def test_a_receipt_for_what_is_not_sent_yet_confirms_nothing_later(server: Server) -> None:
    till = await server.enrols()
    await confirms(server, till, 2**62)
    async with server.database.write() as conn:
        pushes = await outbox.enqueue(conn, till.till_id, [(WORD, NOW + 1)], NOW)
    assert await waiting(server, till) == pushes


async def test_what_a_till_has_does_not_pile_up(server: Server) -> None:
    """A receipt would otherwise read again everything that the till was ever pushed."""
    till, other = await server.enrols(), await server.enrols(till="2")
    async with server.database.write() as conn:
        await outbox.enqueue(conn, till.till_id, [(WORD, NOW + 1)] * 3, NOW)
        await outbox.enqueue(conn, other.till_id, [(WORD, NOW + 1)], NOW)
    await confirms(server, till, 2)
    async with server.database.read() as conn:
        rows = await conn.exec_driver_sql("SELECT till_id, seq FROM push_outbox")
        assert {tuple(row) for row in rows} == {(till.till_id, 3), (other.till_id, 1)}
