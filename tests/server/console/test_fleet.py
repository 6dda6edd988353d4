"""The fleet as head office sees it: every till in one state, lists that go on where they ended, and turning away."""

from __future__ import annotations

import asyncio
import csv
import io
import re
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from support.consoles import PASSWORD, Page, Visitor, visitor
from support.serving import NOW, Server, Till, sale, serving
from tillstream_protocol import versions
from tillstream_protocol.messages import Token
from tillstream_protocol.settings import SettingsReport
from tillstream_server.console import fleet, queries
from tillstream_server.console.fleet import LATELY_MS
from tillstream_server.console.queries import TillRow
from tillstream_server.ledger.database import LedgerFault
from tillstream_server.office_fleet import TillList
from tillstream_server.office_settings import ConfigSet
from tillstream_server.states import LAG_MS, SKEW_MS, heard_since_ms
from tillstream_server.users import UserCreate

SINCE = heard_since_ms(NOW, 300)
WELL = {"queued": 0, "lag": 0, "clock": 0, "seen": 0, "error": "", "dead": 0, "damaged": 0}
HEARTBEATS = {
    "well": WELL,
    "lagging": {**WELL, "queued": 3, "lag": LAG_MS + 1},
    "skewed": {**WELL, "clock": SKEW_MS + 1},
    "recovered": {**WELL, "error": "unreachable"},
    "refused": {**WELL, "dead": 1},
    "damaged": {**WELL, "damaged": 1},
    "silent": {**WELL, "seen": heard_since_ms(0, 300) - 1},
}
STATES = {
    "well": "well",
    "recovered": "well",
    "silent": "silent",
    **dict.fromkeys(("lagging", "skewed", "refused", "damaged"), "ill"),
}


def add_till(
    server: Server, till: str, heartbeat: str | None = "well", *, store: str = "north", version: str = "1.0"
) -> None:
    """A till as it would be after some time, beside those that the server knows."""
    till_id = f"{store}/{till}".encode().ljust(16, b"-")[-16:]
    with closing(sqlite3.connect(server.folder.ledger)) as conn, conn:
        conn.execute("INSERT OR IGNORE INTO store VALUES ('acme', ?, 0)", (store,))
        conn.execute("INSERT INTO till VALUES (?, 'acme', ?, ?, 0, NULL, 0)", (till_id, store, till))
        if heartbeat is not None:
            v = HEARTBEATS[heartbeat]
            seen = NOW + int(str(v["seen"]))
            row = (till_id, bytes(16), 9, v["queued"], v["lag"], 1, 2, 3, 2**30, seen + int(str(v["clock"])), version)
            conn.execute(
                "INSERT INTO till_status VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (*row, v["error"], seen, v["dead"], v["damaged"]),
            )


def named(page: Page) -> list[str]:
    """The tills of the list, in order."""
    return [link.rpartition("/")[2] for link in page.links("/tills/")]


async def as_rows(who: Visitor, query: str = "") -> list[dict[str, str]]:
    page = await who.goes(f"/fleet.csv{query}")
    assert page.headers["Content-Type"] == "text/csv; charset=utf-8"
    return list(csv.DictReader(io.StringIO(page.text)))


async def test_every_till_is_in_one_state_and_the_figures_add_up(server: Server, admin: Visitor) -> None:
    for name in HEARTBEATS:
        add_till(server, name, name)
    add_till(server, "unheard", None)
    add_till(server, "turned-away", "well")
    with closing(sqlite3.connect(server.folder.ledger)) as conn, conn:
        conn.execute("UPDATE till SET revoked_ms = 5 WHERE till = 'turned-away'")
    rows = await as_rows(admin)
    expected = {**STATES, "unheard": "new", "turned-away": "revoked"}
    assert {row["till"]: row["state"] for row in rows} == expected
    page = await admin.goes("/fleet")
    assert f"All tills {len(expected)}" in page.words
    counted = Counter(expected.values())
    for state, words in (("well", "Well"), ("ill", "Ill"), ("silent", "Silent"), ("revoked", "Revoked")):
        assert f"{words} {counted[state]} " in page.words
        assert sorted(named(await admin.goes(f"/fleet?state={state}"))) == sorted(
            name for name, its in expected.items() if its == state
        )
    assert [row["till"] for row in await as_rows(admin, "?state=new")] == ["unheard"]
    assert "Webhooks 0" in page.words
    assert named(await admin.goes("/fleet?state=source")) == []


async def test_one_stores_figures_and_the_whole_fleets_are_counted_alike(server: Server, admin: Visitor) -> None:
    for name in HEARTBEATS:
        add_till(server, name, name)
    with closing(sqlite3.connect(server.folder.ledger)) as conn, conn:
        conn.execute("UPDATE till SET revoked_ms = 5 WHERE till = 'silent'")
    with closing(sqlite3.connect(server.folder.ledger)) as conn:
        one = queries._counts(conn, "acme", "north", SINCE)
        whole = queries._counts(conn, None, None, SINCE)
        retailers = queries._counts(conn, "acme", None, SINCE)
    sums: list[Counter[tuple[str, str | None]]] = []
    for found in (one, whole, retailers):
        counter: Counter[tuple[str, str | None]] = Counter()
        for state, version, count in found:
            counter[state, version] += count
        sums.append(+counter)
    assert sums[0] == sums[1] == sums[2] == {("well", "1.0"): 2, ("ill", "1.0"): 4, ("revoked", "1.0"): 1}


async def test_filters_are_in_the_address_and_pages_go_on_where_they_ended(server: Server, admin: Visitor) -> None:
    for number in range(120):
        add_till(server, f"till-{number:03}", store=f"s{number % 2}", version=f"1.{number % 3}")
    seen: list[str] = []
    path = "/fleet"
    while path:
        page = await admin.goes(path)
        assert len(named(page)) <= 50
        seen += page.links("/tills/")
        nexts = [link for link in page.links("/fleet?") if "after=" in link]
        path = nexts[0] if nexts else ""
    assert len(seen) == len(set(seen)) == 120
    assert seen == sorted(seen)
    page = await admin.goes("/fleet?store=s1&version=1.2&name=till-0")
    assert named(page) == [f"till-{n:03}" for n in range(100) if n % 2 == 1 and n % 3 == 2]
    assert 'value="till-0"' in page.text
    part = await admin.goes("/fleet?store=s1", **{"HX-Request": "true"})
    assert part.text.startswith('<div id="tills">')
    whole = await admin.goes("/fleet?store=s1", **{"HX-Request": "true", "HX-History-Restore-Request": "true"})
    assert whole.text.startswith("<!doctype html>")


async def test_odd_names_are_shown_as_they_are_and_odd_questions_refused(server: Server, admin: Visitor) -> None:
    for query, field in (("bogus=1", "bogus"), ("state=purple", "state"), ("after=nowhere", "after")):
        page = await admin.goes(f"/fleet?{query}")
        assert page.status == 400
        assert field in page.words

    add_till(server, "=cmd()", store="first")
    assert [row["till"] for row in await as_rows(admin)] == ["'=cmd()"]
    add_till(server, 'a/b<i>"?&', store="x y/ä")
    (link,) = (await admin.goes("/fleet?name=a")).links("/tills/")
    page = await admin.goes(link)
    assert page.status == 200
    assert "<i>" not in page.text
    assert 'a/b<i>"?&' in page.words


async def as_a_proxy_of_old(admin: Visitor) -> bytes:
    """The list by HTTP/1.0, where the end of the connection is its end."""
    address = urlsplit(admin.server.address)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    cookies = "; ".join(f"{cookie.key}={cookie.value}" for cookie in admin.http.cookie_jar)
    writer.write(f"GET /fleet.csv HTTP/1.0\r\nCookie: {cookies}\r\n\r\n".encode())
    try:
        return await reader.read()
    finally:
        writer.close()


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("fault", [LedgerFault("the disk is gone"), RuntimeError("a defect")])
async def test_a_list_that_breaks_off_does_not_look_whole_to_who_downloads_it(
    server: Server, admin: Visitor, monkeypatch: pytest.MonkeyPatch, fault: Exception, *, old: bool
) -> None:
    for number in range(5):
        add_till(server, f"till-{number}")
    monkeypatch.setattr(fleet, "CSV_PAGE", 2)
    whole, pages = queries.tills, 0

    async def tills(*args: Any, **which: Any) -> list[TillRow]:
        nonlocal pages
        pages += 1
        if pages == 2:
            raise fault
        return await whole(*args, **which)

    monkeypatch.setattr(queries, "tills", tills)
    with pytest.raises(ConnectionResetError if old else aiohttp.ClientPayloadError):
        await (as_a_proxy_of_old(admin) if old else admin.goes("/fleet.csv"))
    assert [line["where"] for line in server.logged("unexpected_error")] == ["GET /fleet.csv"]
    pages = 2
    assert len(await as_rows(admin)) == 5, "and the next one is served"
    assert old is False or (await as_a_proxy_of_old(admin)).count(b"till-") == 5


async def test_a_till_shows_how_it_is_and_what_happened(server: Server, admin: Visitor) -> None:
    till = await server.till("t1")
    assert "It has never said how it is." in (await admin.goes("/tills/acme/north/t1")).words
    await till.sends(sale(1, total=1234))
    async with till.on_push() as pushes:
        await pushes.says(till.heartbeat(1))
        while (page := await admin.goes("/tills/acme/north/t1")).words.count("Well") == 0:
            pass
    assert till.device.key_id.hex() in page.text
    assert "12.34 USD" in page.words.replace("\N{NO-BREAK SPACE}", " ")
    for told in ("Device enrolled", "Agent started", "Last heard"):
        assert told in page.words


async def test_a_till_shows_what_it_is_set_to_from_afar_and_what_it_could_not_take(
    server: Server, admin: Visitor
) -> None:
    till = await server.till("t1")
    good = int((await server.order(ConfigSet("acme", {"display.language": "de"})))["version"])
    went = SettingsReport(good, good + 1, "rolled_back", "nothing <b>can be captured")
    async with till.on_push(subprotocols=versions.subprotocols()) as pushes, asyncio.timeout(10):
        await pushes.says(till.heartbeat(0, settings=went))
        while "Settings from head office" not in (page := await admin.goes("/tills/acme/north/t1")).words:
            await asyncio.sleep(0.05)
    assert f"Settings from head office Version {good} It was given version {good + 1}: rolled_back" in page.words
    assert ": nothing <b>can be captured" in page.words
    assert "display.language de" in page.words
    await server.till("t2")
    assert "Settings from head office" not in (await admin.goes("/tills/acme/north/t2")).words


async def test_a_till_is_turned_away_by_who_types_its_name_and_let_in_again(server: Server, admin: Visitor) -> None:
    await server.till("t1")
    address = "/tills/acme/north/t1"
    assert (await admin.fills(f"{address}/revoke", confirm="t2")).status == 400
    assert "Revoked" not in (await admin.goes(address)).words
    page = await admin.fills(f"{address}/revoke", confirm="t1")
    assert (page.status, page.path) == (200, address)
    assert "Revoked" in page.words
    assert [line["what"] for line in server.logged("done_in_console")] == ["till_revoke"]
    page = await admin.posts(f"{address}/allow-again", {"form_token": page.form_token})
    assert "Never heard" in page.words


async def test_who_was_not_let_in_is_listed_to_those_whose_store_it_is(server: Server, admin: Visitor) -> None:
    text = await server.token("till-1")
    await Till(server).enrols(text)
    for secret in (Token.parse(text).secret, Token.parse(text).secret, b"never made here!"):
        await Till(server).asks_in(secret)
    async with asyncio.timeout(10):
        while "token_unknown" not in (page := await admin.goes("/fleet")).words or "token_used" not in page.words:
            await asyncio.sleep(0.05)
    assert re.search(r"token_used north acme till-1 127\.0\.0\.1 0\.1\.0 test 2", page.words)
    assert "Somebody tried to enrol" in page.words
    server.clock.turn(LATELY_MS // 1000 + 1)
    await admin.signs_in("ada")
    page = await admin.goes("/fleet")
    assert "token_used" in page.words
    assert "Somebody tried to enrol" not in page.words
    for name, role, store, seen in (("nora", "manager", "north", True), ("sue", "manager", "south", False)):
        async with visitor(server) as other:
            await other.comes_in(name, role, "acme", store)
            words = (await other.goes("/fleet?store=north&retailer=acme")).words
            assert ("token_used" in words) == seen
            assert "token_unknown" not in words


async def test_each_role_sees_what_is_its_own(server: Server, guest: Visitor) -> None:
    add_till(server, "n1", store="north")
    add_till(server, "s1", store="south")
    for name, role, retailer, store in (
        ("manager", "manager", "acme", "north"),
        ("viewer", "viewer", None, None),
        ("other", "operator", "elsewhere", None),
    ):
        await server.order(UserCreate(name, role, retailer, store, PASSWORD))  # type: ignore[arg-type]
    await guest.signs_in("manager")
    assert named(await guest.goes("/fleet?store=south")) == ["n1"]
    assert [row["till"] for row in await as_rows(guest)] == ["n1"]
    assert (await guest.goes("/tills/acme/south/s1")).status == 404
    assert (await guest.goes("/stores/acme/south")).status == 404
    assert (await guest.goes("/stores/acme/north")).status == 200
    assert (await guest.goes("/stores")).links("/stores/") == ["/stores/acme/north"]
    assert (await guest.goes("/tills/acme/north/n1/revoke")).status == 403
    async with visitor(server) as viewer:
        await viewer.signs_in("viewer")
        assert (await viewer.goes("/fleet")).status == 403
        assert (await viewer.goes("/fleet.csv")).status == 403
        assert (await viewer.goes("/tills/acme/north/n1")).status == 403
        assert "/fleet" not in (await viewer.goes("/stores/acme/north")).text
    async with visitor(server) as other:
        await other.signs_in("other")
        assert named(await other.goes("/fleet?retailer=acme")) == []
        assert (await other.goes("/tills/acme/north/n1")).status == 404


async def test_the_command_the_console_and_the_metrics_call_the_same_tills_silent_by_one_setting(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path / "data", silent_seconds=60) as server, visitor(server) as admin:
        await admin.comes_in("ada", "admin")
        for name in ("well", "skewed"):
            add_till(server, name, name)
        for seconds, heard in ((60, {"well": "well", "skewed": "ill"}), (10, {"well": "silent", "skewed": "silent"})):
            server.clock.turn(seconds)
            listed = (await server.order(TillList()))["tills"]
            assert {row["till"]: row["state"] for row in listed} == heard
            assert {row["till"]: row["state"] for row in await as_rows(admin)} == heard
            silent = sum(state == "silent" for state in heard.values())
            metrics = (await server.get("/metrics")).body.decode()
            assert f'tillstream_server_fleet_tills{{state="silent"}} {silent}.0' in metrics
