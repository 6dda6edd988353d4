"""Time, passed in so that tests can turn it."""

from __future__ import annotations

import time
from typing import Final, Protocol

MAX_SKEW_MS: Final = 5 * 60_000
"""A machine's clock further off than this is not trusted with offers that expire."""


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


def local_offset_minutes(at_ms: int) -> int:
    """How far the machine's time zone is ahead of UTC at a time in milliseconds since 1970."""
    return time.localtime(at_ms / 1000).tm_gmtoff // 60


class CorrectedClock:
    """The server's time as it was last heard, carried on by the monotonic clock; until then the machine's own.

    However the machine's clock jumps meanwhile, nothing expires too early or too late by it.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heard: tuple[int, float] | None = None

    def hear(self, server_ms: int) -> None:
        """The server said what time it is, just now."""
        self._heard = (server_ms, self._clock.monotonic())

    def now_ms(self) -> int:
        """Milliseconds since 1970-01-01T00:00Z."""
        if self._heard is None:
            return self._clock.now_ms()
        server_ms, at = self._heard
        return server_ms + round((self._clock.monotonic() - at) * 1000)

    def monotonic(self) -> float:
        """Seconds since a point that stays the same while the process runs."""
        return self._clock.monotonic()

    def past_ms(self) -> int:
        """A time that is over for sure: without the server's word, none is."""
        return self.now_ms() if self._heard is not None else 0

    @property
    def ahead_ms(self) -> int | None:
        """How far the machine's own clock is ahead of the server's now; None before the server was heard."""
        return self._clock.now_ms() - self.now_ms() if self._heard is not None else None

    @property
    def trusted(self) -> bool:
        """Whether the machine's own clock agrees with the server's, as far as is known."""
        ahead = self.ahead_ms
        return ahead is None or abs(ahead) <= MAX_SKEW_MS
