"""What a caller of the journal may have to deal with."""

from __future__ import annotations

import errno

from tillstream_protocol.errors import TillstreamError


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
