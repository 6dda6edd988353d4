"""What a till says it has lost is a fact like any other, and what turns up after all is taken."""

from __future__ import annotations

import pytest

from support.pipelining import NOW, Server, Till, sale
from tillstream_protocol.events import Record, RecordsLost
from tillstream_server.ledger import gaps
from tillstream_server.ledger.bodies import decode
from tillstream_server.pipeline.rebuild import rebuild

FORMER = b"f" * 16


def lost(first: int = 3, last: int | None = 5, *, epoch: bytes = FORMER) -> RecordsLost:
    return RecordsLost(epoch, first, 2, "damaged_frame" if last is not None else "power_cut", last)


async def stated(server: Server) -> list[tuple[object, ...]]:
    return await server.rows("SELECT till_id, epoch, first_seq, last_seq, chunk, reason, ledger_id FROM lost")


async def test_a_loss_is_a_row_of_the_ledger_and_a_row_of_losses(server: Server) -> None:
    outcome = await server.take(sale(), lost())
    assert (outcome.counts["stored"], outcome.lost) == (2, ("damaged_frame",))
    till_id = server.till().till_id
    assert await stated(server) == [(till_id, FORMER, 3, 5, 2, "damaged_frame", 2)]
    ((kind, body_type, body, at_ms, idem),) = await server.rows(
        "SELECT kind, body_type, body, at_ms, idem FROM ledger WHERE id = 2"
    )
    assert (kind, body_type, decode(body), at_ms) == (5, "records_lost", lost(), NOW)
    assert len(idem) == 16


async def test_a_loss_without_an_end_is_kept_as_such(server: Server) -> None:
    await server.take(lost(7, None))
    assert [(first, last) for _, _, first, last, *_ in await stated(server)] == [(7, None)]


async def test_a_loss_that_is_stated_again_is_the_same_loss(server: Server) -> None:
    first = server.till()
    await server.take(lost())
    again = Till(server.keys, "1", epoch=b"n" * 16)
    again.key, again.device = first.key, first.device
    again.open_chunk()
    outcome = await server.pipeline.process(again.device, again.batch(lost()))
    assert (outcome.counts["duplicate"], outcome.lost) == (1, ())
    assert len(await stated(server)) == 1


async def test_the_same_range_of_another_till_is_another_loss(server: Server) -> None:
    await server.take(lost(), till="1")
    await server.take(lost(), till="2")
    assert len(await stated(server)) == 2


async def test_a_record_that_turns_up_after_all_is_taken_and_the_gap_shows_as_filled(server: Server) -> None:
    till = server.till()
    frames = [till.frame(Record(sale(str(number)), NOW)) for number in range(4)]
    await server.pipeline.process(till.device, till.frames(frames[0], frames[1], frames[3]))
    await server.take(lost(2, 2, epoch=till.epoch))

    async def said() -> list[tuple[object, object, object]]:
        async with server.database.read() as conn:
            assert await gaps.of_till(conn, till.till_id) == []
            return [(one["first"], one["reason"], one["filled"]) for one in await gaps.lost_of(conn, till.till_id)]

    assert await said() == [(2, "damaged_frame", False)]
    outcome = await server.pipeline.process(till.device, till.frames(frames[2]))
    assert outcome.counts["stored"] == 1
    assert await said() == [(2, "damaged_frame", True)]


async def test_a_rebuild_leaves_losses_and_alarms_alone(server: Server) -> None:
    till = server.till()
    await server.take(sale("1"), lost())
    till.follows(b"b" * 16, till.epoch, 1)
    await server.take(sale("2"))
    before = [await stated(server), await server.rows("SELECT * FROM alarm"), await server.projections()]
    assert len(before[1]) == 1
    await rebuild(server.database)
    assert [await stated(server), await server.rows("SELECT * FROM alarm"), await server.projections()] == before


@pytest.mark.parametrize("reason", ["damaged_frame", "damaged_header", "torn_tail", "missing_chunk", "power_cut"])
async def test_every_reason_is_taken(server: Server, reason: str) -> None:
    outcome = await server.take(RecordsLost(FORMER, 0, 0, reason))  # type: ignore[arg-type]
    assert outcome.lost == (reason,)
