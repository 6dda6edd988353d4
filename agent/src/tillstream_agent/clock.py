"""Time, passed in so that tests can turn it."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Wall time, which may jump, and monotonic time, which measures durations."""

    def now_ms(self) -> int:
        """Milliseconds since 1970-01-01T00:00Z."""
        ...

    def monotonic(self) -> float:
        """Seconds since a point that stays the same while the process runs."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def now_ms(self) -> int:
        """Milliseconds since 1970-01-01T00:00Z."""
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        """Seconds since a point that stays the same while the process runs."""
        return time.monotonic()
