"""One seed from its beginning to its verdict."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from . import loop
from .chance import Chance
from .check import check
from .fate import Violation
from .history import History
from .ledger import digest_of, read
from .nodes import adopt_tasks
from .schedule import Plan, plan
from .server import simulated_sockets
from .template import TILLS, Template, prepare
from .till import simulated_agents
from .world import World

SALES: Final = 60
_MEMORY: Final = Path("/dev/shm")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a seed. `digest` is of its history; `violation` is empty if all went well."""

    seed: int
    digest: str
    violation: str
    lines: tuple[str, ...]
    made_up_s: float
    required: int
    doubted: int


@contextmanager
def prepared() -> Iterator[Template]:
    """The template, in a temporary folder: in memory where there is such a place."""
    root = Path(tempfile.mkdtemp(prefix="tillstream-sim-", dir=_MEMORY if _MEMORY.is_dir() else None))
    try:
        yield prepare(root / "template")
    finally:
        shutil.rmtree(root)


def simulate(
    seed: int, template: Template, *, sales: int = SALES, only: Sequence[str] = (), logs: bool = False
) -> Verdict:
    """Let the history of a seed happen, and judge it."""
    return simulate_plan(plan(seed, tills=TILLS, sales=sales, only=only), template, logs=logs)


def simulate_plan(planned: Plan, template: Template, *, logs: bool = False) -> Verdict:
    """Let a planned history happen, and judge it."""
    root = Path(tempfile.mkdtemp(prefix="seed-", dir=template.root))
    try:
        with simulated_agents(), simulated_sockets():
            return loop.run(_simulate(planned, root, template, logs=logs))
    finally:
        shutil.rmtree(root)


async def _simulate(planned: Plan, root: Path, template: Template, *, logs: bool) -> Verdict:
    here = asyncio.get_running_loop()
    assert isinstance(here, loop.VirtualLoop)
    adopt_tasks(here)
    history = History(here.time, logs=logs)
    world = World(planned, root, template, history, Chance(planned.seed, "world"))
    violation = ""
    try:
        await world.run()
        await check(world)
        history.say("ledger", digest_of(read(world.server.root / "ledger.db")))
    except Violation as error:
        violation = str(error)
    except Exception:  # noqa: BLE001 - whatever breaks is a finding
        violation = traceback.format_exc()
    for machine in world.machines:
        await machine.crash()
    await world.server.kill()
    fate = world.fate
    return Verdict(
        planned.seed,
        history.digest,
        violation,
        tuple(history.lines),
        here.time(),
        len(fate.required()),
        len(fate.doubts),
    )
