"""What a till has in quarantine is found without reading what all the others have there."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(op.f("ix_quarantine_till_id"), "quarantine", ["till_id"])


def downgrade() -> None:
    op.drop_index(op.f("ix_quarantine_till_id"), "quarantine")
