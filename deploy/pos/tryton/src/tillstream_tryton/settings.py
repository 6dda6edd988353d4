"""What trytond.conf says: section [tillstream], and [tillstream NAME] for what differs at one point of sale.

[tillstream]
state = /var/lib/tillstream-agent
; or: url = http://127.0.0.1:8710 and token_file = /etc/tryton/tillstream-token
deadline = 0.25
capture = done
identifiers = identifier:loyalty code:account

[tillstream Front desk]
url = http://127.0.0.1:8711
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from trytond import config

from tillstream_pos import Till

SECTION = "tillstream"
DEADLINE_S = 0.25
IDENTIFIERS = "identifier:loyalty code:account"


@dataclass(frozen=True)
class Settings:
    """How one point of sale reaches its till's agent."""

    state: str | None
    url: str | None
    token: str | None
    token_file: str | None
    deadline: float


def settings(point: str) -> Settings:
    """The settings of a point of sale, by its name. Raises `ValueError`."""
    return Settings(
        _text("state", point),
        _text("url", point),
        _text("token", point),
        _text("token_file", point),
        deadline(point),
    )


def deadline(point: str = "") -> float:
    """Seconds that capturing may add to what the cashier waits for. Raises `ValueError`."""
    given = _text("deadline", point)
    seconds = DEADLINE_S if given is None else float(given)
    if not 0 < seconds <= 10:
        raise ValueError(f"[{SECTION}] deadline is {given!r}, and has to be above 0 and at most 10 seconds")
    return seconds


def captures_when_paid() -> bool:
    """Whether a sale is captured when it is paid for (`done`) and not only when it is `posted`."""
    return _text("capture", "") != "posted"


def follows_baskets() -> bool:
    """Whether the agent is told of sales while they are open."""
    return _text("baskets", "") != "no"


def identifiers() -> tuple[tuple[str, str], ...]:
    """Which of a party's identifiers are passed on, and as what: pairs of Tryton's kind and Tillstream's scheme."""
    words = (_text("identifiers", "") or IDENTIFIERS).split()
    pairs = (word.partition(":") for word in words)
    return tuple((kind, scheme) for kind, _, scheme in pairs if scheme)


@lru_cache(maxsize=64)
def till(chosen: Settings) -> Till:
    """The client for such settings, shared by every thread. Raises `ValueError` and `OSError`."""
    token = chosen.token
    if token is None and chosen.token_file is not None:
        token = Path(chosen.token_file).read_text(encoding="ascii").strip()
    return Till(chosen.state, url=chosen.url, token=token, deadline=chosen.deadline)


def _text(name: str, point: str) -> str | None:
    """A setting, from the point's own section if it stands there. An address of its own replaces the common one."""
    own = f"{SECTION} {point}"
    if point and config.has_section(own):
        if (value := config.get(own, name)) is not None:
            return str(value)
        if name in ("state", "url", "token", "token_file") and (config.get(own, "url") or config.get(own, "state")):
            return str(value) if (value := _shared_token(own, name)) is not None else None
    value = config.get(SECTION, name)
    return None if value is None else str(value)


def _shared_token(own: str, name: str) -> str | None:
    """Points that are told apart by `url` alone share the token."""
    shared = config.get(own, "url") and name in ("token", "token_file")
    value = config.get(SECTION, name) if shared else None
    return None if value is None else str(value)
