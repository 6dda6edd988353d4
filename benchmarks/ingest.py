"""How many transactions a second does the server take, with dedupe and every projection on?

Through `process()` in this process and through the gateway of a server process, from one till that drains and from
many that send a little each; into an empty ledger and into one that has filled up. Beside each batch, the rows that it
put into the ledger are inserted into a bare table: the floor of anything that keeps them in SQLite. Last, where a
batch's time goes.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from tillstream_protocol import messages
from tillstream_protocol.codec import encode
from tillstream_protocol.messages import Batch
from tillstream_protocol.ranges import count as count_ranges
from tillstream_protocol.signing import sign_request
from tillstream_server.app import Parts

from .campaigns import at_the_server
from .figures import Answer, Conclusion, Measure
from .ledgers import CAMPAIGNS, USUAL_BATCH, NotStored, Sealer, check_stored, filled, join, portions, stored
from .machine import weigh
from .sizes import Sizes
from .stages import Sampler
from .stand import Standing, as_served, data, put, server

QUESTION = "ingest"
PATH = "/till/v1/batches"
FLOOR = "floor: bare insert of the same rows"
PIPELINE, GATEWAY = "process()", "HTTP gateway"
SMALL_BATCH = 100
"""Records of one of many tills."""
BUSY_S = 0.02
BY_WALL, BY_CORE = "transactions/s", "transactions/s of one core's time"
_LEAST_S = 0.001


@dataclass(slots=True)
class _Took:
    """What some work took, in seconds: by the wall, and of the processors."""

    wall: float = 0.0
    cpu: float = 0.0

    def by(self, unit: str) -> float:
        """The time that a rate of this unit goes by; the processors' clock may not have ticked yet."""
        return self.wall if unit == BY_WALL else max(self.cpu, _LEAST_S)


async def run(folder: Path, sizes: Sizes) -> Answer:
    """Every combination, and the stages on the ledger that has filled up."""
    full = await filled(folder.parent, sizes.ledger)
    async with data(folder / "empty") as parts:
        await put(parts, at_the_server(CAMPAIGNS))
    measures: list[Measure] = []
    for place, having in ((folder / "empty", "empty ledger"), (full, f"ledger of {sizes.ledger:,}")):
        for tills in (1, sizes.fleet):
            measures += await _through_pipeline(place, sizes, tills, f"{having}, {_tills(tills)}")
            measures += await _through_gateway(folder, place, sizes, tills, f"{having}, {_tills(tills)}")
    measures += await _stages(full, sizes)
    return Answer(measures=tuple(measures), conclusions=tuple(_conclusions(measures, sizes)))


def _tills(count: int) -> str:
    return f"{count} till" if count == 1 else f"{count} tills"


def _share(sizes: Sizes, tills: int) -> list[list[int]]:
    """The sizes of each till's batches."""
    size = min(USUAL_BATCH, sizes.ingested) if tills == 1 else SMALL_BATCH
    return [list(portions(max(1, sizes.ingested // tills), size)) for _ in range(tills)]


async def _through_pipeline(place: Path, sizes: Sizes, tills: int, condition: str) -> list[Measure]:
    async with data(place) as parts, as_served():
        before = await stored(parts)
        sealers = await join(parts, tills)
        shares = _share(sizes, tills)
        await _warm_up(parts, sealers)
        had = await stored(parts)
        ours, floor = _Took(), _Took()
        floor_file = place.with_name(f"{place.name}-floor-{tills}.db")
        with closing(_Floor(parts.database.path, floor_file)) as bare:
            for turn in range(len(shares[0])):
                for sealer, sizes_of in zip(sealers, shares, strict=True):
                    await _take(parts, sealer, sealer.batch(sizes_of[turn]), ours)
                    bare.insert(floor)
            taken = sum(map(sum, shares))
            if bare.count() != taken or await stored(parts) != had + taken:
                raise NotStored(f"not all of {taken} transactions are in the ledger and its copy")
        await check_stored(parts, before + len(sealers) + taken)
    return _measures(PIPELINE, condition, taken, ours, floor)


async def _warm_up(parts: Parts, sealers: Sequence[Sealer]) -> None:
    for sealer in sealers:
        await parts.intake.pipeline.process(sealer.device, sealer.batch(1))


async def _take(parts: Parts, sealer: Sealer, batch: Batch, took: _Took) -> None:
    wall, cpu = time.perf_counter(), time.process_time()
    await parts.intake.pipeline.process(sealer.device, batch)
    took.wall += time.perf_counter() - wall
    took.cpu += time.process_time() - cpu


class _Floor:
    """A bare table like the ledger's, with its primary key and no other index, that takes the ledger's new rows."""

    def __init__(self, ledger: Path, file: Path) -> None:
        self._ledger = sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)
        self._bare = sqlite3.connect(file)
        (create,) = self._ledger.execute(
            "SELECT sql FROM sqlite_master WHERE type = 'table' AND name = 'ledger'"
        ).fetchone()
        self._bare.execute("PRAGMA journal_mode=WAL")
        self._bare.execute("PRAGMA synchronous=FULL")
        self._bare.execute(create)
        (highest,) = self._ledger.execute("SELECT coalesce(max(id), 0) FROM ledger").fetchone()
        self._after = int(highest)

    def insert(self, took: _Took) -> None:
        """The rows that are new since the last time, in one transaction."""
        rows = self._ledger.execute("SELECT * FROM ledger WHERE id > ? ORDER BY id", (self._after,)).fetchall()
        marks = ", ".join("?" * len(rows[0]))
        wall, cpu = time.perf_counter(), time.process_time()
        self._bare.executemany(f"INSERT INTO ledger VALUES ({marks})", rows)
        self._bare.commit()
        took.wall += time.perf_counter() - wall
        took.cpu += time.process_time() - cpu
        self._after = int(rows[-1][0])

    def count(self) -> int:
        """How many rows the bare table holds."""
        return int(self._bare.execute("SELECT count(*) FROM ledger").fetchone()[0])

    def close(self) -> None:
        """Close both databases."""
        self._ledger.close()
        self._bare.close()


async def _through_gateway(folder: Path, place: Path, sizes: Sizes, tills: int, condition: str) -> list[Measure]:
    """What the same tills get through HTTP, signed and acknowledged. The batches are sealed before the clock runs."""
    async with data(place) as parts:
        sealers = await join(parts, tills)
    shares = _share(sizes, tills)
    batches = [[sealer.batch(size) for size in sizes_of] for sealer, sizes_of in zip(sealers, shares, strict=True)]
    async with server(folder, made=place) as standing, aiohttp.ClientSession() as session:
        for sealer in sealers:
            await _post(standing, session, sealer, sealer.batch(1))
        cpu, wall = weigh(standing.pid).cpu, time.perf_counter()
        sending = (_send(standing, session, sealer, its) for sealer, its in zip(sealers, batches, strict=True))
        taken = sum(await asyncio.gather(*sending))
        took = _Took(time.perf_counter() - wall, weigh(standing.pid).cpu - cpu)
    if taken != sum(map(sum, shares)):
        raise NotStored(f"{taken} of {sum(map(sum, shares))} transactions were acknowledged")
    return _measures(GATEWAY, condition, taken, took, None)


async def _send(standing: Standing, session: aiohttp.ClientSession, sealer: Sealer, batches: Sequence[Batch]) -> int:
    """A till's batches one after the other; how many records were acknowledged, beyond the one that warmed up."""
    acked = 1
    for batch in batches:
        acked = await _post(standing, session, sealer, batch)
    return acked - 1


async def _post(standing: Standing, session: aiohttp.ClientSession, sealer: Sealer, batch: Batch) -> int:
    """One batch, again while the server is busy; how many records of the epoch the server then holds."""
    body = encode(batch)
    while True:
        headers = sign_request(sealer.key, "POST", PATH, body, created=int(time.time()))
        headers["Content-Type"] = messages.CONTENT_TYPE
        async with session.post(standing.server.url + PATH, data=body, headers=headers) as response:
            said = await response.read()
        if response.status == 200:
            return count_ranges(messages.decode_batch_reply(said).acked)
        if response.status != 503:
            raise NotStored(f"the gateway answered {response.status}: {said[:200]!r}")
        await asyncio.sleep(BUSY_S)


def _measures(subject: str, condition: str, taken: int, ours: _Took, floor: _Took | None) -> list[Measure]:
    found = []
    for unit in (BY_WALL, BY_CORE):
        took = ours.by(unit)
        share = None if floor is None else round(floor.by(unit) / took, 4)
        found.append(Measure(QUESTION, subject, condition, round(taken / took), unit, floor_share=share))
        if floor is not None:
            found.append(Measure(QUESTION, FLOOR, condition, round(taken / floor.by(unit)), unit, "floor"))
    return found


async def _stages(place: Path, sizes: Sizes) -> list[Measure]:
    """A till's drain once more, watched; it is slower then, so only the shares count."""
    sampler, took, taken = Sampler(), _Took(), 0
    async with data(place) as parts, as_served():
        (sealer,) = await join(parts, 1)
        for size in _share(sizes, 1)[0]:
            batch = sealer.batch(size)
            started = time.perf_counter()
            await sampler.watch(parts.intake.pipeline.process(sealer.device, batch))
            took.wall += time.perf_counter() - started
            taken += size
    each = took.wall / taken * 1e6
    condition = f"ledger of {sizes.ledger:,}, sampled"
    return [
        Measure(QUESTION, f"stage: {stage}", condition, round(share * each, 1), "µs a transaction")
        for stage, share in sampler.shares()
    ]


def _conclusions(measures: Sequence[Measure], sizes: Sizes) -> list[Conclusion]:
    rates = {(m.subject, m.condition): m for m in measures if m.unit == BY_WALL}
    shares = {m.condition: m.floor_share or 0 for m in measures if m.subject == PIPELINE and m.unit == BY_CORE}
    texts = []
    for tills in (1, sizes.fleet):
        empty = rates[PIPELINE, f"empty ledger, {_tills(tills)}"]
        full = rates[PIPELINE, f"ledger of {sizes.ledger:,}, {_tills(tills)}"]
        texts.append(
            f"{_tills(tills)}: {PIPELINE} takes {empty.floor_share or 0:.1%} of what a bare insert does with an empty"
            f" ledger ({shares[empty.condition]:.1%} by processor time), {full.floor_share or 0:.1%}"
            f" ({shares[full.condition]:.1%}) with {sizes.ledger:,} in it, which is"
            f" {full.value / empty.value:.2f} × the rate of the empty one"
        )
    return [Conclusion(QUESTION, text) for text in texts]
