"""`make bench`: run the questions and show what was measured."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
from rich.console import Console

from . import capture, choice, console, deadline, decide, drain, ingest, push, rebuild, weight
from .figures import Answer, Run, Skipped
from .machine import describe
from .plots import draw
from .sizes import SIZES, Sizes
from .tables import show

_WIDTH = 160
"""Columns of what goes into a file."""
Question = Callable[[Path, Sizes], Awaitable[Answer]]
QUESTIONS: dict[str, Question] = {
    capture.QUESTION: capture.run,
    choice.QUESTION: choice.run,
    drain.QUESTION: drain.run,
    ingest.QUESTION: ingest.run,
    push.QUESTION: push.run,
    decide.QUESTION: decide.run,
    deadline.QUESTION: deadline.run,
    weight.QUESTION: weight.run,
    rebuild.QUESTION: rebuild.run,
    console.QUESTION: console.run,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for."""
    given = parsed(arguments)
    sizes = sizes_of(given)
    out, talk = Console(highlight=False), Console(stderr=True, highlight=False)
    if not out.is_terminal:
        out.width = _WIDTH
    answers: dict[str, Answer] = {}
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="bench-", dir=given.folder) as made:
        machine = describe(Path(made))
        for name in given.only or QUESTIONS:
            talk.print(f"{name} …", end=" ")
            started = time.monotonic()
            answers[name] = _ask(name, Path(made) / name, sizes, talk)
            seconds[name] = round(time.monotonic() - started, 1)
            talk.print(f"{seconds[name]:g} s")
    run = Run(machine, sizes.name, answers, seconds)
    show(run, out)
    if given.json is not None:
        given.json.write_bytes(msgspec.json.format(msgspec.json.encode(run)) + b"\n")
    if given.plots is not None:
        draw(run, given.plots)
    return 1 if any(answer.failed for answer in answers.values()) else 0


def _ask(name: str, folder: Path, sizes: Sizes, talk: Console) -> Answer:
    """A question's answer. One that fails is told, and the others are asked all the same."""
    try:
        return asyncio.run(_answer(QUESTIONS[name], folder, sizes))
    except asyncio.CancelledError:
        sys.exit(128 + signal.SIGTERM)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told and fails the run
        talk.print_exception()
        return Answer(skipped=(Skipped(name, "everything", f"{type(error).__name__}: {error}"),), failed=True)


async def _answer(question: Question, folder: Path, sizes: Sizes) -> Answer:
    """One question within its bound; told to stop, it ends what it started first. Raises `TimeoutError`."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    folder.mkdir()
    async with asyncio.timeout(sizes.limit_s):
        return await question(folder, sizes)


def parsed(given: Sequence[str] | None) -> argparse.Namespace:
    """The arguments, those of the process unless some are given."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--only", action="append", choices=QUESTIONS, help="only this question; may be repeated")
    parser.add_argument("--quick", action="store_true", help="less of everything: under three minutes in all")
    parser.add_argument("--size", choices=SIZES, default="full", help="as named; --quick is --size quick")
    parser.add_argument("--calls", type=int, help="how often each capturing call is timed")
    parser.add_argument("--ledger", type=int, help="transactions of the ledger that has filled up")
    parser.add_argument("--queued", type=int, nargs="+", help="records that wait on a till")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="draw them there, one SVG a question")
    parser.add_argument("--folder", type=Path, help="measure on the file system that this folder lies on")
    return parser.parse_args(given)


def sizes_of(given: argparse.Namespace) -> Sizes:
    """The size that was asked for, with what was said on top."""
    sizes = SIZES["quick" if given.quick else given.size]
    said = {name: getattr(given, name) for name in ("calls", "ledger") if getattr(given, name) is not None}
    if given.queued is not None:
        said["queued"] = tuple(sorted(given.queued))
    return replace(sizes, **said)


if __name__ == "__main__":
    sys.exit(main())
