"""What holds of offers whatever tills do, in whatever order and however often their records arrive."""

from __future__ import annotations

import asyncio
import itertools
import shutil
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.campaigning import NOW, Server, Till, campaign, sale, server_at
from tillstream_protocol.decisions import Budget
from tillstream_protocol.messages import OfferPush, Push, Revoked
from tillstream_server.campaigns.leases import SERVER
from tillstream_server.campaigns.triggers import Fired
from tillstream_server.ledger import outbox
from tillstream_server.ledger.database import migrate

TILLS: Final = 3
STALE_MS: Final = 1_000_000

Run = Callable[[Callable[[Server], Awaitable[None]]], None]

checked = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def on_a_fresh_server(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs a scenario on a copy of an empty, migrated database."""
    folder = tmp_path_factory.mktemp("invariants")
    empty, used = folder / "empty.db", folder / "used.db"
    asyncio.run(migrate(empty))

    def run(scenario: Callable[[Server], Awaitable[None]]) -> None:
        for leftover in folder.glob("used.db*"):
            leftover.unlink()
        shutil.copy(empty, used)
        asyncio.run(_with_server(used, scenario))

    return run


async def _with_server(path: Path, scenario: Callable[[Server], Awaitable[None]]) -> None:
    async with server_at(path) as server:
        await scenario(server)


records = st.lists(
    st.fixed_dictionaries(
        {
            "till": st.integers(0, TILLS - 1),
            "sale": st.integers(1, 4),
            "member": st.sampled_from([None, b"a" * 16, b"b" * 16]),
            "visits": st.sampled_from([1, 9]),
            "total": st.sampled_from([500, 5000]),
            "stale": st.booleans(),
            "offline": st.booleans(),
        }
    ),
    max_size=12,
)


@checked
@given(records=records, cuts=st.sets(st.integers(0, 12)), repeat=st.booleans())
def test_an_offer_is_decided_once_and_pushed_at_most_once(
    on_a_fresh_server: Run, records: list[dict[str, Any]], cuts: set[int], repeat: bool
) -> None:
    async def scenario(server: Server) -> None:
        devices = [await server.enrols(str(index)) for index in range(TILLS)]
        await server.puts(
            campaign("edge"),
            campaign("member", once_per="member", priority=1),
            campaign("regulars", condition={">=": [{"var": "member.visits"}, 3]}),
            campaign("few", budget=Budget(units=2, lease=1)),
        )
        tills = [Till(device) for device in devices]
        for till in tills:
            till.takes(await server.issues(till.device))
        fired = [_fired(server, tills[record["till"]], record) for record in records]
        pushes: list[Push] = []
        settled: dict[bytes, Any] = {}
        for _ in range(1 + repeat):
            for batch in _cut(fired, cuts):
                pushes += await server.processes(*batch)
                settled = await _unchanged(server, settled)
        offered = Counter(push.body.decision.offer_id for push in pushes if isinstance(push.body, OfferPush))
        assert all(times == 1 for times in offered.values())
        assert set(offered) == {
            name for name, row in settled.items() if row.outcome == "offered" and row.decided_at == "server"
        }
        stale = {one.ledger_id for one in fired if one.age_ms == STALE_MS}
        assert not any(row.outcome == "offered" for row in settled.values() if row.pushed_ms and row.ledger_id in stale)

    on_a_fresh_server(scenario)


@checked
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["pack", "sell", "sync", "server sale"]), st.integers(0, TILLS - 1)), max_size=40
    ),
    units=st.integers(1, 12),
    lease=st.integers(1, 5),
)
def test_tills_and_server_together_never_offer_more_than_the_budget(
    on_a_fresh_server: Run, steps: list[tuple[str, int]], units: int, lease: int
) -> None:
    async def scenario(server: Server) -> None:
        tills = [Till(await server.enrols(str(index))) for index in range(TILLS)]
        await server.puts(campaign(budget=Budget(units=units, lease=min(units, lease))))
        queues: list[list[Fired]] = [[] for _ in tills]
        offered = 0
        for number, (step, index) in enumerate(steps):
            till, queue = tills[index], queues[index]
            if step == "pack":
                till.takes(await server.issues(till.device))
            elif step == "sell":
                decisions = till.decides(sale(number))
                offered += sum(decision.outcome == "offered" for decision in decisions)
                queue.append(server.sells(till.device, sale(number), decisions=decisions))
            else:
                batch = [*queue] if step == "sync" else [server.sells(till.device, sale(number))]
                pushes = await server.processes(*batch)
                offered += sum(isinstance(push.body, OfferPush) for push in pushes)
                if step == "sync":
                    queue.clear()
            assert offered <= units
        granted = await server.leases()
        assert sum(row_units for *_, row_units in granted) <= units
        drawn = Counter(row.lease for row in await server.decisions() if row.decided_at == "server" and row.lease)
        assert {name: n for name, till_id, _, n in granted if till_id == SERVER} == dict(drawn)

    on_a_fresh_server(scenario)


@checked
@given(ages=st.lists(st.integers(900_001, 10**12), min_size=1, max_size=10))
def test_stale_records_push_nothing(on_a_fresh_server: Run, ages: list[int]) -> None:
    async def scenario(server: Server) -> None:
        device = await server.enrols()
        await server.puts(campaign(), campaign("member", once_per="member"), campaign("b", budget=Budget(9, 3)))
        fired = [server.sells(device, sale(n), subject=b"a" * 16, age_ms=age) for n, age in enumerate(ages)]
        assert await server.processes(*fired) == []
        assert {row.outcome for row in await server.decisions()} == {"refused"}
        assert await server.leases() == []

    on_a_fresh_server(scenario)


@checked
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("push"), st.integers(0, 1), st.lists(st.integers(1, 50), min_size=1, max_size=4)),
            st.tuples(st.just("receipt"), st.integers(0, 1), st.integers(0, 20)),
            st.tuples(st.just("read"), st.integers(0, 1), st.integers(0, 20)),
            st.tuples(st.just("wait"), st.just(0), st.integers(1, 30)),
        ),
        max_size=25,
    )
)
def test_the_outbox_misses_nothing_and_repeats_nothing(
    on_a_fresh_server: Run, steps: list[tuple[str, int, Any]]
) -> None:
    async def scenario(server: Server) -> None:
        devices = [await server.enrols(str(index)) for index in range(2)]
        now = NOW
        kept: list[list[Push]] = [[], []]
        confirmed = [0, 0]
        for step, index, value in steps:
            till_id = devices[index].till_id
            async with server.database.write() as conn:
                if step == "push":
                    bodies = [(Revoked("for a test"), now + lifetime) for lifetime in value]
                    kept[index] += await outbox.enqueue(conn, till_id, bodies, now)
                elif step == "receipt":
                    await outbox.receive(conn, till_id, value, now)
                    confirmed[index] = max(confirmed[index], min(value, len(kept[index])))
                elif step == "wait":
                    now += value
                else:
                    wanted = [
                        push
                        for push in kept[index]
                        if push.seq > max(value, confirmed[index]) and push.expires_ms > now
                    ]
                    assert await outbox.after(conn, till_id, value, now) == wanted
        for pushes in kept:
            assert [push.seq for push in pushes] == list(range(1, len(pushes) + 1))

    on_a_fresh_server(scenario)


def _fired(server: Server, till: Till, record: dict[str, Any]) -> Fired:
    sold = sale(record["sale"], total=record["total"])
    return server.sells(
        till.device,
        sold,
        subject=record["member"],
        facts={"member.visits": record["visits"]},
        age_ms=STALE_MS if record["stale"] else 0,
        decisions=till.decides(sold) if record["offline"] else (),
    )


def _cut(fired: list[Fired], cuts: set[int]) -> list[list[Fired]]:
    borders = [0, *sorted(cut for cut in cuts if cut < len(fired)), len(fired)]
    return [fired[start:end] for start, end in itertools.pairwise(borders)]


async def _unchanged(server: Server, before: dict[bytes, Any]) -> dict[bytes, Any]:
    """The decisions now, of which none that was there before has changed."""
    now = {row.offer_id: row for row in await server.decisions()}
    assert {name: now[name] for name in before} == before
    return now
