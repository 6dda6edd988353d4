"""Alembic's entry: it runs on the connection that `ledger.database.migrate` hands over."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from tillstream_server.ledger.schema import metadata

connection: Connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
