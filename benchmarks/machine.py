"""What the machine is, and what a process weighs on it."""

from __future__ import annotations

import os
import platform
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from .figures import Machine

_PROC = Path("/proc")


def describe(folder: Path) -> Machine:
    """This machine, and the file system that `folder` lies on."""
    return Machine(
        processor=_processor(),
        cores=os.cpu_count() or 0,
        memory_mb=_memory() // 2**20,
        python=platform.python_version(),
        sqlite=sqlite3.sqlite_version,
        file_system=_file_system(folder),
        load=os.getloadavg(),
    )


def _processor() -> str:
    info = _PROC / "cpuinfo"
    lines = info.read_text().splitlines() if info.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _file_system(folder: Path) -> str:
    """The type of the mount with the longest path that holds the folder."""
    mounts = _PROC / "mounts"
    found = ("", "unknown")
    for line in mounts.read_text().splitlines() if mounts.exists() else []:
        _, where, kind, *_ = line.split()
        if folder.resolve().is_relative_to(where) and len(where) >= len(found[0]):
            found = (where, kind)
    return found[1]


@dataclass(frozen=True, slots=True)
class Weight:
    """Resident and peak memory in bytes, and the seconds of processor time so far, of one process."""

    resident: int
    peak: int
    cpu: float


def weigh(pid: int) -> Weight:
    """A process as it is now. Raises `OSError` where it is gone, or the system has no /proc."""
    lines = (_PROC / str(pid) / "status").read_text().splitlines()
    sizes = {name: int(rest.split()[0]) * 1024 for name, _, rest in (x.partition(":") for x in lines) if "kB" in rest}
    fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    return Weight(sizes["VmRSS"], sizes["VmHWM"], ticks / os.sysconf("SC_CLK_TCK"))
