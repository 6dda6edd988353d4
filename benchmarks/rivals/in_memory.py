"""Calls of analytics SDKs that only put a record into memory: a process that ends takes it along.

Their sending threads are not started, so nothing leaves this machine and nothing competes with the call that is timed;
what they hold is taken from them after each round. Both favour them.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Queue

from ..records import Basket
from . import Entrant, Rival

_NOWHERE = "http://127.0.0.1:9"
_ROOM = 10_000_000


@dataclass(slots=True)
class _Taken:
    """How many records were taken out of an SDK's queue; what stays in it has to be looked through by every garbage
    collection in this process, whoever is being timed then."""

    count: int = 0

    def take_all(self, waiting: Queue[object]) -> None:
        """Empty a queue, as the SDK's own sender would."""
        while not waiting.empty():
            waiting.get_nowait()
            waiting.task_done()
            self.count += 1


@asynccontextmanager
async def _segment(_folder: Path) -> AsyncIterator[Rival]:
    from segment.analytics.client import Client

    client, taken = Client("benchmark", host=_NOWHERE, max_queue_size=_ROOM, thread=0), _Taken()
    client.consumers = []

    async def put(basket: Basket) -> None:
        client.track(user_id="benchmark", event="sale", properties=dict(basket.sale))

    async def held() -> int:
        return taken.count + int(client.queue.qsize())

    try:
        yield Rival(put, held, lambda: taken.take_all(client.queue))
    finally:
        taken.take_all(client.queue)


@asynccontextmanager
async def _posthog(_folder: Path) -> AsyncIterator[Rival]:
    from posthog import Posthog

    client, taken = Posthog("benchmark", host=_NOWHERE, max_queue_size=_ROOM, thread=0), _Taken()

    async def put(basket: Basket) -> None:
        client.capture("sale", distinct_id="benchmark", properties=dict(basket.sale))

    async def held() -> int:
        return taken.count + int(client.queue.qsize())

    try:
        yield Rival(put, held, lambda: taken.take_all(client.queue))
    finally:
        taken.take_all(client.queue)


@asynccontextmanager
async def _mixpanel(_folder: Path) -> AsyncIterator[Rival]:
    from mixpanel import BufferedConsumer, Mixpanel

    consumer, taken = BufferedConsumer(events_url=_NOWHERE), _Taken()
    consumer._max_size = sys.maxsize  # or every fiftieth call would wait for the network
    client = Mixpanel("benchmark", consumer=consumer)
    buffered: list[object] = consumer._buffers["events"]

    async def put(basket: Basket) -> None:
        client.track("benchmark", "sale", basket.sale)

    async def held() -> int:
        return taken.count + len(buffered)

    def tidy() -> None:
        taken.count += len(buffered)
        buffered.clear()

    yield Rival(put, held, tidy)


MEMORY = (
    Entrant("Segment SDK, in memory", "memory", _segment),
    Entrant("PostHog SDK, in memory", "memory", _posthog),
    Entrant("Mixpanel SDK, in memory", "memory", _mixpanel),
)
