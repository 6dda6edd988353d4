"""The journal under fire in full: `PYTHONPATH=tests python -m model.journal_campaign all`, or one campaign's name.

Prints one line of JSON for each campaign, and ends with 1 at the first promise that was broken.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from .disk.campaigns import ENDINGS, Cuts, Faults, Flips, PowerCuts
from .disk.machine import JournalMachine

STEPS: Final = 50

Campaign = Callable[[], Mapping[str, float]]


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(prog="journal_campaign", description=__doc__)
    parser.add_argument("campaign", choices=["power", "faults", "flips", "cuts", "machine", "all"])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--ops", type=int, default=500, help="operations of the power campaign's script")
    parser.add_argument("--fault-ops", type=int, default=60, help="operations of the fault campaign's script")
    parser.add_argument("--variants", type=int, default=3, help="torn and reordered variants of each power cut")
    parser.add_argument("--every", type=int, default=1, help="look at each n-th point only")
    parser.add_argument("--all-bits", action="store_true", help="flip each of a byte's eight bits")
    parser.add_argument("--stories", type=int, default=500, help="stories of the state machine")
    given = parser.parse_args(argv)
    for name, campaign in _campaigns(given):
        began = time.perf_counter()
        try:
            figures = campaign()
        except AssertionError as error:
            sys.stdout.write(json.dumps({"campaign": name, "broken": str(error)}) + "\n")
            sys.stderr.write("\n".join(getattr(error, "__notes__", ())) + "\n")
            return 1
        took = round(time.perf_counter() - began, 1)
        sys.stdout.write(json.dumps({"campaign": name, "violations": 0, **figures, "seconds": took}) + "\n")
        sys.stdout.flush()
    return 0


def _campaigns(given: argparse.Namespace) -> Iterator[tuple[str, Campaign]]:
    first, every = given.seed, given.every
    if given.campaign in ("power", "all"):
        yield "power cuts", PowerCuts(first, given.ops, given.variants, every).run
    if given.campaign in ("faults", "all"):
        yield "failing calls", Faults(first, given.fault_ops, every).run
    if given.campaign in ("machine", "all"):
        yield "state machine", lambda: _stories(first, given.stories)
    for ending in ENDINGS:
        if given.campaign in ("flips", "all"):
            yield f"flipped bits, chunk {ending}", Flips(first, ending, every, all_bits=given.all_bits).run
        if given.campaign in ("cuts", "all"):
            yield f"cut files, chunk {ending}", Cuts(first, ending, every).run


def _stories(chosen: int, count: int) -> Mapping[str, float]:
    """The story that breaks a promise goes to stderr, as Python that repeats it; it is not made shorter."""
    run_state_machine_as_test(
        seed(chosen)(JournalMachine),
        settings=settings(
            max_examples=count,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
    return {"stories": count, "steps_each": STEPS}


if __name__ == "__main__":
    sys.exit(main())
