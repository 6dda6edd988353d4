"""A run that is over has to end: a thread that a failing test left behind must not keep it waiting for ever."""

from __future__ import annotations

import faulthandler
import sys

LAST_SECONDS = 20.0


def pytest_unconfigure() -> None:
    """If the process is still there after a while, say which thread holds it, and exit with 1."""
    faulthandler.dump_traceback_later(LAST_SECONDS, exit=True, file=sys.__stderr__ or sys.stderr)
