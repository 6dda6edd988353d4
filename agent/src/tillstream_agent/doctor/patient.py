"""Whom the doctor looks at: with whose eyes, and under which settings."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..config import Config, ConfigError, load
from ..folder import Folder
from ..remote import current


def settings_or_complaint(folder: Folder, file: Path | None) -> tuple[Config, ConfigError | None]:
    """The settings, with what head office sets; or the built-in ones, and what is wrong with those asked for.

    Raises `ConfigError` for a file that is not there.
    """
    try:
        return current(folder, lambda remote: load(file, remote=remote)), None
    except ConfigError as error:
        if file is not None and isinstance(error.__cause__, FileNotFoundError):
            raise
        return Config(), error


def _groups(user: int, group: int) -> list[int]:
    """The groups that a user is in, by which a POS's folder may be its to use; none for one without a name."""
    if sys.platform != "win32":
        import pwd

        with suppress(KeyError):
            return os.getgrouplist(pwd.getpwuid(user).pw_name, group)
    return []


@contextmanager
def as_owner(folder: Path) -> Iterator[None]:
    """Be the user that a folder belongs to, if root asks: it shows what that user sees, and leaves no file of root's.

    For the whole process, threads included, until the end of the context. On Windows nobody is changed.
    """
    if sys.platform != "win32":
        found = None
        with suppress(OSError):
            found = folder.stat()
        if found is not None and os.geteuid() == 0 and found.st_uid != 0:
            groups = os.getgroups()
            os.setgroups(_groups(found.st_uid, found.st_gid))
            os.setegid(found.st_gid)
            os.seteuid(found.st_uid)
            try:
                yield
            finally:
                os.seteuid(0)
                os.setegid(0)
                os.setgroups(groups)
            return
    yield
