"""What does the agent weigh: memory and processor at rest and while it drains, its start, and what is installed."""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
import zipfile
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from .figures import Answer, Conclusion, Measure, Skipped
from .machine import Weight, weigh
from .sizes import Sizes
from .stand import Standing, agent, calling, enrol, in_process, pid_of, server, until

QUESTION = "weight"
AGENT = "agent"
REST, DRAIN = "at rest", "draining"
_ROOT = Path(__file__).parents[1]
_SETTLE_S = 2.0
_MB = 2**20


async def run(folder: Path, sizes: Sizes) -> Answer:
    """Start it again and again, let it rest, have it drain; and look at what it is made of."""
    async with server(folder) as standing:
        state = folder / "till"
        await enrol(state, standing)
        measures = await _starting(state, folder, sizes)
        measures += await _resting(state, folder, standing, sizes)
        measures += await _draining(state, folder, standing, sizes)
    wheels, skipped = await _wheels(folder)
    measures += [*wheels, *_installed()]
    rest = next(one.value for one in measures if one.condition == REST and one.unit == "MB resident")
    busy = next(one.value for one in measures if one.condition == REST and one.unit == "% of a core")
    text = f"At rest the agent has {rest:g} MB resident (60 are allowed) and takes {busy:g} % of a core (0.5 are)."
    return Answer(measures=tuple(measures), skipped=tuple(skipped), conclusions=(Conclusion(QUESTION, text),))


async def _starting(state: Path, folder: Path, sizes: Sizes) -> list[Measure]:
    """From the start of the process until both doors are open."""
    took = []
    for _ in range(sizes.starts):
        running = agent(state, folder)
        started = time.perf_counter()
        try:
            await running.start()
            took.append(time.perf_counter() - started)
        finally:
            await running.program.stop()
    return [Measure(QUESTION, AGENT, "start until the doors are open, median", _rounded(took), "seconds")]


def _rounded(took: list[float]) -> float:
    return round(statistics.median(took), 3)


async def _resting(state: Path, folder: Path, standing: Standing, sizes: Sizes) -> list[Measure]:
    """Connected, with nothing to do; the server likewise."""
    running = agent(state, folder)
    try:
        await running.start()
        await asyncio.sleep(min(_SETTLE_S, sizes.rest_s))
        pids = {AGENT: pid_of(running.program), "server": standing.pid}
        before, started = {name: weigh(pid) for name, pid in pids.items()}, time.perf_counter()
        await asyncio.sleep(sizes.rest_s)
        seconds = time.perf_counter() - started
        after = {name: weigh(pid) for name, pid in pids.items()}
    finally:
        await running.program.stop()
    return [found for name in pids for found in _weights(name, REST, before[name], after[name], seconds)]


async def _draining(state: Path, folder: Path, standing: Standing, sizes: Sizes) -> list[Measure]:
    """From its start with a backlog until that is gone; the memory is the peak."""
    async with in_process(state, standing.server.url) as till:
        await till.fill(sizes.drained, "weight")
    running = agent(state, folder)
    try:
        await running.start()
        pid = pid_of(running.program)
        before, started = weigh(pid), time.perf_counter()
        async with calling(running) as doors:

            async def empty() -> bool:
                return await doors.queued() == 0

            await until(empty, 3600)
        after, seconds = weigh(pid), time.perf_counter() - started
    finally:
        await running.program.stop()
    peak = Weight(after.peak, after.peak, after.cpu)
    condition = f"{DRAIN} {sizes.drained:,}"
    return _weights(AGENT, condition, before, peak, seconds)


def _weights(name: str, condition: str, before: Weight, after: Weight, seconds: float) -> list[Measure]:
    return [
        Measure(QUESTION, name, condition, round(after.resident / _MB, 1), "MB resident"),
        Measure(QUESTION, name, condition, round((after.cpu - before.cpu) / seconds * 100, 2), "% of a core"),
    ]


async def _wheels(folder: Path) -> tuple[list[Measure], list[Skipped]]:
    """The agent's and the protocol's wheels, built here."""
    measures, skipped = [], []
    for part in ("protocol", "agent"):
        out = folder / "wheels"
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)),
            cwd=_ROOT / part,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await process.communicate()
        found = sorted(out.glob(f"tillstream_{part}-*.whl"))
        if process.returncode or not found or not zipfile.is_zipfile(found[0]):
            last = said.decode(errors="replace").strip().splitlines()[-1:]
            skipped.append(Skipped(QUESTION, f"wheel of {part}", " ".join(last) or "hatchling did not build it"))
        else:
            measures.append(Measure(QUESTION, f"{part} wheel", "built", round(found[0].stat().st_size / 1024), "KB"))
    return measures, skipped


def _installed() -> list[Measure]:
    """What an agent's environment holds beside Python: files as installed, without compiled copies."""
    names = ("tillstream-agent", "tillstream-protocol", *_pinned(_ROOT / "requirements" / "agent.txt"))
    sizes = {name: size for name in names if (size := _size(name)) is not None}
    ours = {name: _source_size(name.removeprefix("tillstream-")) for name in names[:2]}
    total = sum((sizes | ours).values())
    condition = f"installed, {len(sizes | ours)} distributions"
    return [
        Measure(QUESTION, "agent with everything it needs", condition, round(total / _MB, 1), "MB on disk"),
        Measure(QUESTION, "agent and protocol alone", "installed", round(sum(ours.values()) / _MB, 2), "MB on disk"),
    ]


def _pinned(file: Path) -> Iterator[str]:
    lines = file.read_text(encoding="utf-8").splitlines()
    return (line.partition("==")[0] for line in lines if "==" in line)


def _size(name: str) -> int | None:
    """The files of an installed distribution, or None where it is not for this system."""
    try:
        found: Distribution = distribution(name)
    except PackageNotFoundError:
        return None
    paths = (Path(str(file.locate())) for file in found.files or () if file.suffix != ".pyc")
    return sum(path.stat().st_size for path in paths if path.is_file())


def _source_size(part: str) -> int:
    """Of ours, which may be installed in place."""
    files = (_ROOT / part / "src").rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file() and file.suffix != ".pyc")
