"""What an operator asks about records that did not arrive as they should."""

from __future__ import annotations

import io

import pytest
from msgspec import structs

from support.serving import Server, Till, sale
from tillstream_protocol.codec import encode
from tillstream_protocol.errors import TillstreamError
from tillstream_protocol.messages import Batch
from tillstream_server import carried, office
from tillstream_server.carried import DamagedExport

PLACE = ("acme", "north", "till-1")


async def test_what_never_came_is_a_gap_until_it_comes(server: Server) -> None:
    till = await server.till()
    first = till.batch(sale(1), sale(2))
    await till.sends(sale(3))
    (gap,) = (await server.order(office.TillGaps(*PLACE)))["gaps"]
    assert (gap["epoch"], gap["first"], gap["last"], gap["records"]) == (till.epoch.hex(), 0, 1, 2)
    await till.uploads(first)
    assert await server.order(office.TillGaps(*PLACE)) == {"gaps": [], "lost": []}


async def test_an_alarm_is_listed_until_somebody_settles_it_with_a_note(server: Server) -> None:
    till = await server.till()
    await till.sends(sale(1))
    again = Till(server, till.device)
    again.reply, again.introduction = till.reply, till.introduction
    await again.sends(sale(2))
    (alarm,) = (await server.order(office.TillAlarms("acme")))["alarms"]
    assert (alarm["retailer"], alarm["store"], alarm["till"]) == PLACE
    assert alarm["hint"]
    settled = await server.order(office.TillSettle(*PLACE, alarm["id"], "the disk was replaced"))
    assert settled["hint"] is None
    assert settled["note"] == "the disk was replaced"
    assert (await server.order(office.TillAlarms("acme")))["alarms"] == []
    (kept,) = (await server.order(office.TillAlarms("acme", settled=True)))["alarms"]
    assert kept["note"] == "the disk was replaced"
    assert (await server.order(office.TillAlarms("other", settled=True)))["alarms"] == []


async def test_alarms_come_a_page_at_a_time(server: Server) -> None:
    for _ in range(2):
        till = await server.till()
        await till.sends(sale(1))
        again = Till(server, till.device)
        again.reply, again.introduction = till.reply, till.introduction
        await again.sends(sale(2))
    page = await server.order(office.TillAlarms(limit=1))
    assert page["next"] == page["alarms"][0]["id"]
    rest = await server.order(office.TillAlarms(limit=2, after=page["next"]))
    assert (len(rest["alarms"]), rest["next"]) == (1, None)
    assert rest["alarms"][0]["till"] == "till-2"


async def test_an_alarm_that_is_not_there_cannot_be_settled(server: Server) -> None:
    await server.till()
    with pytest.raises(TillstreamError) as caught:
        await server.order(office.TillSettle(*PLACE, 7, "why not"))
    assert caught.value.code == "unknown_alarm"


async def test_dead_letters_are_tried_again_and_say_what_became_of_them(server: Server) -> None:
    till = await server.till()
    await till.sends(sale(1), structs.replace(sale(2), business_date="2026-99-99"))
    (letter,) = (await server.order(office.DeadLettersList()))["dead_letters"]
    assert (letter["retailer"], letter["store"], letter["till"]) == PLACE
    tried = await server.order(office.DeadLettersRetry((letter["id"],)))
    assert tried == {"retried": 1, "taken": 0, "still_dead": 1}
    assert (await server.order(office.DeadLettersRetry()))["retried"] == 1
    with pytest.raises(TillstreamError) as caught:
        await server.order(office.DeadLettersRetry((letter["id"] + 1,)))
    assert caught.value.code == "unknown_dead_letter"


async def test_a_queue_that_is_carried_here_is_taken_once(server: Server) -> None:
    till = await server.till()
    batches = (encode(till.batch(sale(1), sale(2))), encode(till.batch(sale(3))))
    taken = await server.order(office.BatchImport(batches))
    assert (taken["batches"], taken["stored"], taken["repeat"], taken["refused"]) == (2, 3, 0, [])
    again = await server.order(office.BatchImport(batches))
    assert (again["stored"], again["repeat"]) == (0, 3)
    assert (await till.sends(sale(4))).acked[0].last == 3


async def test_a_batch_that_cannot_be_taken_keeps_no_other_waiting(server: Server) -> None:
    till, stranger = await server.till(), Till(server)
    stranger.reply, stranger.introduction = till.reply, till.introduction
    batches = (b"nonsense", encode(stranger.batch(sale(1))), encode(till.batch(sale(2))))
    taken = await server.order(office.BatchImport(batches))
    assert taken["stored"] == 1
    assert [one["code"] for one in taken["refused"]] == ["invalid_input", "unknown_device"]


def export(*batches: bytes) -> bytes:
    """A file as an agent writes it."""
    return carried.MAGIC + b"".join(len(batch).to_bytes(4, "big") + batch for batch in batches)


def test_an_export_is_read_batch_by_batch() -> None:
    batches = [encode(Batch(b"header", bytes(n))) for n in (0, 1, 70_000)]
    assert list(carried.read(io.BytesIO(export(*batches)))) == batches
    assert list(carried.read(io.BytesIO(export()))) == []


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "no export"),
        (b"TSEXPRT2", "no export"),
        (export(b"one")[:-1], "at byte 8"),
        (export(b"one", b"two")[:-5], "at byte 15"),
        (export(b"one") + b"\0", "at byte 15"),
        (carried.MAGIC + bytes(4), "at byte 8"),
        (carried.MAGIC + b"\xff" * 8, "at byte 8"),
    ],
)
def test_a_damaged_export_is_told_with_its_place(data: bytes, said: str) -> None:
    with pytest.raises(DamagedExport, match=said) as caught:
        list(carried.read(io.BytesIO(data)))
    assert caught.value.hint


def test_what_stands_before_the_damage_is_read() -> None:
    found = carried.read(io.BytesIO(export(b"one", b"two")[:-1]))
    assert next(found) == b"one"
    with pytest.raises(DamagedExport):
        next(found)


def test_batches_are_grouped_by_size_in_their_order() -> None:
    batches = [b"a" * 3, b"b" * 3, b"c" * 9, b"d", b"e"]
    groups = list(carried.grouped(batches, 6))
    assert groups == [(b"aaa", b"bbb"), (b"c" * 9,), (b"d", b"e")]
    assert list(carried.grouped([], 6)) == []
