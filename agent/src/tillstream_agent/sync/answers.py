"""What the server's answer to a batch means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from tillstream_protocol.errors import InvalidInput
from tillstream_protocol.messages import BatchReply, decode_batch_reply

from .transport import Response

Outcome = Literal["authentication", "confused", "refused", "revoked", "too_large", "unavailable", "version"]

ABOUT_THE_CHUNK: Final = frozenset({"cannot_open", "foreign_chunk"})
"""Codes that are about a whole chunk: no part of a batch would fare better."""
ABOUT_THE_REQUEST: Final = frozenset({"bad_signature", "unsigned"})
"""Codes that are about what happened to a request on its way, not about what it carried."""
_BY_STATUS: Final[dict[int, Outcome]] = {401: "authentication", 403: "revoked", 400: "refused", 413: "too_large"}


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a batch was not acknowledged. `retry_after` is what the server asked for, in seconds."""

    outcome: Outcome
    code: str
    reason: str
    retry_after: float = 0.0


def interpret(response: Response) -> BatchReply | Failure:
    """What the server's answer to a batch means."""
    if 200 <= response.status < 300:
        try:
            return decode_batch_reply(response.body)
        except InvalidInput as error:
            return Failure("confused", error.code, f"the answer cannot be read: {error.message}")
    told = response.error()
    return Failure(_outcome(response.status, told.code), told.code, told.message, response.retry_after or 0.0)


def _outcome(status: int, code: str) -> Outcome:
    if status >= 500 or status == 429:
        return "unavailable"
    if code == "version_mismatch" or status == 426:
        return "version"
    if status == 400 and (code in ABOUT_THE_REQUEST or code == "http_400"):
        return "confused"  # a server of ours says in its own words why it refuses a record
    return _BY_STATUS.get(status, "confused")
