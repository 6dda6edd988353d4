"""strace as executioner: it kills a process at the n-th system call of a name, on entering it.

strace counts the calls of each thread by itself; the first thread that comes to the n-th is killed with all others.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SYSTEM_CALLS: Final = (
    "write",
    "pwrite64",
    "fdatasync",
    "fsync",
    "ftruncate",
    "openat",
    "rename",
    "unlink",
    "close",
)
ATTACH_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Gate:
    """A FIFO at which a forked process waits until it is watched."""

    file: Path

    @contextmanager
    def shut(self) -> Iterator[Callable[[], None]]:
        """Make it; what is given opens it. Nobody who dies at it leaves the other waiting: both have both ends."""
        self.file.unlink(missing_ok=True)
        os.mkfifo(self.file, 0o600)
        end = os.open(self.file, os.O_RDWR)
        try:
            yield lambda: _open(end)
        finally:
            os.close(end)


def _open(end: int) -> None:
    os.write(end, b"!")


def strace_refuses() -> str:
    """Why strace cannot be used here; empty where it can."""
    found = shutil.which("strace")
    if found is None:
        return "there is no strace"
    tried = subprocess.run([found, "-qq", "-e", "trace=none", "true"], capture_output=True, check=False, text=True)
    return "" if tried.returncode == 0 else f"strace may not trace: {tried.stderr.strip()}"


@dataclass(frozen=True, slots=True)
class Trap:
    """Death at the n-th system call of a name, counting only those that touch `files`, if there are any."""

    call: str
    number: int
    files: tuple[Path, ...] = ()

    @contextmanager
    def set(self, pid: int, let_go: Callable[[], None]) -> Iterator[None]:
        """Watch a process that waits at its gate, and let it go on. It must have ended when this ends."""
        only = [argument for file in self.files for argument in ("-P", str(file))]
        inject = f"inject={self.call}:signal=SIGKILL:when={self.number}"
        with subprocess.Popen(
            ["strace", "-f", "-qq", "-o", os.devnull, *only, "-e", f"trace={self.call}", "-e", inject, "-p", str(pid)],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as strace:
            try:
                ends = time.monotonic() + ATTACH_S
                while not _is_traced(pid):
                    assert strace.poll() is None, "strace ended"
                    assert time.monotonic() < ends, "strace did not attach"
                    time.sleep(0.002)
                let_go()
                yield
            except BaseException:
                strace.kill()
                raise


def _is_traced(pid: int) -> bool:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return any(line.startswith("TracerPid:") and line.split()[1] != "0" for line in lines)
