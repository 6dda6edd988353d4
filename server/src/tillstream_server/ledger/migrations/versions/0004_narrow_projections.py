"""What every sale writes is stored in the order it comes, or under a short key: sales by ledger id, products by day."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_SALE = (
    "ledger_id, retailer, idem, revision, captured_ms, seq, content, kind, store, till_id, at_ms, business_date,"
    " currency, amount_minor, subject, training, voided, counted"
)
_DAYS = "SELECT DISTINCT retailer, business_date, store, currency FROM products_by_day"
_PRODUCTS = """
INSERT INTO products_by_day_new (day, sku, quantity_micro, amount_minor, lines)
SELECT d.id, p.sku, p.quantity_micro, p.amount_minor, p.lines FROM products_by_day p
JOIN product_day d USING (retailer, business_date, store, currency)
"""
_PRODUCTS_BACK = """
INSERT INTO products_by_day_new
    (retailer, business_date, store, sku, currency, quantity_micro, amount_minor, lines)
SELECT d.retailer, d.business_date, d.store, p.sku, d.currency, p.quantity_micro, p.amount_minor, p.lines
FROM products_by_day p JOIN product_day d ON d.id = p.day
"""


def upgrade() -> None:
    _remake_sale(sa.PrimaryKeyConstraint("ledger_id", name=op.f("pk_sale")))
    op.create_table(
        "product_day",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("retailer", sa.Text(), nullable=False),
        sa.Column("business_date", sa.Text(), nullable=False),
        sa.Column("store", sa.Text(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_product_day")),
        sa.UniqueConstraint(
            "retailer",
            "business_date",
            "store",
            "currency",
            name=op.f("uq_product_day_retailer_business_date_store_currency"),
        ),
    )
    conn = op.get_bind()
    for names in conn.exec_driver_sql(_DAYS).all():
        conn.exec_driver_sql("INSERT INTO product_day VALUES (?, ?, ?, ?, ?)", (_day_id(names), *names))
    day, sku = sa.Column("day", sa.Integer(), nullable=False), sa.Column("sku", sa.Text(), nullable=False)
    _remake_products([day, sku], ("day", "sku"), _PRODUCTS)


def downgrade() -> None:
    names = ("retailer", "business_date", "store", "sku", "currency")
    _remake_products([sa.Column(name, sa.Text(), nullable=False) for name in names], names, _PRODUCTS_BACK)
    op.drop_table("product_day")
    _remake_sale(sa.PrimaryKeyConstraint("retailer", "idem", name=op.f("pk_sale")), sqlite_with_rowid=False)


def _day_id(names: Sequence[Any]) -> int:
    named = "\0".join(names).encode()
    return int.from_bytes(hashlib.blake2b(named, digest_size=8).digest(), "big") >> 1


def _remake_products(key: Sequence[sa.Column[Any]], names: Sequence[str], fill: str) -> None:
    op.create_table(
        "products_by_day_new",
        *key,
        sa.Column("quantity_micro", sa.Integer(), nullable=False),
        sa.Column("amount_minor", sa.Integer(), nullable=False),
        sa.Column("lines", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint(*names, name=op.f("pk_products_by_day")),
        sqlite_with_rowid=False,
    )
    op.execute(fill)
    op.drop_table("products_by_day")
    op.rename_table("products_by_day_new", "products_by_day")


def _remake_sale(key: sa.PrimaryKeyConstraint, **options: Any) -> None:
    op.create_table(
        "sale_new",
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
        key,
        **options,
    )
    op.execute(f"INSERT INTO sale_new ({_SALE}) SELECT {_SALE} FROM sale ORDER BY ledger_id")  # noqa: S608
    op.drop_table("sale")
    op.rename_table("sale_new", "sale")
    op.create_index(op.f("ix_sale_at_ms"), "sale", ["at_ms"])
    counted = sa.text("counted = 1 AND subject IS NOT NULL")
    op.create_index(op.f("ix_sale_subject_at_ms"), "sale", ["subject", "at_ms"], sqlite_where=counted)
