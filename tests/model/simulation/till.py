"""A till in the simulated world: the real agent, but for its doors, on a simulated disk and behind a simulated link.

Its machine outlives its processes: it crashes, loses power, is imaged, restored and cloned, and its clock is moved.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import aiosqlite

from support.medium import Manner
from support.simdisk import Image, Judge, SimDisk, from_image
from tillstream_agent import app
from tillstream_agent.config import Config, overlaid
from tillstream_agent.folder import Folder
from tillstream_agent.journal import Journal
from tillstream_agent.remote import Remote
from tillstream_agent.sync.push import PushChannel
from tillstream_protocol.framing import FRAMES_START, ChunkHeader, DamagedChunk, Frame, scan
from tillstream_protocol.limits import DEFAULT, KIB

from .chance import Chance, Clock
from .fate import Name
from .history import History
from .inline import Connections
from .network import Link, SimTransport
from .nodes import Process, here

LIMITS: Final = replace(DEFAULT, chunk=4 * KIB, batch=2 * KIB, chunk_age=60.0)
"""Small, so that chunks roll over and batches are many."""
CONFIG: Final = Config(sync_heartbeat_s=45.0, journal_reserve_bytes=0, log_level="info")
PAUSE_S: Final = 0.015
"""A sync takes at most this long, unless the disk is slow."""


@dataclass(slots=True)
class _Run:
    """One run of the agent's program."""

    process: Process
    connections: Connections
    stack: AsyncExitStack
    core: Any
    sync: Any


@dataclass(frozen=True, slots=True)
class DiskImage:
    """A copy of a machine's disk: journal and state folder."""

    journal: Image
    folder: Path
    taken_at: float


class Machine:
    """One till's machine. `disk` holds the journal; the rest of the state folder lies in `root`."""

    def __init__(self, name: str, root: Path, link: Link, chance: Chance, clock: Clock, history: History) -> None:
        self.name = name
        self.root = root
        self.link = link
        self.clock = clock
        self.chance = chance
        self.disk = SimDisk(pause=self._pause)
        self.slow_s = PAUSE_S
        self.boots = 1
        self._history = history
        self._judge: Judge | None = None
        self._run: _Run | None = None
        self._images = 0
        self._dead: list[_Run] = []
        """What a killed process held is never tidied up, not even by the garbage collector."""

    @property
    def up(self) -> bool:
        """Whether the agent runs."""
        return self._run is not None

    @property
    def core(self) -> Any:
        """The agent's parts."""
        assert self._run is not None
        return self._run.core

    @property
    def sync(self) -> Any:
        """The agent's parts that speak to the server."""
        assert self._run is not None
        return self._run.sync

    @property
    def process(self) -> Process:
        """The agent's process."""
        assert self._run is not None
        return self._run.process

    @property
    def journal(self) -> Journal:
        """The agent's journal."""
        journal: Journal = self.core.journal
        return journal

    # Its life

    async def start(self) -> None:
        """Start the agent. Raises what the agent's own start raises."""
        process = Process(self.name, self)
        connections = Connections()
        process.connections = connections
        try:
            self._run = await process.spawn(self._start(process, connections))
        except BaseException:
            connections.lose()
            await process.die()
            raise

    async def _start(self, process: Process, connections: Connections) -> _Run:
        folder = Folder(self.root)
        world = self._world()
        stack = AsyncExitStack()
        identity, over = folder.identity(), asyncio.Event()
        remote = Remote.open(folder, identity, partial(overlaid, CONFIG))
        core = await app._core(stack, folder, identity, CONFIG, world, remote)
        sync = await app._sync(stack, core)
        await stack.enter_async_context(app._background(core, sync, (), partial(core.following.run, over)))
        return _Run(process, connections, stack, core, sync)

    def _world(self) -> app.World:
        return app.World(
            clock=self.clock,
            randomness=self.chance.randbytes,
            uniform=self.chance.random,
            log=self._history.log_of(self.name),
            boot=lambda: f"boot {self.boots}",
        )

    async def stop(self) -> None:
        """End the agent as it wishes to be ended."""
        run, self._run = self._run, None
        if run is not None:
            await run.process.spawn(run.stack.aclose())
            await run.process.die()
            run.connections.lose()

    async def crash(self) -> None:
        """Kill the agent. What it had written stays written."""
        await self._die(self.disk.crash())

    async def lose_power(self, manner: Manner) -> None:
        """The machine goes dead. What was not synced is lost, kept or torn, as the manner says."""
        left = self.disk.power_cut(manner, self.chance)
        self.disk.crash()
        self.boots += 1
        await self._die(left)

    async def _die(self, left: SimDisk) -> None:
        run, self._run = self._run, None
        self.disk = left
        self.disk.pause = self._pause
        self.disk.judge = self._judge
        if run is not None:
            self._dead.append(run)
            run.process.alive = False
            run.connections.lose()
            self.link.tear()
            await run.process.die()

    # Its disk

    def judged(self, judge: Judge | None) -> None:
        """From now on this judge decides on the disk's calls."""
        self._judge = judge
        self.disk.judge = judge

    def heals(self) -> None:
        """Nothing is wrong with the disk any more."""
        self.judged(None)
        self.disk.capacity = None
        self.slow_s = min(self.slow_s, PAUSE_S)

    async def _pause(self) -> None:
        await asyncio.sleep(self.chance.uniform(0, self.slow_s))

    def image(self) -> DiskImage:
        """Copy the disk as it is; the agent may run."""
        self._images += 1
        to = self.root.with_name(f"{self.root.name}-image-{self._images}")
        shutil.copytree(self.root, to, ignore=_not_files)
        return DiskImage(self.disk.image(), to, asyncio.get_running_loop().time())

    def held(self) -> frozenset[Name]:
        """The names of the records that its chunks hold, as their clear headers say."""
        names: set[Name] = set()
        for name, data in self.disk.image().items():
            if name.endswith(".chunk"):
                with contextlib.suppress(DamagedChunk):
                    epoch = ChunkHeader.read(data[:FRAMES_START])[0].epoch
                    names |= {(epoch, one.header.seq) for one in scan(data, FRAMES_START) if isinstance(one, Frame)}
        return frozenset(names)

    def put_back(self, image: DiskImage) -> None:
        """Have the disk of an earlier image again. The agent must be down."""
        assert self._run is None
        self.boots += 1
        shutil.rmtree(self.root)
        shutil.copytree(image.folder, self.root)
        self.disk = from_image(image.journal, capacity=self.disk.capacity)
        self.disk.pause = self._pause
        self.disk.judge = self._judge


def _not_files(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if name == "journal"]


# What the agent finds in place of the world


class _SimJournal:
    """The real journal, on the machine's simulated disk."""

    @staticmethod
    async def open(folder: Path, **about: Any) -> Journal:
        machine: Machine = here().place
        return await Journal.open(folder, **(about | {"disk": machine.disk}))


class _SimPushChannel(PushChannel):
    """The real channel, over simulated wires."""

    async def _listen(self, client: Any) -> Any:
        machine: Machine = here().place
        return await super()._listen(_client(machine.link))


def _client(link: Link) -> Any:
    return _Client(link)


class _Client:
    """Stands where aiohttp's client session stands."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def ws_connect(self, url: str, **_options: Any) -> Any:
        return await self._link.connect("/" + url.split("/", 3)[3])


def _transport(_address: str, **_options: Any) -> SimTransport:
    machine: Machine = here().place
    return SimTransport(machine.link)


def _connect(database: str | Path, **options: Any) -> aiosqlite.Connection:
    connections: Connections = here().connections
    return connections.connect(database, **options)


@contextmanager
def simulated_agents() -> Iterator[None]:
    """While this lasts, agents find the simulated world."""
    places: Mapping[str, Any] = {
        "Journal": _SimJournal,
        "PushChannel": _SimPushChannel,
        "Transport": _transport,
        "DEFAULT": LIMITS,
    }
    with patch.multiple(app, **places), patch.object(aiosqlite, "connect", _connect):
        yield
