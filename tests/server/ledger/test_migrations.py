"""A database of an earlier version keeps what it holds."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from support.campaigning import campaign
from support.formats import bring_to
from support.pipelining import DAY, NOW, Server, member, sale, server_at, void
from tillstream_protocol.codec import encode
from tillstream_protocol.events import Record
from tillstream_protocol.transaction import Moment
from tillstream_server.campaigns.book import _OTHERS
from tillstream_server.ledger import gaps
from tillstream_server.ledger.database import Database, migrate
from tillstream_server.pipeline.members import read
from tillstream_server.pipeline.projections import day_id
from tillstream_server.pipeline.rebuild import rebuild

TILL, FIRST, SECOND, THIRD = (name * 16 for name in (b"t", b"1", b"2", b"3"))


@pytest.fixture
def former(tmp_path: Path) -> Path:
    """A ledger of the first version with a till, its status and three epochs."""
    path = tmp_path / "ledger.db"
    bring_to(path, "0001")
    with closing(sqlite3.connect(path)) as conn, conn:
        conn.execute("INSERT INTO till VALUES (?, 'acme', 's', '1', 0, NULL, 0)", (TILL,))
        conn.execute("INSERT INTO till_status VALUES (?, ?, 4, 0, 0, 1, 2, 3, 9, 0, '0.1.0', '', 5)", (TILL, SECOND))
        conn.executemany(
            "INSERT INTO epoch VALUES (?, ?, ?, ?, ?)",
            [(TILL, FIRST, bytes(16), 0, 10), (TILL, SECOND, FIRST, 6, 20), (TILL, THIRD, SECOND, 4, 30)],
        )
        conn.executemany("INSERT INTO received VALUES (?, ?, ?, ?)", [(TILL, FIRST, 0, 3), (TILL, SECOND, 0, 3)])
    return path


async def test_what_was_known_before_is_known_after(former: Path) -> None:
    await migrate(former)
    opened = await Database.open(former, readers=1)
    try:
        async with opened.read() as conn:
            status = await conn.exec_driver_sql(
                "SELECT position, seen_ms, dead_letters, damaged_files FROM till_status"
            )
            assert [tuple(row) for row in status] == [(4, 5, 0, 0)]
            epochs = await conn.exec_driver_sql("SELECT epoch, parent, device_key_id FROM epoch ORDER BY first_seen_ms")
            assert [tuple(row) for row in epochs] == [
                (FIRST, bytes(16), None),
                (SECOND, FIRST, None),
                (THIRD, SECOND, None),
            ]
    finally:
        await opened.close()


async def test_the_places_that_epochs_named_are_signed_for(former: Path) -> None:
    await migrate(former)
    opened = await Database.open(former, readers=1)
    try:
        async with opened.read() as conn:
            found = [
                (gap.epoch, gap.range.first, gap.range.last, gap.since_ms) for gap in await gaps.of_till(conn, TILL)
            ]
        assert found == [(FIRST, 4, 5, 20)]
    finally:
        await opened.close()


async def test_a_tills_quarantine_is_found_by_the_till(former: Path) -> None:
    with closing(sqlite3.connect(former)) as conn, conn:
        conn.executemany(
            "INSERT INTO quarantine (till_id, reason, digest, body, received_ms) VALUES (?, 'revoked', ?, x'00', 0)",
            [(TILL, b"1"), (b"u" * 16, b"2")],
        )
    await migrate(former)
    with closing(sqlite3.connect(former)) as conn:
        assert conn.execute("SELECT COUNT(*) FROM quarantine WHERE till_id = ?", (TILL,)).fetchone() == (1,)
        plan = conn.execute(
            "EXPLAIN QUERY PLAN SELECT COALESCE(SUM(LENGTH(body)), 0) FROM quarantine WHERE till_id = ?", (TILL,)
        ).fetchall()
    assert ["INDEX ix_quarantine_till_id" in row[3] for row in plan] == [True]


SALE = (
    "INSERT INTO sale (retailer, idem, ledger_id, revision, captured_ms, seq, content, kind, store, till_id, at_ms,"
    " business_date, currency, amount_minor, training, voided, counted)"
    " VALUES ('acme', ?, ?, 0, 1, 2, x'00', 'sale', 's', x'01', 3, '2026-09-20', 'USD', ?, 0, 0, 1)"
)
PRODUCT = "INSERT INTO products_by_day VALUES ('acme', ?, 's', ?, 'USD', 1000000, ?, 1)"
SOLD = [("2026-09-20", "x", 100), ("2026-09-21", "x", 5), ("2026-09-21", "y", 6)]
PRODUCTS = "SELECT business_date, sku, amount_minor FROM products_by_day JOIN product_day ON id = day ORDER BY 1, 2"
WIDE = """
SELECT kind, captured_ms, seq, at_ms, amount_minor, subject IS NOT NULL, training, voided, counted FROM sale
ORDER BY ledger_id
"""
ALIKE = """
SELECT COUNT(*) FROM sale s JOIN ledger l ON l.id = s.ledger_id
WHERE (s.retailer, s.idem, s.content, s.revision, s.store, s.at_ms, s.business_date, s.currency)
    = (l.retailer, l.idem, l.content, l.revision, l.store, l.at_ms, l.business_date, l.currency)
    AND s.subject IS l.subject
"""
SALES = "SELECT idem, ledger_id, amount_minor, counted FROM sale ORDER BY ledger_id"


def test_projections_hold_what_they_held_under_the_keys_that_a_rebuild_gives(former: Path) -> None:
    with closing(sqlite3.connect(former)) as conn, conn:
        conn.executemany(SALE, [(b"b", 2, 100), (b"a", 1, 200)])
        conn.executemany(PRODUCT, SOLD)
    bring_to(former, "0004")
    with closing(sqlite3.connect(former)) as conn:
        assert conn.execute(SALES).fetchall() == [(b"a", 1, 200, 1), (b"b", 2, 100, 1)]
        days = conn.execute("SELECT id, retailer, business_date, store, currency FROM product_day").fetchall()
        assert sorted(names for _, *names in days) == [
            ["acme", "2026-09-20", "s", "USD"],
            ["acme", "2026-09-21", "s", "USD"],
        ]
        assert [id_ for id_, *_ in days] == [day_id(*names) for _, *names in days]
        assert conn.execute(PRODUCTS).fetchall() == SOLD
    bring_to(former, "0003", down=True)
    with closing(sqlite3.connect(former)) as conn:
        assert conn.execute(SALES).fetchall() == [(b"a", 1, 200, 1), (b"b", 2, 100, 1)]
        former_products = conn.execute("SELECT business_date, sku, amount_minor FROM products_by_day ORDER BY 1, 2")
        assert former_products.fetchall() == SOLD


STATS = "INSERT INTO member_stats VALUES (?, ?, 'acme', 2, 2, 1500, 20)"
CATEGORY = "INSERT INTO member_category VALUES (?, ?, ?, ?, ?)"
BOUGHT = [
    (b"m", "FOOD", "EUR", 3, 1200),
    (b"m", "HOME\0GARDEN", "EUR", 2, 400),
    (b"m", "HOME\0KITCHEN", "EUR", 1, 100),
    (b"m", 'HOME "&"', "EUR", 1, 300),
    (b"m", "FOOD", "USD", 2, 700),
]


def test_a_members_categories_come_to_lie_in_the_members_row_and_out_of_it_again(former: Path) -> None:
    bring_to(former, "0005")
    with closing(sqlite3.connect(former)) as conn, conn:
        conn.executemany(STATS, [(b"m", "EUR"), (b"m", "USD"), (b"n", "EUR")])
        conn.executemany(CATEGORY, BOUGHT)
    bring_to(former, "0006")
    with closing(sqlite3.connect(former)) as conn:
        rows = conn.execute("SELECT * FROM member_stats ORDER BY subject, currency").fetchall()
    members = read([(row[0], row[1], *row[3:]) for row in rows], (), set())
    assert members[b"m"].purses["EUR"].categories == {
        "FOOD": [3, 1200],
        'HOME "&"': [1, 300],
        "HOME\0GARDEN": [2, 400],
        "HOME\0KITCHEN": [1, 100],
    }
    assert members[b"m"].purses["USD"].categories == {"FOOD": [2, 700]}
    assert members[b"n"].purses["EUR"].categories == {}
    assert [row[3:] for row in rows] == [
        members[subject].purses[currency].row() for subject, currency in ((b"m", "EUR"), (b"m", "USD"), (b"n", "EUR"))
    ]
    bring_to(former, "0005", down=True)
    with closing(sqlite3.connect(former)) as conn:
        assert conn.execute("SELECT * FROM member_category ORDER BY currency, category").fetchall() == BOUGHT
        assert conn.execute("SELECT count(*) FROM member_stats").fetchone() == (3,)


async def test_campaigns_of_before_say_how_much_of_a_pack_they_take(former: Path) -> None:
    bodies = [campaign("a", version=1), campaign("a", version=2), campaign("ü", valid_for_s=90)]
    bring_to(former, "0006")
    with closing(sqlite3.connect(former)) as conn, conn:
        conn.executemany(
            "INSERT INTO campaign VALUES ('acme', ?, ?, ?, ?, 0)",
            [(one.id, one.version, msgspec.json.encode(one), index > 0) for index, one in enumerate(bodies)],
        )
    await migrate(former)
    with closing(sqlite3.connect(former)) as conn:
        sizes = conn.execute("SELECT size FROM campaign ORDER BY rowid").fetchall()
        assert sizes == [(len(encode(one)),) for one in bodies]
        plan = conn.execute(f"EXPLAIN QUERY PLAN {_OTHERS}", ("acme", "a")).fetchall()
    assert ["COVERING INDEX ix_campaign_retailer_active_id_size" in row[3] for row in plan] == [True]
    bring_to(former, "0006", down=True)
    with closing(sqlite3.connect(former)) as conn:
        assert conn.execute("SELECT count(*) FROM campaign").fetchone() == (3,)


def test_sales_of_before_are_counted_by_the_quarter_of_an_hour(former: Path) -> None:
    with closing(sqlite3.connect(former)) as conn, conn:
        conn.executemany(SALE, [(b"a", 1, 200), (b"b", 2, 100), (b"c", 3, 40)])
        conn.execute("UPDATE sale SET at_ms = 900000 WHERE idem = x'62'")
        conn.execute("UPDATE sale SET at_ms = -1 WHERE idem = x'63'")
    bring_to(former, "0011")
    with closing(sqlite3.connect(former)) as conn:
        found = conn.execute("SELECT * FROM sales_by_quarter ORDER BY hour_ms").fetchall()
    assert found == [
        (-3600000, "acme", "s", "USD", 0, 0, 0, 0, 0, 0, 1, 40),
        (0, "acme", "s", "USD", 1, 200, 1, 100, 0, 0, 0, 0),
    ]
    bring_to(former, "0010", down=True)
    with closing(sqlite3.connect(former)) as conn:
        found = conn.execute("SELECT * FROM sales_by_quarter ORDER BY quarter_ms").fetchall()
    assert found == [
        (-900000, "acme", "s", "USD", 1, 40),
        (0, "acme", "s", "USD", 1, 200),
        (900000, "acme", "s", "USD", 1, 100),
    ]


async def trade(server: Server) -> None:
    """Revisions, a void, a return, training, a sale that three tills told of, and one whose changes are dated."""
    await server.take(
        *(sale(str(i), 100, customer=member(str(i % 3)), end=Moment(NOW + i * DAY)) for i in range(6)),
        sale("3", 70, revision=1, customer=member("9")),
        sale("back", kind="return", lines=(), total=-40, customer=member("1")),
        sale("training", training=True, customer=member("1")),
        void("v", "4"),
    )
    for name, second in (("2", 9), ("3", 5)):
        await server.take(
            Record(sale("5", 100, customer=member("2"), end=Moment(NOW + 5 * DAY)), NOW + second), till=name
        )
        await server.take(Record(sale("dated", changed_at=NOW), NOW + second), till=name)


async def test_a_sales_row_becomes_narrow_and_wide_again(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    async with server_at(tmp_path) as server:
        await trade(server)
    with closing(sqlite3.connect(path)) as conn:
        narrow = conn.execute("SELECT * FROM sale ORDER BY ledger_id").fetchall()
    bring_to(path, "0011", down=True)
    with closing(sqlite3.connect(path)) as conn:
        wide = conn.execute(WIDE).fetchall()
        assert conn.execute(ALIKE).fetchone() == (len(wide),)
    assert wide == [
        ("sale", NOW, 0, NOW, 100, 1, 0, 0, 1),
        ("sale", NOW, 1, NOW + DAY, 100, 1, 0, 0, 1),
        ("sale", NOW, 2, NOW + 2 * DAY, 100, 1, 0, 0, 1),
        ("sale", NOW, 4, NOW + 4 * DAY, 100, 1, 0, 1, 0),
        ("sale", NOW + 9, 0, NOW + 5 * DAY, 100, 1, 0, 0, 1),
        ("sale", NOW, 6, NOW, 70, 1, 0, 0, 1),
        ("return", NOW, 7, NOW, -40, 1, 0, 0, 1),
        ("sale", NOW, 8, NOW, 1000, 1, 1, 0, 0),
        ("void", NOW, 9, NOW, 0, 0, 0, 0, 0),
        ("sale", NOW + 9, 1, NOW, 1000, 0, 0, 0, 1),
    ]
    await migrate(path)
    with closing(sqlite3.connect(path)) as conn:
        assert conn.execute("SELECT * FROM sale ORDER BY ledger_id").fetchall() == narrow
    opened = await Database.open(path, readers=1)
    try:
        await rebuild(opened)
    finally:
        await opened.close()
    with closing(sqlite3.connect(path)) as conn:
        assert conn.execute("SELECT * FROM sale ORDER BY ledger_id").fetchall() == narrow


def test_and_back_again(former: Path) -> None:
    bring_to(former, "head")
    bring_to(former, "0001", down=True)
    with closing(sqlite3.connect(former)) as conn:
        assert conn.execute("SELECT count(*) FROM epoch").fetchone() == (3,)
        tables = {name for (name,) in conn.execute("SELECT name FROM sqlite_master")}
    assert not tables & {"lost", "alarm", "high_water"}
