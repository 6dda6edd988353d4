"""Looking after a fleet: which tills there are and how they are, who was not let in, revoking and letting in again."""

from __future__ import annotations

import asyncio
import io
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from support.serving import Server, SetClock, Till, sale, serving
from tillstream_protocol import messages
from tillstream_protocol.errors import TillstreamError
from tillstream_protocol.messages import Token
from tillstream_server import fleet, office, office_fleet, states
from tillstream_server.events import Events, json_logger
from tillstream_server.fleet import Failure, Filter, Tries
from tillstream_server.gateway.failures import MAX_WAITING, Failures
from tillstream_server.ledger.database import Database, migrate
from tillstream_server.metrics import Metrics
from tillstream_server.states import heard_since_ms

NOW = 1_790_000_000_000
SINCE = heard_since_ms(NOW, 300)
PLACE = ("acme", "north", "till-1")


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    """Tills, one in each state."""
    path = tmp_path / "ledger.db"
    await migrate(path)
    tills = {"well": SINCE, "ill": NOW - 1, "silent": SINCE - 1, "new": None, "revoked": NOW - 1}
    with closing(sqlite3.connect(path)) as conn, conn:
        for number, (name, seen) in enumerate([*tills.items(), ("source", None)]):
            id_, store = bytes([number]) * 16, "north" if number % 2 else "south"
            revoked = NOW if name == "revoked" else None
            conn.execute("INSERT INTO till VALUES (?, 'acme', ?, ?, 0, ?, 0)", (id_, store, name, revoked))
            if seen is not None:
                waited = states.LAG_MS + (name == "ill")
                conn.execute(
                    "INSERT INTO till_status VALUES (?, x'00', 0, 1, ?, 1, 2, 3, 9, ?, ?, 'unreachable', ?, 0, 0)",
                    (id_, waited, seen, "1.1" if name == "well" else "1.0", seen),
                )
        conn.execute(
            "INSERT INTO source VALUES"
            " (?, 'square', 'square', 'square', '', NULL, 'UTC', '{}', x'', NULL, NULL, 0, NULL)",
            (bytes([5]) * 16,),
        )
    opened = await Database.open(path, readers=1)
    yield opened
    await opened.close()


async def names(database: Database, which: Filter, **page: object) -> list[object]:
    async with database.read() as conn:
        return [row["till"] for row in await fleet.search(conn, which, heard_since_ms=SINCE, **page)]  # type: ignore[arg-type]


async def test_each_till_is_in_one_state(database: Database) -> None:
    async with database.read() as conn:
        found = await fleet.search(conn, Filter(), heard_since_ms=SINCE)
        assert {row["till"]: row["state"] for row in found} == {state: state for state in states.STATES}
        assert await fleet.counts(conn, Filter(), heard_since_ms=SINCE) == dict.fromkeys(states.STATES, 1)


@pytest.mark.parametrize("state", states.STATES)
async def test_tills_are_found_by_their_state(database: Database, state: states.State) -> None:
    assert await names(database, Filter(state=state)) == [state]


async def test_tills_are_found_by_place_and_version_and_counted_by_them(database: Database) -> None:
    assert await names(database, Filter(version="1.1")) == ["well"]
    assert await names(database, Filter("acme", "north")) == ["ill", "new", "source"]
    assert await names(database, Filter("other")) == []
    async with database.read() as conn:
        assert await fleet.versions(conn, Filter(), heard_since_ms=SINCE) == {"1.0": 3, "1.1": 1}
        counted = await fleet.counts(conn, Filter(store="north"), heard_since_ms=SINCE)
    assert counted == {"revoked": 0, "source": 1, "new": 1, "silent": 0, "ill": 1, "well": 0}


async def test_pages_follow_each_other_without_gap_or_repeat(database: Database) -> None:
    first = await names(database, Filter(), limit=2)
    rest = await names(database, Filter(), after=bytes([1]) * 16)
    assert [*first, *rest] == ["well", "ill", "silent", "new", "revoked", "source"]


async def test_the_newest_failures_are_kept_and_no_more(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "MAX_FAILURES", 3)
    for number in range(5):
        async with database.write() as conn:
            await fleet.note_failures(conn, {Failure("token_used", f"10.0.0.{number}"): Tries(1, number, number)})
    async with database.write() as conn:
        await fleet.note_failures(conn, {Failure("token_used", "10.0.0.3"): Tries(4, 7, 9)})
        await fleet.note_failures(conn, {})
    async with database.read() as conn:
        kept = await fleet.failures(conn)
    assert [(row["address"], row["tries"], row["first_ms"], row["last_ms"]) for row in kept] == [
        ("10.0.0.3", 5, 3, 9),
        ("10.0.0.4", 1, 4, 4),
        ("10.0.0.2", 1, 2, 2),
    ]


async def test_what_strangers_make_up_pushes_out_nobody_whose_token_was_ours(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "MAX_FAILURES", 4)
    monkeypatch.setattr(fleet, "MAX_STRANGERS", 2)
    ours = Failure("token_used", "10.0.0.1", "acme", "north", "till-1")
    async with database.write() as conn:
        await fleet.note_failures(conn, {ours: Tries(1, 1, 1)})
        flood = {Failure("token_unknown", "10.6.6.6", agent_version=f"{n}"): Tries(1, n, n) for n in range(2, 9)}
        await fleet.note_failures(conn, flood)
    async with database.read() as conn:
        kept = await fleet.failures(conn)
    assert [row["last_ms"] for row in kept] == [8, 7, 1]


async def test_strangers_leave_room_for_others_while_they_wait_to_be_written(database: Database) -> None:
    waiting = Failures(database, SetClock(), Events(Metrics(CollectorRegistry()), json_logger(io.StringIO())))
    for number in range(2 * MAX_WAITING):
        waiting.note(Failure("token_unknown", "10.6.6.6", agent_version=f"{number}"))
    waiting.note(Failure("token_used", "10.0.0.1", "acme", "north", "till-1"))
    await waiting.flush()
    async with database.read() as conn:
        kept = await fleet.failures(conn)
        assert len(await fleet.failures(conn, retailer="acme")) == 1
    assert len(kept) == MAX_WAITING // 2 + 1


async def failed(server: Server, count: int, **which: Any) -> list[dict[str, object]]:
    """The failed enrolments, once there are so many."""
    async with asyncio.timeout(10):
        while True:
            found = (await server.order(office_fleet.FailedEnrolments(**which)))["failed_enrolments"]
            if len(found) >= count:
                return list(found)
            await asyncio.sleep(0.05)


async def test_who_was_not_let_in_is_listed_without_the_token(server: Server) -> None:
    text = await server.token("till-1")
    await Till(server).enrols(text)
    for _ in range(2):
        await Till(server).asks_in(Token.parse(text).secret)
    await Till(server).asks_in(b"never made here!")
    await server.send("POST", "/till/v1/enrol", b"\x93", {"Content-Type": messages.CONTENT_TYPE})
    found = await failed(server, 3)
    assert {row["code"] for row in found} == {"token_used", "token_unknown", "invalid_input"}
    (used,) = await failed(server, 1, retailer="acme", store="north")
    assert (used["till"], used["tries"], used["agent_version"], used["platform"]) == ("till-1", 2, "0.1.0", "test")
    assert used["address"] == "127.0.0.1"
    key = await server.key("operator")
    listed = (await server.get("/api/v1/tills/failed-enrolments?store=north", key)).json()["failed_enrolments"]
    assert listed == [used]
    secret = Token.parse(text).secret
    files = b"".join(path.read_bytes() for path in server.folder.root.glob("ledger.db*"))
    assert secret not in files
    assert secret.hex().encode() not in files


@pytest.mark.parametrize(("proxies", "address"), [("127.0.0.1", "203.0.113.9"), ("", "127.0.0.1")])
async def test_a_failed_enrolment_has_the_agents_address_behind_our_proxy_and_nobody_elses_word(
    tmp_path: Path, proxies: str, address: str
) -> None:
    async with serving(tmp_path / "data", proxies=proxies) as server:
        said = {"Content-Type": messages.CONTENT_TYPE, "X-Forwarded-For": "192.0.2.1, 203.0.113.9"}
        await server.send("POST", "/till/v1/enrol", b"\x93", said)
        (failure,) = await failed(server, 1)
    assert failure["address"] == address


async def test_everything_of_one_till_is_shown(server: Server) -> None:
    till = await server.till("till-1")
    shown = await server.order(office_fleet.TillShow(*PLACE))
    assert (shown["state"], shown["connected"], shown["quarantine"]["batches"]) == ("new", False, 0)
    async with till.on_push():
        async with asyncio.timeout(10):
            while not (await server.order(office_fleet.TillShow(*PLACE)))["connected"]:
                await asyncio.sleep(0.02)
    key = await server.key("operator")
    again = (await server.get("/api/v1/tills/one?retailer=acme&store=north&till=till-1", key)).json()
    (device,) = again["devices"]
    assert (device["key_id"], device["speaks"], device["until_ms"]) == (till.device.key_id.hex(), True, None)
    counted = (await server.get("/api/v1/tills/counts", key)).json()
    assert (counted["states"]["new"], counted["versions"]) == (1, {})
    with pytest.raises(TillstreamError, match="no till"):
        await server.order(office_fleet.TillShow("acme", "north", "nowhere"))


async def test_letting_a_till_in_again_takes_what_it_sent_meanwhile_or_leaves_it_there(server: Server) -> None:
    till = await server.till("till-1")
    await server.order(office_fleet.TillRevoke(*PLACE))
    await till.uploads(till.batch(sale(1)))
    held = await server.order(office_fleet.TillAllowAgain(*PLACE, hold=True))
    assert (held["released"], held["quarantine"]["batches"]) == (0, 1)
    released = await server.order(office_fleet.TillAllowAgain(*PLACE))
    assert (released["released"], released["quarantine"]["batches"]) == (1, 0)
    key = await server.key()
    assert (await server.get("/api/v1/ledger/summary", key)).json()["transactions"] == 1
    assert (await server.order(office.QuarantineList()))["quarantine"] == []
