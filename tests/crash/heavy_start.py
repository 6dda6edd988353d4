"""An agent that starts with a long queue: how soon it captures, and how much more memory it takes than an empty one.

    PYTHONPATH=tests python -m crash.heavy_start --gib 1

The queue is made by the real journal, with chunks of its usual size; the agent is a fresh process, its server is down,
and the queue's files are dropped from the page cache before. Prints JSON; the exit code is 1 if the first capture took
longer than 2 s or memory grew by more than 20 MB over the empty start.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from crash.cashier import sale
from crash.inside import inside
from crash.stand import Stand, standing

FIRST_CAPTURE_S: Final = 2.0
GROWTH: Final = 20 * 10**6
SETTLE_S: Final = 3.0
UP_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Start:
    """One start: seconds until the first capture was acknowledged, and those of them that the process itself worked;
    resident and peak bytes a little later."""

    first_capture_s: float
    worked_s: float
    resident: int
    peak: int


async def measure(stand: Stand, pos_id: str) -> Start:
    """Start the agent as a fresh process, sell once, and end it."""
    with _agent(stand) as (process, began):
        while (reply := await stand.ask({"call": "transactions", "body": sale(pos_id, random.Random(1))})) is None:
            assert process.poll() is None, "the agent ended by itself"
            assert time.monotonic() < began + UP_S, "the agent does not come up"
            await asyncio.sleep(0.005)
        took, worked = time.monotonic() - began, _worked(process.pid)
        assert reply["status"] == 201, reply
        await asyncio.sleep(SETTLE_S)
        sizes = _memory(process.pid)
    return Start(round(took, 3), worked, sizes["VmRSS"], sizes["VmHWM"])


@contextmanager
def _agent(stand: Stand) -> Iterator[tuple[subprocess.Popen[bytes], float]]:
    stand.socket.unlink(missing_ok=True)
    began = time.monotonic()
    with stand.till.log.open("ab") as log:
        process = subprocess.Popen([sys.executable, "-m", "tillstream_agent.cli", *stand.till.arguments], stderr=log)
    try:
        yield process, began
    finally:
        process.terminate()
        process.wait(60)


def _memory(pid: int) -> dict[str, int]:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    pairs = (line.split() for line in lines if line.startswith(("VmRSS:", "VmHWM:")))
    return {name.rstrip(":"): int(size) * 1024 for name, size, _ in pairs}


def _worked(pid: int) -> float:
    """Processor seconds of a process so far."""
    after_name = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return sum(map(int, after_name[11:13])) / os.sysconf("SC_CLK_TCK")


def _forget(folder: Path) -> None:
    """Have the kernel drop a folder's files from its cache."""
    for path in folder.iterdir():
        file = os.open(path, os.O_RDONLY)
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


async def run(folder: Path, size: int, record: int) -> dict[str, Any]:
    """Measure an empty start and a heavy one."""
    with standing(folder) as stand:
        stand.enrol()
        stand.server.kill()
        await measure(stand, "warm-up")
        empty = await measure(stand, "empty")
        began = time.monotonic()
        async with inside(stand.state) as till:
            records = await till.stores(size, record)
        prepared_s = time.monotonic() - began
        _forget(stand.state / "journal")
        heavy = await measure(stand, "heavy")
        again = await measure(stand, "again")
        return {
            "queued_bytes": sum(path.stat().st_size for path in (stand.state / "journal").iterdir()),
            "queued_records": records,
            "chunks": len(list((stand.state / "journal").glob("*.chunk"))),
            "prepared_s": round(prepared_s, 1),
            "empty": asdict(empty),
            "heavy": asdict(heavy),
            "heavy_from_cache": asdict(again),
            "growth_bytes": heavy.resident - empty.resident,
        }


def main(arguments: list[str] | None = None) -> int:
    """Run as the module's text says."""
    parser = argparse.ArgumentParser(prog="python -m crash.heavy_start", description="start with a long queue")
    parser.add_argument("--gib", type=float, default=1.0, help="how much is queued (1)")
    parser.add_argument("--record", type=int, default=1100, help="bytes in a record (1100)")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="crash-") as folder:
        told = asyncio.run(run(Path(folder), int(given.gib * 2**30), given.record))
    print(json.dumps(told))
    return 0 if told["heavy"]["first_capture_s"] <= FIRST_CAPTURE_S and told["growth_bytes"] <= GROWTH else 1


if __name__ == "__main__":
    sys.exit(main())
