"""What tills say they have lost, how far their epochs went, and what in their histories does not fit together."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_PARENTS = """
INSERT INTO high_water (till_id, epoch, position, at_ms)
SELECT till_id, parent, MAX(parent_position), MIN(first_seen_ms) FROM epoch
WHERE parent <> zeroblob(16) GROUP BY till_id, parent
"""


def upgrade() -> None:
    op.add_column("till_status", sa.Column("dead_letters", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("till_status", sa.Column("damaged_files", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("epoch", sa.Column("device_key_id", sa.LargeBinary(), nullable=True))
    op.create_table(
        "high_water",
        sa.Column("till_id", sa.LargeBinary(), nullable=False),
        sa.Column("epoch", sa.LargeBinary(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("at_ms", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("till_id", "epoch", name=op.f("pk_high_water")),
        sqlite_with_rowid=False,
    )
    op.execute(_PARENTS)
    _create_alarm()
    _create_lost()


def _create_alarm() -> None:
    op.create_table(
        "alarm",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("till_id", sa.LargeBinary(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("epoch", sa.LargeBinary(), nullable=False),
        sa.Column("other", sa.LargeBinary(), nullable=False),
        sa.Column("first_seq", sa.Integer(), nullable=False),
        sa.Column("last_seq", sa.Integer(), nullable=True),
        sa.Column("first_seen_ms", sa.Integer(), nullable=False),
        sa.Column("settled_ms", sa.Integer(), nullable=True),
        sa.Column("note", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alarm")),
        sa.UniqueConstraint(
            "till_id", "kind", "epoch", "other", "first_seq", name=op.f("uq_alarm_till_id_kind_epoch_other_first_seq")
        ),
    )
    op.create_index("ix_alarm_open", "alarm", ["till_id"], sqlite_where=sa.text("settled_ms IS NULL"))


def _create_lost() -> None:
    op.create_table(
        "lost",
        sa.Column("ledger_id", sa.Integer(), nullable=False),
        sa.Column("till_id", sa.LargeBinary(), nullable=False),
        sa.Column("epoch", sa.LargeBinary(), nullable=False),
        sa.Column("first_seq", sa.Integer(), nullable=False),
        sa.Column("last_seq", sa.Integer(), nullable=True),
        sa.Column("chunk", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["ledger_id"], ["ledger.id"], name=op.f("fk_lost_ledger_id")),
        sa.PrimaryKeyConstraint("ledger_id", name=op.f("pk_lost")),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_lost_till_id_epoch"), "lost", ["till_id", "epoch"])


def downgrade() -> None:
    op.drop_table("lost")
    op.drop_table("alarm")
    op.drop_table("high_water")
    with op.batch_alter_table("epoch") as epoch:
        epoch.drop_column("device_key_id")
    with op.batch_alter_table("till_status") as status:
        status.drop_column("damaged_files")
        status.drop_column("dead_letters")
