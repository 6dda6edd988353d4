"""Keeps a dead agent from costing time: after a few calls in vain, none is tried for a while, then one.

A call that got an answer, be it a refusal, was not in vain.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from .place import Mark

TRIES = 2
"""Calls in vain, one after the other, before the rest begins."""
FIRST_S = 1.0
LONGEST_S = 30.0


class Breaker:
    """Says whether a call is worth trying."""

    def __init__(self, clock: Callable[[], float], mark: Callable[[], Mark]) -> None:
        self._clock = clock
        self._mark = mark
        self._lock = threading.Lock()
        self._vain = 0
        self._until = 0.0
        self._seen: Mark = ()

    def admits(self) -> bool:
        """Whether to try now. After a rest one caller is let through; the others wait for what comes of it."""
        with self._lock:
            if self._vain < TRIES:
                return True
            now = self._clock()
            started = self._mark() != self._seen
            if now < self._until and not started:
                return False
            self._rest(now)
            return True

    def succeeded(self) -> None:
        """The agent answered."""
        with self._lock:
            self._vain = 0

    def failed(self) -> None:
        """It could not be reached, or did not answer in time."""
        with self._lock:
            self._vain += 1
            if self._vain >= TRIES:
                self._rest(self._clock())

    def _rest(self, now: float) -> None:
        self._until = now + min(FIRST_S * 2.0 ** min(self._vain - TRIES, 10), LONGEST_S)
        self._seen = self._mark()
