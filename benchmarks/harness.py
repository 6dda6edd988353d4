"""Timing calls side by side."""

from __future__ import annotations

import gc
import time
from array import array
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from .figures import Promise, Ratio, Role, Row

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Subject(Generic[T]):
    """Something to time: `call` is given the round's record."""

    name: str
    call: Callable[[T], Awaitable[object]]
    role: Role
    promise: Promise
    sealed: bool = False
    floor: str | None = None
    """The subject that nothing of this kind can be faster than."""
    versus: str | None = None
    """The subject of ours that it is set beside."""


@dataclass(slots=True)
class Timings(Generic[T]):
    """The times of one subject under one condition, in nanoseconds."""

    subject: Subject[T]
    condition: str
    times: array[int] = field(default_factory=lambda: array("q"))

    def quantile(self, share: float) -> float:
        """A quantile by the nearest rank, in microseconds."""
        return quantile(self.times, share) / 1000


def quantile(times: Sequence[int], share: float) -> int:
    """By the nearest rank; 0 where there is nothing."""
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0


@dataclass(frozen=True, slots=True)
class Rounds:
    """How often to time: `warm_up` rounds are run and not counted; `first` is the number of the first record."""

    count: int
    warm_up: int
    first: int = 0

    @classmethod
    def of(cls, count: int, first: int = 0) -> Rounds:
        """With a tenth more to warm up."""
        return cls(count, max(2, count // 10), first)

    @property
    def total(self) -> int:
        """Every round, counted or not."""
        return self.warm_up + self.count


async def interleave(
    subjects: Sequence[Subject[T]],
    condition: str,
    rounds: Rounds,
    prepare: Callable[[int], T],
    between: Callable[[], Awaitable[object]],
) -> list[Timings[T]]:
    """Time each subject in turn on the same records, A B C A B C ….

    `prepare` makes a round's record and `between` is awaited after each round, both untimed: that gives background
    work its turn, as a POS does between sales. Garbage is collected as in any program; what was there before is left
    out of that, as our own programs do once they have started.
    """
    taken = [Timings(subject, condition) for subject in subjects]
    gc.collect()
    gc.freeze()
    for number in range(rounds.first, rounds.first + rounds.total):
        record = prepare(number)
        for timings in taken:
            started = time.perf_counter_ns()
            await timings.subject.call(record)
            ended = time.perf_counter_ns()
            if number >= rounds.first + rounds.warm_up:
                timings.times.append(ended - started)
        await between()
    return taken


def rows(question: str, group: Sequence[Timings[T]]) -> list[Row]:
    """What was timed together as rows, each beside the others."""
    return [_row(question, one, group) for one in group]


def _row(question: str, one: Timings[T], group: Sequence[Timings[T]]) -> Row:
    subject = one.subject
    floor = next((other for other in group if other.subject.name == subject.floor), None)
    others = [other for other in group if other.subject.role != "ours"] if subject.role == "ours" else []
    return Row(
        question=question,
        subject=subject.name,
        condition=one.condition,
        role=subject.role,
        promise=subject.promise,
        sealed=subject.sealed,
        calls=len(one.times),
        p50=round(one.quantile(0.5), 1),
        p99=round(one.quantile(0.99), 1),
        p999=round(one.quantile(0.999), 1),
        max=round(one.quantile(1), 1),
        versus=subject.versus,
        floor=subject.floor,
        floor_ratio=None if floor is None else _ratio(one, floor, 0.5),
        against={other.subject.name: Ratio(_ratio(other, one, 0.5), _ratio(other, one, 0.99)) for other in others},
    )


def _ratio(one: Timings[T], other: Timings[T], share: float) -> float:
    below = other.quantile(share)
    return round(one.quantile(share) / below, 2) if below else 0.0
