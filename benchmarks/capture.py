"""Question 1: how long does a POS wait for a sale to be captured, at rest and while a backlog drains?"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import msgpack
import msgspec

from .harness import Row, Subject, Timings, interleave
from .stand import Floors, Hook, InProcess, basket, floors, hook, in_process, server, until

QUESTION = "capture"
PAUSE_S = 0.002
BACKLOG = 5
"""Records that wait on each till, for each call that is timed while they drain."""
IN_PROCESS = "in process, sealed, os ack"
SOCKET = "Unix socket, os ack"
HTTP = "loopback HTTP, os ack"
WRITE = "floor: bare write()"
INSERT = "floor: SQLite insert, WAL NORMAL, not sealed"


async def run(folder: Path, calls: int) -> list[Row]:
    """Time all of them in turn, at rest and then while both tills drain what they captured with the server down."""
    count, backlog = calls, calls * BACKLOG
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(server(folder))
        inside = await stack.enter_async_context(in_process(folder, running))
        outside = await stack.enter_async_context(hook(folder, running, 1))
        floor = await stack.enter_async_context(floors(folder))
        uploading = asyncio.create_task(inside.uploader.run())
        try:
            timings = await _measure(inside, outside, floor, "idle", 0, count)
            await running.program.kill()
            await _queue_up(inside, outside, backlog)
            await running.start()
            timings += await _measure(inside, outside, floor, "draining", 10_000_000, count)
            await until(lambda: _empty(inside, outside), 600)
        finally:
            uploading.cancel()
            await asyncio.gather(uploading, return_exceptions=True)
    return _rows(timings)


async def _measure(
    inside: InProcess, outside: Hook, floor: Floors, condition: str, first: int, count: int
) -> list[Timings]:
    bodies = {number: basket(number, condition) for number in range(first, first + count + count // 10)}
    calls = {
        number: msgpack.packb({"call": "transactions", "ack": "os", "body": _as_map(basket(number, f"s{condition}"))})
        for number in bodies
    }
    subjects = [
        Subject(WRITE, lambda n: floor.write(bodies[n])),
        Subject(INSERT, lambda n: floor.insert(bodies[n])),
        Subject(IN_PROCESS, lambda n: inside.sell(bodies[n])),
        Subject(SOCKET, lambda n: outside.sell_over_socket(calls[n])),
        Subject(HTTP, lambda n: outside.sell_over_http(bodies[n])),
    ]
    return await interleave(
        subjects, condition, first, count, warm_up=count // 10, between=lambda: asyncio.sleep(PAUSE_S)
    )


def _as_map(body: bytes) -> object:
    decoded: object = msgspec.json.decode(body)
    return decoded


async def _queue_up(inside: InProcess, outside: Hook, backlog: int) -> None:
    for number in range(backlog):
        body = basket(number, "backlog")
        await inside.sell(body)
        await outside.sell_over_http(body)
        if number % 100 == 0:
            await asyncio.sleep(0)


async def _empty(inside: InProcess, outside: Hook) -> bool:
    return inside.journal.queue().records == 0 and await outside.queued() == 0


def _rows(timings: Sequence[Timings]) -> list[Row]:
    floors_by_condition = {t.condition: t for t in timings if t.subject == WRITE}
    return [t.row(QUESTION, floors_by_condition[t.condition]) for t in timings]
