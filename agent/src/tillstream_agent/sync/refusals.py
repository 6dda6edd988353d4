"""Records that the server refuses as they are: which, when each is tried again, and whether it is their fault at all.

- A record is judged only by how it fares alone. Until then its batch is cut into halves.
- A refused record is set aside at once, so that nothing behind it waits, and tried again alone. After `tries`
  refusals that count it is a dead letter, and is tried again only when somebody asks for it.
- The first refusal of a record counts. Another counts only if the server has acknowledged something since: a server,
  or something before it, that refuses whatever it is sent makes no dead letters.
- Once `DOUBT` different records in a row were refused with nothing acknowledged between, records are sent one by one
  and with growing waits, as in any other trouble. The first acknowledgement ends that, and what was set aside
  meanwhile is tried again at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from heapq import heappop, heappush
from typing import Final

from ..letters import Key, Letter, Letters

DOUBT: Final = 3
RETRY_S: Final = (30.0, 300.0)
"""Seconds until a record's second and third try, spread by half to both sides."""
UNPROVEN_S: Final = 60.0
"""The same after a refusal that does not count."""


class Refusals:
    """Keeps count. Times are seconds of the monotonic clock; `uniform` gives numbers in [0, 1)."""

    def __init__(self, letters: Letters, tries: int, uniform: Callable[[], float]) -> None:
        self._letters = letters
        self._tries = tries
        self._uniform = uniform
        self._acks = 0
        self._counted: dict[Key, int] = {}
        """How many acknowledgements there had been when a record's last refusal counted."""
        self._due: dict[Key, float] = {}
        self._calendar: list[tuple[float, Key]] = []
        """A heap of what `_due` holds or has held."""
        self._streak: dict[Key, None] = {}
        for letter in letters.here.values():
            self._counted[letter.key] = 0
            if letter.tries < tries:
                self._plan(letter.key, 0.0)

    @property
    def in_doubt(self) -> bool:
        """Whether it looks as if whatever is sent were refused."""
        return len(self._streak) >= DOUBT

    def refused(self, key: Key, kind: int, code: str, reason: str, now: float, *, casts_doubt: bool) -> Letter:
        """A record was refused that came alone. `casts_doubt`: it may be the server's fault."""
        if casts_doubt and key not in self._letters.here:
            self._streak[key] = None
        counts = self._counted.get(key, -1) < self._acks
        letter = self._letters.refused(key, kind, code, reason, counts=counts)
        if counts:
            self._counted[key] = self._acks
        if self.is_dead(letter):
            self._due.pop(key, None)
        else:
            wait = RETRY_S[min(letter.tries, len(RETRY_S)) - 1] if counts else UNPROVEN_S
            self._plan(key, now + wait * (0.5 + self._uniform()))
        return letter

    def is_dead(self, letter: Letter) -> bool:
        """Whether a record is not tried again by itself."""
        return letter.tries >= self._tries

    def acknowledged(self, now: float) -> None:
        """The server took something."""
        self._acks += 1
        if self.in_doubt:
            for key in self._streak:
                if key in self._due:
                    self._plan(key, now)
        self._streak.clear()

    def forget(self, keys: Iterable[Key]) -> None:
        """These were taken, or begin anew."""
        for key in keys:
            self._due.pop(key, None)
            self._counted.pop(key, None)
            self._streak.pop(key, None)

    def next_due(self) -> tuple[Key, float] | None:
        """The record to be tried again first, and when."""
        while self._calendar:
            due, key = self._calendar[0]
            if self._due.get(key) == due:
                return key, due
            heappop(self._calendar)
        return None

    def postpone(self, key: Key, now: float) -> None:
        """A record could not be read just now."""
        self._plan(key, now + UNPROVEN_S)

    def hold(self, key: Key, until: float) -> None:
        """A record's lane may not be sent before then: let others go ahead of it."""
        self._plan(key, until)

    def _plan(self, key: Key, due: float) -> None:
        self._due[key] = due
        heappush(self._calendar, (due, key))
