"""Makes the mutants of one part and judges them, inside one pytest session: `judging.py JOBS TEST...`.

mutmut makes the mutants. Its own loop starts pytest once a mutant, and waits for ever for one that never ends; here the
tests are collected once, each is run once to learn what it calls, and then every mutant lives and dies in a fork: the
tests that reach it run in it until one fails, first those that noticed another mutant of the same function, then the
quickest. A fork has a bound on processor time, on time by
the clock and on memory: a mutant that loops or grows is noticed as well.

Property tests draw the same few examples in every fork, and do not look for the smallest one: it is enough that they
fail. Writes `verdicts.json`: what became of each mutant, and of those that nothing noticed, what they change.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import signal
import sys
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest
from _pytest.runner import runtestprotocol
from hypothesis import HealthCheck, Phase, settings
from mutmut import __main__ as mutmut
from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.mutation.trampoline import set_mutant_under_test
from mutmut.state import state
from mutmut.utils.file_utils import copy_also_copy_files, copy_src_dir, setup_source_paths
from mutmut.utils.format_utils import mangled_name_from_mutant_name
from parts import ONLY, UNNOTICED, VERDICTS  # type: ignore[import-not-found]  # it runs inside the copy

EXAMPLES: Final = 20
MEMORY: Final = 3 << 30
"""Bytes of address space of a fork."""
LONGEST_S: Final = 0.4
"""Tests that take more processor time do not judge: what they find by the way, a quicker one has to say."""
PATIENCE: Final = 5
"""A fork may take so many times what its tests took, in processor time; and four times that by the clock."""
LEAST_S: Final = 5
HANGS_S: Final = 8
"""A test that takes longer by the clock waits for what never comes."""


@dataclass(slots=True)
class Reach:
    """What one run of every test has shown."""

    tests: defaultdict[str, list[pytest.Item]] = field(default_factory=lambda: defaultdict(list))
    """By function, the tests that call it."""
    seconds: dict[str, float] = field(default_factory=dict)
    """By test, the processor time it took."""
    noticed: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By function and test, how many mutants it has noticed so far."""

    def in_order(self, function: str) -> list[pytest.Item]:
        """The tests that call a function, in the order in which they should be tried."""
        tests = self.tests.get(function, [])
        return sorted(tests, key=lambda item: (-self.noticed[function, item.nodeid], self.seconds[item.nodeid]))


@dataclass(frozen=True, slots=True)
class Fork:
    """A mutant that is being judged; `until` is a time of the monotonic clock, `says` the end of a pipe."""

    mutant: str
    until: float
    says: int


class Judge:
    """A pytest plugin that runs the collected tests once as they are, and then those that reach a mutant in it."""

    def __init__(self, mutants: list[str], jobs: int) -> None:
        self._mutants = mutants
        self._jobs = jobs
        self._reach = Reach()
        self._running: dict[int, Fork] = {}
        self.verdicts: dict[str, str] = {}
        self.unnoticed: list[dict[str, str]] = []
        """What the mutants change that no test notices."""

    def pytest_sessionstart(self) -> None:
        """Few examples, always the same."""
        settings.register_profile(
            "mutation",
            max_examples=EXAMPLES,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        settings.load_profile("mutation")

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Instead of pytest's own."""
        if session.testsfailed:
            raise session.Failed(f"{session.testsfailed} errors while collecting")
        for item in session.items:
            self._explore(session, item)
        set_mutant_under_test("")
        gc.collect()
        gc.freeze()  # or every fork would copy most of the heap
        for number, mutant in enumerate(self._mutants):
            if number % 100 == 0:
                print(f"{number} of {len(self._mutants)} mutants", file=sys.stderr, flush=True)
            while len(self._running) >= self._jobs:
                self._reap()
            self._begin(mutant)
        while self._running:
            self._reap()
        return True

    def _explore(self, session: pytest.Session, item: pytest.Item) -> None:
        state()._stats.clear()
        set_mutant_under_test("stats")
        began = time.process_time()
        if not _passes(item):
            raise session.Failed(f"{item.nodeid} fails without any mutant")
        took = self._reach.seconds[item.nodeid] = time.process_time() - began
        if took > LONGEST_S:
            print(f"{item.nodeid} takes {took:.1f} s and does not judge", file=sys.stderr, flush=True)
            return
        for function in state()._stats:
            self._reach.tests[function].append(item)

    def _begin(self, mutant: str) -> None:
        tests = self._reach.in_order(mangled_name_from_mutant_name(mutant))
        if not tests:
            self._judged(mutant, "no tests")
            return
        usual = sum(self._reach.seconds[item.nodeid] for item in tests)
        bound = LEAST_S + int(PATIENCE * usual)
        says, told = os.pipe()
        pid = os.fork()
        if pid == 0:
            _live(mutant, tests, bound, told)
        os.close(told)
        self._running[pid] = Fork(mutant, time.monotonic() + 4 * bound, says)

    def _reap(self) -> None:
        now = time.monotonic()
        for pid, fork in list(self._running.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                del self._running[pid]
                test = os.read(fork.says, 4096).decode()
                os.close(fork.says)
                self._reach.noticed[mangled_name_from_mutant_name(fork.mutant), test] += 1
                self._judged(fork.mutant, _verdict(os.waitstatus_to_exitcode(status)))
            elif now > fork.until:
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)

    def _judged(self, mutant: str, verdict: str) -> None:
        self.verdicts[mutant] = verdict
        if verdict in UNNOTICED:
            with contextlib.chdir(".."):
                self.unnoticed.append(_change(mutant))
            print(verdict, *self.unnoticed[-1].values(), sep="\n  ", file=sys.stderr, flush=True)


def _passes(item: pytest.Item, hangs_s: int = 0) -> bool:
    """Whether a test passes; `hangs_s` seconds later, if not 0, the process ends."""
    signal.alarm(hangs_s)
    return not any(report.failed for report in runtestprotocol(item, log=False, nextitem=None))


def _live(mutant: str, tests: list[pytest.Item], bound: int, told: int) -> None:
    """Be the mutant, say which test notices it, and end."""
    noticed = True
    try:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        used = int(time.process_time()) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (used + bound, used + bound))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        set_mutant_under_test(mutant)
        failed = next((item for item in tests if not _passes(item, HANGS_S)), None)
        noticed = failed is not None
        os.write(told, failed.nodeid.encode() if failed is not None else b"")
    finally:
        os._exit(1 if noticed else 0)


def _verdict(code: int) -> str:
    if code == 0:
        return "survived"
    return "killed" if code == 1 else "out of bounds"


def _make(jobs: int) -> list[str]:
    """The names of the part's mutants, which now stand in the folder `mutants`."""
    set_mutant_under_test("mutant_generation")
    Path("mutants").mkdir()
    copy_src_dir()
    copy_also_copy_files()
    setup_source_paths()
    mutmut.create_mutants(jobs)
    made = [name for _, name, _ in mutmut.collect_source_file_mutation_data(mutant_names=())[0]]
    only = Path(ONLY)
    if not only.exists():
        return made
    wanted = set(json.loads(only.read_text(encoding="utf-8")))
    return [mutant for mutant in made if mutant in wanted]


def _change(mutant: str) -> dict[str, str]:
    lines = [line for line in get_diff_for_mutant(mutant).splitlines() if line[:3] not in ("---", "+++")]
    before, after = (" ".join(line[1:].strip() for line in lines if line[:1] == sign) for sign in "-+")
    return {"where": mangled_name_from_mutant_name(mutant), "before": before, "after": after}


def main(jobs: str, *selection: str) -> int:
    """Judge the part that is laid out in the working folder."""
    judge = Judge(_make(int(jobs)), int(jobs))
    os.chdir("mutants")
    code = pytest.main(["--rootdir=.", "-q", "--tb=short", "-p", "no:cacheprovider", *selection], plugins=[judge])
    os.chdir("..")
    report = {"verdicts": judge.verdicts, "unnoticed": judge.unnoticed}
    Path(VERDICTS).write_text(json.dumps(report, indent=1), encoding="utf-8")
    return int(code)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
