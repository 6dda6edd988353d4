"""A campaign says how much of a pack it takes, and those in force are found without the others."""

from __future__ import annotations

import msgspec
import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_INDEX = "ix_campaign_retailer_active_id_size"


def upgrade() -> None:
    op.add_column("campaign", sa.Column("size", sa.Integer(), nullable=False, server_default=sa.text("0")))
    conn = op.get_bind()
    for row, body in conn.exec_driver_sql("SELECT rowid, body FROM campaign").all():
        size = len(msgspec.msgpack.encode(msgspec.json.decode(body)))
        conn.exec_driver_sql("UPDATE campaign SET size = ? WHERE rowid = ?", (size, row))
    op.create_index(op.f(_INDEX), "campaign", ["retailer", "active", "id", "size"])


def downgrade() -> None:
    op.drop_index(op.f(_INDEX), "campaign")
    op.drop_column("campaign", "size")
