"""One query for everybody who watches: what is asked for by a key is computed once, and told to all.

While somebody follows a key it is computed again and again: for a tenth of the time at most, but every quarter of a
minute at least. Whoever opens a page meanwhile is shown what was computed last. Nobody watching costs nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

IDLE_SHARE: Final = 9
"""Of every time that a computation takes, so many times as long is left alone after it."""
MAX_IDLE_SECONDS: Final = 15.0
MAX_KEPT: Final = 256
"""Values kept for those who ask next."""


@dataclass
class _Channel(Generic[V]):
    followers: int = 0
    number: int = 0
    value: V | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    pump: asyncio.Task[None] | None = None

    def publish(self, value: V) -> None:
        self.value = value
        self.number += 1
        self.changed.set()
        self.changed = asyncio.Event()


class Feed(Generic[K, V]):
    """Values by key, each shared by all who ask."""

    def __init__(
        self,
        compute: Callable[[K, V | None], Awaitable[V]],
        report: Callable[[str, BaseException], None],
        *,
        seconds: float,
    ) -> None:
        """`compute` is given the value before, if that is kept or followed: most of it may hold still.

        `seconds` is how long a value is shared; `report` is told of computations that failed while followed.
        """
        self._compute = compute
        self._report = report
        self._seconds = seconds
        self._recent: dict[K, tuple[float, asyncio.Task[V]]] = {}
        self._channels: dict[K, _Channel[V]] = {}
        self._closed = asyncio.Event()

    async def latest(self, key: K) -> V:
        """What was computed last, if that is recent. Raises what the computation raises."""
        now = asyncio.get_running_loop().time()
        found = self._recent.get(key)
        if found is None or (found[1].done() and (now >= found[0] or found[1].exception() is not None)):
            found = self._ask(key)
        return await asyncio.shield(found[1])

    async def follow(self, key: K) -> AsyncGenerator[V, None]:
        """Every value from now on, until `close`. Who is slow misses values, never the newest."""
        channel = self._channels.setdefault(key, _Channel())
        channel.followers += 1
        if channel.pump is None:
            channel.pump = asyncio.create_task(self._pump(key, channel))
        seen = 0
        try:
            while not self._closed.is_set():
                changed = channel.changed
                if channel.number > seen and channel.value is not None:
                    seen = channel.number
                    yield channel.value
                else:
                    await changed.wait()
        finally:
            channel.followers -= 1
            if not channel.followers:
                channel.pump.cancel()
                self._channels.pop(key, None)

    def close(self) -> None:
        """Have everybody who follows come to an end."""
        self._closed.set()
        for channel in self._channels.values():
            channel.changed.set()

    def _ask(self, key: K) -> tuple[float, asyncio.Task[V]]:
        before = self._before(key)
        self._recent.pop(key, None)

        async def compute() -> V:
            loop = asyncio.get_running_loop()
            started = loop.time()
            value = await self._compute(key, before)
            ended = loop.time()
            idle = min(IDLE_SHARE * (ended - started), MAX_IDLE_SECONDS)
            self._recent[key] = ended + max(self._seconds, idle), task
            return value

        task = asyncio.create_task(compute())
        while len(self._recent) >= MAX_KEPT:
            self._recent.pop(next(iter(self._recent)))
        self._recent[key] = float("-inf"), task
        return self._recent[key]

    def _before(self, key: K) -> V | None:
        """The value before: that which is followed, too, where more are followed than are kept."""
        found = self._recent.get(key)
        if found is not None and found[1].exception() is None:
            return found[1].result()
        channel = self._channels.get(key)
        return None if channel is None else channel.value

    async def _pump(self, key: K, channel: _Channel[V]) -> None:
        loop = asyncio.get_running_loop()
        while not self._closed.is_set():
            try:
                channel.publish(await self.latest(key))
            except Exception as error:  # noqa: BLE001 - who follows goes on being told once it works again
                self._report("live", error)
            until = self._recent[key][0] if key in self._recent else 0.0
            await asyncio.sleep(max(self._seconds / 10, until - loop.time()) if until > 0 else self._seconds)
