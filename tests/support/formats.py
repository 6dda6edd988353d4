"""Ledgers as other versions of the server leave them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import URL, create_engine
from sqlalchemy.pool import NullPool

from tillstream_server.ledger import database

MIGRATIONS: Final = Path(database.__file__).parent / "migrations"


def bring_to(path: Path, revision: str, *, down: bool = False) -> None:
    """Give a ledger the schema of a revision, older or newer."""
    config = _config()
    engine = create_engine(URL.create("sqlite", database=str(path)), poolclass=NullPool)
    with engine.begin() as conn:
        config.attributes["connection"] = conn
        (command.downgrade if down else command.upgrade)(config, revision)


def newest_and_former() -> tuple[str, str]:
    """The schema of this version, and the one before it."""
    scripts = ScriptDirectory.from_config(_config())
    head = scripts.get_current_head()
    assert head is not None
    former = scripts.get_revision(head).down_revision
    assert isinstance(former, str)
    return head, former


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("path_separator", "os")
    return config
