"""How long acknowledged chunks stay: a server restored from a backup may ask for them again.

Ages are counted in time that the till is known to have lived, since its clock may jump by years: by the monotonic
clock within a run, and before it by the steps from one chunk to the next, of which none counts for more than a day.
A chunk whose acknowledgement came in an earlier run stays for a day of this one at least: when it came is not known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tillstream_protocol.limits import Limits

from .chunks import Chunk

LONGEST_STEP_S: Final = 24 * 3600.0
PLAUSIBLE_S: Final = 31 * 24 * 3600.0
"""How far the wall clock's word on an age may be beyond what the till is known to have lived."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """Acknowledged chunks that may go, and what was spent in them, by chunk and lease."""

    chunks: tuple[int, ...]
    spends: Mapping[tuple[int, bytes], int]


def lived(chunks: Sequence[Chunk], now: float, started: float) -> dict[int, float]:
    """By number: for how many seconds the till is known to have lived since a chunk was opened.

    `now` and `started`, when this run began, are by the monotonic clock.
    """
    ages: dict[int, float] = {}
    age, created = now - started, None
    for chunk in reversed(chunks):
        if chunk.opened_at is not None:
            age = now - chunk.opened_at
        elif created is not None:
            age += min(LONGEST_STEP_S, max(0.0, (created - chunk.header.created) / 1000))
        created = chunk.header.created
        ages[chunk.number] = age
    return ages


def oldest_ms(chunk: Chunk, lived_s: float, now_ms: int) -> int:
    """The age of a chunk that an earlier run opened: by the wall clock, unless that has plainly jumped."""
    said = now_ms - chunk.header.created
    plausible = 0 <= said <= (lived_s + PLAUSIBLE_S) * 1000
    return said if plausible else round(lived_s * 1000)


def choose(chunks: Sequence[Chunk], now: float, started: float, limits: Limits, wanted: int) -> Sweep:
    """The chunks that are empty, over their time or over the room kept for them, or whose room is wanted.

    `chunks` are all there are. The newest always stays, since the next epoch names it.
    """
    ages = lived(chunks, now, started)
    done = [chunk for chunk in chunks[:-1] if chunk.done and not chunk.unreported and not chunk.untold]
    excess = max(sum(chunk.size for chunk in done) - limits.retain_bytes, wanted)
    over: list[Chunk] = []
    for chunk in done:
        if excess > 0 or not chunk.present or _old(chunk, ages[chunk.number], now, started, limits):
            over.append(chunk)
            excess -= chunk.size
    spends = {(chunk.number, lease): units for chunk in over for lease, units in chunk.spends.items()}
    return Sweep(tuple(chunk.number for chunk in over), spends)


def _old(chunk: Chunk, age: float, now: float, started: float, limits: Limits) -> bool:
    if chunk.done_at is not None:
        return now - chunk.done_at > limits.retain_age
    return age > limits.retain_age and now - started >= min(limits.retain_age, LONGEST_STEP_S)
