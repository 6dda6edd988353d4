"""Clones, old images, lost tails and lost journals are noticed at first contact, and everything is taken anyhow."""

from __future__ import annotations

import itertools
import time

import pytest

from support.pipelining import Server, Till, sale
from tillstream_protocol.events import Reason, RecordsLost
from tillstream_protocol.framing import NO_EPOCH
from tillstream_server.ledger import alarms, lineage
from tillstream_server.ledger.alarms import Alarm, Suspicion
from tillstream_server.ledger.lineage import Mark
from tillstream_server.pipeline.outcome import Outcome

A, B, C, D = (name * 16 for name in (b"a", b"b", b"c", b"d"))
LATER = 5_000
_numbers = itertools.count()


async def writes(server: Server, till: Till, *, sales: int = 1) -> Outcome:
    bodies = [sale(str(next(_numbers))) for _ in range(sales)]
    return await server.pipeline.process(till.device, till.batch(*bodies))


async def begins(server: Server, till: Till, epoch: bytes, parent: bytes, position: int, *, sales: int = 1) -> Outcome:
    """An epoch that follows a place, and its first records."""
    till.follows(epoch, parent, position)
    return await writes(server, till, sales=sales)


async def hears(server: Server, till: Till, epoch: bytes, position: int) -> list[Suspicion]:
    async with server.database.write() as conn:
        return await lineage.hear(conn, [Mark(till.till_id, epoch, position)], server.clock.now_ms())


async def kept(server: Server, till: Till) -> list[Alarm]:
    async with server.database.read() as conn:
        return await alarms.of_till(conn, till.till_id)


def kinds(outcome: Outcome) -> list[tuple[str, bytes, int, int | None]]:
    return [(one.kind, one.other, one.first, one.last) for one in outcome.alarms]


async def ledger(server: Server) -> list[tuple[bytes, int]]:
    rows = await server.rows("SELECT epoch, seq FROM ledger ORDER BY epoch, seq")
    return [(epoch, seq) for epoch, seq in rows]


async def test_a_till_that_starts_again_and_again_sets_nothing_off(server: Server) -> None:
    till = server.till()
    parent, position = NO_EPOCH, 0
    for number in range(20):
        epoch = bytes([number + 1]) * 16
        assert (await begins(server, till, epoch, parent, position, sales=3)).alarms == ()
        assert await hears(server, till, epoch, 3) == []
        parent, position = epoch, 3
    assert await kept(server, till) == []


async def test_nor_does_it_when_a_backlog_comes_after_what_is_live(server: Server) -> None:
    till = server.till()
    assert (await begins(server, till, C, B, 2)).alarms == ()
    assert (await begins(server, till, A, NO_EPOCH, 0, sales=5)).alarms == ()
    assert (await begins(server, till, B, A, 5, sales=2)).alarms == ()


async def test_two_epochs_that_follow_one_place_are_a_clone(server: Server) -> None:
    till = server.till()
    await begins(server, till, A, NO_EPOCH, 0, sales=7)
    assert (await begins(server, till, B, A, 7)).alarms == ()
    outcome = await begins(server, till, C, A, 7)
    assert (kinds(outcome), outcome.forked) == ([("forked", B, 7, None)], True)


async def test_an_epoch_that_holds_no_record_is_heard_of_by_its_header_alone(server: Server) -> None:
    till = server.till()
    await begins(server, till, A, NO_EPOCH, 0, sales=3)
    for _ in range(2):
        heard = await begins(server, till, B, A, 3, sales=0)
        assert (heard.reply_acked, heard.alarms, sum(heard.counts.values())) == ((), (), 0)
    assert (await begins(server, till, C, B, 0)).alarms == ()
    assert kinds(await begins(server, till, D, A, 3)) == [("forked", B, 3, None)]


async def test_a_header_alone_gives_a_copy_away(server: Server) -> None:
    till = server.till()
    await begins(server, till, A, NO_EPOCH, 0, sales=3)
    await begins(server, till, C, A, 3)
    assert kinds(await begins(server, till, B, A, 3, sales=0)) == [("forked", C, 3, None)]


async def test_two_epochs_that_follow_different_places_of_one_are_a_clone_too(server: Server) -> None:
    till = server.till()
    await begins(server, till, A, NO_EPOCH, 0, sales=7)
    await begins(server, till, B, A, 7)
    outcome = await begins(server, till, C, A, 9)
    assert kinds(outcome) == [("forked", B, 9, None)]


async def test_both_branches_go_on_being_taken_and_are_told_once(server: Server) -> None:
    till, clone = server.till(), Till(server.keys, "1")
    clone.key, clone.device = till.key, till.device
    await begins(server, till, A, NO_EPOCH, 0)
    await begins(server, till, B, A, 1)
    await begins(server, clone, C, A, 1)
    for machine in (till, clone, till, clone):
        outcome = await writes(server, machine)
        assert (outcome.alarms, outcome.counts["stored"]) == ((), 1)
    assert await ledger(server) == [(A, 0), *((B, n) for n in range(3)), *((C, n) for n in range(3))]
    assert [alarm.about.kind for alarm in await kept(server, till)] == ["forked"]


async def test_an_epoch_that_begins_before_what_was_received_is_an_old_image(server: Server) -> None:
    till = server.till()
    await begins(server, till, A, NO_EPOCH, 0, sales=10)
    outcome = await begins(server, till, B, A, 4)
    assert (kinds(outcome), outcome.forked) == ([("restored_image", A, 4, 9)], True)
    assert len(await ledger(server)) == 11


async def test_an_epoch_that_goes_on_after_another_has_followed_it_is_a_clone(server: Server) -> None:
    till, clone = server.till(), Till(server.keys, "1")
    clone.key, clone.device = till.key, till.device
    await begins(server, till, A, NO_EPOCH, 0, sales=4)
    assert (await begins(server, clone, B, A, 4)).alarms == ()
    outcome = await writes(server, till, sales=2)
    assert kinds(outcome) == [("restored_image", A, 4, 5)]
    assert (await writes(server, till)).alarms == ()


async def test_a_heartbeat_gives_a_clone_away_too(server: Server) -> None:
    till = server.till()
    await begins(server, till, A, NO_EPOCH, 0, sales=4)
    await begins(server, till, B, A, 4)
    (found,) = await hears(server, till, A, 6)
    assert (found.kind, found.epoch, found.other, found.first, found.last) == ("restored_image", B, A, 4, 5)
    assert await hears(server, till, A, 7) == []


async def test_a_tail_that_was_signed_for_and_never_came_is_lost(server: Server) -> None:
    till = server.till()
    await begins(server, till, A, NO_EPOCH, 0, sales=3)
    await hears(server, till, A, 8)
    outcome = await begins(server, till, B, A, 3)
    assert (kinds(outcome), outcome.forked) == ([("tail_lost", A, 3, 7)], False)


async def test_a_place_that_another_epoch_named_is_signed_for_as_well(server: Server) -> None:
    till = server.till()
    await begins(server, till, A, NO_EPOCH, 0, sales=3)
    await begins(server, till, B, A, 6)
    assert kinds(await begins(server, till, C, A, 3)) == [("forked", B, 3, None), ("tail_lost", A, 3, 5)]


async def test_a_device_that_begins_anew_has_lost_its_journal(server: Server) -> None:
    till = server.till()
    await begins(server, till, A, NO_EPOCH, 0)
    await begins(server, till, B, A, 1)
    assert kinds(await begins(server, till, C, NO_EPOCH, 0)) == [("journal_missing", A, 0, None)]
    assert (await begins(server, till, D, C, 1)).alarms == ()


async def test_a_new_device_may_begin_anew(server: Server) -> None:
    till, successor = server.till(), Till(server.keys, "1")
    await begins(server, till, A, NO_EPOCH, 0)
    assert (await begins(server, successor, B, NO_EPOCH, 0)).alarms == ()


async def test_two_beginnings_are_seen_when_the_link_between_comes_last(server: Server) -> None:
    till = server.till()
    await begins(server, till, A, NO_EPOCH, 0)
    assert (await begins(server, till, D, C, 1)).alarms == ()
    assert kinds(await begins(server, till, C, NO_EPOCH, 0)) == [("journal_missing", A, 0, None)]


async def test_a_chain_that_goes_in_a_circle_is_survived(server: Server) -> None:
    till = server.till()
    await begins(server, till, A, B, 1)
    assert (await begins(server, till, B, A, 1)).alarms == ()


async def test_the_till_whose_copy_was_told_of_starts_again_in_peace(server: Server) -> None:
    till = server.till()
    await begins(server, till, A, NO_EPOCH, 0, sales=10)
    assert kinds(await begins(server, till, B, A, 4)) == [("restored_image", A, 4, 9)]
    assert (await begins(server, till, C, A, 10)).alarms == ()
    assert kinds(await begins(server, till, D, A, 10)) == [("forked", C, 10, None)]


async def test_a_till_of_many_starts_finds_its_beginning_without_going_back_for_each(server: Server) -> None:
    till = server.till()
    await begins(server, till, A, NO_EPOCH, 0)
    past = [A, *(number.to_bytes(16, "big") for number in range(1, 20_000))]
    async with server.database.write() as conn:
        await conn.exec_driver_sql(
            "INSERT INTO epoch (till_id, epoch, parent, parent_position, first_seen_ms, device_key_id)"
            " VALUES (?, ?, ?, 1, 0, ?)",
            [(till.till_id, one, parent, till.device.key_id) for parent, one in itertools.pairwise(past)],
        )
    started = time.process_time()
    assert (await begins(server, till, B, past[-1], 1)).alarms == ()
    assert kinds(await begins(server, till, C, NO_EPOCH, 0)) == [("journal_missing", A, 0, None)]
    assert time.process_time() - started < 5  # each link followed anew: 2 * 10**8 of them a start


@pytest.mark.parametrize("first", ["header", "statement"])
async def test_damage_that_the_till_states_explains_what_looks_like_an_old_image(server: Server, first: str) -> None:
    till = server.till()
    await begins(server, till, A, NO_EPOCH, 0, sales=10)
    statement = RecordsLost(A, 4, 0, "damaged_header", None)
    till.follows(B, A, 4)
    batches = [till.batch(sale("x")), till.batch(statement)]
    for batch in batches if first == "header" else [till.batch(statement, sale("y"))]:
        await server.pipeline.process(till.device, batch)
    assert [alarm.settled_ms is not None for alarm in await kept(server, till)] == [True] * (first == "header")


async def test_a_power_cut_never_explains_what_was_received_already(server: Server) -> None:
    till = server.till()
    await begins(server, till, A, NO_EPOCH, 0, sales=10)
    till.follows(B, A, 4)
    await server.pipeline.process(till.device, till.batch(RecordsLost(A, 4, 0, "power_cut", None)))
    assert [(a.about.kind, a.settled_ms) for a in await kept(server, till)] == [("restored_image", None)]


@pytest.mark.parametrize("first", ["header", "statement"])
@pytest.mark.parametrize(("begins_at", "last", "told"), [(9, 9, []), (7, 9, []), (9, None, [9]), (7, 7, [7])])
async def test_a_torn_tail_explains_the_records_that_it_names(
    server: Server, first: str, begins_at: int, last: int | None, told: list[int]
) -> None:
    """A last frame that was damaged after it was sent looks like one that was never written whole."""
    till = server.till()
    await begins(server, till, A, NO_EPOCH, 0, sales=10)
    till.follows(B, A, begins_at)
    statement = RecordsLost(A, begins_at, 1, "torn_tail", last)
    batches = [till.batch(sale("x")), till.batch(statement)]
    for batch in batches if first == "header" else [till.batch(statement, sale("y"))]:
        await server.pipeline.process(till.device, batch)
    assert [a.about.first for a in await kept(server, till) if a.settled_ms is None] == told


async def states(server: Server, till: Till, statement: RecordsLost) -> None:
    await server.pipeline.process(till.device, till.batch(statement))


@pytest.mark.parametrize("reason", ["torn_tail", "damaged_frame"])
@pytest.mark.parametrize("order", ["statement first", "statement last", "begun again"])
async def test_a_statement_of_a_copy_explains_nothing_once_the_original_goes_on(
    server: Server, reason: Reason, order: str
) -> None:
    """An image taken in the middle of a write loses that record; the machine that it was taken of does not."""
    till, copy = server.till(), Till(server.keys, "1")
    copy.key, copy.device = till.key, till.device
    await begins(server, till, A, NO_EPOCH, 0, sales=10)
    await begins(server, copy, B, A, 9)
    if order == "statement last":
        await writes(server, till, sales=20)
    await states(server, copy, RecordsLost(A, 9, 1, reason, 9))
    if order == "statement first":
        assert kinds(await writes(server, till, sales=20)) == [("restored_image", A, 9, 29)]
        assert (await writes(server, till)).alarms == ()
    if order == "begun again":
        assert kinds(await begins(server, till, C, A, 10)) == [("forked", B, 10, None)]
    assert [a.about.kind for a in await kept(server, till) if a.settled_ms is None] == [
        "forked" if order == "begun again" else "restored_image"
    ]


async def test_what_a_person_settled_stays_settled(server: Server) -> None:
    till, copy = server.till(), Till(server.keys, "1")
    copy.key, copy.device = till.key, till.device
    await begins(server, till, A, NO_EPOCH, 0, sales=10)
    await begins(server, copy, B, A, 9)
    (alarm,) = await kept(server, till)
    async with server.database.write() as conn:
        await alarms.settle(conn, till.till_id, alarm.id, "the copy is gone", LATER)
    assert (await writes(server, till, sales=20)).alarms == ()


async def test_behind_a_torn_tail_what_was_signed_for_is_still_missed(server: Server) -> None:
    till = server.till()
    await begins(server, till, A, NO_EPOCH, 0, sales=10)
    await hears(server, till, A, 15)
    till.follows(B, A, 9)
    outcome = await server.pipeline.process(till.device, till.batch(RecordsLost(A, 9, 1, "torn_tail", 9)))
    await writes(server, till)
    told = [(a.about.kind, a.about.first, a.about.last) for a in await kept(server, till) if a.settled_ms is None]
    assert ("tail_lost", 10, 14) in told, outcome


async def test_a_power_cut_explains_a_lost_tail(server: Server) -> None:
    till = server.till()
    await begins(server, till, A, NO_EPOCH, 0, sales=3)
    await hears(server, till, A, 8)
    await begins(server, till, B, A, 3)
    await server.pipeline.process(till.device, till.batch(RecordsLost(A, 3, 0, "power_cut", None)))
    (alarm,) = await kept(server, till)
    assert (alarm.about.kind, alarm.note) == ("tail_lost", "the till says that it lost these records: power_cut")


async def test_an_alarm_is_settled_once_with_a_note_and_stays_in_the_books(server: Server) -> None:
    till = server.till()
    await begins(server, till, A, NO_EPOCH, 0, sales=2)
    await begins(server, till, B, A, 1)
    (alarm,) = await kept(server, till)
    async with server.database.write() as conn:
        settled = await alarms.settle(conn, till.till_id, alarm.id, "image of Tuesday put back", LATER)
    assert (settled.settled_ms, settled.note) == (LATER, "image of Tuesday put back")
    with pytest.raises(alarms.SettledAlready, match="with the note: image of Tuesday put back"):
        async with server.database.write() as conn:
            await alarms.settle(conn, till.till_id, alarm.id, "again", LATER + 1)
    assert (await writes(server, till)).alarms == ()
    assert [(one.settled_ms, one.note) for one in await kept(server, till)] == [(LATER, "image of Tuesday put back")]


async def test_only_the_tills_own_alarms_can_be_settled_for_it(server: Server) -> None:
    till = server.till()
    await begins(server, till, A, NO_EPOCH, 0, sales=2)
    await begins(server, till, B, A, 1)
    (alarm,) = await kept(server, till)
    with pytest.raises(alarms.UnknownAlarm):
        async with server.database.write() as conn:
            await alarms.settle(conn, b"o" * 16, alarm.id, "not mine", LATER)
    assert [one.settled_ms for one in await kept(server, till)] == [None]
