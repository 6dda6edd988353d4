"""A run that is over has to end: a thread that a failing test left behind must not keep it waiting for ever."""

from __future__ import annotations

import faulthandler
import os
import sys

LAST_SECONDS = 20.0


def pytest_unconfigure() -> None:
    """If the process is still there after a while, say which thread holds it, and exit with 1.

    A worker of several stays until the last of them is done, and is ended by whoever started it.
    """
    if "PYTEST_XDIST_WORKER" not in os.environ:
        faulthandler.dump_traceback_later(LAST_SECONDS, exit=True, file=sys.__stderr__ or sys.stderr)
