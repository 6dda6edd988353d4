"""`make bench`: run the questions and print what was measured."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from . import capture
from .harness import Run, describe

CALLS, QUICK_CALLS = 10_000, 1_000
QUESTIONS = {capture.QUESTION: capture.run}


def main() -> int:
    """Run what was asked for."""
    given = _arguments()
    rows = []
    for name in given.only or QUESTIONS:
        with tempfile.TemporaryDirectory(prefix="tillstream-bench-") as folder:
            rows += asyncio.run(QUESTIONS[name](Path(folder), QUICK_CALLS if given.quick else given.calls))
    run = describe(rows)
    _show(run)
    if given.json is not None:
        given.json.write_bytes(msgspec.json.format(msgspec.json.encode(run)) + b"\n")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--only", action="append", choices=QUESTIONS, help="only this question; may be repeated")
    parser.add_argument("--quick", action="store_true", help=f"only {QUICK_CALLS} calls: under three minutes in all")
    parser.add_argument("--calls", type=int, default=CALLS, help=f"how often each thing is timed ({CALLS})")
    parser.add_argument("--json", type=Path, help="write the figures there")
    return parser.parse_args()


def _show(run: Run) -> None:
    console = Console(highlight=False)
    console.print(f"{run.machine}, {run.cores} cores, Python {run.python}, load {run.load[0]:.1f}")
    table = Table(title="Microseconds a call; × is the median over that of a bare write() in the same run")
    for column in ("what", "when", "calls", "p50", "p99", "p99.9", "max", "×"):
        table.add_column(column, justify="left" if column in ("what", "when") else "right")
    for row in run.rows:
        figures = (f"{value:,.0f}" for value in (row.p50, row.p99, row.p999, row.max))
        ratio = "" if row.floor_ratio is None else f"{row.floor_ratio:g}"
        table.add_row(row.subject, row.condition, f"{row.calls:,}", *figures, ratio)
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
