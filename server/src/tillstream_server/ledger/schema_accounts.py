"""The tables of those who may sign in to the console, and of the sessions that they hold."""

from __future__ import annotations

from sqlalchemy import ForeignKey, Index, PrimaryKeyConstraint

from .columns import blob, integer, keyed, text

console_user = keyed(
    "console_user",
    text("name"),
    text("role"),
    text("retailer", null=True),
    text("store", null=True),
    text("password"),
    integer("created_ms"),
    integer("signed_in_ms", null=True),
    PrimaryKeyConstraint("name"),
)
"""`password` is an Argon2id hash with its salt and cost; without `retailer` or `store` a user sees every one."""

console_session = keyed(
    "console_session",
    blob("id_hash"),
    text("name", ForeignKey("console_user.name", ondelete="CASCADE")),
    text("form_token"),
    integer("created_ms"),
    integer("expires_ms"),
    PrimaryKeyConstraint("id_hash"),
    Index(None, "name"),
    Index(None, "expires_ms"),
)
"""A session is found by the hash of what its browser has."""
