"""What became of a batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tillstream_protocol.messages import DeadLetter, Push, Range
from tillstream_protocol.ranges import merge

from ..ledger.alarms import Suspicion
from .tally import NOTHING, Tally, sum_of


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a batch. `counts` are records by what became of them: stored, repeat, duplicate, dead, conflict.

    `reply_acked` holds every range that touches the batch. `conflicts` are seqs that came with another content than
    before, `alarms` what the batch shows of its till's history for the first time: either may mean a cloned till.
    `lost` are the reasons of losses that the till has stated, one each; `gaps` are stretches of the batch that hold
    no frame. `tally` is what was new, for the metrics.
    """

    reply_acked: tuple[Range, ...]
    repeated: int
    dead: tuple[DeadLetter, ...]
    counts: Mapping[str, int]
    pushes: tuple[tuple[bytes, Push], ...]
    conflicts: tuple[int, ...] = ()
    alarms: tuple[Suspicion, ...] = ()
    lost: tuple[str, ...] = ()
    gaps: int = 0
    tally: Tally = NOTHING

    @property
    def forked(self) -> bool:
        """Whether the batch shows that two copies of its till run, or that an old image was put back."""
        return any(alarm.kind in ("forked", "restored_image") for alarm in self.alarms)


def together(parts: Sequence[Outcome]) -> Outcome:
    """The outcome of a batch that was taken in parts."""
    counts: Counter[str] = Counter()
    for part in parts:
        counts.update(part.counts)
    return Outcome(
        reply_acked=merge(one for part in parts for one in part.reply_acked),
        repeated=sum(part.repeated for part in parts),
        dead=tuple(letter for part in parts for letter in part.dead),
        counts=dict(counts),
        pushes=tuple(push for part in parts for push in part.pushes),
        conflicts=tuple(seq for part in parts for seq in part.conflicts),
        alarms=tuple(alarm for part in parts for alarm in part.alarms),
        lost=tuple(reason for part in parts for reason in part.lost),
        gaps=max(part.gaps for part in parts),
        tally=sum_of(part.tally for part in parts),
    )
