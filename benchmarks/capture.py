"""How long does a POS wait for a sale to be captured?

At rest beside everything else there is, by size of basket and by what is promised; then with ever more records queued,
while they drain, and while offers stream in.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from . import floors, rivals
from .campaigns import for_every_sale
from .figures import Answer, Conclusion, Measure, Promise, Row, Skipped
from .harness import Rounds, Subject, Timings, interleave, rows
from .records import USUAL, Basket, Given, given
from .rivals import Entered, Entrant
from .rivals.in_memory import MEMORY
from .rivals.jetstream import JETSTREAM, JETSTREAM_ALWAYS, LOOPBACK
from .rivals.persistent import DISK, DISK_FLOOR, FLOOR, OFF_THE_LOOP, PROCESS
from .sizes import Sizes
from .stand import Hook, InProcess, Standing, enrol, hook, in_process, server, until, uploading

QUESTION = "capture"
PAUSE_S = 0.002
RECONNECT_S = 600.0
"""An agent whose server is away waits longer and longer before it asks again."""
UNIX = "floor: bare Unix socket round trip"
IDLE = "idle"
BASE = "idle, no rivals beside"
"""What growth is measured against: timed among the same neighbours."""
ALL_TOTAL = 4242
"""What the sales of the second POS come to, in cents: the campaign below makes an offer for each of them."""


@dataclass(slots=True)
class _Bench:
    """What takes part, and what has come of it so far."""

    sizes: Sizes
    standing: Standing
    inside: InProcess
    outside: Hook
    file: floors.File
    unix: floors.Echo
    tcp: floors.Echo
    groups: list[list[Timings[Given]]] = field(default_factory=list)
    measures: list[Measure] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)


async def run(folder: Path, sizes: Sizes) -> Answer:
    """Every condition in turn; within each, everything interleaved."""
    async with AsyncExitStack() as stack:
        bench = await _set_up(stack, folder, sizes)
        await _beside_others(bench, folder / "rivals")
        await _offers_stream_in(bench)
        bench = await _growing(stack, bench)
        await _draining(bench)
    timed = [row for group in bench.groups for row in rows(QUESTION, group)]
    return Answer(tuple(timed), tuple(bench.measures), tuple(bench.skipped), tuple(_conclusions(timed)))


async def _set_up(stack: AsyncExitStack, folder: Path, sizes: Sizes) -> _Bench:
    standing = await stack.enter_async_context(server(folder, [for_every_sale(ALL_TOTAL)]))
    for name in ("inside", "outside"):
        await enrol(folder / name, standing)
    return _Bench(
        sizes,
        standing,
        await stack.enter_async_context(in_process(folder / "inside", standing.server.url)),
        await stack.enter_async_context(hook(folder / "outside", folder)),
        await stack.enter_async_context(floors.file(folder)),
        await stack.enter_async_context(floors.echo(folder / "echo.sock")),
        await stack.enter_async_context(floors.echo(None)),
    )


def _ours(bench: _Bench, ack: str) -> list[Subject[Given]]:
    inside, outside = bench.inside, bench.outside
    durable = ack == "disk"
    promise: Promise = "disk" if durable else "process"

    async def captured(given: Given) -> None:
        await (inside.sell_durably if durable else inside.sell)(given.basket.body)

    async def over_socket(given: Given) -> None:
        await outside.sell_over_socket(given.call)

    async def over_http(given: Given) -> None:
        await outside.sell_over_http(given.basket.http, ack)

    least = DISK_FLOOR if durable else FLOOR
    return [
        Subject(name("in process", ack), captured, "ours", promise, True, least),
        Subject(queue(ack), inside.queue_durably if durable else inside.queue, "ours", promise, True, least),
        Subject(name("Unix socket", ack), over_socket, "ours", promise, True, UNIX),
        Subject(name("loopback HTTP", ack), over_http, "ours", promise, True, LOOPBACK),
    ]


def name(door: str, ack: str) -> str:
    """What one of our doors is called in the tables."""
    return f"Tillstream, {door}, {ack} ack"


def queue(ack: str) -> str:
    """What the till's queue is called where it is timed without what comes before it."""
    return f"Tillstream, queue alone, {ack} ack"


def _floors(bench: _Bench, *, disk: bool = False) -> list[Subject[Given]]:
    async def write(given: Given) -> None:
        await (bench.file.sync if disk else bench.file.write)(given.basket.body)

    async def unix(given: Given) -> None:
        await bench.unix.round_trip(given.basket.body)

    async def tcp(given: Given) -> None:
        await bench.tcp.round_trip(given.basket.body)

    async def thread(given: Given) -> None:
        await bench.file.sync_off_the_loop(given.basket.body)

    return [
        Subject(DISK_FLOOR if disk else FLOOR, write, "floor", "disk" if disk else "process"),
        Subject(UNIX, unix, "floor", "none"),
        Subject(LOOPBACK, tcp, "floor", "none"),
        *([Subject(OFF_THE_LOOP, thread, "floor", "disk")] if disk else []),
    ]


async def _time(
    bench: _Bench,
    condition: str,
    count: int,
    others: Sequence[Entered] = (),
    *,
    ack: str = "os",
    lines: int = USUAL,
    pause_s: float = PAUSE_S,
) -> None:
    """Time everything under one condition, and see that the rivals hold what they were given.

    Without a pause, only what is in this process takes part.
    """
    rounds = Rounds.of(count)
    before = [await one.rival.held() for one in others]
    ours = bench.inside.journal.position.seq
    own = [*_floors(bench, disk=ack == "disk"), *_ours(bench, ack)]
    subjects = [*(own if pause_s else [own[0], own[3], own[4]]), *(one.subject(_versus(one, ack)) for one in others)]

    async def between() -> None:
        for one in others:
            one.rival.tidy()
        await asyncio.sleep(pause_s)

    def prepare(number: int) -> Given:
        return given(number, f"{condition}-{ack}", lines, ack)

    timed = await interleave(subjects, condition, rounds, prepare, between)
    for one, had in zip(others, before, strict=True):
        await rivals.check([one], had + rounds.total)
    if bench.inside.journal.position.seq != ours + 2 * rounds.total:
        raise rivals.NothingDone("the till in this process did not capture every sale as a new one")
    bench.groups.append(timed)


def _versus(one: Entered, ack: str) -> str:
    """Which of ours a rival is set beside: the one on the same side of a process boundary."""
    return name("Unix socket" if one.entrant.across else "in process", ack)


async def _beside_others(bench: _Bench, folder: Path) -> None:
    """At rest: what each promises, without a pause, and baskets of other sizes."""
    calls = bench.sizes.calls
    await _time(bench, f"{IDLE}, alone, back to back", calls, pause_s=0)
    async with _sending(bench):
        await _time(bench, BASE, calls)
    async with _entered(bench, folder / "process", [*PROCESS, *MEMORY, JETSTREAM]) as others, _sending(bench):
        await _time(bench, IDLE, calls, others)
        persistent = [one for one in others if one.entrant.promise != "memory"]
        for lines in bench.sizes.lines:
            await _time(bench, f"{IDLE}, {_lines(lines)}", max(2, calls // 2), persistent, lines=lines)
        inside = [one for one in others if not one.entrant.across]
        await _time(bench, f"{IDLE}, back to back", calls, inside, pause_s=0)
    async with _entered(bench, folder / "disk", [*DISK, JETSTREAM_ALWAYS]) as others, _sending(bench):
        await _time(bench, f"{IDLE}, on the disk", max(2, calls // 10), others, ack="disk")


def _lines(count: int) -> str:
    return f"{count} line" if count == 1 else f"{count} lines"


@asynccontextmanager
async def _entered(bench: _Bench, folder: Path, entrants: Sequence[Entrant]) -> AsyncIterator[list[Entered]]:
    async with AsyncExitStack() as stack:
        entered, skipped = await rivals.enter(stack, QUESTION, folder, entrants)
        bench.skipped += skipped
        yield entered


@asynccontextmanager
async def _sending(bench: _Bench) -> AsyncIterator[None]:
    """The till in this process sends, as an agent does; nothing waits on either till at the end."""
    async with uploading(bench.inside):
        yield
        await until(lambda: _empty(bench), RECONNECT_S)


async def _empty(bench: _Bench) -> bool:
    return bench.inside.journal.queue().records == 0 and await bench.outside.queued() == 0


async def _offers_stream_in(bench: _Bench) -> None:
    """A second POS at the same till sells, and the server answers each of its sales with an offer."""
    selling = asyncio.create_task(_second_pos(bench.outside, bench.sizes.offers_a_second))
    condition = f"{bench.sizes.offers_a_second} offers a second stream in"
    pushed = await _pushed(bench.outside)
    try:
        await until(lambda: _more_than(bench.outside, pushed), 30)
        started, pushed = time.monotonic(), await _pushed(bench.outside)
        async with _sending(bench):
            await _time(bench, condition, max(2, bench.sizes.calls // 2))
            rate = (await _pushed(bench.outside) - pushed) / (time.monotonic() - started)
            selling.cancel()
            await asyncio.gather(selling, return_exceptions=True)
    finally:
        selling.cancel()
    bench.measures.append(Measure(QUESTION, "offers that came meanwhile", condition, round(rate, 1), "a second"))


async def _second_pos(doors: Hook, a_second: int) -> None:
    number = 0
    while True:
        basket = Basket(number, f"second-{number}", 1)
        basket.sale.update(total=ALL_TOTAL, tenders=[{"type": "cash", "amount": ALL_TOTAL}])
        basket.sale["lines"][0]["amount"] = ALL_TOTAL
        await doors.sell_over_http(basket.http)
        number += 1
        await asyncio.sleep(1 / a_second)


async def _more_than(doors: Hook, pushed: int) -> bool:
    return await _pushed(doors) > pushed


async def _pushed(doors: Hook) -> int:
    """How many offers came over the push channel so far, by the agent's own count."""
    headers = {"Authorization": f"Bearer {doors.till.token}"}
    async with doors.session.get(f"{doors.till.url}/metrics", headers=headers) as response:
        said = await response.text()
    lines = [line for line in said.splitlines() if 'pushes_total{outcome="offer"}' in line]
    return int(sum(float(line.split()[-1]) for line in lines))


async def _growing(stack: AsyncExitStack, bench: _Bench) -> _Bench:
    """With the server away, ever more records wait: those of the agent are captured while it does not run."""
    await bench.standing.server.program.kill()
    had = 0
    for count in bench.sizes.queued:
        more, had = count - had, count
        await bench.inside.fill(more, f"queued-{count}")
        bench = await _fill_agent(stack, bench, more, f"queued-{count}")
        await _time(bench, f"{count:,} queued", max(2, bench.sizes.calls // 2))
    return bench


async def _fill_agent(stack: AsyncExitStack, bench: _Bench, count: int, prefix: str) -> _Bench:
    """The same bench with so many more records on its agent, which is started anew."""
    till = bench.outside.till
    await till.program.stop()
    async with in_process(till.state, bench.standing.server.url) as filling:
        await filling.fill(count, prefix)
    outside = await stack.enter_async_context(hook(till.state, bench.standing.folder))
    return replace(bench, outside=outside)


async def _draining(bench: _Bench) -> None:
    """While the last of those queues drains. How much of it is left at the end is told: nothing would mean idle."""
    waiting = bench.sizes.queued[-1]
    condition = f"{waiting:,} drain"
    await bench.standing.server.start()
    async with uploading(bench.inside):
        await until(lambda: _fewer(bench, waiting), RECONNECT_S, every=0.005)
        await _time(bench, condition, max(2, bench.sizes.calls // 2))
        left = {"in process": bench.inside.journal.queue().records, "agent": await bench.outside.queued()}
    for till, records in left.items():
        bench.measures.append(Measure(QUESTION, f"still queued on the till, {till}", condition, records, "records"))


async def _fewer(bench: _Bench, waiting: int) -> bool:
    """Whether both tills' drains have begun."""
    return bench.inside.journal.queue().records < waiting and await bench.outside.queued() < waiting


def _conclusions(timed: Sequence[Row]) -> list[Conclusion]:
    texts = [*_beaten(timed), *_growth(timed)]
    return [Conclusion(QUESTION, text) for text in texts]


def _beaten(timed: Sequence[Row]) -> list[str]:
    """Beside each rival of equal durability: the whole capture, and the queue alone, which is all that a rival does."""
    texts = []
    for row in timed:
        if row.role != "rival" or row.promise == "memory":
            continue
        sides = {row.versus}
        for ack in ("os", "disk"):
            if row.versus == name("in process", ack):
                sides.add(queue(ack))
        for ours in (r for r in timed if r.condition == row.condition and r.subject in sides):
            ratio = ours.against[row.subject]
            takes = f"{ratio.p50:g} × as long as {ours.subject} (p50), {ratio.p99:g} × (p99)"
            texts.append(f"{row.condition}: {row.subject} takes {takes}")
    return texts


def _growth(timed: Sequence[Row]) -> list[str]:
    """What else is going on, over idle."""
    idle = {row.subject: row for row in timed if row.condition == BASE and row.role == "ours"}
    others = [r for r in timed if r.subject in idle and not r.condition.startswith(IDLE)]
    return [
        f"{row.condition}: {row.subject} takes {row.p50 / idle[row.subject].p50:.2f} × as long as idle (p50),"
        f" {row.p99 / idle[row.subject].p99:.2f} × (p99)"
        for row in others
    ]
