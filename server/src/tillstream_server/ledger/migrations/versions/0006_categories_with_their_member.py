"""A member's categories lie in the member's row, since every sale changes both."""

from __future__ import annotations

import msgspec
import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_GATHER = """
UPDATE member_stats SET categories = (
    SELECT json_group_object(category, json_array(lines, amount_minor)) FROM (
        SELECT category, lines, amount_minor FROM member_category c
        WHERE c.subject = member_stats.subject AND c.currency = member_stats.currency ORDER BY category
    )
)
"""
_READ = "SELECT subject, currency, categories FROM member_stats"
_SCATTER = "INSERT INTO member_category (subject, category, currency, lines, amount_minor) VALUES (?, ?, ?, ?, ?)"


def upgrade() -> None:
    op.add_column("member_stats", sa.Column("categories", sa.Text(), nullable=False, server_default=sa.text("'{}'")))
    op.execute(_GATHER)
    op.drop_table("member_category")


def downgrade() -> None:
    op.create_table(
        "member_category",
        sa.Column("subject", sa.LargeBinary(), nullable=False),
        sa.Column("category", sa.Text(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("lines", sa.Integer(), nullable=False),
        sa.Column("amount_minor", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("subject", "category", "currency", name=op.f("pk_member_category")),
        sqlite_with_rowid=False,
    )
    conn = op.get_bind()
    for subject, currency, categories in conn.exec_driver_sql(_READ).all():
        # SQLite's json_each ends a name at its first NUL; names from a POS may hold one
        rows = [(subject, name, currency, *sums) for name, sums in msgspec.json.decode(categories).items()]
        if rows:
            conn.exec_driver_sql(_SCATTER, rows)
    op.drop_column("member_stats", "categories")
