"""Reading a ledger beside the server that writes it: the file is opened read-only, so nothing can be disturbed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from .ledger.database import LedgerFault


@asynccontextmanager
async def reading(path: Path) -> AsyncIterator[AsyncConnection]:
    """One connection on one snapshot of the database. Raises `LedgerFault`."""
    engine = create_async_engine(
        f"sqlite+aiosqlite:///{path.absolute().as_uri()}?mode=ro&uri=true", poolclass=NullPool, hide_parameters=True
    )
    try:
        async with engine.connect() as conn:
            await conn.exec_driver_sql("PRAGMA query_only=ON")
            yield conn
    except SQLAlchemyError as error:
        raise LedgerFault(f"cannot read {path}", hint="see the file's permissions and the disk") from error
    finally:
        await engine.dispose()
