"""SIGKILL of agent and server at random points, while a POS sells on.

    PYTHONPATH=tests:deploy python -m crash.kills --kills 1000 --seeds 3 --rate 200

prints one line of JSON a seed and one for all. The exit code is 1 if anything acknowledged is not in the ledger
exactly once, or if the projections are not what a rebuild gives.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from crash.cashier import Cashier
from crash.proof import compare, counts, rebuilt_alike
from crash.stand import Stand, standing
from support.zygote import Zygote

UP_S: Final = 0.5
"""The agent is killed at most so long after it was forked: often before it is up."""
SERVER_KILLED: Final = 0.05
"""How often the server is killed with it."""
DRAIN_S: Final = 300.0


@dataclass(frozen=True, slots=True)
class Plan:
    """One run: how often to kill, from which seed, sales a second, and the latest end in seconds."""

    kills: int
    seed: int
    rate: float
    seconds: float


async def run(folder: Path, plan: Plan, zygote: Zygote | None = None) -> dict[str, Any]:
    """Kill, drain, compare; what came of it."""
    with standing(folder, zygote) as stand:
        stand.enrol()
        began = time.monotonic()
        cashier = Cashier(stand.socket, plan.seed, plan.rate)
        await stand.open_till()
        selling = asyncio.create_task(cashier.work())
        try:
            await _unleash(stand, plan, selling)
            selling_s = time.monotonic() - began
            stand.await_server()
            await stand.await_till()
            cashier.stop()
            await asyncio.wait_for(selling, DRAIN_S)
        finally:
            selling.cancel()
        drain_s = await stand.drained(DRAIN_S)
        took = {"selling_s": round(selling_s, 1), "drain_s": round(drain_s, 1)}
        return {"seed": plan.seed, **figures(stand, cashier), **took}


async def _unleash(stand: Stand, plan: Plan, selling: asyncio.Task[None]) -> None:
    chance = random.Random(plan.seed)
    ends = time.monotonic() + plan.seconds
    while stand.till.kills < plan.kills and time.monotonic() < ends:
        await asyncio.sleep(chance.uniform(0, UP_S))
        if selling.done():
            await selling
        stand.till.kill()
        if chance.random() < SERVER_KILLED:
            stand.server.kill()
            await asyncio.sleep(chance.uniform(0, 0.1))
            stand.server.start()
        stand.till.start()


def figures(stand: Stand, cashier: Cashier) -> dict[str, Any]:
    """What was acknowledged, and what the ledger makes of it."""
    kinds = Counter(ack.kind for ack in cashier.acknowledged.values())
    return {
        "kills": stand.till.kills,
        "server_kills": stand.server.kills,
        "acknowledged": len(cashier.acknowledged),
        "os": kinds["os"],
        "disk": kinds["disk"],
        "answers": dict(sorted(cashier.counted.items())),
        "ledger": counts(stand.data)["ledger"],
        **compare(stand.data, cashier.acknowledged),
        "projections_as_rebuilt": rebuilt_alike(stand),
    }


def held_the_promise(told: dict[str, Any]) -> bool:
    """Nothing lost, nothing twice, no difference to a rebuild."""
    wrong = ("lost", "renamed", "more_than_once", "holes", "duplicates", "conflicts", "dead_letters", "quarantines")
    return not any(told[name] for name in wrong) and bool(told["projections_as_rebuilt"])


def main(arguments: list[str] | None = None) -> int:
    """Run as the module's text says."""
    parser = argparse.ArgumentParser(prog="python -m crash.kills", description="SIGKILL at random points")
    parser.add_argument("--kills", type=int, default=100, help="of the agent, for each seed (100)")
    parser.add_argument("--seeds", type=int, default=1, help="how many runs (1)")
    parser.add_argument("--from", dest="first", type=int, default=1, help="the first seed (1)")
    parser.add_argument("--rate", type=float, default=200.0, help="sales a second (200)")
    parser.add_argument("--minutes", type=float, default=15.0, help="for each seed at most (15)")
    given = parser.parse_args(arguments)
    good = True
    for seed in range(given.first, given.first + given.seeds):
        with tempfile.TemporaryDirectory(prefix="crash-") as folder:
            plan = Plan(given.kills, seed, given.rate, given.minutes * 60)
            told = asyncio.run(run(Path(folder), plan))
        good &= held_the_promise(told) and told["kills"] == given.kills
        print(json.dumps(told), flush=True)
    print(json.dumps({"seeds": given.seeds, "kept": good}))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
