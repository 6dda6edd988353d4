"""What every table of the ledger's database is made of."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Column, Integer, LargeBinary, MetaData, SmallInteger, Table, Text
from sqlalchemy import text as sql_text
from sqlalchemy.sql.schema import SchemaItem

metadata: Final = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def text(name: str, *items: SchemaItem, null: bool = False) -> Column[str]:
    """Characters."""
    return Column(name, Text, *items, nullable=null)


def blob(name: str, *items: SchemaItem, null: bool = False) -> Column[bytes]:
    """Bytes."""
    return Column(name, LargeBinary, *items, nullable=null)


def integer(name: str, *items: SchemaItem, null: bool = False, default: int | None = None) -> Column[int]:
    """A whole number; times are milliseconds since 1970."""
    server_default = None if default is None else sql_text(str(default))
    return Column(name, Integer, *items, nullable=null, server_default=server_default)


def flag(name: str, *, null: bool = False) -> Column[int]:
    """0 or 1."""
    return Column(name, SmallInteger, nullable=null)


def keyed(name: str, *items: SchemaItem) -> Table:
    """A table that is stored by its primary key."""
    return Table(name, metadata, *items, sqlite_with_rowid=False)
