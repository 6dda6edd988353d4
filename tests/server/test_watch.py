"""Figures of the fleet come from the last heartbeats, add up, and name no till, however many there are."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from support.serving import NOW, Server, SetClock
from tillstream_server.gauges import LAG_SECONDS, VERSIONS, Fleet
from tillstream_server.ledger.database import Database, LedgerFault, migrate
from tillstream_server.metrics import Metrics
from tillstream_server.opening import parse
from tillstream_server.watch import FRESH_S, Watch, fleet_of

_TILL = "INSERT INTO till (till_id, retailer, store, till, created_ms, revoked_ms, push_seq) VALUES (?,?,?,?,?,?,0)"
_STATUS = (
    "INSERT INTO till_status (till_id, epoch, position, queued, oldest_queued_ms, hook_p50, hook_p99, hook_max,"
    " disk_free, clock_ms, agent_version, last_error, seen_ms, dead_letters, damaged_files)"
    " VALUES (?, ?, 1, ?, ?, 1, ?, ?, ?, ?, ?, '', ?, ?, ?)"
)

_NUMBERS = "WITH RECURSIVE numbers (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n < 99999)"
_CROWD = (
    f"""{_NUMBERS} INSERT INTO till (till_id, retailer, store, till, created_ms, revoked_ms, push_seq)
    SELECT CAST(printf('%016d', n) AS BLOB), 'acme', 'store ' || n / 10, 'till ' || n, 0, NULL, 0
    FROM numbers""",
    f"""{_NUMBERS} INSERT INTO till_status (till_id, epoch, position, queued, oldest_queued_ms, hook_p50, hook_p99,
        hook_max, disk_free, clock_ms, agent_version, last_error, seen_ms, dead_letters, damaged_files)
    SELECT CAST(printf('%016d', n) AS BLOB), zeroblob(16), 1, n % 7, n, 1, n % 9000, n % 9000, 1 << 40, {NOW},
        '1.' || n % 30, '', {NOW} - 10000 * (n % 40), 0, 0 FROM numbers""",
)
"""100,000 tills with their last heartbeats, a quarter of them up to 390 seconds old: 300 are silence."""


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    await migrate(tmp_path / "ledger.db")
    opened = await Database.open(tmp_path / "ledger.db")
    yield opened
    await opened.close()


async def has(database: Database, *tills: dict[str, Any]) -> None:
    """Tills with their last heartbeats; without `seen` there was none. Figures are in the database's units."""
    rows, beats = [], []
    for number, till in enumerate(tills):
        id_ = number.to_bytes(16, "big")
        rows.append((id_, "acme", "north", f"till-{number}", NOW, till.get("revoked")))
        if "seen" in till:
            seen, hook = till["seen"], till.get("hook", 0)
            clock = seen + till.get("skew", 0)
            figures = (till.get("queued", 0), till.get("oldest", 0), hook, hook, till.get("disk", 1 << 40))
            rest = (clock, till.get("version", "1.0"), seen, till.get("refused", 0), till.get("damaged", 0))
            beats.append((id_, bytes(16), *figures, *rest))
    async with database.write() as conn:
        if rows:
            await conn.exec_driver_sql(_TILL, rows)
        if beats:
            await conn.exec_driver_sql(_STATUS, beats)


async def fleet(database: Database, *tills: dict[str, Any]) -> Fleet:
    """What is said of them, where five minutes without a word are silence."""
    await has(database, *tills)
    async with database.read() as conn:
        return await fleet_of(conn, heard_since_ms=NOW - 300_000)


async def test_each_till_is_in_one_state(database: Database) -> None:
    old = NOW - 300_001
    said = await fleet(
        database, {"seen": NOW}, {"seen": NOW - 300_000}, {"seen": old}, {}, {}, {"seen": NOW, "revoked": 1}
    )
    assert (said.talking, said.silent, said.unheard, said.revoked) == (2, 1, 2, 1)


async def test_a_fleet_of_nobody_is_all_zeros(database: Database) -> None:
    assert await fleet(database) == Fleet(versions={"other": 0})


async def test_what_waits_counts_at_silent_tills_too_but_not_at_revoked_ones(database: Database) -> None:
    said = await fleet(
        database,
        {"seen": NOW, "queued": 3, "refused": 1, "damaged": 2},
        {"seen": 5, "queued": 40, "refused": 10, "damaged": 20},
        {"seen": NOW, "queued": 500, "refused": 100, "damaged": 200, "revoked": 1},
    )
    assert (said.queued, said.refused, said.damaged) == (43, 11, 22)


async def test_lag_and_skew_are_spread_over_talking_tills(database: Database) -> None:
    said = await fleet(
        database,
        {"seen": NOW, "oldest": 500, "skew": 100},
        {"seen": NOW, "oldest": 1_000, "skew": -40_000},
        {"seen": NOW, "oldest": 1_000_000, "skew": 0},
        {"seen": 5, "oldest": 10**9, "skew": 10**9},
    )
    assert said.lag.counts == (2, 2, 2, 2, 2, 2, 3, 3, 3)
    assert (said.lag.bounds, said.lag.total, said.lag.sum, said.lag.max) == (LAG_SECONDS, 3, 1001.5, 1000.0)
    assert (said.skew.counts, said.skew.max) == ((2, 2, 2, 3, 3, 3), 40.0)


async def test_a_hook_that_nobody_called_is_neither_fast_nor_slow(database: Database) -> None:
    said = await fleet(database, {"seen": NOW, "hook": 0}, {"seen": NOW, "hook": 900}, {"seen": NOW, "hook": 6_000})
    assert (said.hook.total, said.hook.max) == (2, 0.006)
    assert said.hook.counts == (0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 2)


async def test_a_disk_counts_as_short_under_a_gibibyte(database: Database) -> None:
    assert (
        await fleet(database, {"seen": NOW, "disk": (1 << 30) - 1}, {"seen": NOW, "disk": 1 << 30})
    ).short_of_disk == 1


async def test_versions_are_named_up_to_a_number(database: Database) -> None:
    many = [{"seen": NOW, "version": f"0.{number}"} for number in range(VERSIONS + 4)]
    said = await fleet(database, *[{"seen": NOW, "version": "2.0"}] * 3, *many)
    assert len(said.versions) == VERSIONS + 1
    assert (said.versions["2.0"], said.versions["other"]) == (3, 5)
    assert (said.distinct_versions, said.off_main_version) == (VERSIONS + 5, VERSIONS + 4)
    assert sum(said.versions.values()) == said.talking


async def test_an_agent_that_calls_its_version_other_is_no_trouble(database: Database) -> None:
    many = [{"seen": NOW, "version": f"0.{number}"} for number in range(VERSIONS)]
    said = await fleet(database, {"seen": NOW, "version": "other"}, {"seen": NOW, "version": "other"}, *many)
    assert said.versions["other"] == 3
    assert sum(said.versions.values()) == said.talking


async def test_a_source_of_webhooks_is_no_till(database: Database) -> None:
    await has(database, {"seen": NOW}, {})
    async with database.write() as conn:
        await conn.exec_driver_sql(
            "INSERT INTO source (till_id, kind, name, adapter, url, zone, options, secret, created_ms)"
            " VALUES (?, 'generic', 'web', 'mapping', '', 'UTC', '{}', x'00', 0)",
            ((1).to_bytes(16, "big"),),
        )
    async with database.read() as conn:
        said = await fleet_of(conn, heard_since_ms=NOW - 300_000)
    assert (said.talking, said.unheard) == (1, 0)


async def test_a_hundred_thousand_tills_make_no_more_series_than_one(database: Database) -> None:
    async with database.write() as conn:
        for statement in _CROWD:
            await conn.exec_driver_sql(statement)
    watch = watching(database, SetClock())
    await watch.look()
    assert watch.gauges.now is not None
    said = watch.gauges.now.fleet
    assert (said.talking, said.silent, said.lag.total) == (77_500, 22_500, 77_500)
    assert said.queued == sum(n % 7 for n in range(100_000))
    registry = CollectorRegistry()
    registry.register(watch.gauges)
    assert len(generate_latest(registry).splitlines()) < 200


def watching(database: Database, clock: SetClock, silent_s: float = 300.0) -> Watch:
    """A watch on the database."""
    return Watch(database, clock, Metrics(CollectorRegistry()).gauges, parse("", "UTC"), silent_s)


async def test_who_asks_again_at_once_gets_the_same_figures(database: Database) -> None:
    clock = SetClock()
    watch = watching(database, clock)
    await watch.look()
    await has(database, {"seen": NOW})
    clock.turn(FRESH_S - 0.1)
    await watch.look()
    assert watch.gauges.now is not None
    assert watch.gauges.now.fleet.talking == 0
    clock.turn(0.2)
    await watch.look()
    assert watch.gauges.now.fleet.talking == 1


async def test_where_the_ledger_cannot_be_read_old_figures_are_not_told(tmp_path: Path) -> None:
    await migrate(tmp_path / "ledger.db")
    database = await Database.open(tmp_path / "ledger.db")
    clock = SetClock()
    watch = watching(database, clock)
    try:
        await watch.look()
        async with database.write() as conn:
            await conn.exec_driver_sql("DROP TABLE quarantine")
        clock.turn(60)
        with pytest.raises(LedgerFault):
            await watch.look()
    finally:
        await database.close()
    registry = CollectorRegistry()
    registry.register(watch.gauges)
    text = generate_latest(registry).decode()
    assert "tillstream_server_ledger_readable 0.0" in text
    assert "fleet_tills" not in text


async def test_a_till_is_heard_and_falls_silent(server: Server) -> None:
    till = await server.till()
    assert await told(server, 'fleet_tills{state="unheard"}') == 1
    async with till.on_push() as pushes:
        await pushes.says(till.heartbeat(0, queued=4))
        server.clock.turn(FRESH_S + 1)
        while not await told(server, 'fleet_tills{state="talking"}'):
            server.clock.turn(FRESH_S + 1)
    assert await told(server, "fleet_queued_records") == 4
    assert await told(server, 'opening{state="unset"}') == 1
    server.clock.turn(301)
    assert await told(server, 'fleet_tills{state="silent"}') == 1
    assert await told(server, 'fleet_tills{state="talking"}') == 0


def test_no_label_names_a_till_a_place_or_a_person() -> None:
    registry = CollectorRegistry()
    Metrics(registry).know_currency("USD")
    labels = {label for family in registry.collect() for sample in family.samples for label in sample.labels}
    assert {"state", "version", "outcome", "kind", "currency"} <= labels
    assert not labels & {"till", "till_id", "store", "retailer", "member", "subject", "sku", "cashier", "operator"}


async def told(server: Server, series: str) -> float:
    """A series at the server's `/metrics`."""
    lines = (await server.get("/metrics")).body.decode().splitlines()
    (value,) = [line.rpartition(" ")[2] for line in lines if line.startswith(f"tillstream_server_{series} ")]
    return float(value)


async def test_a_ledger_that_fails_leaves_the_counters(server: Server) -> None:
    with closing(sqlite3.connect(server.folder.ledger)) as other:
        other.execute("DROP TABLE quarantine")
    reply = await server.get("/metrics")
    assert reply.status == 200
    assert b"tillstream_server_ledger_readable 0.0" in reply.body
    assert b"tillstream_server_heartbeats_total 0.0" in reply.body
    assert server.count("unexpected_errors_total") == 1
