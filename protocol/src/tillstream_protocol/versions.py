"""What speaks to what.

The server understands every protocol version from `OLDEST_PROTOCOL` to `PROTOCOL`; an agent speaks exactly one. A
record's version is its own: an older one is always readable, a newer one is dead-lettered until the server is
upgraded.

What was added to a version since it was fixed is a *revision* of it. Both sides of a push channel use the newest one
that both know: the till offers those that it knows as WebSocket subprotocols (RFC 6455, section 1.9), the server takes
one. Without any, it is revision 0: so an agent and a server of any age go on speaking.
"""

from __future__ import annotations

from typing import Final

from .errors import TillstreamError

PROTOCOL: Final = 1
OLDEST_PROTOCOL: Final = 1
REVISION: Final = 1
"""The newest additions to `PROTOCOL` that are known here."""
CHUNK_FORMAT: Final = 1
RECORD: Final = 3
"""The newest that is read; a record names the oldest that can hold it."""


class VersionMismatch(TillstreamError):
    """Agent and server share no protocol version."""

    code = "version_mismatch"


def subprotocols() -> tuple[str, ...]:
    """What a till offers on the push channel, and a server takes, the newest first."""
    return tuple(f"tillstream.{PROTOCOL}.{revision}" for revision in range(REVISION, 0, -1))


def revision_of(subprotocol: str | None) -> int:
    """The revision that was agreed on; 0 where none was, or one that is not known here."""
    known = subprotocols()
    return REVISION - known.index(subprotocol) if subprotocol in known else 0


def require_spoken(protocol: int) -> None:
    """Raise `VersionMismatch` unless this server speaks an agent's protocol version."""
    if OLDEST_PROTOCOL <= protocol <= PROTOCOL:
        return
    hint = "upgrade the server first" if protocol > PROTOCOL else "upgrade the agent"
    raise VersionMismatch(
        f"protocol version {protocol} is not spoken here",
        field="protocol",
        limit=f"{OLDEST_PROTOCOL} to {PROTOCOL}",
        hint=hint,
    )
