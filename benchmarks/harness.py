"""Timing calls side by side, and what is told of the machine."""

from __future__ import annotations

import os
import platform
import time
from array import array
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec


class Row(msgspec.Struct, frozen=True):
    """One thing that was timed under one condition. Times are in microseconds."""

    question: str
    subject: str
    condition: str
    calls: int
    p50: float
    p99: float
    p999: float
    max: float
    floor_ratio: float | None = None
    """p50 over the p50 of the floor in the same run."""


class Run(msgspec.Struct, frozen=True):
    """A run, and the machine that it was made on."""

    machine: str
    python: str
    cores: int
    load: tuple[float, float, float]
    rows: tuple[Row, ...]


@dataclass
class Timings:
    """The times of one subject under one condition, in nanoseconds."""

    subject: str
    condition: str
    times: array[int] = field(default_factory=lambda: array("q"))

    def row(self, question: str, floor: Timings | None = None) -> Row:
        """Its quantiles, by the nearest rank."""
        ordered = sorted(self.times)
        ratio = _at(ordered, 0.5) / _at(sorted(floor.times), 0.5) if floor is not None and floor.times else None
        p50, p99, p999, longest = (round(_at(ordered, share) / 1000, 1) for share in (0.5, 0.99, 0.999, 1.0))
        return Row(
            question=question,
            subject=self.subject,
            condition=self.condition,
            calls=len(ordered),
            p50=p50,
            p99=p99,
            p999=p999,
            max=longest,
            floor_ratio=round(ratio, 1) if ratio is not None else None,
        )


def _at(ordered: Sequence[int], share: float) -> int:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0


@dataclass(frozen=True)
class Subject:
    """Something to time: `call` takes the number of the record."""

    name: str
    call: Callable[[int], Awaitable[object]]


async def interleave(
    subjects: Sequence[Subject],
    condition: str,
    first: int,
    count: int,
    *,
    warm_up: int,
    between: Callable[[], Awaitable[object]],
) -> list[Timings]:
    """Time `count` calls of each subject in turn, A B C A B C …, after a warm-up that is not counted.

    `between` is awaited, untimed, after each round: it gives background work its turn, as a POS does between sales.
    """
    timings = [Timings(subject.name, condition) for subject in subjects]
    for number in range(first, first + warm_up + count):
        for subject, taken in zip(subjects, timings, strict=True):
            started = time.perf_counter_ns()
            await subject.call(number)
            ended = time.perf_counter_ns()
            if number >= first + warm_up:
                taken.times.append(ended - started)
        await between()
    return timings


def describe(rows: Sequence[Row]) -> Run:
    """A run on this machine."""
    return Run(_processor(), platform.python_version(), os.cpu_count() or 0, os.getloadavg(), tuple(rows))


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())
