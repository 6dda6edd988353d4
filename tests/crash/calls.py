"""SIGKILL at every call of a short script: of the disk by its own hand, of the system by strace's.

    PYTHONPATH=tests python -m crash.calls

prints one line of JSON for each kind of call. `disk` works everywhere: the script's disk kills its own process before,
amid or after its n-th call. The others need strace, which kills at the n-th system call of a name. Each death is
followed by a start on what it left behind, so the calls of a recovery are died at as well.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from crash.script import ENTRY, Keys, Promises, broken
from crash.traced import SYSTEM_CALLS, Gate, Trap, strace_refuses
from support.dying import Moment
from support.zygote import Zygote

MOMENTS: Final[tuple[Moment, ...]] = ("before", "torn", "after")
RUNS_A_FOLDER: Final = (1, 8)
"""Once each run has a folder of its own; once several follow each other, and die while they recover."""
END_S: Final = 30.0


@dataclass
class Scene:
    """One journal's folder after the other, the keys that open them, and what was promised of each."""

    zygote: Zygote
    folder: Path
    keys: Keys
    runs_a_folder: int = 1
    deaths: int = 0
    captured: int = 0
    wrong: list[str] = field(default_factory=list)
    _runs: int = 0
    _promises: Promises = field(default_factory=lambda: Promises(set(), set()))

    @classmethod
    def set(cls, zygote: Zygote, folder: Path) -> Scene:
        """An empty one in `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        return cls(zygote, folder, Keys.make(folder / "keys"))

    def play(self, what: str, *death: str, trap: Trap | None = None) -> bool:
        """Run the script once, and look at what it left; whether it was killed on the way."""
        if self._runs % self.runs_a_folder == 0:
            shutil.rmtree(self.folder / "journal", ignore_errors=True)
            self._promises = Promises(set(), set())
        self._runs += 1
        code = self._end(f"{what}-{self._runs}", death, trap)
        assert code in (0, -9), (self.folder / "log").read_text()
        self.deaths += code != 0
        before = len(self._promises.captured)
        out = self.folder / "out"
        self._promises.take(out.read_text() if out.exists() else "")
        self.captured += len(self._promises.captured) - before
        for kind, names in self._look().items():
            self.wrong.extend(f"{what}: {kind} {name}" for name in names)
        return code != 0

    def _end(self, run: str, death: tuple[str, ...], trap: Trap | None) -> int:
        arguments = [str(self.folder / "journal"), str(self.folder / "keys"), run, *death]
        out, log = self.folder / "out", self.folder / "log"
        out.unlink(missing_ok=True)
        if trap is None:
            return self.zygote.wait(self.zygote.start(ENTRY, arguments, out=out, log=log), END_S)
        gate = Gate(self.folder / "gate")
        with gate.shut() as let_go:
            pid = self.zygote.start(ENTRY, arguments, out=out, log=log, gate=gate.file)
            with trap.set(pid, let_go):
                return self.zygote.wait(pid, END_S)

    def _look(self) -> dict[str, list[str]]:
        copy = self.folder / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        if not (self.folder / "journal").exists():
            return {"lost": sorted(self._promises.captured)}
        shutil.copytree(self.folder / "journal", copy)
        return asyncio.run(broken(copy, self.keys, self._promises))

    def figures(self, what: str) -> dict[str, Any]:
        """What came of it."""
        return {"at": what, "deaths": self.deaths, "captured": self.captured, "wrong": self.wrong}


def at_disk_calls(zygote: Zygote, folder: Path, *, step: int = 1) -> dict[str, Any]:
    """Die before, amid and after every `step`-th call of the disk."""
    scene = Scene.set(zygote, folder)
    for scene.runs_a_folder in RUNS_A_FOLDER:
        for moment in MOMENTS:
            call = 1
            while scene.play(f"{moment}-{call}", str(call), moment):
                call += step
    return scene.figures("disk")


def at_system_calls(zygote: Zygote, folder: Path, name: str, *, step: int = 1) -> dict[str, Any]:
    """Be killed at every `step`-th system call of a name."""
    scene = Scene.set(zygote, folder)
    for scene.runs_a_folder in RUNS_A_FOLDER:
        call = 1
        while scene.play(f"{name}-{call}", trap=Trap(name, call)):
            call += step
    return scene.figures(name)


def main(arguments: list[str] | None = None) -> int:
    """Run as the module's text says."""
    parser = argparse.ArgumentParser(prog="python -m crash.calls", description="SIGKILL at every call of a script")
    parser.add_argument("--only", metavar="NAME", help="`disk`, or the name of a system call")
    parser.add_argument("--step", type=int, default=1, help="take every so many calls (1)")
    given = parser.parse_args(arguments)
    reason = strace_refuses()
    wrong = 0
    with Zygote(ENTRY) as zygote, tempfile.TemporaryDirectory(prefix="crash-") as place:
        for name in ("disk", *SYSTEM_CALLS):
            if given.only not in (None, name):
                continue
            if name == "disk":
                figures = at_disk_calls(zygote, Path(place) / name, step=given.step)
            elif reason:
                figures = {"at": name, "skipped": reason, "wrong": []}
            else:
                figures = at_system_calls(zygote, Path(place) / name, name, step=given.step)
            wrong += len(figures["wrong"])
            print(json.dumps(figures), flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
