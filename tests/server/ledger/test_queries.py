"""Head office's figures: what they count and what they leave out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import insert

from support.campaigning import NOW, RETAILER, Server, Till, campaign, sale, server_at
from tillstream_protocol.errors import InvalidInput
from tillstream_server.ledger import outbox, queries, schema
from tillstream_server.ledger.queries import OfferSummary, Summary, instant_ms

DAY_MS = 86_400_000
START = instant_ms("2026-09-21", "from")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with server_at(tmp_path / "ledger.db") as server:
        yield server


async def asks(server: Server, from_: str | None = None, to: str | None = None, store: str | None = None) -> Summary:
    async with server.database.read() as conn:
        return await queries.summary(conn, from_, to, store)


async def asks_offers(server: Server, *window: str | None) -> OfferSummary:
    async with server.database.read() as conn:
        return await queries.offers(conn, *(window or (None, None, None)))


async def test_an_empty_ledger_gives_zeros(server: Server) -> None:
    assert await asks(server) == {
        "transactions": 0,
        "amount_minor": {},
        "duplicates_refused": 0,
        "dead_letters": 0,
        "tills": 0,
    }


async def test_refusals_are_counted_for_ever_and_dead_letters_by_arrival(server: Server) -> None:
    till = await server.enrols()
    letter = {"retailer": RETAILER, "till_id": till.till_id, "epoch": b"e" * 16, "code": "invalid_input"}
    async with server.database.write() as conn:
        await conn.execute(
            insert(schema.refusal),
            [
                {"reason": "repeat", "count": 3},
                {"reason": "duplicate", "count": 2},
                {"reason": "something_else", "count": 9},
            ],
        )
        await conn.execute(
            insert(schema.dead_letter),
            [
                {**letter, "seq": seq, "reason": "", "header": b"", "frame": b"", "received_ms": at}
                for seq, at in enumerate((START, START + DAY_MS))
            ],
        )
    everything = await asks(server)
    assert (everything["duplicates_refused"], everything["dead_letters"]) == (5, 2)
    assert (await asks(server, "2026-09-21", "2026-09-22"))["dead_letters"] == 1
    assert (await asks(server, store="south"))["dead_letters"] == 0


@pytest.mark.parametrize("window", [("yesterday", None), (None, "2026-13-01"), ("2026-09-22", "2026-09-21")])
async def test_a_window_that_is_none_is_refused(server: Server, window: tuple[str | None, str | None]) -> None:
    with pytest.raises(InvalidInput) as refused:
        await asks(server, *window)
    assert refused.value.field == ("to" if window[0] is None else "from")


def test_an_instant_without_an_offset_is_utc() -> None:
    assert instant_ms("1970-01-02", "from") == DAY_MS
    assert instant_ms("1970-01-02T01:00:00", "from") == DAY_MS + 3_600_000
    assert instant_ms("1970-01-02T01:00:00+01:00", "from") == DAY_MS
    assert instant_ms("1970-01-02T00:00:00.5Z", "from") == DAY_MS + 500


@given(st.datetimes())
def test_every_instant_is_read_or_refused(moment: Any) -> None:
    assert isinstance(instant_ms(moment.isoformat(), "from"), int)


async def test_offers_are_counted_by_campaign_and_how_far_they_came(server: Server) -> None:
    device = await server.enrols()
    till = Till(device)
    await server.puts(campaign())
    first, *_ = await server.processes(*(server.sells(device, sale(number)) for number in (1, 2)))
    await server.processes(server.sells(device, sale(3), age_ms=10**9))
    till.takes(await server.issues(device))
    await server.processes(server.sells(device, sale(4), decisions=till.decides(sale(4))))
    async with server.database.write() as conn:
        await outbox.receive(conn, device.till_id, first.seq, NOW)
    found = await asks_offers(server)
    assert found["totals"] == {"offered": 3, "refused": 1, "pushed": 2, "delivered": 1, "shown": 0}
    assert [(c["outcome"], c["reason"], c["decided_at"], c["verdict"], c["decisions"]) for c in found["counts"]] == [
        ("offered", None, "edge", "agreed", 1),
        ("offered", None, "server", None, 2),
        ("refused", "stale", "server", None, 1),
    ]


async def test_offers_of_another_store_or_day_are_left_out(server: Server) -> None:
    device = await server.enrols()
    await server.puts(campaign())
    await server.processes(server.sells(device, sale()))
    assert (await asks_offers(server, None, None, "north"))["totals"]["offered"] == 1
    assert (await asks_offers(server, None, None, "south"))["counts"] == []
    assert (await asks_offers(server, "2027-01-01", None, None))["counts"] == []
