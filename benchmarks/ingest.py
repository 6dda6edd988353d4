"""How many transactions a second does the server take, with dedupe and every projection on?

Through `process()` in this process and through the gateway of a server process, from one till that drains and from
many that each send a little at once; into an empty ledger and into one that has filled up. Beside what came at once,
the rows that it put into the ledger are inserted into a bare table, and every row that it put in or changed into a copy
of the database with all its indexes: the floors of anything that keeps them in SQLite. The libraries' work on it is
done alone too: with the insert of every row it is what a core could take if our own Python cost nothing. Last, where a
batch's time goes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

import aiohttp

from tillstream_protocol import messages
from tillstream_protocol.codec import encode
from tillstream_protocol.messages import Batch
from tillstream_protocol.ranges import count as count_ranges
from tillstream_protocol.signing import sign_request
from tillstream_server.app import Parts

from .bare import EveryRow, LedgerRows, Took
from .campaigns import at_the_server
from .figures import Answer, Conclusion, Measure
from .ledgers import CAMPAIGNS, USUAL_BATCH, NotStored, Sealer, check_stored, filled, join, portions, stored
from .libraries import LibraryCalls
from .machine import weigh
from .sizes import Sizes
from .stages import Sampler
from .stand import Standing, as_served, data, put, server

QUESTION = "ingest"
PATH = "/till/v1/batches"
LEDGER_ROWS = "floor: bare insert of the ledger's rows"
EVERY_ROW = "floor: bare insert of every row"
LIBRARIES = "floor: the libraries' calls"
BOTH = "floor: the libraries' calls and every row"
PIPELINE, GATEWAY = "process()", "HTTP gateway"
SMALL_BATCH = 100
"""Records of one of many tills."""
BUSY_S = 0.02
BY_WALL, BY_CORE = "transactions/s", "transactions/s of one core's time"
_LEAST_S = 0.001


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
        ours = Took()
        file = place.with_name(f"{place.name}-floor-{tills}")
        with closing(_Floors(parts, file)) as floors:
            for turn in range(len(shares[0])):
                batches = [sealer.batch(sizes_of[turn]) for sealer, sizes_of in zip(sealers, shares, strict=True)]
                await _take(parts, sealers, batches, ours)
                await floors.take(batches)
            taken = sum(map(sum, shares))
            if floors.lack(taken) or await stored(parts) != had + taken:
                raise NotStored(f"not all of {taken} transactions are in the ledger and its copies")
        await check_stored(parts, before + len(sealers) + taken)
    return _measures(PIPELINE, condition, taken, ours, floors.took())


class _Floors:
    """What is taken in turn with the pipeline."""

    def __init__(self, parts: Parts, file: Path) -> None:
        path = parts.database.path
        self._calls = LibraryCalls(parts)
        self._bare = LedgerRows(path, file.with_suffix(".ledger.db"))
        self._whole = EveryRow(path, file.with_suffix(".every.db"))
        self._libraries, self._ledger_rows, self._every_row = Took(), Took(), Took()

    async def take(self, batches: Sequence[Batch]) -> None:
        await self._calls.take(batches, self._libraries)
        self._bare.insert(self._ledger_rows)
        self._whole.insert(self._every_row)

    def lack(self, taken: int) -> bool:
        return bool(self._bare.missing(taken) or self._whole.missing())

    def took(self) -> dict[str, Took]:
        libraries, every_row = self._libraries, self._every_row
        both = Took(libraries.wall + every_row.wall, libraries.cpu + every_row.cpu)
        return {LEDGER_ROWS: self._ledger_rows, EVERY_ROW: every_row, LIBRARIES: libraries, BOTH: both}

    def close(self) -> None:
        for floor in (self._calls, self._bare, self._whole):
            floor.close()


async def _warm_up(parts: Parts, sealers: Sequence[Sealer]) -> None:
    for sealer in sealers:
        await parts.intake.pipeline.process(sealer.device, sealer.batch(1))


async def _take(parts: Parts, sealers: Sequence[Sealer], batches: Sequence[Batch], took: Took) -> None:
    """A batch of each till, all at once."""
    process = parts.intake.pipeline.process
    with took.timing():
        await asyncio.gather(*(process(sealer.device, batch) for sealer, batch in zip(sealers, batches, strict=True)))


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
        took = Took(time.perf_counter() - wall, weigh(standing.pid).cpu - cpu)
    if taken != sum(map(sum, shares)):
        raise NotStored(f"{taken} of {sum(map(sum, shares))} transactions were acknowledged")
    return _measures(GATEWAY, condition, taken, took, {})


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


def _measures(subject: str, condition: str, taken: int, ours: Took, floors: Mapping[str, Took]) -> list[Measure]:
    """Rates by the wall and by the processors; the share is that of the ledger's rows, as long as there are floors."""
    found = []
    for unit in (BY_WALL, BY_CORE):
        took = _time(ours, unit)
        bare = floors.get(LEDGER_ROWS)
        share = None if bare is None else round(_time(bare, unit) / took, 4)
        found.append(Measure(QUESTION, subject, condition, round(taken / took), unit, floor_share=share))
        for floor, its in floors.items():
            found.append(Measure(QUESTION, floor, condition, round(taken / _time(its, unit)), unit, "floor"))
    return found


def _time(took: Took, unit: str) -> float:
    """The time that a rate of this unit goes by; the processors' clock may not have ticked yet."""
    return took.wall if unit == BY_WALL else max(took.cpu, _LEAST_S)


async def _stages(place: Path, sizes: Sizes) -> list[Measure]:
    """A till's drain once more, watched; it is slower then, so only the shares count."""
    sampler, took, taken = Sampler(), Took(), 0
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
    rates = {(m.subject, m.condition, m.unit): m.value for m in measures}
    texts = []
    for tills in (1, sizes.fleet):
        empty, full = f"empty ledger, {_tills(tills)}", f"ledger of {sizes.ledger:,}, {_tills(tills)}"
        growth = rates[PIPELINE, full, BY_WALL] / rates[PIPELINE, empty, BY_WALL]
        texts.append(
            f"{_tills(tills)}: {PIPELINE} takes {_shares(rates, empty)} with an empty ledger, {_shares(rates, full)}"
            f" with {sizes.ledger:,} in it, which is {growth:.2f} × the rate of the empty one"
        )
        texts += [_without_python(rates, condition) for condition in (empty, full)]
    return [Conclusion(QUESTION, text) for text in texts]


def _shares(rates: Mapping[tuple[str, str, str], float], condition: str) -> str:
    """What part of each floor's rate the pipeline's is, by the wall and by processor time."""
    wall, core = (
        [rates[PIPELINE, condition, unit] / rates[floor, condition, unit] for floor in (EVERY_ROW, LEDGER_ROWS)]
        for unit in (BY_WALL, BY_CORE)
    )
    return (
        f"{wall[0]:.1%} of what a bare insert of every row does ({core[0]:.1%} by processor time) and {wall[1]:.1%} of"
        f" one of the ledger's rows alone ({core[1]:.1%})"
    )


def _without_python(rates: Mapping[tuple[str, str, str], float], condition: str) -> str:
    """What a core would come to if no Python of ours were run, and how much of that the pipeline is."""
    ours, calls, rows, both = (rates[one, condition, BY_CORE] for one in (PIPELINE, LIBRARIES, EVERY_ROW, BOTH))
    return (
        f"{condition}: with the libraries' calls and the bare insert of every row alone a core would take"
        f" {both:,.0f} transactions a second; {PIPELINE} takes {ours / both:.1%} of that: {ours / calls:.1%} of its"
        f" time are the libraries' calls, and {ours / rows:.1%} the bare insert"
    )
