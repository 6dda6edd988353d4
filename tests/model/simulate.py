"""`python -m model.simulate --seeds N --from K`: simulate seeds, and say which of them break an invariant.

Each seed is a world of tills, disks, links and a server in which everything that can go wrong does; `simulation` has
it. A seed that fails is printed with its last lines, and with the command that replays it byte for byte.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import multiprocessing.util
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from model.simulation.run import SALES, Verdict, prepared, simulate
from model.simulation.template import Template

_LAST_LINES = 40
_A_WORD_EVERY = 500


def main(argv: Sequence[str] | None = None) -> int:
    """Simulate; the exit code is 1 if an invariant was broken."""
    args = _arguments(argv)
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(
            sys.executable, [sys.executable, "-m", "model.simulate", *(argv if argv is not None else sys.argv[1:])]
        )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that temporary folders go
    started = time.monotonic()
    failed: list[int] = []
    figures: Counter[str] = Counter()
    for verdict in _verdicts(args):
        figures["seeds"] += 1
        figures["made_up_s"] += round(verdict.made_up_s)
        figures["required_records"] += verdict.required
        figures["doubted_records"] += verdict.doubted
        if figures["seeds"] % _A_WORD_EVERY == 0:
            print(f"{figures['seeds']} seeds, {len(failed)} failed", file=sys.stderr)
        if args.verbose:
            print("\n".join(verdict.lines), file=sys.stderr)
        if verdict.violation:
            failed.append(verdict.seed)
            _tell(verdict)
        elif args.seeds == 1:
            print(f"seed {verdict.seed}: {verdict.digest}", file=sys.stderr)
        if len(failed) >= args.most:
            break
    seconds = time.monotonic() - started
    print(
        json.dumps(
            {
                **figures,
                "violations": len(failed),
                "failed": failed,
                "seconds": round(seconds, 1),
                "cpu_s": round(time.process_time(), 1),
            }
        )
    )
    return 1 if failed else 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m model.simulate", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="how many")
    parser.add_argument("--from", dest="first", type=int, default=0, help="the first one")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--sales", type=int, default=SALES, help="sales a seed")
    parser.add_argument("--only", default="", help="kinds of trouble, with commas; all if left out")
    parser.add_argument("--most", type=int, default=10, help="stop after so many failures")
    parser.add_argument("--verbose", action="store_true", help="print every line, with the processes' logs")
    return parser.parse_args(argv)


def _kinds(args: argparse.Namespace) -> tuple[str, ...]:
    return tuple(kind for kind in args.only.split(",") if kind)


def _verdicts(args: argparse.Namespace) -> Iterator[Verdict]:
    seeds = range(args.first, args.first + args.seeds)
    if args.jobs == 1:
        yield from _some(seeds, args)
        return
    context = multiprocessing.get_context("spawn")
    with context.Pool(args.jobs, _begin) as pool:
        yield from pool.imap_unordered(_one, [(seed, args.sales, _kinds(args)) for seed in seeds], chunksize=8)


def _some(seeds: range, args: argparse.Namespace) -> Iterator[Verdict]:
    gc.disable()
    with prepared() as template:
        gc.freeze()
        for seed in seeds:
            yield simulate(seed, template, sales=args.sales, only=_kinds(args), logs=args.verbose)
            gc.collect()


class _Worker:
    """What a worker process keeps between seeds: the template, until the process ends."""

    held = ExitStack()
    template: Template | None = None


def _begin() -> None:
    gc.disable()
    _Worker.template = _Worker.held.enter_context(prepared())
    gc.freeze()
    multiprocessing.util.Finalize(None, _Worker.held.close, exitpriority=10)


def _one(task: tuple[int, int, tuple[str, ...]]) -> Verdict:
    seed, sales, only = task
    assert _Worker.template is not None
    verdict = simulate(seed, _Worker.template, sales=sales, only=only)
    gc.collect()
    return verdict


def _tell(verdict: Verdict) -> None:
    print(f"seed {verdict.seed}: {verdict.violation}", file=sys.stderr)
    for line in verdict.lines[-_LAST_LINES:]:
        print(f"  {line[:200]}", file=sys.stderr)
    print(
        f"  replay: PYTHONPATH=tests python -m model.simulate --seeds 1 --from {verdict.seed} --verbose",
        file=sys.stderr,
    )


if __name__ == "__main__":
    sys.exit(main())
