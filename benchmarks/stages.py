"""Where the pipeline's time goes: samples of what a batch is at, a thousand a second.

The batch's task says what it waits for (its chain of awaited coroutines), and the threads what they run. The innermost
frame that belongs to a stage names it. Which module does what is the only thing that is known of the pipeline here.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections import Counter
from collections.abc import Awaitable, Iterator
from pathlib import PurePath
from types import CodeType, FrameType
from typing import Any, TypeVar

T = TypeVar("T")

EVERY_S = 0.001
STAGES: dict[tuple[str, str], str] = {
    ("framing.py", "verify_header"): "verify",
    ("signing.py", ""): "verify",
    ("framing.py", ""): "open",
    ("sealing.py", ""): "open",
    ("codec.py", ""): "decode",
    ("transaction.py", ""): "decode",
    ("opening.py", ""): "decode",
    ("split.py", ""): "split",
    ("masking.py", ""): "split",
    ("sorting.py", ""): "dedupe",
    ("received.py", ""): "dedupe",
    ("lineage.py", ""): "dedupe",
    ("facts.py", "known_contents"): "dedupe",
    ("identity.py", ""): "identify",
    ("facts.py", ""): "write",
    ("database.py", "execute_all"): "write",
    ("database.py", "_execute_all"): "write",
    ("taking.py", "_place"): "identify",
    ("taking.py", "_fold"): "project",
    ("taking.py", "_fold_transaction"): "project",
    ("taking.py", "_identified"): "project",
    ("taking.py", "_items"): "vault",
    ("taking.py", ""): "write",
    ("vault.py", ""): "vault",
    ("sales.py", ""): "project",
    ("members.py", ""): "project",
    ("figures.py", ""): "project",
    ("projections.py", ""): "project",
    ("triggers.py", ""): "trigger",
    ("book.py", ""): "trigger",
    ("decisions.py", ""): "trigger",
    ("leases.py", ""): "trigger",
    ("packs.py", ""): "trigger",
    ("database.py", "write"): "commit",
    ("process.py", "_take_together"): "commit",
    ("grouping.py", ""): "waiting for its turn",
    ("room.py", ""): "waiting for its turn",
}
"""(file of ours, function or any) → stage. What is written is the ledger and, in one turn with it, what the projections
came to."""
_SWITCH_S = 1e-6
"""Who runs gives way at once: otherwise samples fall where C code lets go of the interpreter by itself."""
ELSEWHERE = "elsewhere"
OURS = ("tillstream_protocol", "tillstream_server")


class Sampler:
    """Counts stages while `watch` waits for something."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._over = threading.Event()

    async def watch(self, work: Awaitable[T]) -> T:
        """Sample until the work is done; its result."""
        task = asyncio.ensure_future(work)
        loop_thread = threading.get_ident()
        switch = sys.getswitchinterval()
        sys.setswitchinterval(_SWITCH_S)
        watcher = threading.Thread(target=self._sample, args=(task, loop_thread), daemon=True)
        self._over.clear()
        watcher.start()
        try:
            return await task
        finally:
            self._over.set()
            watcher.join()
            sys.setswitchinterval(switch)

    def shares(self) -> list[tuple[str, float]]:
        """Every stage and its share of the time, in the order of a batch's way; what belongs to none comes last."""
        total = sum(self.counts.values()) or 1
        stages = dict.fromkeys([*STAGES.values(), ELSEWHERE])
        return [(stage, self.counts[stage] / total) for stage in stages]

    def _sample(self, task: asyncio.Future[Any], loop_thread: int) -> None:
        own = threading.get_ident()
        while not self._over.wait(EVERY_S):
            frames = sys._current_frames()
            others = [frame for thread, frame in frames.items() if thread not in (own, loop_thread)]
            chains = [*(_codes(frame) for frame in others), _codes(frames.get(loop_thread)), _awaited(task)]
            self.counts[next((stage for stage in map(_stage, chains) if stage), ELSEWHERE)] += 1


def _stage(codes: Iterator[CodeType]) -> str | None:
    for code in codes:
        path = PurePath(code.co_filename)
        if any(name in path.parts for name in OURS):
            stage = STAGES.get((path.name, code.co_name)) or STAGES.get((path.name, ""))
            if stage is not None:
                return stage
    return None


def _codes(frame: FrameType | None) -> Iterator[CodeType]:
    """What a thread runs, the innermost first."""
    while frame is not None:
        yield frame.f_code
        frame = frame.f_back


def _awaited(task: asyncio.Future[Any]) -> Iterator[CodeType]:
    """What a task's coroutines are at, the innermost first."""
    chain: list[CodeType] = []
    coroutine = task.get_coro() if isinstance(task, asyncio.Task) else None
    while coroutine is not None:
        code = getattr(coroutine, "cr_code", None) or getattr(coroutine, "ag_code", None)
        if code is not None:
            chain.append(code)
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "ag_await", None)
    return reversed(chain)
