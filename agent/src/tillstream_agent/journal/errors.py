"""What a caller of the journal may have to deal with."""

from __future__ import annotations

import errno
from typing import Final

from tillstream_protocol.errors import TillstreamError

PATIENCE_S: Final = 2.0
"""For how long the disk may fail before those who wait for it are told."""


class JournalError(TillstreamError):
    """The record was not written, and nothing was acknowledged. The POS carries on and may try again."""

    code = "journal_unavailable"
    retryable = True


class JournalFull(JournalError):
    """There is no room on the disk. It heals by itself when there is."""

    code = "journal_full"


def translate(error: OSError, doing: str) -> JournalError:
    """An operating system's error as one of ours."""
    kind = JournalFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else JournalError
    return kind(f"{doing}: {error.strerror or error}", hint="see tillstream-agent doctor")


def unsafe() -> JournalError:
    """The error of one who waits for a disk that fails."""
    return JournalError(
        "captured, but the disk does not take it",
        limit=f"{PATIENCE_S} s",
        hint="ask again with the same id; see tillstream-agent doctor",
    )
