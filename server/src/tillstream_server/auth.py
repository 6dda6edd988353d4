"""Enrolment tokens and head office's keys. Both are kept as hashes only.

Secrets are found by their hash, so that nothing compares them byte by byte, and a copy of the database lets nobody
in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from sqlalchemy.ext.asyncio import AsyncConnection

from tillstream_protocol.errors import InvalidInput, TillstreamError
from tillstream_protocol.messages import Token
from tillstream_protocol.signing import from_text, to_text

Randomness = Callable[[int], bytes]
Role = Literal["operator", "viewer", "marketer", "privacy"]
Permission = Literal["summaries", "fleet", "read_campaigns", "write_campaigns"]

PERMISSIONS: Final[Mapping[str, frozenset[Permission]]] = {
    "operator": frozenset({"summaries", "fleet", "read_campaigns"}),
    "viewer": frozenset({"summaries", "read_campaigns"}),
    "marketer": frozenset({"summaries", "read_campaigns", "write_campaigns"}),
    "privacy": frozenset({"summaries"}),
}
"""What each role may do. Nobody sees a person here: revealing is a matter of its own."""

_KEY_PREFIX: Final = "tsk_"


class TokenRefused(TillstreamError):
    """An enrolment token that opens nothing; `reason` is unknown, expired, used, till_revoked or
    till_is_source."""

    code = "token_refused"

    def __init__(self, reason: str, message: str, *, hint: str) -> None:
        super().__init__(message, field="token", hint=hint)
        self.reason = reason
        self.code = f"token_{reason}"


class Unauthorised(TillstreamError):
    """No key of head office's, or none that is known here."""

    code = "unauthorised"


class Forbidden(TillstreamError):
    """A known key whose role may not do this."""

    code = "forbidden"


@dataclass(frozen=True, slots=True)
class Grant:
    """Where a token lets a till in. Without `till` the store's next till is made."""

    retailer: str
    store: str
    till: str | None


async def create_token(
    conn: AsyncConnection,
    grant: Grant,
    *,
    uses: int,
    ttl_ms: int,
    now_ms: int,
    fingerprint: bytes,
    random: Randomness,
) -> Token:
    """A new token that lets `uses` agents in for `ttl_ms` from now."""
    token = Token(random(16), fingerprint)
    await conn.exec_driver_sql(
        "INSERT INTO token (token_hash, retailer, store, till, uses_left, expires_ms, created_ms)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (_hash(token.secret), grant.retailer, grant.store, grant.till, uses, now_ms + ttl_ms, now_ms),
    )
    return token


async def find_token(conn: AsyncConnection, secret: bytes) -> Grant:
    """Where a token leads, spent or not. Raises `TokenRefused` for one that is unknown."""
    grant = await grant_of(conn, secret)
    if grant is None:
        raise TokenRefused("unknown", "this token was not made here", hint="ask head office for a new one")
    return grant


async def grant_of(conn: AsyncConnection, secret: bytes) -> Grant | None:
    """Where a token leads, spent or not; None for one that was not made here."""
    rows = await conn.exec_driver_sql("SELECT retailer, store, till FROM token WHERE token_hash = ?", (_hash(secret),))
    return next((Grant(*tuple(row)) for row in rows.all()), None)


async def use_token(conn: AsyncConnection, secret: bytes, now_ms: int) -> None:
    """Take one use. Raises `TokenRefused` when it has expired or is used up."""
    rows = await conn.exec_driver_sql("SELECT uses_left, expires_ms FROM token WHERE token_hash = ?", (_hash(secret),))
    uses, expires_ms = tuple(rows.one())
    if expires_ms <= now_ms:
        raise TokenRefused("expired", "this token has expired", hint="ask head office for a new one")
    if uses < 1:
        raise TokenRefused("used", "this token is used up", hint="ask head office for a new one")
    await conn.exec_driver_sql("UPDATE token SET uses_left = uses_left - 1 WHERE token_hash = ?", (_hash(secret),))


async def create_key(conn: AsyncConnection, role: Role, *, now_ms: int, random: Randomness) -> str:
    """A new key for head office, as people carry it."""
    secret = random(32)
    await conn.exec_driver_sql(
        "INSERT INTO api_key (key_hash, role, created_ms) VALUES (?, ?, ?)", (_hash(secret), role, now_ms)
    )
    return _KEY_PREFIX + to_text(secret)


async def require(conn: AsyncConnection, authorization: str, permission: Permission) -> None:
    """Raise `Unauthorised` or `Forbidden` unless the header's key may do this."""
    scheme, _, text = authorization.partition(" ")
    secret = _secret(text.strip()) if scheme.lower() == "bearer" else b""
    rows = await conn.exec_driver_sql("SELECT role FROM api_key WHERE key_hash = ?", (_hash(secret),))
    role = rows.scalar()
    if role is None:
        hint = "send Authorization: Bearer with a key made by: tillstream-server key create"
        raise Unauthorised("this needs a key of head office's", field="Authorization", hint=hint)
    if permission not in PERMISSIONS.get(role, frozenset()):
        raise Forbidden(f"the role {role} may not do this", limit=", ".join(roles_with(permission)))


def roles_with(permission: Permission) -> list[str]:
    """Every role that has a permission."""
    return [role for role, allowed in PERMISSIONS.items() if permission in allowed]


def _secret(text: str) -> bytes:
    if not text.startswith(_KEY_PREFIX):
        return b""
    try:
        return from_text(text.removeprefix(_KEY_PREFIX))
    except InvalidInput:
        return b""


def _hash(secret: bytes) -> bytes:
    return hashlib.blake2b(secret, digest_size=32, person=b"tillstream-auth").digest()
