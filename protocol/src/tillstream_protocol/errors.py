"""The base of every error that crosses a border, and the form it travels in."""

from __future__ import annotations

import msgspec


def shown(value: object, most: int = 80) -> str:
    """A value as an error may quote it: what a stranger sent is cut to `most` characters."""
    text = repr(value[:most] if isinstance(value, (str, bytes)) else value)
    return text if len(text) <= most + 3 else text[:most] + "…"


class ErrorBody(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an error looks like on the wire: JSON `{"error": {…}}` for people, msgpack for tills."""

    code: str
    message: str
    field: str | None = None
    limit: str | None = None
    hint: str | None = None
    retryable: bool = False


class TillstreamError(Exception):
    """Something that a caller can act on.

    `code` is stable and machine-readable; `field` names the place in the input (`lines[2].quantity`), `limit`
    what was allowed there, `hint` what to do next. `retryable` says whether the same call may succeed later.
    """

    code = "error"
    retryable = False

    def __init__(
        self, message: str, *, field: str | None = None, limit: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.limit = limit
        self.hint = hint

    def body(self) -> ErrorBody:
        """The error as it travels."""
        return ErrorBody(self.code, self.message, self.field, self.limit, self.hint, self.retryable)


class InvalidInput(TillstreamError):
    """The sender's fault: what was sent cannot be taken as it is, now or later."""

    code = "invalid_input"


class UnknownField(InvalidInput):
    """A field that the format does not have. `field` is the sender's own word, so it must not be logged."""


class TooLarge(InvalidInput):
    """The sender's fault: over a limit that `limit` names."""

    code = "too_large"


class Damaged(TillstreamError):
    """Bytes that do not hold what they claim: a failed checksum, signature or decryption."""

    code = "damaged"
