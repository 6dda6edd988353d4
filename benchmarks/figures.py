"""What a run comes to: times, measures, what was left out and why, and what follows from the figures."""

from __future__ import annotations

from typing import Literal

import msgspec

Role = Literal["ours", "rival", "floor"]
Promise = Literal["none", "memory", "process", "disk"]
"""What a returned call survives: nothing that is asked, no end of the process, its being killed, or a power cut."""


class Ratio(msgspec.Struct, frozen=True):
    """How many times ours somebody else's figure is, in the same run."""

    p50: float
    p99: float


class Row(msgspec.Struct, frozen=True):
    """One thing that was timed under one condition. Times are in microseconds."""

    question: str
    subject: str
    condition: str
    role: Role
    promise: Promise
    sealed: bool
    calls: int
    p50: float
    p99: float
    p999: float
    max: float
    versus: str | None = None
    """The subject of ours, timed beside it, that does what it does."""
    floor: str | None = None
    floor_ratio: float | None = None
    """p50 over the p50 of the floor in the same run."""
    against: dict[str, Ratio] = {}
    """For what is ours: everything timed beside it, over it."""


class Measure(msgspec.Struct, frozen=True):
    """One figure that is no time of a call."""

    question: str
    subject: str
    condition: str
    value: float
    unit: str
    role: Role = "ours"
    floor_share: float | None = None
    """Of the floor in the same run; 1 is as good as the floor."""


class Skipped(msgspec.Struct, frozen=True):
    """Something that could not be measured here."""

    question: str
    subject: str
    reason: str


class Conclusion(msgspec.Struct, frozen=True):
    """What follows from the figures of this run, computed from them."""

    question: str
    text: str


class Answer(msgspec.Struct, frozen=True):
    """All that a question came to."""

    rows: tuple[Row, ...] = ()
    measures: tuple[Measure, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    conclusions: tuple[Conclusion, ...] = ()
    failed: bool = False
    """Whether the question could not be answered; `skipped` says why."""


class Machine(msgspec.Struct, frozen=True):
    """What the figures depend on. No names, no paths."""

    processor: str
    cores: int
    memory_mb: int
    python: str
    sqlite: str
    file_system: str
    load: tuple[float, float, float]
    """When the run began."""


class Run(msgspec.Struct, frozen=True):
    """A run, and the machine that it was made on."""

    machine: Machine
    size: str
    answers: dict[str, Answer]
    seconds: dict[str, float]
    """How long each question took."""
