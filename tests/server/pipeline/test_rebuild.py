"""A rebuild comes to what was there, and sets off nothing."""

from __future__ import annotations

import pytest

from support.pipelining import DAY, NOW, Server, member, sale, void
from tillstream_protocol.events import MemberIdentified, Record
from tillstream_protocol.transaction import Identifier, Link, Moment
from tillstream_server.ledger.bodies import LedgerDamaged
from tillstream_server.pipeline.rebuild import rebuild


async def trade(server: Server) -> None:
    """Revisions, voids, duplicates, late records, and a void whose link is masked in the body."""
    await server.take(
        *(sale(str(i), 100, 50, customer=member(str(i % 3)), end=Moment(NOW + i * DAY)) for i in range(9))
    )
    await server.take(sale("3", 70, revision=1, customer=member("9")), void("v", "4", "77"), sale("5", 100, 50))
    await server.take(Record(sale("0", 100, 50, customer=member("0")), captured_at=NOW + 5), till="2")
    await server.take(sale("77"), sale("late", customer=member("1"), end=Moment(NOW - 30 * DAY)))
    await server.take(MemberIdentified((Identifier("loyalty", "1"),)))
    phone = "5551234567"
    await server.take(
        sale(phone), sale("w", kind="void", lines=(), total=0, customer=member(phone), links=(Link("voids", phone),))
    )


@pytest.mark.parametrize("page", [1, 4, 1000])
async def test_it_comes_to_what_was_there(server: Server, page: int) -> None:
    await trade(server)
    before = await server.projections()
    fired = len(server.listener.fired)
    assert await rebuild(server.database, page=page) == {"transactions": 16, "retailers": 1}
    assert await server.projections() == before
    assert len(server.listener.fired) == fired


async def test_it_heals_what_was_wrong(server: Server) -> None:
    await trade(server)
    before = await server.projections()
    async with server.database.write() as conn:
        await conn.exec_driver_sql("UPDATE sales_by_hour SET amount_minor = amount_minor + 1")
        await conn.exec_driver_sql("DELETE FROM member_stats")
        await conn.exec_driver_sql("DELETE FROM sale WHERE counted_ms IS NULL")
    await rebuild(server.database)
    assert await server.projections() == before


async def test_an_empty_ledger_gives_empty_projections(server: Server) -> None:
    assert await rebuild(server.database) == {"transactions": 0, "retailers": 0}


async def test_a_damaged_row_leaves_the_old_figures(server: Server) -> None:
    await trade(server)
    before = await server.projections()
    async with server.database.write() as conn:
        await conn.exec_driver_sql("UPDATE ledger SET body = x'00' WHERE id = 5")
    with pytest.raises(LedgerDamaged):
        await rebuild(server.database)
    assert await server.projections() == before


async def test_new_sales_go_on_from_rebuilt_figures(server: Server) -> None:
    await trade(server)
    await rebuild(server.database)
    await server.take(sale("new", 100, customer=member("1")))
    live = await server.projections()
    await rebuild(server.database)
    assert await server.projections() == live
