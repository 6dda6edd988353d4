"""A record that the server itself fails over is set aside alone, sealed as it came; its neighbours are stored."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.pipelining import NOW, Server, Till, sale
from tillstream_protocol.events import Body, Record
from tillstream_protocol.framing import scan
from tillstream_protocol.limits import DEFAULT
from tillstream_protocol.messages import Range
from tillstream_protocol.ranges import collect
from tillstream_protocol.transaction import Transaction
from tillstream_server.ledger.database import LedgerBusy, LedgerFault
from tillstream_server.pipeline.isolation import take_apart
from tillstream_server.pipeline.opening import OpenedBatch, Opener, Refused
from tillstream_server.pipeline.outcome import Outcome
from tillstream_server.pipeline.rebuild import rebuild
from tillstream_server.pipeline.split import Split, split
from tillstream_server.pipeline.taking import Arrived


async def stored(server: Server) -> set[int]:
    return {seq for (seq,) in await server.rows("SELECT seq FROM ledger")}


async def test_of_a_thousand_records_one_that_sets_off_a_defect_is_set_aside(server: Server) -> None:
    server.listener.error, server.listener.poison = KeyError("5551234567"), "617"
    outcome = await server.take(*(sale(str(number)) for number in range(1_000)))
    assert outcome.reply_acked == (Range(0, 999),)
    assert [(letter.seq, letter.code, letter.reason) for letter in outcome.dead] == [(617, "server_defect", "KeyError")]
    assert (outcome.counts["stored"], outcome.counts["dead"]) == (999, 1)
    assert await stored(server) == set(range(1_000)) - {617}
    assert server.defects == [("pipeline", server.listener.error)]


async def test_what_was_set_aside_is_sealed_as_it_came_and_taken_once_the_defect_is_mended(server: Server) -> None:
    till = server.till()
    frames = [till.frame(Record(sale(str(number)), NOW)) for number in range(3)]
    server.listener.error, server.listener.poison = ZeroDivisionError(), "1"
    await server.pipeline.process(till.device, till.frames(*frames))
    assert await server.rows("SELECT seq, frame FROM dead_letter") == [(1, frames[1])]
    again = await server.pipeline.process(till.device, till.frames(frames[1]))
    assert ([letter.code for letter in again.dead], again.counts["stored"]) == (["server_defect"], 0)
    server.listener.error = None
    mended = await server.pipeline.process(till.device, till.frames(frames[1]))
    assert (mended.dead, mended.counts["stored"]) == ((), 1)
    assert await server.rows("SELECT count(*) FROM dead_letter") == [(0,)]
    before = await server.projections()
    await rebuild(server.database)
    assert await server.projections() == before


async def test_values_that_the_database_refuses_are_the_records_fault(server: Server) -> None:
    async with server.database.write() as conn:
        await conn.exec_driver_sql(
            "CREATE TRIGGER planted BEFORE INSERT ON ledger WHEN NEW.seq = 1 BEGIN SELECT RAISE(ABORT, 'planted'); END"
        )
    outcome = await server.take(sale("0"), sale("1"), sale("2"))
    assert [(letter.seq, letter.code, letter.reason) for letter in outcome.dead] == [
        (1, "server_defect", "LedgerRefused")
    ]
    assert await stored(server) == {0, 2}


@pytest.mark.parametrize("error", [LedgerFault("planted"), LedgerBusy("planted"), OSError(), MemoryError()])
async def test_what_the_machine_is_to_blame_for_sets_nothing_aside(server: Server, error: Exception) -> None:
    server.listener.error = error
    with pytest.raises(type(error)):
        await server.take(sale("0"), sale("1"))
    assert (await stored(server), await server.rows("SELECT * FROM dead_letter")) == (set(), [])
    assert server.defects == []


async def test_a_defect_in_opening_is_one_records_too(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def planted(record: Record, body: Body) -> Split:
        if isinstance(body, Transaction) and body.pos_id == "1":
            raise RecursionError
        return split(record, body)

    monkeypatch.setattr("tillstream_server.pipeline.opening.split", planted)
    outcome = await server.take(sale("0"), sale("1"), sale("2"))
    assert [(letter.seq, letter.code, letter.reason) for letter in outcome.dead] == [
        (1, "server_defect", "RecursionError")
    ]
    assert await stored(server) == {0, 2}
    assert [where for where, _ in server.defects] == ["opening"]


async def test_a_record_that_cannot_even_be_set_aside_is_refused_and_stays_at_the_till(server: Server) -> None:
    async with server.database.write() as conn:
        await conn.exec_driver_sql(
            "CREATE TRIGGER planted BEFORE INSERT ON dead_letter BEGIN SELECT RAISE(ABORT, 'planted'); END"
        )
    server.listener.error = ZeroDivisionError()
    with pytest.raises(LedgerFault):
        await server.take(sale("0"))
    assert await server.rows("SELECT count(*) FROM received") == [(0,)]


async def test_the_parts_of_a_batch_that_failed_keep_to_themselves(server: Server) -> None:
    server.listener.error, server.listener.poison = KeyError("planted"), "3"
    groups: list[list[tuple[str, int]]] = []
    real = server.pipeline._groups._take

    async def watched(group: Sequence[Arrived]) -> Sequence[Outcome]:
        groups.append([(one.device.till, len(one.opened.items)) for one in group])
        return await real(group)

    server.pipeline._groups._take = watched
    others = [server.take(sale(f"{till}-{n}"), till=str(till)) for n in range(3) for till in range(2, 6)]
    poisoned = server.take(*(sale(str(number)) for number in range(8)), till="1")
    outcome, *_ = await asyncio.gather(poisoned, *others)
    assert [letter.seq for letter in outcome.dead] == [3]
    parts = [group for group in groups if any(till == "1" and size < 8 for till, size in group)]
    assert len(parts) > 3
    assert all(len(group) == 1 for group in parts)
    assert max(map(len, groups)) > 1


class Books:
    """Takes parts of a batch, and falls over some of its records."""

    def __init__(self, poison: set[int]) -> None:
        self.poison = poison
        self.taken: list[int] = []
        self.dead: list[int] = []
        self.transactions = 0

    async def take(self, opened: OpenedBatch, suspect: bool) -> Outcome:
        assert suspect == (self.transactions > 0)
        self.transactions += 1
        good = [item.seq for item in opened.items if not isinstance(item, Refused)]
        if self.poison & set(good):
            raise ZeroDivisionError
        self.taken += good
        self.dead += [item.seq for item in opened.items if isinstance(item, Refused)]
        acked = collect(item.seq for item in opened.items)
        return Outcome(acked, 0, (), {"stored": len(good)}, ())


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 64), st.data())
async def test_whatever_is_poison_everything_else_is_taken_in_order(
    sealed: OpenedBatch, size: int, data: st.DataObject
) -> None:
    poison = data.draw(st.sets(st.integers(0, size - 1), max_size=5))
    opened = OpenedBatch(sealed.header, sealed.batch, sealed.frames[:size], sealed.items[:size])
    books = Books(poison)
    outcome = await take_apart(books.take, opened, lambda _where, _error: None)
    assert books.taken == [seq for seq in range(size) if seq not in poison]
    assert books.dead == sorted(poison)
    assert outcome.reply_acked == (Range(0, size - 1),)
    assert outcome.counts["stored"] == size - len(poison)
    assert books.transactions <= 1 + 15 * len(poison)


@pytest.fixture
async def sealed(server: Server) -> OpenedBatch:
    till = Till(server.keys)
    batch = till.batch(*(sale(str(number)) for number in range(64)))
    assert len(list(scan(batch.frames))) == 64
    return Opener(server.keys, DEFAULT).open(till.device, till.header, batch)
