"""Head office's people: who may sign in to the console, as what, and for which stores; and the sessions they hold.

Passwords are kept as Argon2id hashes, sessions by the hash of an id that only the browser has: a copy of the database
lets nobody in. What a user may do is read with every request, so that a change of role holds at once.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import unicodedata
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Final, Literal, get_args

import nacl.exceptions
import nacl.pwhash.argon2id as argon
from msgspec import Meta, Struct
from sqlalchemy.ext.asyncio import AsyncConnection

from tillstream_protocol.errors import InvalidInput, TillstreamError
from tillstream_protocol.messages import Name
from tillstream_protocol.signing import from_text, to_text

from .auth import Randomness
from .ledger.database import Database, execute

Role = Literal["admin", "operator", "viewer", "marketer", "privacy", "manager"]
Permission = Literal["sales", "fleet", "turn_away", "set_up"]

PERMISSIONS: Final[Mapping[Role, frozenset[Permission]]] = {
    "admin": frozenset({"sales", "fleet", "turn_away", "set_up"}),
    "operator": frozenset({"sales", "fleet", "turn_away"}),
    "viewer": frozenset({"sales"}),
    "marketer": frozenset({"sales"}),
    "privacy": frozenset({"sales"}),
    "manager": frozenset({"sales", "fleet"}),
}
"""What each role may do in the console: those of head office's keys, the administrator, and a store's manager."""

ROLES: Final = get_args(Role)
MIN_PASSWORD: Final = 12
MAX_PASSWORD: Final = 256
LETTERS: Final = 5
"""Different ones that a password has at least."""
TELLING_NAME: Final = 4
"""Characters of a name that no password of its user may hold; shorter ones are in many words."""
SESSION_MS: Final = 12 * 3_600_000
"""How long a session lasts: a working day."""
MAX_SESSIONS: Final = 20
"""Sessions that one user may hold; the oldest ends when there would be more."""
_HASHERS: Final = ThreadPoolExecutor(2, "argon2id")
"""So many hashes are computed at the same time: each takes 64 MiB for a while."""

UserName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}$")]
Password = Annotated[str, Meta(max_length=MAX_PASSWORD)]


class UserCreate(Struct, frozen=True, forbid_unknown_fields=True, tag="user_create"):
    """Let somebody sign in to the console. Without a password one is made, and told once."""

    name: UserName
    role: Role
    retailer: Name | None = None
    store: Name | None = None
    password: Password | None = None


class UserList(Struct, frozen=True, forbid_unknown_fields=True, tag="user_list"):
    """Everybody who may sign in."""


class UserRemove(Struct, frozen=True, forbid_unknown_fields=True, tag="user_remove"):
    """Let somebody in no more; their sessions end."""

    name: UserName


class UserPassword(Struct, frozen=True, forbid_unknown_fields=True, tag="user_password"):
    """Give somebody another password; their sessions end. Without one it is made, and told once."""

    name: UserName
    password: Password | None = None


UserCommand = UserCreate | UserList | UserRemove | UserPassword


class UnknownUser(TillstreamError):
    """There is no such user."""

    code = "unknown_user"


class UserExists(InvalidInput):
    """The name is taken."""

    code = "user_exists"


class WeakPassword(InvalidInput):
    """A password that is too easy to guess."""

    code = "weak_password"


@dataclass(frozen=True, slots=True)
class User:
    """Who is signed in. `retailer` and `store` None are every one."""

    name: str
    role: Role
    retailer: str | None
    store: str | None

    def may(self, permission: Permission) -> bool:
        """Whether the role has a permission."""
        return permission in PERMISSIONS[self.role]

    def sees(self, retailer: str, store: str) -> bool:
        """Whether a store is one of theirs."""
        return self.retailer in (None, retailer) and self.store in (None, store)


@dataclass(frozen=True, slots=True)
class Session:
    """A signed-in browser. `id` is what it alone has; `form_token` is in every form that it is served."""

    id: str
    user: User
    form_token: str
    expires_ms: int


async def do(database: Database, command: UserCommand, now_ms: int, random: Randomness) -> dict[str, object]:
    """Carry out a command. Raises `UnknownUser`, `UserExists`, `WeakPassword` or `InvalidInput`."""
    match command:
        case UserCreate():
            made = command.password or _made(random)
            await create(database, command, made, now_ms, random)
            told: dict[str, object] = {"name": command.name, "role": command.role}
            return told if command.password is not None else {**told, "password": made}
        case UserList():
            return {"users": await _listing(database)}
        case UserRemove():
            async with database.write() as conn:
                await _require(conn, command.name)
                await execute(conn, "DELETE FROM console_session WHERE name = ?", command.name)
                await execute(conn, "DELETE FROM console_user WHERE name = ?", command.name)
            return {"name": command.name, "removed": True}
        case UserPassword():
            made = command.password or _made(random)
            await change_password(database, command.name, made, random)
            return {"name": command.name} if command.password is not None else {"name": command.name, "password": made}


async def create(
    database: Database, new: UserCreate, password: str, now_ms: int, random: Randomness, *, first: bool = False
) -> None:
    """A new user; as the `first` one only where there is none.

    Raises `UserExists`, `WeakPassword` or `InvalidInput`.
    """
    if new.store is not None and new.retailer is None:
        raise InvalidInput("a store is one of a retailer's", field="retailer", hint="name the retailer too")
    if new.role == "manager" and new.store is None:
        raise InvalidInput("a manager is the manager of a store", field="store", hint="name the retailer and the store")
    hashed = await _hashed(new.name, password, random)
    async with database.write() as conn:
        if first and await anybody(conn):
            raise UserExists("somebody has set this server up already", field="name", hint="sign in")
        taken = await conn.exec_driver_sql("SELECT 1 FROM console_user WHERE name = ?", (new.name,))
        if taken.first() is not None:
            raise UserExists(f"there is a user {new.name!r} already", field="name")
        await execute(
            conn,
            "INSERT INTO console_user (name, role, retailer, store, password, created_ms) VALUES (?, ?, ?, ?, ?, ?)",
            *(new.name, new.role, new.retailer, new.store, hashed, now_ms),
        )


async def change_password(
    database: Database, name: str, password: str, random: Randomness, *, keep: str | None = None
) -> None:
    """Give a user another password, and end every session but the one with the id `keep`.

    Raises `UnknownUser` or `WeakPassword`.
    """
    hashed = await _hashed(name, password, random)
    kept = _id_hash(keep) if keep else b""
    async with database.write() as conn:
        await _require(conn, name)
        await execute(conn, "UPDATE console_user SET password = ? WHERE name = ?", hashed, name)
        await execute(conn, "DELETE FROM console_session WHERE name = ? AND id_hash <> ?", name, kept)


async def check_password(database: Database, name: str, password: str) -> bool:
    """Whether it is this user's password; as slow for a user that there is not."""
    async with database.read() as conn:
        rows = await conn.exec_driver_sql("SELECT password FROM console_user WHERE name = ?", (name,))
        found = rows.scalar()
    loop = asyncio.get_running_loop()
    right = await loop.run_in_executor(_HASHERS, _verified, found or _NOBODYS, _plain(password))
    return right and found is not None


async def anybody(conn: AsyncConnection) -> bool:
    """Whether there is any user at all."""
    return (await conn.exec_driver_sql("SELECT 1 FROM console_user LIMIT 1")).first() is not None


async def begin_session(database: Database, name: str, now_ms: int, random: Randomness) -> Session:
    """A session of a user who has just proved who they are. Raises `UnknownUser`."""
    id_, form_token = to_text(random(32)), to_text(random(32))
    async with database.write() as conn:
        await _require(conn, name)
        await execute(conn, "DELETE FROM console_session WHERE expires_ms <= ?", now_ms)
        await execute(conn, _END_OLDEST, name, name, MAX_SESSIONS - 1)
        row = (_id_hash(id_), name, form_token, now_ms, now_ms + SESSION_MS)
        await execute(conn, _BEGIN, *row)
        await execute(conn, "UPDATE console_user SET signed_in_ms = ? WHERE name = ?", now_ms, name)
    session = await find_session(database, id_, now_ms)
    if session is None:
        raise UnknownUser(f"{name!r} was removed this moment", field="name")
    return session


async def find_session(database: Database, id_: str, now_ms: int) -> Session | None:
    """The session of this id, unless it has ended."""
    async with database.read() as conn:
        rows = await conn.exec_driver_sql(_FIND, (_id_hash(id_), now_ms))
        for row in rows.all():
            form_token, expires_ms, name, role, retailer, store = tuple(row)
            return Session(id_, User(name, role, retailer, store), form_token, expires_ms)
    return None


async def end_session(database: Database, id_: str) -> None:
    """Sign out."""
    async with database.write() as conn:
        await execute(conn, "DELETE FROM console_session WHERE id_hash = ?", _id_hash(id_))


async def _require(conn: AsyncConnection, name: str) -> None:
    rows = await conn.exec_driver_sql("SELECT 1 FROM console_user WHERE name = ?", (name,))
    if rows.first() is None:
        raise UnknownUser(f"there is no user {name!r}", field="name", hint="see: user list")


async def _listing(database: Database) -> list[dict[str, object]]:
    names = ("name", "role", "retailer", "store", "created_ms", "signed_in_ms")
    async with database.read() as conn:
        rows = await conn.exec_driver_sql(f"SELECT {', '.join(names)} FROM console_user ORDER BY name")  # noqa: S608
        return [dict(zip(names, row, strict=True)) for row in rows]


# Secrets


async def _hashed(name: str, password: str, random: Randomness) -> str:
    """What is kept of a password. Raises `WeakPassword`."""
    plain = _plain(password)
    if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
        limit = f"{MIN_PASSWORD} to {MAX_PASSWORD} characters"
        raise WeakPassword("the password is too short or too long", field="password", limit=limit)
    names_itself = len(name) >= TELLING_NAME and name.casefold() in password.casefold()
    if len(set(password)) < LETTERS or names_itself:
        hint = "take several words that do not go together"
        raise WeakPassword("the password is too easy to guess", field="password", hint=hint)
    return await asyncio.get_running_loop().run_in_executor(_HASHERS, _hash, plain, random(argon.SALTBYTES))


def _hash(plain: bytes, salt: bytes) -> str:
    """In the form that libsodium and others write: `$argon2id$v=19$m=65536,t=2,p=1$SALT$HASH`."""
    ops, mem = argon.OPSLIMIT_INTERACTIVE, argon.MEMLIMIT_INTERACTIVE
    made = argon.kdf(32, plain, salt, opslimit=ops, memlimit=mem)
    return f"$argon2id$v=19$m={mem // 1024},t={ops},p=1${_base64(salt)}${_base64(made)}"


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode().rstrip("=")


def _verified(kept: str, plain: bytes) -> bool:
    try:
        return bool(argon.verify(kept.encode(), plain))
    except nacl.exceptions.InvalidkeyError:
        return False


def _plain(password: str) -> bytes:
    """The same bytes however a keyboard composes its letters."""
    return unicodedata.normalize("NFKC", password).encode()


def _made(random: Randomness) -> str:
    """A password of 100 bits in five groups, as people can type it."""
    text = base64.b32encode(random(15)).decode().lower()[:20]
    return "-".join(text[i : i + 4] for i in range(0, 20, 4))


def _id_hash(id_: str) -> bytes:
    try:
        secret = from_text(id_)
    except InvalidInput:
        secret = b""
    return hashlib.blake2b(secret, digest_size=32, person=b"tillstream-sess").digest()


_NOBODYS: Final = f"$argon2id$v=19$m=65536,t=2,p=1${_base64(bytes(16))}${_base64(bytes(32))}"
"""No password has this hash; it takes as long to find that out as for any other."""

_FIND: Final = """
SELECT s.form_token, s.expires_ms, u.name, u.role, u.retailer, u.store
FROM console_session s JOIN console_user u ON u.name = s.name
WHERE s.id_hash = ? AND s.expires_ms > ?
"""
_BEGIN: Final = "INSERT INTO console_session (id_hash, name, form_token, created_ms, expires_ms) VALUES (?, ?, ?, ?, ?)"
_END_OLDEST: Final = """
DELETE FROM console_session WHERE name = ? AND id_hash NOT IN
    (SELECT id_hash FROM console_session WHERE name = ? ORDER BY created_ms DESC LIMIT ?)
"""
