"""A long outage drains while the till sells on.

    PYTHONPATH=tests python -m crash.soak --days 7 --rate 2

What a till sells in so many days is captured by the real journal, all at once; then a real agent drains it into a real
server, while a POS goes on selling at the same rate. Without `--days` a backlog is made that fits the `--minutes`
given. Prints JSON: how long the drain took, how far the live records were behind meanwhile (from the till's
acknowledgement until the server had them), what was lost, and the agent's peak memory. The exit code is 1 if anything
was lost or twice.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from crash.cashier import Cashier
from crash.inside import inside
from crash.proof import compare, counts, reading, rebuilt_alike
from crash.stand import Stand, standing

DAY_S: Final = 86_400
DRAINED_A_SECOND: Final = 1000
"""How much backlog a minute is made of; what the slowest machine that we know drains, with room."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How many sales wait, how many a second come meanwhile, and for how many seconds at most."""

    backlog: int
    rate: float
    seconds: float


async def run(folder: Path, plan: Plan) -> dict[str, Any]:
    """Prepare, drain, compare; what came of it."""
    with standing(folder) as stand:
        stand.enrol()
        began = time.monotonic()
        async with inside(stand.state) as till:
            await till.sells(plan.backlog, "old")
        prepared_s = time.monotonic() - began
        size = sum(path.stat().st_size for path in (stand.state / "journal").iterdir())
        cashier = Cashier(stand.socket, 1, plan.rate, prefix="live")
        acknowledged_at = _timed(cashier)
        await stand.open_till()
        selling = asyncio.create_task(cashier.work())
        try:
            drain_s = await _drained(stand, plan, selling)
            cashier.stop()
            await asyncio.wait_for(selling, 60)
        finally:
            selling.cancel()
        await stand.drained(60)
        print(f"drained in {drain_s:.1f} s; comparing", file=sys.stderr)
        peak = _peak(stand.till.pid)
        wrong = compare(stand.data, cashier.acknowledged)
        ledger = counts(stand.data)["ledger"]
        return {
            "backlog": plan.backlog,
            "backlog_bytes": size,
            "live": len(cashier.acknowledged),
            "prepared_s": round(prepared_s, 1),
            "drain_s": round(drain_s, 1),
            "drained_a_second": round(plan.backlog / drain_s),
            **_lags(stand, cashier, acknowledged_at),
            "ledger": ledger,
            **wrong,
            "lost": wrong["lost"] + plan.backlog + len(cashier.acknowledged) - ledger,
            "agent_peak_bytes": peak,
            "projections_as_rebuilt": rebuilt_alike(stand),
        }


async def _drained(stand: Stand, plan: Plan, selling: asyncio.Task[None]) -> float:
    """Seconds until nothing of the backlog is left; a live record or two may be on its way."""
    began = time.monotonic()
    async with asyncio.timeout(plan.seconds):
        while (status := await stand.status()) is None or status["queue"]["records"] > 2 * plan.rate:
            stand.till.must_run()
            stand.server.must_run()
            if selling.done():
                await selling
            await asyncio.sleep(0.1)
    return time.monotonic() - began


def _timed(cashier: Cashier) -> dict[str, int]:
    """When each live sale was acknowledged first, in ms since 1970; filled in as they are."""
    at: dict[str, int] = {}
    cashier.on_ack = lambda pos_id: at.setdefault(pos_id, time.time_ns() // 1_000_000)
    return at


def _lags(stand: Stand, cashier: Cashier, acknowledged_at: dict[str, int]) -> dict[str, float]:
    """How far behind live sales were, in seconds."""
    names = {(ack.epoch, ack.seq): pos_id for pos_id, ack in cashier.acknowledged.items()}
    lags: list[float] = []
    with reading(stand.data) as database:
        for epoch in {ack.epoch for ack in cashier.acknowledged.values()}:
            rows = database.execute("SELECT seq, received_ms FROM ledger WHERE epoch = ?", (bytes.fromhex(epoch),))
            lags.extend((received - acknowledged_at[names[epoch, seq]]) / 1000 for seq, received in rows)
    lags.sort()
    return {
        "live_lag_p50_s": lags[len(lags) // 2],
        "live_lag_p99_s": lags[math.ceil(len(lags) * 0.99) - 1],
        "live_lag_max_s": lags[-1],
    }


def _peak(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def main(arguments: list[str] | None = None) -> int:
    """Run as the module's text says."""
    parser = argparse.ArgumentParser(prog="python -m crash.soak", description="drain a long outage")
    parser.add_argument("--days", type=float, help="how long the till was cut off")
    parser.add_argument("--rate", type=float, default=2.0, help="sales a second (2)")
    parser.add_argument("--minutes", type=float, default=10.0, help="the drain's bound (10)")
    given = parser.parse_args(arguments)
    seconds = given.minutes * 60
    backlog = int(given.days * DAY_S * given.rate) if given.days is not None else int(seconds * DRAINED_A_SECOND)
    with tempfile.TemporaryDirectory(prefix="crash-") as folder:
        told = asyncio.run(run(Path(folder), Plan(backlog, given.rate, seconds)))
    print(json.dumps(told))
    return 1 if told["lost"] or told["more_than_once"] or not told["projections_as_rebuilt"] else 0


if __name__ == "__main__":
    sys.exit(main())
