"""The queue as store IT sees and handles it: what the server would not take, and trying it again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Annotated, Final

from msgspec import Meta, Struct

from tillstream_protocol.events import KIND_NUMBERS
from tillstream_protocol.limits import DEFAULT

from .events import Events
from .journal import Journal, JournalError
from .letters import Kept, Key, Letter, Letters, by_epoch
from .status import QueueStatus, queue_status
from .sync.flow import UploadFlow

PAGE: Final = 250
_KINDS: Final = {number: str(kind.__struct_config__.tag) for kind, number in KIND_NUMBERS.items()}


class Line(Struct, frozen=True):
    """One record that the server would not take. `dead`: it is not tried again until somebody asks."""

    epoch: str
    seq: int
    kind: str
    kept: Kept
    code: str
    reason: str
    tries: int
    since_ms: int
    dead: bool


class Page(Struct, frozen=True):
    """Part of the list, and where the next part begins; `here` and `server` count all there are."""

    lines: tuple[Line, ...]
    next: int | None
    here: int
    server: int
    queue: QueueStatus


class Wanted(Struct, frozen=True, forbid_unknown_fields=True):
    """Which of them: all, those of one epoch (hex), or one record."""

    epoch: Annotated[str, Meta(pattern="^[0-9a-f]{32}$")] | None = None
    seq: Annotated[int, Meta(ge=0)] | None = None

    def fits(self, key: Key) -> bool:
        """Whether a record is meant."""
        return (self.epoch is None or key[0].hex() == self.epoch) and (self.seq is None or key[1] == self.seq)


class Retried(Struct, frozen=True):
    """How many are queued again of those kept here, and of those at the server; `gone` are no longer on this disk."""

    here: int
    server: int
    gone: int


def line_of(letter: Letter, tries: int = DEFAULT.tries) -> Line:
    """A letter as it is shown."""
    dead = letter.kept == "server" or letter.tries >= tries
    kind = _KINDS.get(letter.kind, "")
    return Line(
        letter.epoch.hex(),
        letter.seq,
        kind,
        letter.kept,
        letter.code,
        letter.reason,
        letter.tries,
        letter.since_ms,
        dead,
    )


@dataclass(frozen=True, slots=True)
class QueueDesk:
    """Answers for the running agent. `changed` is called when there is something new to send and to save."""

    flow: UploadFlow
    journal: Journal
    letters: Letters
    events: Events
    changed: Callable[[], None]

    def page(self, start: int) -> Page:
        """What is listed from a place on, at most `PAGE` lines."""
        letters: Iterator[Letter] = chain(self.letters.here.values(), self.letters.at_server.values())
        lines = tuple(map(line_of, islice(letters, start, start + PAGE)))
        end = start + len(lines)
        more = end < len(self.letters.here) + len(self.letters.at_server)
        return Page(
            lines,
            end if more and lines else None,
            len(self.letters.here),
            self.letters.server_total,
            queue_status(self.journal.queue()),
        )

    def retry(self, wanted: Wanted) -> Retried:
        """Queue records again as if they had never been refused."""
        here = [key for key in self.letters.here if wanted.fits(key)]
        there = [key for key in self.letters.at_server if wanted.fits(key)]
        taken = self.flow.try_again(here)
        again = self._from_server(there)
        self.events.taken_up(here=taken, server=again)
        self.changed()
        return Retried(taken, again, len(here) - taken + len(there) - again)

    def _from_server(self, keys: Iterable[Key]) -> int:
        """Un-acknowledge what is still on this disk: a good copy supersedes the server's dead letter."""
        total = 0
        for epoch, ranges in by_epoch(keys).items():
            names = [(epoch, seq) for part in ranges for seq in range(part.first, part.last + 1)]
            queued = self.journal.unacknowledge(epoch, ranges)
            self.letters.forget(names if queued == len(names) else filter(self._is_queued, names))
            total += queued
        return total

    def _is_queued(self, key: Key) -> bool:
        try:
            return self.journal.slice_of(*key) is not None
        except JournalError:
            return False
