"""What happens in a history, and when: drawn from the seed before it begins.

Each seed leaves out some kinds of trouble altogether, so that rare combinations of the others get their turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from .chance import Chance

ACTIONS: Final[dict[str, float]] = {
    "crash": 3.0,
    "crash_in_call": 3.0,
    "power_cut": 3.0,
    "power_cut_in_call": 3.0,
    "stop": 1.0,
    "turn_clock": 1.0,
    "disk_errors": 2.0,
    "disk_full": 1.5,
    "slow_disk": 1.0,
    "flip": 1.0,
    "flip_headers": 0.3,
    "lose_state": 0.7,
    "take_image": 1.0,
    "put_back": 1.0,
    "clone": 0.5,
    "bad_link": 3.0,
    "cut_link": 3.0,
    "break_sockets": 1.0,
    "kill_server": 2.0,
    "deadly_replies": 2.0,
    "sick_server": 1.5,
    "slow_server": 1.0,
    "back_up": 1.0,
    "restore": 1.0,
    "poison": 1.0,
    "sweep": 1.0,
}
"""Kinds of trouble and how often they come, relative to each other."""


@dataclass(frozen=True, slots=True)
class Step:
    """Something that happens at a moment, in seconds; `what` is "sell" or one of `ACTIONS`."""

    at: float
    what: str
    till: int
    number: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """A history before it happens."""

    seed: int
    tills: int
    steps: tuple[Step, ...]
    ends_at: float
    pauses: bool
    """Whether syncs take time."""
    restart: bool
    """Whether everything is started anew when the troubles end."""


def plan(seed: int, *, tills: int, sales: int, only: Sequence[str] = ()) -> Plan:
    """The history of a seed; with `only`, of these kinds of trouble alone, and all of them."""
    chance = Chance(seed, "plan")
    length = chance.choice((20.0, 60.0, 180.0))
    kinds = [kind for kind in ACTIONS if chance.happens(0.5)]
    if only:
        kinds = [kind for kind in ACTIONS if kind in only]
    steps = [step for till in range(tills) for step in _sales(chance, till, tills, sales // tills, length)]
    for _ in range(chance.randrange(2, 13) if kinds else 0):
        (kind,) = chance.choices(kinds, [ACTIONS[kind] for kind in kinds])
        steps.append(Step(chance.uniform(0.0, length), kind, chance.randrange(tills)))
    steps.sort(key=lambda step: step.at)
    return Plan(seed, tills, tuple(steps), length, pauses=chance.happens(0.5), restart=chance.happens(0.3))


def _sales(chance: Chance, till: int, tills: int, count: int, length: float) -> list[Step]:
    """Sales of one till, in bursts of a few milliseconds with quiet between."""
    at, steps = chance.uniform(0, 1), []
    for index in range(count):
        steps.append(Step(at, "sell", till, number=index * tills + till + 1))
        at += chance.uniform(0.0005, 0.03) if chance.happens(0.7) else chance.uniform(0, 6 * length / count)
    return steps
