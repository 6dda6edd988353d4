"""A sale's row says that it holds, and when and whose visit it counts: the rest is the ledger's."""

from __future__ import annotations

import hashlib
import sqlite3
from functools import lru_cache

import msgspec
import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_NARROWED = """
INSERT INTO sale
SELECT ledger_id, at_ms, CASE WHEN kind <> 'return' AND subject IS NOT NULL THEN member_number(subject) END,
    place_number(CASE WHEN EXISTS (SELECT 1 FROM duplicate d WHERE d.ledger_id = former.ledger_id)
        THEN (SELECT l.till_id FROM ledger l WHERE l.id = former.ledger_id) ELSE till_id END, store)
FROM former WHERE counted = 1
UNION ALL SELECT ledger_id, NULL, NULL, NULL FROM former WHERE counted <> 1 ORDER BY 1
"""
"""A content that came several times had the till of its rank; its place is that of the ledger's row."""
_WIDENED = """
INSERT INTO sale
SELECT l.id, l.retailer, l.idem, l.revision, l.captured_ms, l.seq, l.content, said(l.body, 'kind'), l.store, l.till_id,
    l.at_ms, l.business_date, l.currency, l.amount_minor, l.subject, l.training,
    EXISTS (SELECT 1 FROM voiding v WHERE v.retailer = l.retailer AND v.target = l.idem),
    s.counted_ms IS NOT NULL
FROM former s JOIN ledger l ON l.id = s.ledger_id ORDER BY 1
"""
_RANKED = """
UPDATE sale SET (captured_ms, seq, till_id) = (
    SELECT * FROM (
        SELECT d.captured_ms, d.seq, d.till_id FROM duplicate d WHERE d.ledger_id = sale.ledger_id
        UNION ALL SELECT sale.captured_ms, sale.seq, sale.till_id
    ) ORDER BY 1 DESC, 2 DESC, 3 DESC LIMIT 1
)
WHERE ledger_id IN (SELECT ledger_id FROM duplicate)
    AND (SELECT said(body, 'changed_at') IS NULL FROM ledger WHERE id = sale.ledger_id)
"""
"""A content has the highest of the ranks under which it came, unless the POS dates its changes."""


def upgrade() -> None:
    op.rename_table("sale", "former")
    op.create_table(
        "sale",
        sa.Column("ledger_id", sa.Integer(), nullable=False),
        sa.Column("counted_ms", sa.Integer(), nullable=True),
        sa.Column("member", sa.Integer(), nullable=True),
        sa.Column("place", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("ledger_id", name=op.f("pk_sale")),
    )
    _driver().create_function("member_number", 1, _member_number, deterministic=True)
    _driver().create_function("place_number", 2, _place_number, deterministic=True)
    op.execute(_NARROWED)
    op.drop_table("former")
    for name, *further in (("place", "counted_ms"), ("member",)):
        index = op.f("_".join(("ix_sale", name, *further)))
        op.create_index(index, "sale", [name, *further], sqlite_where=sa.text(f"{name} IS NOT NULL"))
    op.drop_index(op.f("ix_duplicate_ledger_id"), "duplicate")
    op.create_index(op.f("ix_duplicate_ledger_id_captured_ms_seq"), "duplicate", ["ledger_id", "captured_ms", "seq"])


def downgrade() -> None:
    op.drop_index(op.f("ix_duplicate_ledger_id_captured_ms_seq"), "duplicate")
    op.create_index(op.f("ix_duplicate_ledger_id"), "duplicate", ["ledger_id"])
    op.rename_table("sale", "former")
    op.create_table(
        "sale",
        sa.Column("ledger_id", sa.Integer(), nullable=False),
        sa.Column("retailer", sa.Text(), nullable=False),
        sa.Column("idem", sa.LargeBinary(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("captured_ms", sa.Integer(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("store", sa.Text(), nullable=False),
        sa.Column("till_id", sa.LargeBinary(), nullable=False),
        sa.Column("at_ms", sa.Integer(), nullable=False),
        sa.Column("business_date", sa.Text(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("amount_minor", sa.Integer(), nullable=False),
        sa.Column("subject", sa.LargeBinary(), nullable=True),
        sa.Column("training", sa.SmallInteger(), nullable=False),
        sa.Column("voided", sa.SmallInteger(), nullable=False),
        sa.Column("counted", sa.SmallInteger(), nullable=False),
        sa.PrimaryKeyConstraint("ledger_id", name=op.f("pk_sale")),
    )
    _driver().create_function("said", 2, _said, deterministic=True)
    op.execute(_WIDENED)
    op.execute(_RANKED)
    op.drop_table("former")
    op.create_index(op.f("ix_sale_at_ms"), "sale", ["at_ms"])
    counted = sa.text("counted = 1 AND subject IS NOT NULL")
    op.create_index(op.f("ix_sale_subject_at_ms"), "sale", ["subject", "at_ms"], sqlite_where=counted)


def _driver() -> sqlite3.Connection:
    driver = op.get_bind().connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    return driver


def _member_number(subject: bytes) -> int:
    return int.from_bytes(subject[:4], "big") >> 1


@lru_cache(maxsize=4_096)
def _place_number(till_id: bytes, store: str) -> int:
    return int.from_bytes(hashlib.blake2b(till_id + store.encode(), digest_size=8).digest(), "big") >> 1


def _said(body: bytes, name: str) -> str | int | None:
    said: dict[str, str | int | None] = msgspec.msgpack.decode(body)
    return said.get(name)
