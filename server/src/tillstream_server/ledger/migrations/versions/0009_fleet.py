"""Who was not let in; what tills are configured with from here, and how they took it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_FAILURE = ("code", "address", "retailer", "store", "till", "agent_version", "platform")


def upgrade() -> None:
    op.create_table(
        "failed_enrolment",
        _int("id"),
        *(_text(name) for name in _FAILURE),
        *(_int(name) for name in ("tries", "first_ms", "last_ms")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_failed_enrolment")),
        sa.UniqueConstraint(*_FAILURE, name=op.f(f"uq_failed_enrolment_{'_'.join(_FAILURE)}")),
    )
    op.create_index(op.f("ix_failed_enrolment_last_ms"), "failed_enrolment", ["last_ms"])
    op.create_table(
        "till_settings",
        _text("retailer"),
        _int("version"),
        _text("settings"),
        _text("note"),
        _int("made_ms"),
        sa.PrimaryKeyConstraint("retailer", "version", name=op.f("pk_till_settings")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "rollout",
        _text("retailer"),
        _int("version"),
        _text("stores"),
        *(_int(name) for name in ("percent", "halt_after", "began_ms", "changed_ms")),
        sa.Column("halted_ms", sa.Integer(), nullable=True),
        _text("halted_why"),
        sa.ForeignKeyConstraint(
            ["retailer", "version"],
            ["till_settings.retailer", "till_settings.version"],
            name=op.f("fk_rollout_retailer_version"),
        ),
        sa.PrimaryKeyConstraint("retailer", "version", name=op.f("pk_rollout")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "till_config",
        sa.Column("till_id", sa.LargeBinary(), nullable=False),
        *(_int(name) for name in ("running", "newest")),
        *(_text(name) for name in ("state", "reason")),
        _int("told_ms"),
        sa.ForeignKeyConstraint(["till_id"], ["till.till_id"], name=op.f("fk_till_config_till_id")),
        sa.PrimaryKeyConstraint("till_id", name=op.f("pk_till_config")),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_till_config_newest"), "till_config", ["newest"])


def _int(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer(), nullable=False)


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=False)


def downgrade() -> None:
    for table in ("till_config", "rollout", "till_settings", "failed_enrolment"):
        op.drop_table(table)
