"""How often somebody may guess: buckets of attempts that fill again with time, by who is tried and from where.

An attempt counts from its beginning and is given back if it succeeds: so those that are made at the same time come to
an end as those do that are made one after another. A name that is tried from many places is slowed down as a whole, but
far later than for one place: so nobody is easily kept from signing in by others who guess at their name.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from tillstream_protocol.errors import TillstreamError

from ..clock import Clock

MAX_KEPT: Final = 20_000
"""Buckets in memory; the one that was used longest ago is forgotten first."""

MAX_NAME: Final = 65
"""Characters of a name that tell buckets apart: no user's is as long, and none fills the memory."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """So many attempts at once, and one more after so many seconds."""

    attempts: int
    refill_seconds: float


PER_PLACE_AND_NAME: Final = Allowance(5, 60.0)
PER_PLACE: Final = Allowance(30, 10.0)
PER_NAME: Final = Allowance(60, 10.0)


class TooManyAttempts(TillstreamError):
    """Somebody guesses too often; `seconds` says when it is worth trying again."""

    code = "too_many_attempts"
    retryable = True

    def __init__(self, seconds: int) -> None:
        super().__init__("too many attempts", hint=f"try again in {seconds} seconds")
        self.seconds = seconds


class Throttle:
    """Counts attempts. `take` one before trying, `give_back` what succeeded."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._spent: OrderedDict[tuple[str, str], tuple[float, float]] = OrderedDict()
        """Key → attempts spent, and when that was so."""

    def take(self, place: str, name: str) -> None:
        """Take an attempt off. Raise `TooManyAttempts` where there is none left."""
        keys = _keys(place, name)
        wait = max(self._wait(key, allowance) for key, allowance in keys)
        if wait > 0:
            raise TooManyAttempts(int(wait) + 1)
        for key, allowance in keys:
            self._put(key, self._now_spent(key, allowance) + 1)
            self._spent.move_to_end(key)
        while len(self._spent) > MAX_KEPT:
            self._spent.popitem(last=False)

    def give_back(self, place: str, name: str) -> None:
        """Add the attempt again that was taken off."""
        for key, allowance in _keys(place, name):
            if key in self._spent:
                self._put(key, max(0.0, self._now_spent(key, allowance) - 1))

    def _put(self, key: tuple[str, str], spent: float) -> None:
        self._spent[key] = spent, self._clock.monotonic()

    def _wait(self, key: tuple[str, str], allowance: Allowance) -> float:
        """Seconds until there is an attempt."""
        return (self._now_spent(key, allowance) + 1 - allowance.attempts) * allowance.refill_seconds

    def _now_spent(self, key: tuple[str, str], allowance: Allowance) -> float:
        spent, at = self._spent.get(key, (0.0, 0.0))
        return max(0.0, spent - (self._clock.monotonic() - at) / allowance.refill_seconds)


def _keys(place: str, name: str) -> tuple[tuple[tuple[str, str], Allowance], ...]:
    name = name[:MAX_NAME]
    return (((place, name), PER_PLACE_AND_NAME), ((place, ""), PER_PLACE), (("", name), PER_NAME))
