"""Batches of several tills in one transaction come to what they would have come to one after the other."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

from support.pipelining import NOW, RETAILER, Listener, Server, Till, member, prepare, sale, server_at, void
from tillstream_protocol.events import Body, RecordsLost
from tillstream_protocol.limits import DEFAULT
from tillstream_protocol.messages import Push, Range, Revoked
from tillstream_server.campaigns.triggers import Fired
from tillstream_server.customers.identity import Identities
from tillstream_server.pipeline.opening import Opener
from tillstream_server.pipeline.outcome import Outcome
from tillstream_server.pipeline.rebuild import rebuild
from tillstream_server.pipeline.taking import Arrived, Taking

Brought = tuple[str, Sequence[Body | bytes]]
"""A till's name, and what it sends."""


async def take(server: Server, *brought: Brought) -> list[Outcome]:
    """What becomes of one batch of each till, in one transaction."""
    opener = Opener(server.keys, DEFAULT)
    group = []
    for name, bodies in brought:
        till = server.till(name)
        group.append(Arrived(till.device, opener.open(till.device, till.header, till.batch(*bodies))))
    async with server.database.write() as conn:
        names = Identities(os.urandom)
        return await Taking(server.vault, server.keys, server.listener, names, conn, group, NOW).run()


async def test_each_till_is_answered_for_its_own_batch(server: Server) -> None:
    first, second = await take(server, ("1", [sale("a"), sale("b")]), ("2", [b"\xc1", sale("c")]))
    assert (first.reply_acked, first.counts["stored"], first.dead) == ((Range(0, 1),), 2, ())
    assert (second.reply_acked, second.counts["stored"]) == ((Range(0, 1),), 1)
    assert [letter.seq for letter in second.dead] == [0]
    assert await server.rows("SELECT reason, count FROM refusal") == [("dead", 1)]


async def test_a_sale_that_two_tills_bring_is_stored_once(server: Server) -> None:
    same = sale("a", 700, customer=member())
    first, second = await take(server, ("1", [same]), ("2", [same]))
    assert (first.counts["stored"], first.counts["duplicate"]) == (1, 0)
    assert (second.counts["stored"], second.counts["duplicate"]) == (0, 1)
    assert await server.rows("SELECT transactions, amount_minor FROM sales_by_hour") == [(1, 700)]


async def test_a_member_who_is_new_at_two_tills_is_one_member(server: Server) -> None:
    await take(server, ("1", [sale("a", customer=member())]), ("2", [sale("b", customer=member())]))
    assert await server.rows("SELECT count(*) FROM subject") == [(1,)]
    assert await server.rows("SELECT transactions, visits FROM member_stats") == [(2, 2)]


async def test_each_till_is_told_of_its_own_losses(server: Server) -> None:
    lost = RecordsLost(b"e" * 16, 3, 0, "damaged_frame", 4)
    first, second = await take(server, ("1", [lost]), ("2", [sale("a")]))
    assert (first.lost, second.lost) == (("damaged_frame",), ())
    assert await server.rows("SELECT till_id FROM lost") == [(server.till("1").till_id,)]


class Pushing(Listener):
    """Pushes something to the till of each record."""

    async def fire(self, conn: object, facts: Sequence[Fired]) -> list[tuple[bytes, Push]]:
        return [(fired.device.till_id, Push(fired.ledger_id, NOW, Revoked("x"))) for fired in facts]


async def test_each_outcome_has_the_pushes_of_its_till(server: Server) -> None:
    server.listener = Pushing()
    outcomes = await take(server, ("1", [sale("a")]), ("2", [sale("b"), sale("c")]))
    assert [[till_id for till_id, _ in outcome.pushes] for outcome in outcomes] == [
        [server.till("1").till_id],
        [server.till("2").till_id] * 2,
    ]


ROUNDS: Sequence[Sequence[Brought]] = (
    (("1", [sale("a", 100), sale("b", 250, customer=member())]), ("2", [void("v", "b"), sale("c", customer=member())])),
    (("1", [sale("b", 300, revision=1, customer=member())]), ("2", [sale("b", 250, customer=member())])),
    (("1", [void("w", "a", "c"), sale("d")]), ("2", [sale("a", 900, revision=2), void("v", "d", revision=1)])),
)


async def test_together_or_one_by_one_comes_to_the_same(tmp_path: Path) -> None:
    keys = await prepare(tmp_path / "together")
    await prepare(tmp_path / "alone")
    async with (
        server_at(tmp_path / "together", server_keys=keys) as together,
        server_at(tmp_path / "alone", server_keys=keys) as alone,
    ):
        for brought in ROUNDS:
            await take(together, *brought)
            for name, bodies in brought:
                await alone.take(*bodies, till=name)
        expected = await alone.projections()
        assert await together.projections() == expected
        await rebuild(together.database)
        assert await together.projections() == expected


async def test_many_tills_at_once_are_all_stored_each_once(server: Server) -> None:
    tills = [Till(server.keys, str(number)) for number in range(12)]
    poison = sale("poison", store="s9")
    server.listener.error, server.listener.poison = KeyError(), "poison"

    async def sends(till: Till) -> Outcome:
        mine = [sale(f"{till.device.till}-{number}", customer=member(str(number))) for number in range(3)]
        batch = till.batch(*mine, *([poison] if till is tills[5] else []))
        return await server.pipeline.process(till.device, batch)

    async with server.database.write():
        sending = [asyncio.create_task(sends(till)) for till in tills]
        await asyncio.sleep(0.05)
    outcomes = await asyncio.gather(*sending)
    assert [outcome.counts["stored"] for outcome in outcomes] == [3] * 12
    assert [len(outcome.dead) for outcome in outcomes] == [till is tills[5] for till in tills]
    assert await server.rows("SELECT count(*), count(DISTINCT till_id) FROM ledger") == [(36, 12)]
    assert await server.rows("SELECT retailer, sum(transactions) FROM sales_by_hour") == [(RETAILER, 36)]
    before = await server.projections()
    await rebuild(server.database)
    assert await server.projections() == before
