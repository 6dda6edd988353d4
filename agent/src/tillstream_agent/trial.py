"""Whether the till is well with other settings: watched for a while, and gone back from where it is not.

Well is a till that answers its POS, can capture, and speaks with its server. What the POS would notice counts as soon
as it has lasted for a few seconds; that the server is not reached, only at the end, since a line may need time to come
back. The whole takes less than the 60 seconds in which the till promises to have gone back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from .clock import Clock


@dataclass(frozen=True, slots=True)
class TrialTimes:
    """Seconds: how long settings are watched, how long the till may be ill meanwhile, how often it is looked at."""

    watch_s: float = 45.0
    ill_s: float = 5.0
    every_s: float = 1.0


@dataclass(frozen=True, slots=True)
class Health:
    """What is wrong; nothing where both are empty. `at_the_till` is what the POS would notice."""

    at_the_till: str = ""
    on_the_line: str = ""


@dataclass(slots=True)
class Trial:
    """One watch. `look` says how the till is, `over` whether there is nothing more to watch."""

    look: Callable[[], Awaitable[Health]]
    over: Callable[[], bool]
    clock: Clock
    times: TrialTimes

    async def verdict(self) -> str | None:
        """What the till was ill with; empty where it was well to the end; None where others came meanwhile."""
        until = self.clock.monotonic() + self.times.watch_s
        ill_since: float | None = None
        while not self.over():
            health = await self.look()
            now = self.clock.monotonic()
            ill_since = None if not health.at_the_till else now if ill_since is None else ill_since
            if ill_since is not None and now - ill_since >= self.times.ill_s:
                return health.at_the_till
            if now >= until:
                return health.at_the_till or health.on_the_line
            await asyncio.sleep(self.times.every_s)
        return None
