"""SIGKILL at every system call of a name in a whole agent's life, or in a whole server's, while a POS sells on.

    PYTHONPATH=tests python -m crash.syscalls --victim agent

A life is a start, some sales, and an end by SIGTERM; it is lived again until strace has killed at the first, the
second … call of each name, and none is left. The server is killed at the calls that touch its databases.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from crash.cashier import Cashier
from crash.kills import DRAIN_S, figures, held_the_promise
from crash.stand import Fork, Stand, standing
from crash.traced import SYSTEM_CALLS, Gate, Trap, strace_refuses
from support.zygote import Zygote

LIFE_S: Final = 0.4
END_S: Final = 30.0
RATE: Final = 40.0
DATABASES: Final = ("ledger.db", "ledger.db-wal", "vault-keys.db", "vault-keys.db-wal")
SERVER_CALLS: Final = ("pwrite64", "fdatasync", "fsync", "ftruncate", "unlink", "close")


@dataclass(frozen=True, slots=True)
class Plan:
    """Who is killed, at every which call of which names (of all: None), in how many seconds at most."""

    victim: str
    step: int
    seconds: float
    only: tuple[str, ...] | None = None

    def traps(self, data: Path) -> list[Trap]:
        """What to die at first; the later calls follow from it."""
        if self.victim == "agent":
            return [Trap(name, 1) for name in self.only or SYSTEM_CALLS]
        return [Trap(name, 1, (data / file,)) for file in DATABASES for name in self.only or SERVER_CALLS]


async def run(folder: Path, plan: Plan, zygote: Zygote | None = None) -> dict[str, Any]:
    """Kill at call after call, drain, compare; what came of it."""
    with standing(folder, zygote) as stand:
        stand.enrol()
        await stand.open_till()
        cashier = Cashier(stand.socket, 1, RATE)
        selling = asyncio.create_task(cashier.work())
        try:
            deaths, complete = await _kill_all(stand, plan)
            cashier.stop()
            await asyncio.wait_for(selling, DRAIN_S)
        finally:
            selling.cancel()
        await stand.drained(DRAIN_S)
        told = figures(stand, cashier)
        return {"victim": plan.victim, "deaths": dict(deaths), "complete": complete, **told}


async def _kill_all(stand: Stand, plan: Plan) -> tuple[Counter[str], bool]:
    ends = time.monotonic() + plan.seconds
    victim = stand.till if plan.victim == "agent" else stand.server
    victim.stop()
    deaths: Counter[str] = Counter()
    for trap in plan.traps(stand.data):
        number = 1
        while await _dies(stand, victim, Trap(trap.call, number, trap.files)):
            deaths[" ".join((trap.call, *(file.name for file in trap.files)))] += 1
            number += plan.step
            if time.monotonic() > ends:
                break
    victim.start()
    stand.await_server()
    if not stand.till.running():
        stand.till.start()
    await stand.await_till()
    return deaths, time.monotonic() < ends


async def _dies(stand: Stand, victim: Fork, trap: Trap) -> bool:
    """One life; whether the trap ended it."""
    gate = Gate(stand.folder / "gate")
    with gate.shut() as let_go:
        if victim is stand.till:
            stand.socket.unlink(missing_ok=True)
        elif stand.till.running():
            stand.till.kill()
        victim.start(gate.file)
        with trap.set(victim.pid, let_go):
            await _lives(stand, victim)
            code = await asyncio.to_thread(victim.stop, END_S)
    assert code in (0, -9), victim.log.read_text()
    return code != 0


async def _lives(stand: Stand, victim: Fork) -> None:
    """Until it has been at work for a while, or is dead."""
    at_work = None
    began = time.monotonic()
    while victim.running() and (at_work is None or time.monotonic() < at_work + LIFE_S):
        assert time.monotonic() < began + END_S, "it does not come up"
        works = stand.socket.exists() if victim is stand.till else await _takes_batches(stand)
        at_work = at_work or (time.monotonic() if works else None)
        await asyncio.sleep(0.01)


async def _takes_batches(stand: Stand) -> bool:
    """Whether the server listens, and the till has got rid of what it had to keep meanwhile.

    The till comes up after the server: one that has found no server for long waits for long.
    """
    if not _says(stand.server.out):
        return False
    if not stand.till.running():
        stand.till.start()
    status = await stand.status()
    return status is not None and status["queue"]["records"] < RATE / 2


def _says(out: Path) -> bool:
    """Whether a process has printed a line."""
    return out.exists() and out.read_bytes().endswith(b"\n")


def main(arguments: list[str] | None = None) -> int:
    """Run as the module's text says."""
    parser = argparse.ArgumentParser(prog="python -m crash.syscalls", description="SIGKILL at every system call")
    parser.add_argument("--victim", choices=("agent", "server"), default="agent")
    parser.add_argument("--step", type=int, default=1, help="take every so many calls (1)")
    parser.add_argument("--minutes", type=float, default=20.0, help="at most (20)")
    given = parser.parse_args(arguments)
    if reason := strace_refuses():
        print(json.dumps({"skipped": reason}))
        return 0
    with tempfile.TemporaryDirectory(prefix="crash-") as folder:
        told = asyncio.run(run(Path(folder), Plan(given.victim, given.step, given.minutes * 60)))
    print(json.dumps(told))
    return 0 if held_the_promise(told) else 1


if __name__ == "__main__":
    sys.exit(main())
