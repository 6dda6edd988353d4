"""All that is left to chance comes from one seed, in streams that do not disturb each other."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

BASE_MS: Final = 1_790_000_000_000
"""What clocks show when a history begins."""


class Chance(random.Random):
    """A stream of a seed's chance, named by who draws from it."""

    def __init__(self, seed: int, name: str) -> None:
        super().__init__(f"{seed}/{name}")
        self._origin = (seed, name)

    def stream(self, name: str) -> Chance:
        """Another stream of the same seed."""
        seed, mine = self._origin
        return Chance(seed, f"{mine}/{name}")

    def happens(self, share: float) -> bool:
        """True in this share of cases."""
        return self.random() < share


class Clock:
    """A machine's clock: made-up time plus how far it is off. Its wall time can jump; its monotonic time cannot."""

    def __init__(self, time: Callable[[], float]) -> None:
        self._time = time
        self.off_ms = 0

    def now_ms(self) -> int:
        """Milliseconds since 1970."""
        return max(0, BASE_MS + self.off_ms + round(self._time() * 1000))

    def monotonic(self) -> float:
        """Seconds that only grow."""
        return self._time()
