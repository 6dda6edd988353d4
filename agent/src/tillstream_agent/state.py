"""Small durable state (SQLite): what the server has acknowledged, what it has pushed, and spends of swept chunks.

Losing acknowledged ranges is harmless, since the server answers a repeat as such; a push is on the disk before its
receipt goes out, hence WAL with synchronous FULL. One connection writes; nothing else has the file open meanwhile.
Nothing in it names a person: offers carry campaign texts and random ids only.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiosqlite

from tillstream_protocol.codec import encode, message_decoder
from tillstream_protocol.limits import DEFAULT
from tillstream_protocol.messages import OfferPush, Range
from tillstream_protocol.pack import SignedPack

from .folder import StateError

_SCHEMA: Final = """
create table if not exists acked (epoch blob not null, first integer not null, last integer not null,
    primary key (epoch, first)) without rowid;
create table if not exists settled (chunk integer not null, lease blob not null, units integer not null,
    primary key (chunk, lease)) without rowid;
create table if not exists pushed (one integer primary key check (one = 1), last_seq integer not null);
create table if not exists pack (one integer primary key check (one = 1), payload blob not null,
    signature blob not null);
create table if not exists offer (offer_id blob primary key, seq integer not null, expires_ms integer not null,
    body blob not null) without rowid;
"""
_VERSION: Final = 1

_decode_offer = message_decoder(OfferPush, limit=DEFAULT.push_message)


class StateUnavailable(StateError):
    """The state could not be read or written just now."""

    code = "state_unavailable"
    retryable = True


@dataclass(frozen=True, slots=True)
class Kept:
    """An offer that the server pushed and that is neither answered nor expired."""

    seq: int
    expires_ms: int
    offer: OfferPush


class State:
    """The open state file. Every method raises `StateUnavailable` when the disk will not have it."""

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self._db = connection
        self._lock = asyncio.Lock()

    @classmethod
    async def open(cls, file: Path) -> State:
        """Open or make the file. Raises `StateError`."""
        try:
            file.touch(mode=0o600, exist_ok=True)
            connection = await aiosqlite.connect(file, isolation_level=None)
        except (OSError, aiosqlite.Error) as error:
            raise StateError(f"{file} cannot be opened: {error}", hint="check its owner and mode") from error
        try:
            await connection.execute("pragma journal_mode = wal")
            await connection.execute("pragma synchronous = full")
            await cls._prepare(connection, file)
        except aiosqlite.Error as error:
            await connection.close()
            hint = "move the file away: what was acknowledged and pushed will be asked for again"
            raise StateError(f"{file} is not usable: {error}", hint=hint) from error
        except BaseException:
            await connection.close()
            raise
        return cls(connection)

    @staticmethod
    async def peek_acked(file: Path) -> dict[bytes, tuple[Range, ...]]:
        """What a stopped agent knew of acknowledgements; nothing is written. Raises `StateUnavailable`."""
        if not file.exists():
            return {}
        with _translated():
            async with aiosqlite.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True) as connection:
                return await State(connection).load_acked()

    @staticmethod
    async def _prepare(connection: aiosqlite.Connection, file: Path) -> None:
        rows = await connection.execute_fetchall("pragma user_version")
        version = next(iter(rows))[0]
        if version > _VERSION:
            raise StateError(f"{file} was written by a newer agent", hint="install that agent again")
        await connection.executescript(_SCHEMA)
        await connection.execute(f"pragma user_version = {_VERSION}")

    async def close(self) -> None:
        """Close the file; what was saved stays."""
        with _translated():
            await self._db.close()

    async def load_acked(self) -> dict[bytes, tuple[Range, ...]]:
        """What the server holds, by epoch."""
        ranges: dict[bytes, list[Range]] = {}
        with _translated():
            rows = await self._db.execute_fetchall("select epoch, first, last from acked order by epoch, first")
        for epoch, first, last in rows:
            ranges.setdefault(epoch, []).append(Range(first, last))
        return {epoch: tuple(found) for epoch, found in ranges.items()}

    async def save_acked(self, acked: Mapping[bytes, Sequence[Range]]) -> None:
        """Replace what is known to be held by the server."""
        rows = [(epoch, r.first, r.last) for epoch, ranges in acked.items() for r in ranges]
        async with self._transaction() as db:
            await db.execute("delete from acked")
            await db.executemany("insert into acked values (?, ?, ?)", rows)

    async def load_settled(self) -> dict[tuple[int, bytes], int]:
        """What was spent of leases in chunks that are gone, by chunk and lease."""
        with _translated():
            rows = await self._db.execute_fetchall("select chunk, lease, units from settled")
        return {(chunk, lease): units for chunk, lease, units in rows}

    async def save_settled(self, spends: Mapping[tuple[int, bytes], int]) -> None:
        """Remember what was spent in chunks that are about to go. Saying it twice changes nothing."""
        rows = [(chunk, lease, units) for (chunk, lease), units in spends.items()]
        async with self._transaction() as db:
            await db.executemany("insert or replace into settled values (?, ?, ?)", rows)

    async def last_push(self) -> int:
        """The highest push seq that is held durably; 0 before the first."""
        with _translated():
            rows = list(await self._db.execute_fetchall("select last_seq from pushed"))
        return int(rows[0][0]) if rows else 0

    async def note_push(self, seq: int) -> None:
        """Remember that a push needs no repeat although nothing of it is kept."""
        async with self._transaction() as db:
            await self._advance(db, seq)

    async def save_offer(self, seq: int, expires_ms: int, offer: OfferPush) -> None:
        """Keep a pushed offer until it is answered or expires."""
        row = (offer.decision.offer_id, seq, expires_ms, encode(offer))
        async with self._transaction() as db:
            await db.execute("insert or replace into offer values (?, ?, ?, ?)", row)
            await self._advance(db, seq)

    async def load_offers(self, now_ms: int) -> list[Kept]:
        """Offers not yet expired, in the order they were pushed."""
        query = "select seq, expires_ms, body from offer where expires_ms > ? order by seq"
        with _translated():
            rows = await self._db.execute_fetchall(query, (now_ms,))
        return [Kept(seq, expires, _decode_offer(body)) for seq, expires, body in rows]

    async def drop_offers(self, *, answered: Sequence[bytes] = (), expired_before_ms: int = 0) -> None:
        """Forget offers that were answered or can no longer be shown."""
        async with self._transaction() as db:
            await db.executemany("delete from offer where offer_id = ?", [(offer,) for offer in answered])
            await db.execute("delete from offer where expires_ms <= ?", (expired_before_ms,))

    async def load_pack(self) -> SignedPack | None:
        """The signed pack that the till last took."""
        with _translated():
            rows = list(await self._db.execute_fetchall("select payload, signature from pack"))
        return SignedPack(rows[0][0], rows[0][1]) if rows else None

    async def save_pack(self, pack: SignedPack, *, seq: int | None = None) -> None:
        """Keep a pack, and remember the push that brought it."""
        async with self._transaction() as db:
            await db.execute("insert or replace into pack values (1, ?, ?)", (pack.payload, pack.signature))
            if seq is not None:
                await self._advance(db, seq)

    async def start_over(self, pack: SignedPack) -> None:
        """Begin as a newly enrolled till: its pack, no pushes. Acknowledged ranges stay, as the journal does."""
        async with self._transaction() as db:
            await db.execute("delete from pushed")
            await db.execute("delete from offer")
            await db.execute("insert or replace into pack values (1, ?, ?)", (pack.payload, pack.signature))

    async def _advance(self, db: aiosqlite.Connection, seq: int) -> None:
        await db.execute(
            "insert into pushed values (1, ?) on conflict (one)"
            " do update set last_seq = max(last_seq, excluded.last_seq)",
            (seq,),
        )

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[aiosqlite.Connection]:
        async with self._lock:
            with _translated():
                try:
                    await self._db.execute("begin immediate")
                    yield self._db
                    await self._db.execute("commit")
                except BaseException:
                    # Cancelled while it waits, a statement is carried out all the same: even a `begin`.
                    await self._db.rollback()
                    raise


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (aiosqlite.Error, OSError, ValueError) as error:  # ValueError: the connection is closed
        raise StateUnavailable(f"the state file could not be used: {error}", hint="check disk space") from error
