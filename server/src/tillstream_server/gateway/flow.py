"""How fast tills are told to send.

Batches are written one after the other. So the time until a new one is written is how many wait times how long one
takes: that is the pause a draining backlog is given, while live records go first and unpaused. Beyond a bound,
nothing more is held in memory: a till keeps its batch and comes back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Literal

from tillstream_protocol.errors import TillstreamError
from tillstream_protocol.messages import Pace

from ..clock import Clock
from ..metrics import Metrics

MAX_PAUSE_MS: Final = 60_000
_WEIGHT: Final = 0.1
"""Of the newest batch in the moving average of seconds a batch."""


class Busy(TillstreamError):
    """More batches wait than the server will hold."""

    code = "busy"
    retryable = True


class Flow:
    """Counts the batches at work and sets the tills' pace. Sizes in bytes."""

    def __init__(self, *, max_bytes: int, max_waiting: int, clock: Clock, metrics: Metrics) -> None:
        self._max_bytes = max_bytes
        self._max_waiting = max_waiting
        self._clock = clock
        self._metrics = metrics
        self._waiting = 0
        self._seconds = 0.0

    @contextmanager
    def one(self) -> Iterator[None]:
        """One verified batch until its commit. Raises `Busy`."""
        if self._waiting >= self._max_waiting:
            raise Busy("too many batches wait to be written", limit=f"{self._max_waiting} batches", hint="send later")
        self._waiting += 1
        self._metrics.batches_waiting.set(self._waiting)
        start = self._clock.monotonic()
        try:
            yield
        finally:
            took = (self._clock.monotonic() - start) / self._waiting
            self._seconds += _WEIGHT * (took - self._seconds)
            self._waiting -= 1
            self._metrics.batches_waiting.set(self._waiting)

    def pace(self, lane: Literal["live", "backlog"]) -> Pace:
        """What to tell a till whose batch has just been written."""
        pause = 0 if lane == "live" else int(1000 * self._seconds * max(0, self._waiting - 1))
        return Pace(max_bytes=self._max_bytes, pause_ms=min(pause, MAX_PAUSE_MS))
