"""Sources of webhooks, what they delivered, and the orders that they only named."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "source",
        _till_id(),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("kind", "name", "adapter", "url")),
        sa.Column("currency", sa.Text(), nullable=True),
        sa.Column("zone", sa.Text(), nullable=False),
        sa.Column("options", sa.Text(), nullable=False),
        sa.Column("secret", sa.LargeBinary(), nullable=False),
        sa.Column("former_secret", sa.LargeBinary(), nullable=True),
        sa.Column("former_until_ms", sa.Integer(), nullable=True),
        sa.Column("created_ms", sa.Integer(), nullable=False),
        sa.Column("revoked_ms", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(["till_id"], ["till.till_id"], name=op.f("fk_source_till_id")),
        sa.PrimaryKeyConstraint("till_id", name=op.f("pk_source")),
    )
    op.create_index(
        "uq_source_kind_name", "source", ["kind", "name"], unique=True, sqlite_where=sa.text("revoked_ms IS NULL")
    )
    op.create_table(
        "hook_event",
        _till_id(),
        sa.Column("event", sa.LargeBinary(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("received_ms", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["till_id"], ["till.till_id"], name=op.f("fk_hook_event_till_id")),
        sa.PrimaryKeyConstraint("till_id", "event", name=op.f("pk_hook_event")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "hinted_order",
        _till_id(),
        sa.Column("pos_id", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("location", sa.Text(), nullable=False),
        sa.Column("hinted_ms", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["till_id"], ["till.till_id"], name=op.f("fk_hinted_order_till_id")),
        sa.PrimaryKeyConstraint("till_id", "pos_id", name=op.f("pk_hinted_order")),
        sqlite_with_rowid=False,
    )


def _till_id() -> sa.Column[bytes]:
    return sa.Column("till_id", sa.LargeBinary(), nullable=False)


def downgrade() -> None:
    for table in ("hinted_order", "hook_event", "source"):
        op.drop_table(table)
