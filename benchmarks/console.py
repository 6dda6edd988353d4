"""How long do head office's pages take of a whole chain with a year of sales, and what do fifty viewers cost?

A server process serves over a ledger that was filled by hand. Pages are asked for over HTTP by who has signed in, each
after the values that viewers share have become old. Viewers follow the live page while nothing is sold and the server's
processor time is read.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import aiohttp

from demo.processes import Program, Server
from tillstream_server.console.fleet import SHARED_SECONDS
from tillstream_server.console.live import MAX_IDLE_SECONDS
from tillstream_server.users import UserCreate

from . import chain
from .figures import Answer, Conclusion, Measure
from .ledgers import NotStored
from .sizes import Sizes
from .stand import data, pid_of

QUESTION: Final = "console"
NAME, PASSWORD = "bench", "nobody guesses this one"
PAGES: Final = {
    "fleet": "/fleet",
    "fleet, of one state": "/fleet?state=ill",
    "fleet, a state that few are in": "/fleet?state=revoked",
    "fleet, a name that no till has": "/fleet?name=nothing",
    "one till": f"/tills/{chain.RETAILER}/{chain.store_name(0)}/{chain.till_name(0)}",
    "live sales, head office's days": "/sales",
    "live sales, stores' own days": "/sales?time=store",
    "live sales, of a store without any": f"/sales?retailer={chain.RETAILER}&store=none",
    "stores": "/stores",
    "one store": f"/stores/{chain.RETAILER}/{chain.store_name(0)}",
}
VIEWERS: Final = 50
WATCHED: Final = {
    "1 watching live sales": ["/sales/stream"],
    f"{VIEWERS} watching live sales": ["/sales/stream"] * VIEWERS,
    f"{VIEWERS} watching live sales, each of a store": [
        f"/sales/stream?retailer={chain.RETAILER}&store={chain.store_name(number)}" for number in range(VIEWERS)
    ],
}
"""The streams that are followed at the same time. The chain has so many stores in a full run."""
WATCHED_S: Final = 30


async def run(folder: Path, sizes: Sizes) -> Answer:
    """Fill a ledger, then ask for every page, and watch."""
    place = folder / "server"
    async with data(place) as parts:
        await parts.office.run(UserCreate(NAME, "admin", password=PASSWORD))
    now_ms = time.time_ns() // 1_000_000
    rows = await asyncio.to_thread(chain.build, place / "ledger.db", sizes.consoled, now_ms)
    condition = f"{sizes.consoled:,} tills, {rows:,} rows of a year's sales"
    measures: list[Measure] = []
    async with _serving(folder, place) as server, _signed_in(server) as session:
        for name, path in PAGES.items():
            times = [await _asked(session, server.url + path, sizes.rest_s) for _ in range((sizes.starts + 1) // 2)]
            measures.append(Measure(QUESTION, name, condition, round(max(times) * 1000, 1), "ms, the slowest"))
        seconds = min(WATCHED_S, sizes.rest_s)
        costs = [await _watched(session, server, paths, seconds) for paths in WATCHED.values()]
    for name, cost in zip(WATCHED, costs, strict=True):
        measures.append(Measure(QUESTION, name, condition, round(cost * 100, 2), "% of a core"))
    alone, together, apart = (max(cost, 1e-9) for cost in costs)
    slowest = max(measures[: len(PAGES)], key=lambda one: one.value)
    texts = (
        f"The slowest page was {slowest.subject}, in {slowest.value / 1000:.2f} s.",
        f"{VIEWERS} viewers cost {together / alone:.1f} times what one costs,"
        f" and {apart / alone:.1f} times where each watches a store of their own.",
    )
    return Answer(measures=tuple(measures), conclusions=tuple(Conclusion(QUESTION, text) for text in texts))


@asynccontextmanager
async def _serving(folder: Path, place: Path) -> AsyncIterator[Server]:
    program = Program("server", ["tillstream-server", "serve", "--data", str(place), "--port", "0"], folder)
    server = Server(place, program)
    try:
        await server.start()
        yield server
    finally:
        await program.stop()


@asynccontextmanager
async def _signed_in(server: Server) -> AsyncIterator[aiohttp.ClientSession]:
    """A session with the cookies of who has signed in."""
    jar, timeout = aiohttp.CookieJar(unsafe=True), aiohttp.ClientTimeout(total=120)
    async with aiohttp.ClientSession(cookie_jar=jar, timeout=timeout) as session:
        async with session.get(f"{server.url}/sign-in") as response:
            found = re.search(r'name="form_token" value="([^"]+)"', await response.text())
        assert found is not None
        fields = {"form_token": found[1], "name": NAME, "password": PASSWORD}
        async with session.post(f"{server.url}/sign-in", data=fields) as response:
            if response.url.path != "/sales":
                raise NotStored(f"nobody was signed in: {response.url.path}")
        yield session


async def _asked(session: aiohttp.ClientSession, url: str, rest_s: float) -> float:
    """Seconds from asking until the page's last byte, when nothing that it shows was shared lately."""
    await asyncio.sleep(min(SHARED_SECONDS + 0.2, rest_s))
    started = time.perf_counter()
    async with session.get(url) as response:
        body = await response.text()
    taken = time.perf_counter() - started
    if response.status != 200 or (chain.RETAILER not in body and "name=nothing" not in url):
        raise NotStored(f"{url} answered {response.status}, or shows nothing of the chain")
    return taken


async def _watched(session: aiohttp.ClientSession, server: Server, paths: Sequence[str], seconds: float) -> float:
    """The share of a core that the server takes while each of these streams is followed."""
    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(session.get(server.url + path)) for path in paths]
        readers = [asyncio.create_task(_read(stream)) for stream in streams]
        await asyncio.sleep(min(MAX_IDLE_SECONDS, seconds))
        before, started = _cpu(server), time.perf_counter()
        await asyncio.sleep(seconds)
        cost = (_cpu(server) - before) / (time.perf_counter() - started)
        for reader in readers:
            reader.cancel()
        told = await asyncio.gather(*readers, return_exceptions=True)
        if any(isinstance(one, Exception) for one in told):
            raise NotStored("somebody who watched was cut off")
        return cost


async def _read(stream: aiohttp.ClientResponse) -> None:
    async for _ in stream.content:
        pass
    raise NotStored("the stream ended")


def _cpu(server: Server) -> float:
    """Seconds of processor that the server's process has taken."""
    fields = Path(f"/proc/{pid_of(server.program)}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
