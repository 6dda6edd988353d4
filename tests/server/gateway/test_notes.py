"""What tills say of themselves is written together, and what it gives away is noticed."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from support.pipelining import NOW, Server, server_at
from tillstream_protocol.messages import HookLatency, Range, Vitals
from tillstream_server.events import Events, json_logger
from tillstream_server.gateway.notes import Notes
from tillstream_server.ledger import received
from tillstream_server.metrics import Metrics

TILL, OTHER, EPOCH, NEXT = (name * 16 for name in (b"t", b"o", b"e", b"n"))


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with server_at(tmp_path) as server:
        async with server.database.write() as conn:
            for till_id, name in ((TILL, "1"), (OTHER, "2")):
                await conn.exec_driver_sql("INSERT INTO till VALUES (?, 'acme', 's', ?, 0, NULL, 0)", (till_id, name))
        yield server


@pytest.fixture
def notes(server: Server) -> Notes:
    return Notes(server.database, server.clock, Events(Metrics(CollectorRegistry()), json_logger(io.StringIO())))


def vitals(position: int, *, queued: int = 0, epoch: bytes = EPOCH, till_id: bytes = TILL, **fields: int) -> Vitals:
    kept: dict[str, Any] = {"dead_letters": 0, "damaged_files": 0, **fields}
    return Vitals(till_id, epoch, position, queued, 0, HookLatency(0, 0, 0, 0), 0, NOW, "0.1.0", "", **kept)


async def beats(notes: Notes, *several: Vitals) -> None:
    for one in several:
        notes.vitals(one)
    await notes.flush()


async def receives(server: Server, first: int, last: int, epoch: bytes = EPOCH) -> None:
    async with server.database.write() as conn:
        span = Range(first, last)
        await received.add_each(conn, [(await received.near(conn, TILL, epoch, span), [span])])


async def alarmed(server: Server) -> list[tuple[object, ...]]:
    return await server.rows("SELECT epoch, first_seq, last_seq, settled_ms IS NOT NULL FROM alarm ORDER BY id")


async def test_how_a_till_is_is_kept_as_it_said_it_last(server: Server, notes: Notes) -> None:
    await beats(notes, vitals(3, queued=3), vitals(4, queued=2, dead_letters=1, damaged_files=5))
    columns = "position, queued, dead_letters, damaged_files"
    assert await server.rows(f"SELECT {columns} FROM till_status") == [(4, 2, 1, 5)]


async def test_the_highest_position_of_every_epoch_is_kept(server: Server, notes: Notes) -> None:
    await beats(notes, vitals(9, queued=9), vitals(4, queued=4), vitals(2, queued=11, epoch=NEXT))
    await beats(notes, vitals(7, queued=7))
    assert await server.rows("SELECT epoch, position FROM high_water ORDER BY epoch") == [(EPOCH, 9), (NEXT, 2)]


async def test_a_till_that_signs_for_more_than_is_here_sets_off_an_alarm(server: Server, notes: Notes) -> None:
    await receives(server, 0, 3)
    await beats(notes, vitals(6))
    await beats(notes, vitals(6))
    assert await alarmed(server) == [(EPOCH, 4, 5, 0)]


async def test_nobody_is_alarmed_by_the_first_heartbeat_of_a_connection(server: Server, notes: Notes) -> None:
    notes.present(TILL, 0)
    await beats(notes, vitals(6))
    assert await alarmed(server) == []
    await beats(notes, vitals(6))
    assert len(await alarmed(server)) == 1


async def test_what_an_earlier_epoch_lacks_is_found_once_the_queue_is_empty(server: Server, notes: Notes) -> None:
    await beats(notes, vitals(5, queued=5))
    await beats(notes, vitals(0, queued=1, epoch=NEXT))
    assert await alarmed(server) == []
    await beats(notes, vitals(0, epoch=NEXT))
    assert await alarmed(server) == [(EPOCH, 0, 4, 0)]


async def test_a_connection_looks_at_every_epoch_again(server: Server, notes: Notes) -> None:
    await receives(server, 0, 4)
    await beats(notes, vitals(5), vitals(0, epoch=NEXT))
    async with server.database.write() as conn:  # as a server that was restored from a backup
        await conn.exec_driver_sql("DELETE FROM received")
    await beats(notes, vitals(0, epoch=NEXT))
    assert await alarmed(server) == []
    notes.present(TILL, 0)
    for _ in range(2):
        await beats(notes, vitals(0, epoch=NEXT))
    assert await alarmed(server) == [(EPOCH, 0, 4, 0)]


async def test_an_alarm_ends_when_the_records_come_even_while_others_are_queued(server: Server, notes: Notes) -> None:
    await beats(notes, vitals(5))
    await receives(server, 0, 4)
    await beats(notes, vitals(8, queued=3))
    assert await alarmed(server) == [(EPOCH, 0, 4, 1)]


async def test_tills_are_looked_at_each_for_itself(server: Server, notes: Notes) -> None:
    await receives(server, 0, 4)
    await beats(notes, vitals(5), vitals(5, till_id=OTHER))
    assert await server.rows("SELECT till_id, first_seq, last_seq FROM alarm") == [(OTHER, 0, 4)]
