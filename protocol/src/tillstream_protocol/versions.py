"""What speaks to what.

The server understands every protocol version from `OLDEST_PROTOCOL` to `PROTOCOL`; an agent speaks exactly one. A
record's version is its own: an older one is always readable, a newer one is dead-lettered until the server is
upgraded.
"""

from __future__ import annotations

from typing import Final

from .errors import TillstreamError

PROTOCOL: Final = 1
OLDEST_PROTOCOL: Final = 1
CHUNK_FORMAT: Final = 1
RECORD: Final = 3
"""The newest that is read; a record names the oldest that can hold it."""


class VersionMismatch(TillstreamError):
    """Agent and server share no protocol version."""

    code = "version_mismatch"


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
