"""One-time pairing: how a screen, or a POS that runs in a browser, gets a secret of its own.

A code of eight characters is asked for over the Unix socket, by the agent's own user, and read to the screen. It lives
in memory for five minutes, for one use and five tries, and is exchanged for a secret, of which only a keyed hash is
kept. The key of the hashes comes from the hook's token: with a new token, every pairing is over.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Struct

from tillstream_protocol.errors import TillstreamError
from tillstream_protocol.signing import to_text

from ..clock import Clock
from ..folder import StateError, write_private

ALPHABET: Final = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"
"""Without the characters that are taken for each other."""
CODE_SIZE: Final = 8
CODE_LIFE_S: Final = 300.0
TRIES: Final = 5
MAX_PASSES: Final = 32
"""Of each kind; the oldest goes for the next one."""

Kind = Literal["display", "pos"]
_Text = Annotated[str, Meta(max_length=256)]


class NotPaired(TillstreamError):
    """The code is wrong, used, or too old."""

    code = "not_paired"


class Code(Struct, frozen=True):
    """A code, and for how many seconds it can be used."""

    code: str
    seconds: float
    after_wrong_tries: bool = False
    """The one before it was ended by wrong tries: somebody mistypes, or a program on this machine guesses."""


class Forgotten(Struct, frozen=True):
    """How many pairings were ended."""

    passes: int


class _Pass(Struct, frozen=True, forbid_unknown_fields=True):
    """Somebody who was paired. `hash` is hex; a POS's pass is its origin's alone, where it came from a page."""

    kind: Kind
    hash: _Text
    origin: _Text
    since_ms: int


class _File(Struct, frozen=True, forbid_unknown_fields=True):
    passes: Annotated[tuple[_Pass, ...], Meta(max_length=1000)] = ()


class Pairing:
    """Hands out codes, exchanges them for secrets, and knows the secrets again. `ended` is told when all is over."""

    def __init__(
        self,
        file: Path,
        token: str,
        clock: Clock,
        randomness: Callable[[int], bytes],
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        self._file = file
        self._key = hmac.digest(token.encode(), b"tillstream-paired-1", hashlib.sha256)
        self._clock = clock
        self._random = randomness
        self._ended = ended
        self._code = ""
        self._until = 0.0
        self._tries = 0
        self._tried_out = False
        self._passes = _read(file)
        self._writing = asyncio.Lock()

    def code(self) -> Code:
        """A new code. The one before it is good for nothing from now on."""
        self._code = "".join(ALPHABET[byte % len(ALPHABET)] for byte in self._random(CODE_SIZE))
        self._until = self._clock.monotonic() + CODE_LIFE_S
        self._tries = TRIES
        tried_out, self._tried_out = self._tried_out, False
        return Code(self._code, CODE_LIFE_S, tried_out)

    async def redeem(self, code: str, kind: Kind, origin: str = "") -> str:
        """Exchange a code for a secret. Raises `NotPaired`, or `StateError` if the disk will not have it."""
        self._use(code.strip().upper())
        secret = to_text(self._random(32))
        one = _Pass(kind, self._hash(secret), origin, self._clock.now_ms())
        async with self._writing:
            same = [known for known in self._passes if known.kind == kind]
            dropped = set(same[: max(0, len(same) - MAX_PASSES + 1)])
            await self._write((*(known for known in self._passes if known not in dropped), one))
        return secret

    async def forget(self) -> Forgotten:
        """End every pairing. Raises `StateError`."""
        self._code = ""
        async with self._writing:
            ended = len(self._passes)
            await self._write(())
        self._ended()
        return Forgotten(ended)

    def knows(self, secret: str, kind: Kind, origin: str | None = None) -> bool:
        """Whether this secret was handed out for this. `origin` is what the caller's browser says, None for none."""
        if not secret:
            return False
        given = self._hash(secret)
        return any(
            hmac.compare_digest(one.hash, given) and one.kind == kind and origin in (None, one.origin)
            for one in self._passes
        )

    def form_token(self, secret: str) -> str:
        """What the forms of a screen with this secret carry."""
        content = b"form\0" + secret.encode("utf-8", "surrogateescape")
        return to_text(hmac.digest(self._key, content, hashlib.sha256))[:32]

    def _use(self, code: str) -> None:
        if not self._code or self._clock.monotonic() >= self._until:
            self._code = ""
        given = code.encode("utf-8", "surrogateescape")
        right = bool(self._code) and hmac.compare_digest(given, self._code.encode())
        self._tries -= 1
        if right or self._tries <= 0:
            self._tried_out = self._tried_out or (bool(self._code) and not right)
            self._code = ""
        if not right:
            hint = "run `tillstream-agent display` for a new one"
            raise NotPaired("this code is wrong, used, or too old", field="code", hint=hint)

    def _hash(self, secret: str) -> str:
        return hmac.digest(self._key, secret.encode("utf-8", "surrogateescape"), hashlib.sha256).hex()

    async def _write(self, passes: tuple[_Pass, ...]) -> None:
        content = msgspec.json.encode(_File(passes))
        try:
            await asyncio.to_thread(write_private, self._file, content)
        except OSError as error:
            raise StateError(f"the pairing cannot be kept: {error.strerror}", hint="check disk space") from error
        self._passes = passes


def _read(file: Path) -> tuple[_Pass, ...]:
    """Who was paired; nobody, where that cannot be read."""
    with suppress(OSError, msgspec.DecodeError):
        return msgspec.json.decode(file.read_bytes(), type=_File).passes
    return ()


def bearer_of(authorization: str) -> str:
    """The secret in an `Authorization` header; empty where there is none."""
    kind, _, secret = authorization.partition(" ")
    return secret if kind == "Bearer" else ""


def cookie_of(cookies: Mapping[str, str], name: str) -> str:
    """A cookie's value, bounded; empty where there is none."""
    return cookies.get(name, "")[:256]
