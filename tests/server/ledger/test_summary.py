"""What was sold, and at how many tills: a summary tells what its sales add up to, though it hardly looks at them."""

from __future__ import annotations

import random
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from support.formats import bring_to
from support.pipelining import DAY, HOUR, NOW, Server, sale, server_at, void
from tillstream_protocol.transaction import Moment, Transaction
from tillstream_server.ledger import queries
from tillstream_server.ledger.quarters import QUARTER_MS
from tillstream_server.ledger.queries import Summary, instant_ms
from tillstream_server.ledger.sold import _PLACES, _SALES
from tillstream_server.pipeline.rebuild import rebuild

START = instant_ms("2026-09-21", "from")
FIRST, LAST = -62_135_596_800_000, 253_402_300_799_999
"""The first and the last instant that a sale may have."""
STORES = ("north", "south", "west")
TILLS = ("1", "2", "3", "4")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with server_at(tmp_path) as server:
        yield server


async def asks(server: Server, from_: str | None = None, to: str | None = None, store: str | None = None) -> Summary:
    async with server.database.read() as conn:
        return await queries.summary(conn, from_, to, store)


def iso(at_ms: int) -> str:
    """An instant as head office writes it."""
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=at_ms)).isoformat()


def sold(number: int, at_ms: int = START, **fields: object) -> Transaction:
    """A sale of a dollar, or what else is said."""
    price = fields.pop("price", 100)
    assert isinstance(price, int)
    return sale(str(number), price, end=Moment(at_ms), **fields)


async def test_what_counts_is_summed_by_currency(server: Server) -> None:
    await server.take(sold(1), sold(3, currency="EUR", price=7), sold(4, training=True), sold(5), void("v", "5"))
    await server.take(sold(2, kind="return", lines=(), tenders=(), total=-30, till="2"), till="2")
    summary = await asks(server)
    assert (summary["transactions"], summary["tills"]) == (3, 2)
    assert summary["amount_minor"] == {"EUR": 7, "USD": 70}


async def test_a_currency_whose_sales_come_to_nothing_is_named_and_one_without_sales_is_not(server: Server) -> None:
    await server.take(
        sold(1),
        sold(2, kind="return", lines=(), tenders=(), total=-100),
        sold(3, currency="EUR"),
        void("v", "3"),
        sold(4, START + QUARTER_MS, currency="CHF"),
    )
    assert (await asks(server))["amount_minor"] == {"CHF": 100, "USD": 0}
    assert (await asks(server, iso(START), iso(START + QUARTER_MS)))["amount_minor"] == {"USD": 0}


async def test_a_window_is_half_open_on_the_records_own_time(server: Server) -> None:
    await server.take(*(sold(n, START + at) for n, at in enumerate((-1, 0, DAY - 1, DAY))))
    assert (await asks(server, "2026-09-21", "2026-09-22"))["transactions"] == 2
    assert (await asks(server, "2026-09-21"))["transactions"] == 3
    assert (await asks(server, None, "2026-09-21"))["transactions"] == 1
    assert (await asks(server, "", ""))["transactions"] == 4


async def test_a_store_is_asked_for_by_name(server: Server) -> None:
    await server.take(sold(1), sold(2, store="south"))
    for store, transactions, tills in (("s1", 1, 1), ("south", 1, 1), ("nowhere", 0, 0), (None, 2, 1)):
        summary = await asks(server, store=store)
        assert (summary["transactions"], summary["tills"]) == (transactions, tills)


async def test_a_sale_that_several_tills_told_of_is_the_one_of_the_first(server: Server) -> None:
    for till in ("1", "2"):
        await server.take(sold(1), till=till)
    await server.take(void("v", "1"))
    assert (await asks(server))["tills"] == 0
    await server.take(void("v", "other", revision=1))
    await server.take(sold(2), till="1")
    assert (await asks(server))["tills"] == 1
    await rebuild(server.database)
    assert (await asks(server))["tills"] == 1


def told(dice: random.Random) -> tuple[str, Transaction]:
    """Something that a till tells: often of what was told before, now revised or voided."""
    till, number = dice.choice(TILLS), dice.randrange(150)
    at_ms = START + dice.choice((0, 1, 2, 9, 100, 3_000)) * QUARTER_MS + dice.choice((-1, 0, 1, dice.randrange(HOUR)))
    if dice.random() < 0.1:
        at_ms = dice.choice((FIRST, FIRST + HOUR, -DAY, -1, 0, 1, LAST - HOUR, LAST))
    fields = {"till": till, "store": dice.choice(STORES), "end": Moment(at_ms), "currency": dice.choice(("USD", "EUR"))}
    fields |= {"revision": dice.randrange(3), "training": dice.random() < 0.1}
    made = sale(str(number), dice.randrange(1, 5_000), **fields)
    match dice.randrange(8):
        case 0:
            made = void(f"v{number}", str(number), till=till)
        case 1:
            amount = -dice.randrange(5_000)
            made = sale(str(number), **fields, kind="return", lines=(), tenders=(), total=amount)
    return dice.choice(TILLS) if dice.random() < 0.1 else till, made


async def trade(server: Server, dice: random.Random) -> None:
    """Tills of two retailers, whose stores have the same names, tell of much in no order, some of it again."""
    for till in TILLS[2:]:
        device = server.till(till).device
        server.till(till).device = replace(device, retailer="other")
    everything: list[tuple[str, Transaction]] = []
    for _ in range(40):
        everything += (told(dice) for _ in range(8))
        records = [*everything[-8:], *((dice.choice(TILLS), body) for _, body in dice.choices(everything, k=2))]
        for till in TILLS:
            retailer = server.till(till).device.retailer
            mine = [msgspec.structs.replace(body, retailer=retailer) for by, body in records if by == till]
            if mine:
                await server.take(*mine, till=till)
    assert await server.rows("SELECT 1 FROM duplicate d JOIN ledger l ON l.id = ledger_id WHERE d.till_id <> l.till_id")


def windows(dice: random.Random) -> list[tuple[int, int, str | None]]:
    """Spans of every length, most of which cut quarters, for one store or all."""
    turns = [START + n * QUARTER_MS + ms for n in (-1, 0, 1, 2, 9, 100) for ms in (-1, 0, 1, dice.randrange(HOUR))]
    turns += [FIRST, FIRST + 7, -DAY - 1, -1, 0, 1, NOW + 900 * DAY, LAST - HOUR, LAST]
    found: list[tuple[int, int, str | None]] = []
    for _ in range(150):
        from_ms, to_ms = sorted(dice.choices(turns, k=2))
        found.append((from_ms, to_ms, dice.choice((None, *STORES, "nowhere"))))
    return found


@pytest.mark.parametrize("seed", range(3))
async def test_a_summary_is_what_its_sales_add_up_to(server: Server, seed: int) -> None:
    dice = random.Random(seed)
    await trade(server, dice)
    rows = await server.rows(COUNTED)
    assert len({row[:3] for row in rows}) == len(TILLS) * len(STORES) * 2
    for from_ms, to_ms, store in windows(dice):
        given = [row for row in rows if from_ms <= row[3] < to_ms and store in (None, row[0])]
        assert figures(await asks(server, iso(from_ms), iso(to_ms), store)) == plain_sums(given)
    for store in (None, *STORES):
        given = [row for row in rows if store in (None, row[0])]
        assert figures(await asks(server, None, None, store)) == plain_sums(given)


async def test_a_migrated_ledger_and_a_rebuilt_one_tell_the_same(tmp_path: Path) -> None:
    async with server_at(tmp_path) as server:
        await trade(server, random.Random(9))
        before = [await asks(server, *window) for window in SOME]
        await rebuild(server.database)
        assert [await asks(server, *window) for window in SOME] == before
        keys = server.keys
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as conn:
        rows = conn.execute("SELECT * FROM sale ORDER BY 1").fetchall()
    bring_to(tmp_path / "ledger.db", "0011", down=True)
    bring_to(tmp_path / "ledger.db", "head")
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as conn:
        assert conn.execute("SELECT * FROM sale ORDER BY 1").fetchall() == rows
    async with server_at(tmp_path, server_keys=keys) as server:
        assert [await asks(server, *window) for window in SOME] == before


@pytest.mark.parametrize("statement", [_PLACES, _SALES])
async def test_sales_are_sought_never_read_through(server: Server, statement: str) -> None:
    plan = [row[-1] for row in await server.rows(f"EXPLAIN QUERY PLAN {statement}", 0, 1, "[]")]
    assert [step for step in plan if step.startswith("SEARCH s USING") and "place=? AND counted_ms>?" in step]
    assert not [step for step in plan if step.startswith(("SCAN s", "SCAN l"))]


COUNTED = """
SELECT l.store, l.currency, l.till_id, s.counted_ms, l.amount_minor FROM sale s JOIN ledger l ON l.id = s.ledger_id
WHERE s.counted_ms IS NOT NULL
"""
SOME = [(None, None, None), (iso(START + 1), iso(START + DAY + 1), None), (iso(-1), None, "south")]


def plain_sums(rows: list[tuple[str, str, bytes, int, int]]) -> tuple[int, dict[str, int], int]:
    """Transactions, amounts by currency and tills, from the sales themselves."""
    amounts: Counter[str] = Counter()
    for _, currency, _, _, amount in rows:
        amounts[currency] += amount
    return len(rows), dict(amounts), len({till_id for _, _, till_id, _, _ in rows})


def figures(summary: Summary) -> tuple[int, dict[str, int], int]:
    return summary["transactions"], summary["amount_minor"], summary["tills"]
