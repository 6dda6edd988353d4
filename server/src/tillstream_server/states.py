"""How a till is, in one word, for the command line, the API, the console and the metrics alike.

The first that fits:

    revoked   turned away by head office
    source    a cloud POS whose webhooks the server itself takes: there is no agent to be heard
    new       enrolled, and not heard yet
    silent    not heard for as long as the setting `silent_seconds` says
    ill       it keeps records that were refused or damaged files, a record has waited for a quarter of an hour, or its
              clock is five minutes off
    well      none of these

The last error that a heartbeat names is shown and not judged: a till tells it until its agent starts anew, long after
a line came back. What waits, what was refused and what is damaged say whether anything came of it.
"""

from __future__ import annotations

from typing import Final, Literal, get_args

State = Literal["well", "ill", "silent", "new", "source", "revoked"]
STATES: Final[tuple[State, ...]] = get_args(State)

LAG_MS: Final = 15 * 60_000
"""A till whose oldest record waits for longer is ill; the alert on records that come late begins there too."""
SKEW_MS: Final = 5 * 60_000
"""A till whose clock is further off is ill: its agent no longer trusts that clock either."""
HEARTBEATS: Final = 3
"""So many heartbeats fit into the time after which a till is silent, so that losing one or two says nothing."""

_TROUBLE: Final = (
    f"(s.dead_letters > 0 OR s.damaged_files > 0 OR (s.queued > 0 AND s.oldest_queued_ms > {LAG_MS})"
    f" OR abs(s.clock_ms - s.seen_ms) > {SKEW_MS})"
)
_BY_PLACE: Final = (
    "WHEN t.revoked_ms IS NOT NULL THEN 'revoked' WHEN t.till_id IN (SELECT till_id FROM source) THEN 'source'"
)


def heard_since_ms(now_ms: int, silent_s: float) -> int:
    """A till that was heard before this millisecond, and not since, is silent."""
    return now_ms - round(silent_s * 1000)


def of_heartbeat(since: str) -> str:
    """SQL for the state that a row `s` of `till_status` alone tells; `since` stands for `heard_since_ms`."""
    return f"CASE {_by_heartbeat(since)} END"


def of_till(since: str) -> str:
    """SQL for the state of a row `t` of `till` and its heartbeat `s`, where it has one; `since` as above."""
    return f"CASE {_BY_PLACE} {_by_heartbeat(since)} END"


def _by_heartbeat(since: str) -> str:
    return (
        f"WHEN s.seen_ms IS NULL THEN 'new' WHEN s.seen_ms < {since} THEN 'silent'"
        f" WHEN {_TROUBLE} THEN 'ill' ELSE 'well'"
    )
