"""The POS of each till: replays baskets through the hook, and tries again when it gets no answer."""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field

import aiohttp
import msgspec

from .baskets import Basket, Baskets, canonical
from .processes import DemoFailed, Till

IDENTIFY_EVERY = 10
"""One customer in so many shows the card before the basket is paid."""
GIVE_UP_S = 60.0
MAX_LAG_S = 1.0
"""A POS that was held up catches up with at most so much of it."""
_encode = msgspec.json.Encoder().encode


class Reply(msgspec.Struct):
    """What the hook answers."""

    epoch: str
    seq: int


_decode = msgspec.json.Decoder(Reply).decode


@dataclass
class Progress:
    """What was sent and captured so far. Latencies are of answered calls, in microseconds."""

    baskets: int
    captured: int = 0
    identified: int = 0
    repeats: int = 0
    retries: int = 0
    hook_us: array[float] = field(default_factory=lambda: array("d"))
    names: set[tuple[str, int]] = field(default_factory=set)
    """The names of the captured baskets' records; as many as baskets, if each was captured once."""
    started: float = field(default_factory=time.perf_counter)


class Pos:
    """One POS: its session with one till's hook."""

    def __init__(self, till: Till, progress: Progress) -> None:
        self._till = till
        self._progress = progress
        self._session: aiohttp.ClientSession | None = None

    async def replay(self, baskets: Iterator[Basket], every_s: float) -> None:
        """Send baskets one after another, one each `every_s` seconds, or as fast as it goes for 0."""
        due = time.perf_counter()
        connector = aiohttp.TCPConnector(limit=1)
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=5)) as session:
            self._session = session
            for basket in baskets:
                if int(basket.basket_id) % IDENTIFY_EVERY == 0:
                    await self._identify(basket)
                await self._sell(basket)
                due = max(due + every_s, time.perf_counter() - MAX_LAG_S)
                if every_s:
                    await asyncio.sleep(due - time.perf_counter())

    async def _identify(self, basket: Basket) -> None:
        event = {
            "identifiers": [{"scheme": "loyalty", "value": basket.household}],
            "event_id": f"card-{basket.basket_id}",
            "basket": basket.basket_id,
            "store": basket.store,
            "at": basket.at_ms,
        }
        await self._call("/v1/members/identify", _encode(event))
        self._progress.identified += 1

    async def _sell(self, basket: Basket) -> None:
        reply = await self._call("/v1/transactions", _encode(canonical(basket)))
        self._progress.names.add((reply.epoch, reply.seq))
        self._progress.captured += 1

    async def _call(self, path: str, body: bytes) -> Reply:
        """Call the hook until it answers, as a POS does that must not lose a sale."""
        assert self._session is not None
        headers = {"Authorization": f"Bearer {self._till.token}", "Content-Type": "application/json"}
        deadline = time.perf_counter() + GIVE_UP_S
        while True:
            started = time.perf_counter()
            try:
                async with self._session.post(self._till.url + path, data=body, headers=headers) as response:
                    said = await response.read()
                if response.status in (200, 201):
                    self._progress.hook_us.append((time.perf_counter() - started) * 1e6)
                    self._progress.repeats += response.status == 200
                    return _decode(said)
                if response.status < 500:
                    raise DemoFailed(f"{self._till.program.name} refused a basket: {said.decode()}")
            except (aiohttp.ClientError, TimeoutError, ConnectionError):
                pass
            if time.perf_counter() > deadline:
                raise DemoFailed(f"{self._till.program.name} gave no answer for {GIVE_UP_S:.0f} s")
            self._progress.retries += 1
            await asyncio.sleep(0.05)


def share(baskets: Baskets, tills: int, number: int) -> Iterator[Basket]:
    """The baskets of one till: those of its share of the stores."""
    return (basket for basket in baskets if int(basket.store) % tills == number)
