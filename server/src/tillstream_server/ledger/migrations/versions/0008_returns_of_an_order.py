"""The returns of an order are found by the order: one that it lists no more was deleted."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(op.f("ix_link_target"), "link", ["target"], sqlite_where=sa.text("relation = 'original'"))


def downgrade() -> None:
    op.drop_index(op.f("ix_link_target"), "link")
