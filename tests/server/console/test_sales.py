"""Sales of a day against others, in head office's time and in stores' own, live and for everybody at once."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from contextlib import AsyncExitStack, closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.consoles import Visitor, count_quarter, visitor
from support.serving import NOW, Server, sale, serving
from tillstream_server.console import figures
from tillstream_server.console.figures import Question, Sales, Sums
from tillstream_server.ledger.database import Database, migrate
from tillstream_server.ledger.quarters import pieces
from tillstream_server.users import UserRemove

HOUR_MS = 3_600_000
KOLKATA, BERLIN = ZoneInfo("Asia/Kolkata"), ZoneInfo("Europe/Berlin")


def ms(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def put(ledger: Path, *sold: tuple[str, str, int], offset_h: float = 0, currency: str = "EUR") -> None:
    """Sales by (instant, store, amount), as the projections hold them; stores' clocks are `offset_h` ahead of UTC."""
    with closing(sqlite3.connect(ledger)) as conn, conn:
        for text, store, amount in sold:
            at, local = ms(text), ms(text) + round(offset_h * HOUR_MS)
            count_quarter(conn, at, store, currency, 1, amount)
            conn.execute(
                "INSERT INTO sales_by_hour VALUES ('acme', ?, ?, ?, 1, ?, 1) ON CONFLICT DO UPDATE SET"
                " transactions = transactions + 1, amount_minor = amount_minor + excluded.amount_minor",
                (store, local - local % HOUR_MS, currency, amount),
            )


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger in which nothing was sold."""
    path = tmp_path_factory.mktemp("sales") / "ledger.db"
    asyncio.run(migrate(path))
    return path


@pytest.fixture
def ledger(empty: Path, tmp_path: Path) -> Path:
    """A copy to sell in."""
    path = tmp_path / "ledger.db"
    path.write_bytes(empty.read_bytes())
    return path


async def ask(path: Path, question: Question, now: str, zone: ZoneInfo = BERLIN) -> Sales:
    opened = await Database.open(path, readers=1)
    try:
        async with opened.read() as conn:
            return await figures.sales(conn, question, zone, ms(now))
    finally:
        await opened.close()


def office(day: str | None = None, store: str | None = None) -> Question:
    return Question("acme" if store else None, store, "office", date.fromisoformat(day) if day else None)


async def test_a_day_is_head_offices_own_to_the_minute_that_it_begins(ledger: Path) -> None:
    put(ledger, ("2026-06-01T18:29:59", "a", 1), ("2026-06-01T18:30:00", "a", 10), ("2026-06-02T18:29:59", "a", 100))
    put(ledger, ("2026-06-02T18:30:00", "a", 1000))
    found = await ask(ledger, office("2026-06-02"), "2026-06-20T00:00:00", KOLKATA)
    assert found.totals[0].whole[:2] == (Sums(2, 110), Sums(1, 1))
    assert not found.running


async def test_a_running_day_is_compared_with_the_same_span_of_the_others(ledger: Path) -> None:
    put(ledger, ("2026-06-09T08:00:00", "a", 5), ("2026-06-09T08:10:00", "a", 7), ("2026-06-09T08:16:00", "a", 2))
    put(ledger, ("2026-06-08T08:14:00", "a", 11), ("2026-06-08T08:15:00", "a", 100), ("2026-06-02T07:00:00", "a", 3))
    found = await ask(ledger, office(), "2026-06-09T08:20:00")
    total = found.totals[0]
    assert found.running
    assert found.until_ms == ms("2026-06-09T08:15:00")
    assert total.whole == (Sums(3, 14), Sums(2, 111), Sums(1, 3))
    assert total.part == (Sums(2, 12), Sums(1, 11), Sums(1, 3))
    assert found.begun == 11
    assert [hour for hour, sums in enumerate(total.hours) if any(one.transactions for one in sums)] == [9, 10]


async def test_days_on_which_clocks_change_are_whole(ledger: Path) -> None:
    put(ledger, *((f"2026-10-{24 + h // 24}T{h % 24:02}:30:00", "a", 1) for h in range(72)))
    found = await ask(ledger, office("2026-10-25"), "2026-11-20T00:00:00")
    assert found.totals[0].whole[:2] == (Sums(25, 25), Sums(22, 22))
    assert found.totals[0].hours[2][0] == Sums(2, 2)


@pytest.mark.parametrize(
    ("zone", "now", "early", "late", "days"),
    [
        ("America/Nuuk", "2026-03-30T00:20:00", "2026-03-29T00:30:00", "2026-03-29T01:05:00", (10, 1)),
        ("Pacific/Apia", "2011-12-30T16:00:00", "2011-12-30T09:30:00", "2011-12-30T12:00:00", (10, 0)),
        ("Africa/Monrovia", "1971-06-08T00:44:40", "1971-06-08T00:35:00", "1971-06-08T00:46:00", (10, 1)),
    ],
    ids=["a day without its last hour", "the day before was none", "a day that has just begun"],
)
async def test_a_time_that_a_day_does_not_have_leads_into_no_other_day(
    ledger: Path, zone: str, now: str, early: str, late: str, days: tuple[int, int]
) -> None:
    put(ledger, (early, "a", 1), (late, "a", 10))
    day = datetime.fromtimestamp(ms(now) / 1000, ZoneInfo(zone)).date().isoformat()
    found = await ask(ledger, office(day), now, ZoneInfo(zone))
    assert tuple(sums.amount for sums in found.totals[0].whole[:2]) == days


async def test_stores_days_are_their_own_and_each_is_compared_up_to_its_last_sale(ledger: Path) -> None:
    put(ledger, ("2026-06-09T23:30:00", "tokyo", 1), ("2026-06-08T23:30:00", "tokyo", 2), offset_h=9)
    put(ledger, ("2026-06-09T01:30:00", "tokyo", 40), offset_h=9)
    put(ledger, ("2026-06-10T14:30:00", "lima", 4), ("2026-06-09T14:45:00", "lima", 8), offset_h=-5)
    put(ledger, ("2026-06-09T15:45:00", "lima", 800), offset_h=-5)
    found = await ask(ledger, Question(None, None, "store", None), "2026-06-10T16:00:00")
    by_name = {one.store: one for one in found.stores}
    assert by_name["tokyo"].whole[:2] == [Sums(1, 1), Sums(2, 42)]
    assert by_name["tokyo"].part[:2] == [Sums(1, 1), Sums(1, 2)]
    assert by_name["lima"].whole[:2] == [Sums(1, 4), Sums(2, 808)]
    assert by_name["lima"].part[:2] == [Sums(1, 4), Sums(1, 8)]
    past = await ask(ledger, Question("acme", "lima", "store", date(2026, 6, 10)), "2026-06-20T00:00:00")
    assert past.totals[0].part[:2] == (Sums(1, 4), Sums(2, 808))


async def test_without_sales_today_the_latest_day_with_some_is_shown(ledger: Path) -> None:
    nothing = await ask(ledger, office(), "2026-06-09T12:00:00")
    assert (nothing.totals, nothing.day, nothing.passed_over) == ((), date(2026, 6, 9), False)
    put(ledger, ("2017-12-31T23:30:00", "a", 9))
    found = await ask(ledger, office(), "2026-06-09T12:00:00")
    assert (found.day, found.passed_over, found.totals[0].whole[0]) == (date(2018, 1, 1), True, Sums(1, 9))
    asked = await ask(ledger, office("2026-06-09"), "2026-06-09T12:00:00")
    assert (asked.totals, asked.passed_over) == ((), False)


@pytest.mark.parametrize("offset_h", [-18, 0, 5.75, 18])
async def test_a_store_that_has_not_sold_for_long_is_found_by_its_own_hours(ledger: Path, offset_h: float) -> None:
    hours = [f"2026-06-{day:02}T{hour:02}:00:00" for day in range(1, 9) for hour in range(24)]
    others = [(at, f"busy-{number}", 1) for at in hours for number in range(5)]
    put(ledger, *others)
    put(ledger, ("2026-01-02T23:45:00", "closed", 9), ("2026-06-09T12:15:00", "closed", 7), offset_h=offset_h)
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 1

    zone, now = ZoneInfo("UTC"), ms("2026-06-09T12:00:00")
    with closing(sqlite3.connect(ledger)) as conn:
        conn.set_progress_handler(count, 1)
        for store, day in (("closed", date(2026, 1, 2)), ("new", None)):
            reader = figures._Reader(conn, office(store=store), zone, now)
            assert reader._latest() == day
    assert steps < len(others) * 5, "the other stores' sales were read"
    found = await ask(ledger, Question("acme", None, "office", None), "2026-06-30T00:00:00")
    assert found.day == date(2026, 6, 9)


async def test_currencies_are_never_added(ledger: Path) -> None:
    put(ledger, ("2026-06-09T08:00:00", "a", 5), ("2026-06-09T08:00:00", "b", 6))
    put(ledger, ("2026-06-09T08:00:00", "a", 700), currency="JPY")
    found = await ask(ledger, office(), "2026-06-09T09:00:00")
    assert [(total.currency, total.stores, total.whole[0]) for total in found.totals] == [
        ("EUR", 2, Sums(2, 11)),
        ("JPY", 1, Sums(1, 700)),
    ]
    assert len(found.of("acme", "a")) == 2


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 14 * 96 - 1), st.sampled_from("abc"), st.integers(-50, 5000)), min_size=1, max_size=40
    ),
    st.sampled_from([BERLIN, KOLKATA, ZoneInfo("America/New_York"), ZoneInfo("Australia/Lord_Howe")]),
)
def test_what_is_shown_is_what_adding_every_sale_gives(
    empty: Path, tmp_path_factory: pytest.TempPathFactory, sold: list[tuple[int, str, int]], zone: ZoneInfo
) -> None:
    path = tmp_path_factory.mktemp("one") / "ledger.db"
    path.write_bytes(empty.read_bytes())
    begin = ms("2026-03-27T00:00:00")
    instants = [(begin + quarter * 900_000 + 60_000, store, amount) for quarter, store, amount in sold]
    put(
        path,
        *((datetime.fromtimestamp(at / 1000, UTC).isoformat()[:19], store, amount) for at, store, amount in instants),
    )
    day = date(2026, 4, 5)
    found = asyncio.run(ask(path, office(day.isoformat()), "2026-05-01T00:00:00", zone))
    for number, back in enumerate((0, 1, 7)):
        wanted = day - timedelta(days=back)
        amounts = [a for at, _, a in instants if datetime.fromtimestamp(at / 1000, zone).date() == wanted]
        shown = [total.whole[number] for total in found.totals]
        assert sum(shown, Sums()) == Sums(len(amounts), sum(amounts))
        hours = [sums[number] for total in found.totals for sums in total.hours]
        assert sum(hours, Sums()) == Sums(len(amounts), sum(amounts))


async def test_a_sale_is_on_every_page_that_it_belongs_on(server: Server, guest: Visitor) -> None:
    till = await server.till("till-1")
    await till.sends(sale(1, total=2500), sale(2, total=700))
    await guest.comes_in("ada", "admin")
    day = datetime.fromtimestamp(NOW / 1000, UTC).date()
    for path in ("/sales", "/sales?time=store", "/stores", f"/sales?day={day}", "/stores/acme/north"):
        words = (await guest.goes(path)).words.replace("\N{NO-BREAK SPACE}", " ")
        assert "32.00 USD" in words, path
        assert "as of" in words, path
    german = await guest.goes("/sales?store=north", **{"Accept-Language": "de"})
    assert "32,00 USD" in german.words.replace("\N{NO-BREAK SPACE}", " ")
    assert (await guest.goes("/stores/acme/nowhere")).status == 404
    for wrong in ("day=2026-02-30", "day=0001-01-01", "time=lunch"):
        assert (await guest.goes(f"/sales?{wrong}")).status == 400
    assert (await guest.goes("/stores?after=x")).status == 400


async def test_the_hour_that_runs_is_told_but_not_drawn_as_a_fall(server: Server, guest: Visitor) -> None:
    now = datetime.fromtimestamp(NOW / 1000, UTC)
    put(server.folder.ledger, *(((now - timedelta(hours=h)).isoformat()[:19], "a", 100 + h) for h in range(2)))
    await guest.comes_in("ada", "admin")
    rows = re.findall(
        r'<tr><th scope="row">(\d\d):00</th><td class="n"([^>]*)>(.*?)</td>', (await guest.goes("/sales")).text
    )
    assert rows[now.hour - 1][1:] == (' data-value="1.01"', "1.01")
    assert rows[now.hour][1:] == ("", '<span class="quiet">so far</span> 1.00')
    assert rows[now.hour + 1][1:] == ("", "–")


async def test_stores_are_paged_and_those_that_only_sales_name_are_among_them(server: Server, guest: Visitor) -> None:
    now = datetime.fromtimestamp(NOW / 1000, UTC).isoformat()[:19]
    put(server.folder.ledger, *((now, f"s{number:03}", 100) for number in range(60)))
    await server.till("till-1")
    await guest.comes_in("ada", "admin")
    first = await guest.goes("/stores")
    (further,) = [link for link in first.links("/stores?") if "after=" in link]
    second = await guest.goes(further)
    listed = [link for page in (first, second) for link in page.links("/stores/")]
    assert listed == ["/stores/acme/north", *(f"/stores/acme/s{number:03}" for number in range(60))]
    page = await guest.goes("/sales")
    assert "40 more" in page.words


async def test_fifty_who_watch_are_told_of_a_sale_by_one_query(server: Server, admin: Visitor) -> None:
    till = await server.till("till-1")
    cookies = {one.key: one.value for one in admin.http.cookie_jar}
    async with AsyncExitStack() as stack:
        streams = []
        for number in range(50):
            headers = {"Accept-Language": "de" if number % 2 else "en"}
            url = f"{server.address}/sales/stream"
            streams.append(await stack.enter_async_context(server.http.get(url, cookies=cookies, headers=headers)))
        assert {stream.headers["Content-Type"] for stream in streams} == {"text/event-stream"}
        for stream in streams:
            assert (await stream.content.readuntil(b"\n\n")).startswith(b"data: ")
        before = server.count("console_live_queries_total")
        await till.sends(sale(1, total=4321))
        for number, stream in enumerate(streams):
            wanted = "43,21" if number % 2 else "43.21"
            async with asyncio.timeout(20):
                while wanted not in (await stream.content.readuntil(b"\n\n")).decode():
                    pass
        assert 1 <= server.count("console_live_queries_total") - before <= 5
        await server.order(UserRemove("ada"))
    async with visitor(server) as nobody:
        assert (await nobody.goes("/sales/stream")).path == "/set-up"


async def test_who_watches_is_only_told_the_time_while_nothing_is_sold(server: Server, admin: Visitor) -> None:
    till = await server.till("till-1")
    await till.sends(sale(1, total=700))
    async with admin.http.get(f"{server.address}/sales/stream") as stream, asyncio.timeout(30):
        while b"7.00" not in await stream.content.readuntil(b"\n\n"):
            pass
        events = [await stream.content.readuntil(b"\n\n") for _ in range(3)]
        clock = datetime.fromtimestamp(NOW / 1000, UTC).strftime("%H:%M:%S").encode()
        for event in events:
            assert event.startswith(b"event: as-of\ndata: <time ")
            assert clock in event
        await till.sends(sale(2, total=4321))
        while not (event := await stream.content.readuntil(b"\n\n")).startswith(b"data: "):
            pass
        assert b"50.21" in event


async def test_answers_that_tell_the_same_are_one_however_often_it_is_asked(ledger: Path) -> None:
    put(ledger, ("2026-06-09T08:00:00", "a", 5))
    first = await ask(ledger, office(), "2026-06-09T09:01:00")
    first.texts["live", "en"] = b"made"
    again = (await ask(ledger, office(), "2026-06-09T09:02:00")).after(first)
    assert again.tells_what(first)
    assert (again.as_of_ms, again.texts) == (ms("2026-06-09T09:02:00"), {("live", "en"): b"made"})
    later = (await ask(ledger, office(), "2026-06-09T09:15:00")).after(again)
    assert not later.tells_what(again), "it is compared with another span"
    put(ledger, ("2026-06-02T08:00:00", "a", 5))
    other = (await ask(ledger, office(), "2026-06-09T09:15:00")).after(later)
    assert not other.tells_what(later)
    assert other.totals[0].whole[2] == Sums(1, 5)


@pytest.mark.parametrize(
    ("span", "found"),
    [
        ((0, 0), []),
        ((0, 8), [(0, 2, 0, 4)]),
        ((-3, 6), [(-1, 0, 1, 4), (0, 1, 0, 4), (1, 2, 0, 2)]),
        ((1, 3), [(0, 1, 1, 3)]),
        ((2, 4), [(0, 1, 2, 4)]),
        ((4, 6), [(1, 2, 0, 2)]),
        ((3, 3), []),
    ],
)
def test_a_span_is_read_by_whole_hours_and_the_quarters_at_its_ends(
    span: tuple[int, int], found: list[tuple[int, int, int, int]]
) -> None:
    made = pieces(span[0] * 900_000, span[1] * 900_000)
    assert [(p.from_ms // HOUR_MS, p.to_ms // HOUR_MS, p.quarters.start, p.quarters.stop) for p in made] == found


async def test_who_leaves_is_no_malformed_request(server: Server, admin: Visitor) -> None:
    address = f"{server.address}/sales/stream"
    async with admin.http.get(address) as left, admin.http.get(address) as stays:
        await left.content.readline()
        left.close()
        async with asyncio.timeout(30):
            for _ in range(3):
                await stays.content.readuntil(b"\n\n")
    assert server.count("malformed_requests_total") == 0
    assert server.logged("unexpected_error") == []


async def test_who_watches_keeps_no_server_from_stopping(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as running, visitor(running) as one:
        await one.comes_in("ada", "admin")
        stream = await one.http.get(f"{running.address}/sales/stream")
        await stream.content.readuntil(b"\n\n")
        began = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - began < 4.5, "it waited for the one who watched"
    stream.close()
