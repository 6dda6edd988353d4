"""Does a POS have its answer in time, when everything else is in trouble?

Fifty calls a second over loopback HTTP at an agent whose pack is full of campaigns and whose server is gone, with room
on its disk and without: a basket that is open, the sale that closes it, and something that staff noticed. What cannot
be captured is refused, and that has to be as quick.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec

from tillstream_agent.folder import Folder
from tillstream_protocol.decisions import Campaign

from .campaigns import at_the_till
from .figures import Answer, Conclusion, Row
from .harness import Rounds, Subject, interleave, rows
from .records import sale
from .rivals import NothingDone
from .sizes import Sizes
from .stand import Hook, data, enrol, give, hook, server

QUESTION = "deadline"
GONE, FULL = "server gone", "server gone, disk full"
CALLS_A_SECOND: Final = 50
PROMISED_MS: Final = 5
_NO_ROOM: Final = f"[journal]\nreserve_bytes = {2**50}\n"
"""The settings of an agent that finds its disk full."""
_TAKEN, _REFUSED = (200, 201), (507,)


async def run(folder: Path, sizes: Sizes) -> Answer:
    """Both troubles, one after the other."""
    count = max(sizes.campaigns)
    timed: list[Row] = []
    for condition, settings in ((GONE, ""), (FULL, _NO_ROOM)):
        async with AsyncExitStack() as stack:
            agent = await _agent(stack, folder / f"stand-{len(timed)}", count, settings)
            subjects = _subjects(agent, count, captures=condition == GONE)
            pause = partial(asyncio.sleep, len(subjects) / CALLS_A_SECOND)
            rounds = Rounds.of(sizes.deadlines)
            timed += rows(QUESTION, await interleave(subjects, condition, rounds, _basket, pause))
    return Answer(tuple(timed), conclusions=tuple(_conclusions(timed)))


async def _agent(stack: AsyncExitStack, folder: Path, count: int, settings: str) -> Hook:
    """An agent with so many campaigns for open baskets in its pack, and as many for sales; its server is gone."""
    folder.mkdir(parents=True)
    async with server(folder) as standing:
        await enrol(folder / "till", standing)
    async with data(folder / "server") as parts:
        await give(Folder(folder / "till"), parts.keys.sign, _campaigns(count))
    file = folder / "agent.toml"
    file.write_text(settings)
    return await stack.enter_async_context(hook(folder / "till", folder, "--config", str(file)))


def _campaigns(count: int) -> list[Campaign]:
    for_sales = [msgspec.convert(one, Campaign) for one in at_the_till(count)]
    for_baskets = [msgspec.structs.replace(one, id=f"b-{one.id}", trigger="basket") for one in for_sales]
    return [*for_sales, *for_baskets]


def _basket(number: int) -> Mapping[str, Any]:
    """The calls of one customer, made before the clock runs."""
    sold = sale(number, f"deadline-{number}")
    opened = {key: sold[key] for key in ("lines", "total", "currency")}
    return {
        "path": f"/v1/baskets/deadline-{number}",
        "open": json.dumps({"revision": 1, "state": "open", **opened}).encode(),
        "closed": json.dumps({"revision": 2, "state": "closed", "sale": sold}).encode(),
        "remark": json.dumps({"kind": "other_bags", "basket": f"deadline-{number}"}).encode(),
    }


def _subjects(agent: Hook, count: int, *, captures: bool) -> list[Subject[Mapping[str, Any]]]:
    """The calls in the order in which a POS makes them."""

    async def opens(given: Mapping[str, Any]) -> None:
        status, reply = await agent.call("PUT", given["path"], given["open"])
        if status not in _TAKEN or len(reply["effects"]) != 1:
            raise NothingDone(f"an open basket was answered with {status} {reply}")

    async def remarks(given: Mapping[str, Any]) -> None:
        _check(*await agent.call("POST", "/v1/observations", given["remark"]), captures=captures)

    async def closes(given: Mapping[str, Any]) -> None:
        _check(*await agent.call("PUT", given["path"], given["closed"]), captures=captures)

    called = {"open basket": opens, "observation": remarks, "closed basket": closes}
    return [Subject(f"{name}, {count:,} campaigns", call, "ours", "process") for name, call in called.items()]


def _check(status: int, reply: Mapping[str, Any], *, captures: bool) -> None:
    if status not in (_TAKEN if captures else _REFUSED):
        raise NothingDone(f"it was answered with {status} {reply}")


def _conclusions(timed: Sequence[Row]) -> list[Conclusion]:
    slowest = max(timed, key=lambda row: row.p99)
    says = "within" if slowest.p99 <= PROMISED_MS * 1000 else "not within"
    return [
        Conclusion(
            QUESTION,
            f"At {CALLS_A_SECOND} calls a second, answers come {says} {PROMISED_MS} ms (p99; the slowest is"
            f" {slowest.subject}, {slowest.condition}: {slowest.p99 / 1000:.2f} ms, {slowest.max / 1000:.2f} ms at the"
            " most).",
        )
    ]
