"""A world from a seed: machines, links, one server, POS systems. `run` lets a plan happen, then heals everything."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tillstream_agent.queue import Wanted
from tillstream_protocol.errors import TillstreamError

from .chance import Chance, Clock
from .fate import HEALED_WITHIN_S, WINDOW_S, Copy, Fate, Fault, Violation
from .history import History
from .network import Link
from .pos import Pos, order
from .schedule import Plan, Step
from .server import Mood, Server
from .template import Template
from .till import PAUSE_S, DiskImage, Machine
from .watch import Watch

QUIET_WITHIN_S: Final = 2 * 3600.0
"""Made-up time after which everything must have been sent."""
SYNCS: Final = 40
"""As many files may have to be synced one after the other, each within `PAUSE_S`."""
SETTLE_S: Final = 130.0
"""How long it must stay quiet: the server may yet ask for what it lacks."""


@dataclass
class World:
    """Everything there is."""

    plan: Plan
    root: Path
    template: Template
    history: History
    chance: Chance
    fate: Fate = field(default_factory=Fate)
    machines: list[Machine] = field(default_factory=list)
    images: dict[str, list[tuple[DiskImage, list[tuple[bytes, int]]]]] = field(default_factory=dict)
    backups: list[Path] = field(default_factory=list)
    copies: list[Copy] = field(default_factory=list)
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    """When each machine's disk was unwell."""

    def __post_init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.time = loop.time
        self.watch = Watch(self.history)
        server_root = self.root / "server"
        self.template.server_into(server_root)
        clock = Clock(self.time)
        self.server = Server(server_root, self.chance.stream("server"), clock, self.history)
        self.locks: dict[str, asyncio.Lock] = {}
        self.pos: dict[str, Pos] = {}
        self._under_way: dict[asyncio.Task[Any], None] = {}
        for number in range(self.plan.tills):
            root = self.root / f"till-{number}"
            self.template.till_into(number, root)
            self.add_machine(f"till-{number}", root)

    def add_machine(self, name: str, root: Path) -> Machine:
        """A machine with the state folder `root` and an empty journal disk."""
        chance = self.chance.stream(name)
        link = Link(self.server, chance.stream("link"))
        machine = Machine(name, root, link, chance, Clock(self.time), self.history)
        link.sends = self.watch.sends_of(machine)
        machine.slow_s = PAUSE_S if self.plan.pauses else 0.0
        self.machines.append(machine)
        self.images[name] = []
        self.locks[name] = asyncio.Lock()
        self.faults[name] = []
        self.pos[name] = Pos(machine, self.fate, self.history, self.time)
        return machine

    # Happening

    async def run(self) -> None:
        """Let the plan happen, heal everything, and wait until nothing is left to do. Raises `Violation`."""
        from .troubles import TROUBLES

        await self.server.start()
        for machine in self.machines:
            await self.bring_up(machine)
        for step in self.plan.steps:
            await self._until(step.at)
            if step.what == "sell":
                self.begin(self._sell(step))
            else:
                self.history.say("plan", f"{step.what} till-{step.till}")
                self.begin(TROUBLES[step.what](self, self.machines[step.till], self.chance.stream(f"step-{step.at}")))
        await self._until(self.plan.ends_at)
        self.history.say("plan", "heals")
        await self._heal()
        await self._finish()

    def begin(self, what: Coroutine[Any, Any, None]) -> None:
        """Let something happen beside everything else."""
        task = asyncio.get_running_loop().create_task(what)
        self._under_way[task] = None

    async def bring_up(self, machine: Machine) -> None:
        """Start an agent, as its service manager would: again and again."""
        while not machine.up:
            try:
                await machine.start()
            except TillstreamError as error:
                self.history.say(machine.name, f"did not start: {error.code}")
                await asyncio.sleep(1.0)
        queued = machine.journal.queue().records
        for fault in self.faults[machine.name]:
            fault.end = min(fault.end, self.time()) if fault.heals_s < HEALED_WITHIN_S else fault.end
        self.history.say(machine.name, f"started as {machine.journal.position.epoch.hex()[:6]}, {queued} queued")

    async def server_up(self) -> None:
        """Start the server if it is down."""
        if not self.server.up:
            self.history.say("server", "starts")
            await self.server.start()

    @contextmanager
    def unwell(self, machine: Machine) -> Iterator[None]:
        """A machine's disk does not do what it should, meanwhile."""
        fault = Fault(self.time(), float("inf"))
        self.faults[machine.name].append(fault)
        try:
            yield
        finally:
            fault.end = self.time()

    def window(self, machine: Machine) -> float:
        """How long a record may be unsynced, in seconds, while all is well."""
        return WINDOW_S + (SYNCS * PAUSE_S if machine.slow_s else 0.001)

    def went_down(self, machine: Machine) -> None:
        """A machine's agent died: until another one has had its window, nobody syncs what this one wrote last."""
        self.faults[machine.name].append(Fault(self.time(), float("inf"), heals_s=self.window(machine)))

    async def _until(self, at: float) -> None:
        await asyncio.sleep(max(0.0, at - self.time()))

    async def _sell(self, step: Step) -> None:
        machine = self.machines[step.till]
        if self.chance.happens(0.3):
            clones = [other for other in self.machines if other.name.startswith(machine.name)]
            machine = self.chance.choice(clones)
        pos = self.pos[machine.name]
        await pos.ring_up(order(step.number, f"till-{step.till + 1}", self.chance.stream(f"sale-{step.number}")))

    # Healing

    async def _heal(self) -> None:
        for machine in self.machines:
            machine.heals()
            machine.link.calm()
        self.server.mood = Mood()
        self.server.poison.clear()
        while self._under_way:
            task = next(iter(self._under_way))
            await task
            del self._under_way[task]
        self.server.mood = Mood()
        self.server.poison.clear()
        if not self.server.up:
            await self.server.start()
        for machine in self.machines:
            machine.heals()
            machine.link.calm()
            async with self.locks[machine.name]:
                if self.plan.restart:
                    await machine.stop()
                await self.bring_up(machine)

    async def _finish(self) -> None:
        """Wait until all is sent, and stays so."""
        deadline = self.time() + QUIET_WITHIN_S
        quiet_since = self.time()
        while self.time() - quiet_since < SETTLE_S:
            if self.time() > deadline:
                left = {m.name: m.journal.queue().records for m in self.machines}
                raise Violation(f"not everything is sent {QUIET_WITHIN_S:.0f} s after the end of all trouble: {left}")
            await asyncio.sleep(5.0)
            if not self._is_quiet() or self._take_up_again():
                quiet_since = self.time()
        self.history.say("plan", "is over")

    def _is_quiet(self) -> bool:
        return self.server.up and all(m.up and m.journal.queue().records == 0 for m in self.machines)

    def _take_up_again(self) -> bool:
        """Whether there is something that the server would not have: it is tried again."""
        refused = [machine for machine in self.machines if machine.journal.queue().aside]
        for machine in refused:
            taken = machine.sync.queue.retry(Wanted())
            self.history.say(machine.name, f"tries again what the server would not have: {taken.here} records")
        return bool(refused)
