"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "api_key",
        sa.Column("key_hash", sa.LargeBinary(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("created_ms", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("key_hash", name=op.f("pk_api_key")),
    )
    op.create_table(
        "book_version",
        sa.Column("retailer", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("retailer", name=op.f("pk_book_version")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "campaign",
        sa.Column("retailer", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("active", sa.SmallInteger(), nullable=False),
        sa.Column("created_ms", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("retailer", "id", "version", name=op.f("pk_campaign")),
    )
    op.create_table(
        "conflict",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("till_id", sa.LargeBinary(), nullable=False),
        sa.Column("epoch", sa.LargeBinary(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("header", sa.LargeBinary(), nullable=False),
        sa.Column("frame", sa.LargeBinary(), nullable=False),
        sa.Column("received_ms", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_conflict")),
        sa.UniqueConstraint("till_id", "epoch", "seq", "digest", name=op.f("uq_conflict_till_id_epoch_seq_digest")),
    )
    op.create_table(
        "dead_letter",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("retailer", sa.Text(), nullable=False),
        sa.Column("till_id", sa.LargeBinary(), nullable=False),
        sa.Column("epoch", sa.LargeBinary(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("header", sa.LargeBinary(), nullable=False),
        sa.Column("frame", sa.LargeBinary(), nullable=False),
        sa.Column("received_ms", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dead_letter")),
        sa.UniqueConstraint("till_id", "epoch", "seq", name=op.f("uq_dead_letter_till_id_epoch_seq")),
    )
    op.create_table(
        "decision",
        sa.Column("offer_id", sa.LargeBinary(), nullable=False),
        sa.Column("retailer", sa.Text(), nullable=False),
        sa.Column("store", sa.Text(), nullable=False),
        sa.Column("till_id", sa.LargeBinary(), nullable=False),
        sa.Column("ledger_id", sa.Integer(), nullable=False),
        sa.Column("campaign", sa.Text(), nullable=False),
        sa.Column("campaign_version", sa.Integer(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("decided_at", sa.Text(), nullable=False),
        sa.Column("decided_ms", sa.Integer(), nullable=False),
        sa.Column("expires_ms", sa.Integer(), nullable=False),
        sa.Column("lease", sa.LargeBinary(), nullable=True),
        sa.Column("subject", sa.LargeBinary(), nullable=True),
        sa.Column("verdict", sa.Text(), nullable=True),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("pushed_ms", sa.Integer(), nullable=True),
        sa.Column("received_ms", sa.Integer(), nullable=True),
        sa.Column("shown_ms", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("offer_id", name=op.f("pk_decision")),
    )
    op.create_index(
        op.f("ix_decision_lease"), "decision", ["lease"], unique=False, sqlite_where=sa.text("lease IS NOT NULL")
    )
    op.create_index(op.f("ix_decision_retailer_campaign"), "decision", ["retailer", "campaign"], unique=False)
    op.create_table(
        "epoch",
        sa.Column("till_id", sa.LargeBinary(), nullable=False),
        sa.Column("epoch", sa.LargeBinary(), nullable=False),
        sa.Column("parent", sa.LargeBinary(), nullable=False),
        sa.Column("parent_position", sa.Integer(), nullable=False),
        sa.Column("first_seen_ms", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("till_id", "epoch", name=op.f("pk_epoch")),
    )
    op.create_index(
        op.f("ix_epoch_till_id_parent_parent_position"), "epoch", ["till_id", "parent", "parent_position"], unique=False
    )
    op.create_table(
        "identifier",
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.Column("subject", sa.LargeBinary(), nullable=False),
        sa.Column("retailer", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("hash", name=op.f("pk_identifier")),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_identifier_subject"), "identifier", ["subject"], unique=False)
    op.create_table(
        "lease",
        sa.Column("id", sa.LargeBinary(), nullable=False),
        sa.Column("retailer", sa.Text(), nullable=False),
        sa.Column("campaign", sa.Text(), nullable=False),
        sa.Column("till_id", sa.LargeBinary(), nullable=False),
        sa.Column("units", sa.Integer(), nullable=False),
        sa.Column("issued_ms", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_lease")),
    )
    op.create_index(op.f("ix_lease_retailer_campaign"), "lease", ["retailer", "campaign"], unique=False)
    op.create_table(
        "ledger",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("retailer", sa.Text(), nullable=False),
        sa.Column("store", sa.Text(), nullable=False),
        sa.Column("till_id", sa.LargeBinary(), nullable=False),
        sa.Column("epoch", sa.LargeBinary(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("kind", sa.Integer(), nullable=False),
        sa.Column("body_type", sa.Text(), nullable=False),
        sa.Column("at_ms", sa.Integer(), nullable=False),
        sa.Column("business_date", sa.Text(), nullable=True),
        sa.Column("captured_ms", sa.Integer(), nullable=False),
        sa.Column("received_ms", sa.Integer(), nullable=False),
        sa.Column("idem", sa.LargeBinary(), nullable=True),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("subject", sa.LargeBinary(), nullable=True),
        sa.Column("currency", sa.Text(), nullable=True),
        sa.Column("amount_minor", sa.Integer(), nullable=True),
        sa.Column("training", sa.SmallInteger(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("reconciles", sa.SmallInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ledger")),
        sa.UniqueConstraint("till_id", "epoch", "seq", name=op.f("uq_ledger_till_id_epoch_seq")),
    )
    op.create_index(
        "uq_ledger_retailer_idem_content",
        "ledger",
        ["retailer", "idem", "content"],
        unique=True,
        sqlite_where=sa.text("idem IS NOT NULL"),
    )
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
    op.create_table(
        "member_stats",
        sa.Column("subject", sa.LargeBinary(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("retailer", sa.Text(), nullable=False),
        sa.Column("transactions", sa.Integer(), nullable=False),
        sa.Column("visits", sa.Integer(), nullable=False),
        sa.Column("spend_minor", sa.Integer(), nullable=False),
        sa.Column("last_visit_ms", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("subject", "currency", name=op.f("pk_member_stats")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "products_by_day",
        sa.Column("retailer", sa.Text(), nullable=False),
        sa.Column("business_date", sa.Text(), nullable=False),
        sa.Column("store", sa.Text(), nullable=False),
        sa.Column("sku", sa.Text(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("quantity_micro", sa.Integer(), nullable=False),
        sa.Column("amount_minor", sa.Integer(), nullable=False),
        sa.Column("lines", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint(
            "retailer", "business_date", "store", "sku", "currency", name=op.f("pk_products_by_day")
        ),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "push_outbox",
        sa.Column("till_id", sa.LargeBinary(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("expires_ms", sa.Integer(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("created_ms", sa.Integer(), nullable=False),
        sa.Column("received_ms", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("till_id", "seq", name=op.f("pk_push_outbox")),
    )
    op.create_table(
        "quarantine",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("till_id", sa.LargeBinary(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("received_ms", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_quarantine")),
        sa.UniqueConstraint("digest", name=op.f("uq_quarantine_digest")),
    )
    op.create_table(
        "received",
        sa.Column("till_id", sa.LargeBinary(), nullable=False),
        sa.Column("epoch", sa.LargeBinary(), nullable=False),
        sa.Column("first_seq", sa.Integer(), nullable=False),
        sa.Column("last_seq", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("till_id", "epoch", "first_seq", name=op.f("pk_received")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "refusal",
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("reason", name=op.f("pk_refusal")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "sale",
        sa.Column("retailer", sa.Text(), nullable=False),
        sa.Column("idem", sa.LargeBinary(), nullable=False),
        sa.Column("ledger_id", sa.Integer(), nullable=False),
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
        sa.PrimaryKeyConstraint("retailer", "idem", name=op.f("pk_sale")),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_sale_at_ms"), "sale", ["at_ms"], unique=False)
    op.create_index(
        op.f("ix_sale_subject_at_ms"),
        "sale",
        ["subject", "at_ms"],
        unique=False,
        sqlite_where=sa.text("counted = 1 AND subject IS NOT NULL"),
    )
    op.create_table(
        "sales_by_hour",
        sa.Column("retailer", sa.Text(), nullable=False),
        sa.Column("store", sa.Text(), nullable=False),
        sa.Column("hour_ms", sa.Integer(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("transactions", sa.Integer(), nullable=False),
        sa.Column("amount_minor", sa.Integer(), nullable=False),
        sa.Column("lines", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("retailer", "store", "hour_ms", "currency", name=op.f("pk_sales_by_hour")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "store",
        sa.Column("retailer", sa.Text(), nullable=False),
        sa.Column("store", sa.Text(), nullable=False),
        sa.Column("created_ms", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("retailer", "store", name=op.f("pk_store")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "subject",
        sa.Column("subject", sa.LargeBinary(), nullable=False),
        sa.Column("retailer", sa.Text(), nullable=False),
        sa.Column("created_ms", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("subject", name=op.f("pk_subject")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "till",
        sa.Column("till_id", sa.LargeBinary(), nullable=False),
        sa.Column("retailer", sa.Text(), nullable=False),
        sa.Column("store", sa.Text(), nullable=False),
        sa.Column("till", sa.Text(), nullable=False),
        sa.Column("created_ms", sa.Integer(), nullable=False),
        sa.Column("revoked_ms", sa.Integer(), nullable=True),
        sa.Column("push_seq", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.PrimaryKeyConstraint("till_id", name=op.f("pk_till")),
        sa.UniqueConstraint("retailer", "store", "till", name=op.f("uq_till_retailer_store_till")),
    )
    op.create_table(
        "token",
        sa.Column("token_hash", sa.LargeBinary(), nullable=False),
        sa.Column("retailer", sa.Text(), nullable=False),
        sa.Column("store", sa.Text(), nullable=False),
        sa.Column("till", sa.Text(), nullable=True),
        sa.Column("uses_left", sa.Integer(), nullable=False),
        sa.Column("expires_ms", sa.Integer(), nullable=False),
        sa.Column("created_ms", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("token_hash", name=op.f("pk_token")),
    )
    op.create_table(
        "vault_item",
        sa.Column("subject", sa.LargeBinary(), nullable=False),
        sa.Column("field", sa.Text(), nullable=False),
        sa.Column("record", sa.LargeBinary(), nullable=False),
        sa.Column("nonce", sa.LargeBinary(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("subject", "field", "record", name=op.f("pk_vault_item")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "voiding",
        sa.Column("retailer", sa.Text(), nullable=False),
        sa.Column("target", sa.LargeBinary(), nullable=False),
        sa.Column("idem", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("retailer", "target", "idem", name=op.f("pk_voiding")),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_voiding_retailer_idem"), "voiding", ["retailer", "idem"], unique=False)
    op.create_table(
        "companion",
        sa.Column("ledger_id", sa.Integer(), nullable=False),
        sa.Column("subject", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["ledger_id"], ["ledger.id"], name=op.f("fk_companion_ledger_id")),
        sa.PrimaryKeyConstraint("ledger_id", "subject", name=op.f("pk_companion")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "device",
        sa.Column("key_id", sa.LargeBinary(), nullable=False),
        sa.Column("till_id", sa.LargeBinary(), nullable=False),
        sa.Column("public_key", sa.LargeBinary(), nullable=False),
        sa.Column("created_ms", sa.Integer(), nullable=False),
        sa.Column("revoked_ms", sa.Integer(), nullable=True),
        sa.Column("agent_version", sa.Text(), nullable=False),
        sa.Column("platform", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["till_id"], ["till.till_id"], name=op.f("fk_device_till_id")),
        sa.PrimaryKeyConstraint("key_id", name=op.f("pk_device")),
    )
    op.create_index(op.f("ix_device_till_id"), "device", ["till_id"], unique=False)
    op.create_table(
        "duplicate",
        sa.Column("till_id", sa.LargeBinary(), nullable=False),
        sa.Column("epoch", sa.LargeBinary(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("ledger_id", sa.Integer(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("captured_ms", sa.Integer(), nullable=False),
        sa.Column("received_ms", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["ledger_id"], ["ledger.id"], name=op.f("fk_duplicate_ledger_id")),
        sa.PrimaryKeyConstraint("till_id", "epoch", "seq", name=op.f("pk_duplicate")),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_duplicate_ledger_id"), "duplicate", ["ledger_id"], unique=False)
    op.create_table(
        "link",
        sa.Column("ledger_id", sa.Integer(), nullable=False),
        sa.Column("relation", sa.Text(), nullable=False),
        sa.Column("target", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["ledger_id"], ["ledger.id"], name=op.f("fk_link_ledger_id")),
        sa.PrimaryKeyConstraint("ledger_id", "relation", "target", name=op.f("pk_link")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "till_status",
        sa.Column("till_id", sa.LargeBinary(), nullable=False),
        sa.Column("epoch", sa.LargeBinary(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("queued", sa.Integer(), nullable=False),
        sa.Column("oldest_queued_ms", sa.Integer(), nullable=False),
        sa.Column("hook_p50", sa.Integer(), nullable=False),
        sa.Column("hook_p99", sa.Integer(), nullable=False),
        sa.Column("hook_max", sa.Integer(), nullable=False),
        sa.Column("disk_free", sa.Integer(), nullable=False),
        sa.Column("clock_ms", sa.Integer(), nullable=False),
        sa.Column("agent_version", sa.Text(), nullable=False),
        sa.Column("last_error", sa.Text(), nullable=False),
        sa.Column("seen_ms", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["till_id"], ["till.till_id"], name=op.f("fk_till_status_till_id")),
        sa.PrimaryKeyConstraint("till_id", name=op.f("pk_till_status")),
    )


def downgrade() -> None:
    op.drop_table("till_status")
    op.drop_table("link")
    op.drop_table("duplicate")
    op.drop_table("device")
    op.drop_table("companion")
    op.drop_table("voiding")
    op.drop_table("vault_item")
    op.drop_table("token")
    op.drop_table("till")
    op.drop_table("subject")
    op.drop_table("store")
    op.drop_table("sales_by_hour")
    op.drop_table("sale")
    op.drop_table("refusal")
    op.drop_table("received")
    op.drop_table("quarantine")
    op.drop_table("push_outbox")
    op.drop_table("products_by_day")
    op.drop_table("member_stats")
    op.drop_table("member_category")
    op.drop_table("ledger")
    op.drop_table("lease")
    op.drop_table("identifier")
    op.drop_table("epoch")
    op.drop_table("decision")
    op.drop_table("dead_letter")
    op.drop_table("conflict")
    op.drop_table("campaign")
    op.drop_table("book_version")
    op.drop_table("api_key")
