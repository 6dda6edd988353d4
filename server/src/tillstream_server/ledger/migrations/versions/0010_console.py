"""Who may sign in to the console, and sales by the quarter of an hour, for head office's own days."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_QUARTERS = """
INSERT INTO sales_by_quarter (quarter_ms, retailer, store, currency, transactions, amount_minor)
SELECT at_ms - ((at_ms % 900000) + 900000) % 900000, retailer, store, currency, COUNT(*), SUM(amount_minor) FROM sale
WHERE counted = 1 GROUP BY 1, 2, 3, 4
"""


def upgrade() -> None:
    op.create_table(
        "sales_by_quarter",
        sa.Column("quarter_ms", sa.Integer(), nullable=False),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("retailer", "store", "currency")),
        sa.Column("transactions", sa.Integer(), nullable=False),
        sa.Column("amount_minor", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("quarter_ms", "retailer", "store", "currency", name=op.f("pk_sales_by_quarter")),
        sqlite_with_rowid=False,
    )
    op.execute(_QUARTERS)
    revoked = sa.text("revoked_ms IS NOT NULL")
    op.create_index("ix_till_revoked", "till", ["retailer", "store", "till"], sqlite_where=revoked)
    op.create_table(
        "console_user",
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("name", "role")),
        *(sa.Column(name, sa.Text(), nullable=True) for name in ("retailer", "store")),
        sa.Column("password", sa.Text(), nullable=False),
        sa.Column("created_ms", sa.Integer(), nullable=False),
        sa.Column("signed_in_ms", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_console_user")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "console_session",
        sa.Column("id_hash", sa.LargeBinary(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("form_token", sa.Text(), nullable=False),
        *(sa.Column(name, sa.Integer(), nullable=False) for name in ("created_ms", "expires_ms")),
        sa.ForeignKeyConstraint(
            ["name"], ["console_user.name"], name=op.f("fk_console_session_name"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id_hash", name=op.f("pk_console_session")),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_console_session_name"), "console_session", ["name"])
    op.create_index(op.f("ix_console_session_expires_ms"), "console_session", ["expires_ms"])


def downgrade() -> None:
    op.drop_index("ix_till_revoked", "till")
    for table in ("console_session", "console_user", "sales_by_quarter"):
        op.drop_table(table)
