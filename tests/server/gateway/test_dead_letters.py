"""Dead letters tried again, and batches that somebody carries to the server by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.intakes import Desk
from support.pipelining import NOW, Server, Till, sale, server_at
from tillstream_protocol.errors import TillstreamError
from tillstream_protocol.events import Record
from tillstream_protocol.messages import Batch
from tillstream_protocol.signing import BadSignature
from tillstream_server.gateway.dead_letters import UnknownLetter
from tillstream_server.gateway.requests import UnknownDevice
from tillstream_server.ledger.database import LedgerFault
from tillstream_server.pipeline.opening import ForeignChunk


@pytest.fixture
async def desk(server: Server) -> Desk:
    return Desk(server)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with server_at(tmp_path) as server:
        yield server


async def test_every_dead_letter_is_taken_once_the_server_can(desk: Desk) -> None:
    till = await desk.enrols()
    await desk.fails_over(till, "3", "7")
    assert [(seq, code) for _, seq, code in await desk.letters()] == [(3, "server_defect"), (7, "server_defect")]
    replayed = await desk.intake.replay()
    assert replayed.plain() == {"retried": 2, "taken": 2, "still_dead": 0}
    assert (await desk.letters(), await desk.stored()) == ([], list(range(10)))
    assert (await desk.intake.replay()).retried == 0


async def test_only_the_letters_that_were_asked_for_are_tried(desk: Desk) -> None:
    till = await desk.enrols()
    await desk.fails_over(till, "3", "5", "7")
    ids = [id_ for id_, _, _ in await desk.letters()]
    assert (await desk.intake.replay([ids[2], ids[0]])).plain() == {"retried": 2, "taken": 2, "still_dead": 0}
    assert [seq for _, seq, _ in await desk.letters()] == [5]


async def test_where_one_of_the_letters_asked_for_is_not_there_none_is_tried(desk: Desk) -> None:
    till = await desk.enrols()
    await desk.fails_over(till, "3")
    ((id_, _, _),) = await desk.letters()
    with pytest.raises(UnknownLetter) as caught:
        await desk.intake.replay([id_, *range(4711, 4722)])
    named = ", ".join(map(str, range(4711, 4721)))
    assert caught.value.message == f"there is no dead letter {named} …"
    assert [seq for _, seq, _ in await desk.letters()] == [3]


async def test_a_letter_that_is_still_dead_stays_and_says_why_it_is_now(desk: Desk) -> None:
    till = await desk.enrols()
    await desk.server.pipeline.process(
        till.device, till.frames(till.frame(b"rubbish"), till.frame(Record(sale(), NOW)))
    )
    async with desk.server.database.write() as conn:
        await conn.exec_driver_sql("UPDATE dead_letter SET code = 'newer_record', reason = 'version'")
    assert (await desk.intake.replay()).plain() == {"retried": 1, "taken": 0, "still_dead": 1}
    assert [(seq, code) for _, seq, code in await desk.letters()] == [(0, "invalid_input")]


async def test_a_letter_of_a_till_that_is_gone_holds_up_nobody(desk: Desk) -> None:
    gone, till = await desk.enrols("1"), await desk.enrols("2")
    await desk.fails_over(gone, "0", sales=1)
    await desk.fails_over(till, "0", sales=1)
    async with desk.server.database.write() as conn:
        await conn.exec_driver_sql("DELETE FROM device WHERE till_id = ?", (gone.till_id,))
    assert (await desk.intake.replay()).plain() == {"retried": 2, "taken": 1, "still_dead": 1}


async def test_letters_of_a_revoked_till_are_taken(desk: Desk) -> None:
    till = await desk.enrols()
    await desk.fails_over(till, "0", sales=1)
    async with desk.server.database.write() as conn:
        await conn.exec_driver_sql("UPDATE till SET revoked_ms = 1")
    assert (await desk.intake.replay()).taken == 1


async def test_when_the_database_fails_the_replay_says_so(desk: Desk) -> None:
    till = await desk.enrols()
    await desk.fails_over(till, "0", sales=1)
    desk.server.listener.error = LedgerFault("planted")
    with pytest.raises(LedgerFault):
        await desk.intake.replay()
    assert len(await desk.letters()) == 1


# Imports


async def test_what_somebody_carries_here_is_taken_and_a_repeat_when_the_till_sends_it_too(desk: Desk) -> None:
    till = await desk.enrols()
    batch = till.batch(sale("1"), sale("2"))
    assert (await desk.intake.take_imported(batch)).counts["stored"] == 2
    assert (await desk.intake.take_imported(batch)).repeated == 2
    assert (await desk.server.pipeline.process(till.device, batch)).repeated == 2


async def test_what_a_former_or_revoked_device_wrote_is_taken(desk: Desk) -> None:
    till = await desk.enrols()
    batch = till.batch(sale("1"))
    async with desk.server.database.write() as conn:
        await conn.exec_driver_sql("UPDATE device SET revoked_ms = 1")
    assert (await desk.intake.take_imported(batch)).counts["stored"] == 1


async def test_a_strangers_batch_is_not(desk: Desk) -> None:
    with pytest.raises(UnknownDevice):
        await desk.intake.take_imported(desk.server.till().batch(sale("1")))
    assert await desk.stored() == []


async def test_nor_one_whose_header_was_forged_or_names_another_till(desk: Desk) -> None:
    till, other = await desk.enrols("1"), await desk.enrols("2")
    till.open_chunk(till=other.till_id)
    with pytest.raises(ForeignChunk):
        await desk.intake.take_imported(till.batch(sale("1")))
    batch = till.batch(sale("2"))
    with pytest.raises(TillstreamError) as caught:
        await desk.intake.take_imported(Batch(forged(other, till), batch.frames))
    assert isinstance(caught.value.__cause__, BadSignature)
    assert await desk.stored() == []


def forged(named: Till, signs: Till) -> bytes:
    """A header that names one till's device and is signed by another's."""
    named.open_chunk()
    return named.header.encode(signs.key)
