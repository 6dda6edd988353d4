"""The tables of the fleet: who was not let in, what tills are configured with from here, and how they took it."""

from __future__ import annotations

from sqlalchemy import ForeignKey, ForeignKeyConstraint, Index, PrimaryKeyConstraint, Table, UniqueConstraint

from .columns import blob, integer, keyed, metadata, text

failed_enrolment = Table(
    "failed_enrolment",
    metadata,
    integer("id"),
    text("code"),
    text("address"),
    text("retailer"),
    text("store"),
    text("till"),
    text("agent_version"),
    text("platform"),
    integer("tries"),
    integer("first_ms"),
    integer("last_ms"),
    PrimaryKeyConstraint("id"),
    UniqueConstraint("code", "address", "retailer", "store", "till", "agent_version", "platform"),
    Index(None, "last_ms"),
)

till_settings = keyed(
    "till_settings",
    text("retailer"),
    integer("version"),
    text("settings"),
    text("note"),
    integer("made_ms"),
    PrimaryKeyConstraint("retailer", "version"),
)

rollout = keyed(
    "rollout",
    text("retailer"),
    integer("version"),
    text("stores"),
    integer("percent"),
    integer("halt_after"),
    integer("began_ms"),
    integer("changed_ms"),
    integer("halted_ms", null=True),
    text("halted_why"),
    PrimaryKeyConstraint("retailer", "version"),
    ForeignKeyConstraint(["retailer", "version"], ["till_settings.retailer", "till_settings.version"]),
)

till_config = keyed(
    "till_config",
    blob("till_id", ForeignKey("till.till_id")),
    integer("running"),
    integer("newest"),
    text("state"),
    text("reason"),
    integer("told_ms"),
    PrimaryKeyConstraint("till_id"),
    Index(None, "newest"),
)
