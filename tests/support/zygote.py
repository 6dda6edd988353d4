"""A process that has imported agent and server and forks them: a start then costs milliseconds instead of a second.

The zygote itself never has an event loop or a thread; what it forks takes the way of the command line, `main` with its
arguments, and is an own process in every respect: SIGKILL ends it as it would end any other. When whoever started the
zygote ends, its children are killed.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final

AGENT: Final = "tillstream_agent.cli:main"
SERVER: Final = "tillstream_server.cli:main"
_TESTS: Final = Path(__file__).parents[1]
_DEPLOY: Final = _TESTS.parent / "deploy"


class Zygote:
    """Orders forks. Calls take a few milliseconds and may be made from an event loop."""

    def __init__(self, *entries: str) -> None:
        """`entries` are `module:function`; their modules are imported before the first fork."""
        places = [str(_TESTS), str(_DEPLOY), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "support.zygote", *entries],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(places)},
            start_new_session=True,
        )
        self._codes: dict[int, int] = {}

    def __enter__(self) -> Zygote:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the zygote and everything that it forked."""
        if self._process.stdin is not None and self._process.stdout is not None:
            self._process.stdin.close()
            self._process.wait(30)
            self._process.stdout.close()

    def start(self, entry: str, arguments: Sequence[str], *, out: Path, log: Path, gate: Path | None = None) -> int:
        """Fork; the pid. `out` is written anew, `log` appended to; with a `gate`, a FIFO, it waits for a byte there."""
        order = {"entry": entry, "arguments": list(arguments), "out": str(out), "log": str(log)}
        return int(self._order({**order, "gate": str(gate) if gate is not None else None}))

    def poll(self, pid: int) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        if pid not in self._codes:
            code = self._order({"poll": pid})
            if code is None:
                return None
            self._codes[pid] = int(code)
        return self._codes[pid]

    def kill(self, pid: int) -> int:
        """SIGKILL, and wait until it is gone; the exit code."""
        if self.poll(pid) is None:
            self._codes[pid] = int(self._order({"kill": pid}))
        return self._codes[pid]

    def signal(self, pid: int, number: signal.Signals) -> None:
        """Send a signal, if it still runs."""
        if self.poll(pid) is None:
            os.kill(pid, number)

    def wait(self, pid: int, seconds: float) -> int:
        """The exit code, once it has ended by itself. Raises `TimeoutError`."""
        ends = time.monotonic() + seconds
        while (code := self.poll(pid)) is None:
            if time.monotonic() > ends:
                raise TimeoutError(f"process {pid} did not end")
            time.sleep(0.005)
        return code

    def run(self, entry: str, arguments: Sequence[str], folder: Path, seconds: float = 60) -> str:
        """Run a command to its end; what it printed. Raises `AssertionError` with what it complained of."""
        out, log = folder / "command.out", folder / "command.log"
        log.write_bytes(b"")
        code = self.wait(self.start(entry, arguments, out=out, log=log), seconds)
        assert code == 0, f"{entry} {' '.join(arguments[:3])} ended with {code}: {log.read_text(errors='replace')}"
        return out.read_text()

    def _order(self, order: dict[str, object]) -> Any:
        sending, receiving = self._process.stdin, self._process.stdout
        assert sending is not None
        assert receiving is not None
        sending.write(json.dumps(order).encode() + b"\n")
        sending.flush()
        return json.loads(receiving.readline())


def main(entries: Sequence[str]) -> int:
    """Import, then fork as ordered until standard input ends."""
    functions: dict[str, Callable[[Sequence[str]], int]] = {}
    for entry in entries:
        module, _, name = entry.partition(":")
        functions[entry] = getattr(importlib.import_module(module), name)
    gc.collect()
    gc.freeze()
    children: set[int] = set()
    orders, replies = sys.stdin.buffer, sys.stdout.buffer
    for line in orders:
        order = json.loads(line)
        reply = _fork(functions, order, children) if "entry" in order else _look(order, children)
        replies.write(json.dumps(reply).encode() + b"\n")
        replies.flush()
    for pid in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return 0


def _look(order: dict[str, Any], children: set[int]) -> int | None:
    pid = order.get("kill") or order["poll"]
    if "kill" in order:
        os.kill(pid, signal.SIGKILL)
    ended, status = os.waitpid(pid, 0 if "kill" in order else os.WNOHANG)
    if not ended:
        return None
    children.discard(pid)
    return os.waitstatus_to_exitcode(status)


def _fork(functions: dict[str, Callable[[Sequence[str]], int]], order: dict[str, Any], children: set[int]) -> int:
    gate = os.open(order["gate"], os.O_RDWR) if order["gate"] is not None else None
    pid = os.fork()
    if pid:
        children.add(pid)
        if gate is not None:
            os.close(gate)
        return pid
    code = 1
    try:
        os.setsid()
        _redirect(order, gate)
        code = functions[order["entry"]](order["arguments"])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001 (the end of a forked process: nothing may go on as the zygote)
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _redirect(order: dict[str, Any], gate: int | None) -> None:
    """Give the child files of its own for the standard streams, and let it wait for its gate."""
    places = (
        (os.devnull, os.O_RDONLY),
        (order["out"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
        (order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND),
    )
    for number, (place, flags) in enumerate(places):
        opened = os.open(place, flags, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    streams: tuple[IO[str], ...] = (open(1, "w", closefd=False), open(2, "w", buffering=1, closefd=False))  # noqa: SIM115
    sys.stdout, sys.stderr = streams
    if gate is not None:
        os.read(gate, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
