"""Scripts of operations, from a seed, and what is done at the end of each to see whether the journal kept its word."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from random import Random
from typing import Final

from tillstream_agent.journal import JournalError

from .book import Broken
from .look import LANES
from .rig import PATIENCE_S, Rig

Step = Callable[[Rig], None]
"""One operation."""


def script(seed: int, length: int) -> list[Step]:
    """A till's life: it captures, asks for safety, sends, rolls, sweeps, stops and is killed."""
    random = Random(seed)
    kinds = random.choices(list(_WEIGHTS), list(_WEIGHTS.values()), k=length)
    return [_capture, *(kind(random) for kind in kinds)][:length]


def play(rig: Rig, steps: Sequence[Step], after_each: Callable[[], None] = lambda: None) -> None:
    """Run a script. A journal that could not be opened is tried again at the next operation."""
    for step in steps:
        if rig.journal is None:
            with contextlib.suppress(JournalError):
                rig.start()
        if rig.journal is not None:
            step(rig)
        after_each()


def heal(rig: Rig) -> float:
    """With a disk that is well again: seconds until a record was captured and safe. Raises `Broken` past 5."""
    rig.disk.judge = None
    began = rig.loop.time()
    while (waited := rig.loop.time() - began) < PATIENCE_S:
        if rig.journal is None:
            rig.start()
        fact = rig.capture(20)
        if fact is not None and rig.ask_safe(fact, PATIENCE_S - waited):
            return rig.loop.time() - began
        rig.wait(0.05)
    raise Broken(f"it has not healed after {PATIENCE_S} s")


def _capture(rig: Rig) -> None:
    rig.capture(rig.random.randrange(700), spends=rig.random.choice((0, 0, 0, 1, 2)))


def _capturing(_random: Random) -> Step:
    return _capture


def _waiting(random: Random) -> Step:
    seconds = random.choice((0.001, 0.03, 1.0))
    return lambda rig: rig.wait(seconds)


def _asking(random: Random) -> Step:
    back = random.choice((1, 1, 2, 10))

    def ask_safe(rig: Rig) -> None:
        known = [fact for fact in rig.book.facts.values() if rig.knows(fact)]
        for fact in known[-back : -back + 1 or None]:
            rig.ask_safe(fact)

    return ask_safe


def _sending(random: Random) -> Step:
    lane = random.choice((*LANES, "live"))
    size = random.choice((1, 2000, 8000))
    reply_lost, keep = random.random() < 0.2, random.random() < 0.8

    def send(rig: Rig) -> None:
        rig.send(lane, size, reply_lost=reply_lost, keep=keep)

    return send


def _rolling(_random: Random) -> Step:
    def roll(rig: Rig) -> None:
        with contextlib.suppress(JournalError):
            rig.roll()

    return roll


def _sweeping(_random: Random) -> Step:
    return Rig.sweep


def _stopping(_random: Random) -> Step:
    return Rig.stop


def _dying(_random: Random) -> Step:
    return Rig.kill


_WEIGHTS: Final = {
    _capturing: 50,
    _waiting: 10,
    _asking: 12,
    _sending: 20,
    _rolling: 3,
    _sweeping: 3,
    _stopping: 1,
    _dying: 1,
}
