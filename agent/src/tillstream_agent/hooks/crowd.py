"""How many may stand at the door, for how long, and how often each may call.

A page in the till's browser can open connections and send requests without being let in. What it can take up is
bounded, and never the POS's share: when the door is full, whoever has not shown a token goes first; whoever is slow
goes after a while; and callers are counted apart, so that nobody uses up another's calls.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from tillstream_protocol.errors import TillstreamError

STRANGERS_A_SECOND: Final = 200
"""Calls a second of everybody together who shows no token, and of each allowed origin's preflights."""
_SWEEPS: Final = 4
"""How often slow ones are looked for within the time that they have."""


class TooManyCalls(TillstreamError):
    """This caller calls more often than any POS would."""

    code = "too_many_calls"
    retryable = True


class TooManyConnections(TillstreamError):
    """The door is full of callers who may not be sent away."""

    code = "too_many_connections"
    retryable = True


class TooSlow(TillstreamError):
    """A connection brought no whole request in time."""

    code = "too_slow"


@dataclass(frozen=True, slots=True)
class Caps:
    """What the door bears."""

    connections: int = 64
    request_s: float = 10.0
    """Seconds for a request to arrive whole, and for a stranger's connection to stay idle."""
    calls: float = 5_000.0
    """Calls a second of one caller with the token."""


class Guest(Protocol):
    """One connection."""

    trusted: bool
    """It brought a request with the token, or with the page's cookie."""
    since: float
    """When it began to wait for a request, or to be served."""
    served: bool
    """A request of it is being answered."""

    def whole(self) -> bool:
        """Whether the request being answered has arrived to its end."""
        ...

    def leave(self) -> None:
        """Close it at once."""
        ...


class Crowd:
    """The connections of one door. Times are the loop's."""

    def __init__(self, caps: Caps) -> None:
        self._caps = caps
        self._guests: dict[Guest, None] = {}

    @property
    def sweep_s(self) -> float:
        """How long to wait between two sweeps."""
        return self._caps.request_s / _SWEEPS

    def __len__(self) -> int:
        return len(self._guests)

    def enter(self, guest: Guest) -> bool:
        """Let a connection in; where there is no room, somebody else's goes. False if there is nobody who may."""
        if len(self._guests) >= self._caps.connections:
            leaving = self._dispensable()
            if leaving is None:
                return False
            self._dismiss(leaving)
        self._guests[guest] = None
        return True

    def left(self, guest: Guest) -> None:
        """Forget a connection that is closed."""
        self._guests.pop(guest, None)

    def sweep(self, now: float) -> int:
        """Close what is slow. Returns how many."""
        slow = [guest for guest in self._guests if now - guest.since > self._caps.request_s and _is_slow(guest)]
        for guest in slow:
            self._dismiss(guest)
        return len(slow)

    def _dispensable(self) -> Guest | None:
        """The stranger who waited longest, or else the longest idle of the others."""
        strangers = [guest for guest in self._guests if not guest.trusted]
        idle = [guest for guest in self._guests if not guest.served]
        return min(strangers or idle, key=lambda guest: guest.since, default=None)

    def _dismiss(self, guest: Guest) -> None:
        self.left(guest)
        guest.leave()


def _is_slow(guest: Guest) -> bool:
    return not guest.whole() if guest.served else not guest.trusted


class Rates:
    """How often each caller called: a bucket of one second's calls, refilled evenly."""

    def __init__(self, caps: Caps) -> None:
        self._calls = caps.calls
        self._strangers = min(caps.calls, STRANGERS_A_SECOND)
        self._buckets: dict[str, tuple[float, float]] = {}

    def count(self, caller: str, now: float, *, trusted: bool) -> None:
        """Count one call. Callers are a few, named by the door. Raises `TooManyCalls`."""
        most = self._calls if trusted else self._strangers
        left, at = self._buckets.get(caller, (most, now))
        left = min(most, left + (now - at) * most)
        if left < 1:
            self._buckets[caller] = (left, now)
            raise TooManyCalls("these are more calls than any POS makes", limit=f"{most:g} a second")
        self._buckets[caller] = (left - 1, now)
