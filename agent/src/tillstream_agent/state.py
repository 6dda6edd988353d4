"""Small durable state (SQLite): what the server has acknowledged, what it has pushed, and spends of swept chunks.

Losing acknowledged ranges is harmless, since the server answers a repeat as such; a push is on the disk before its
receipt goes out, hence WAL with synchronous FULL. One connection writes; nothing else has the file open meanwhile.
Nothing in it names a person: offers carry campaign texts and random ids only.

An agent starts and captures without it. A file that is damaged, or a newer agent's, is set aside under another name
and a fresh one made: what it knew is learned again from the server. Where no file can be had, nothing is known and
every save says so, until it can. Acknowledged ranges lie beside their digest, so that a flipped bit never makes a
record look acknowledged that was not.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import sqlite3
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import aiosqlite
import msgspec

from tillstream_protocol.codec import encode, message_decoder
from tillstream_protocol.errors import InvalidInput
from tillstream_protocol.limits import DEFAULT
from tillstream_protocol.messages import OfferPush, Range
from tillstream_protocol.pack import SignedPack

from .folder import StateError
from .letters import Changes, Letter

_SCHEMA: Final = """
create table if not exists acked (epoch blob not null, first integer not null, last integer not null,
    primary key (epoch, first)) without rowid;
create table if not exists settled (chunk integer not null, lease blob not null, units integer not null,
    primary key (chunk, lease)) without rowid;
create table if not exists run (epoch blob primary key, boot text not null) without rowid;
create table if not exists pushed (one integer primary key check (one = 1), last_seq integer not null);
create table if not exists pack (one integer primary key check (one = 1), payload blob not null,
    signature blob not null);
create table if not exists offer (offer_id blob primary key, seq integer not null, expires_ms integer not null,
    body blob not null) without rowid;
create table if not exists digest (what text primary key, value blob not null) without rowid;
create table if not exists letter (epoch blob not null, seq integer not null, kind integer not null,
    kept text not null, code text not null, reason text not null, tries integer not null, since_ms integer not null,
    primary key (epoch, seq)) without rowid;
create table if not exists unnamed (one integer primary key check (one = 1), letters integer not null);
"""
_VERSION: Final = 1
"""Tables are only ever added, so that an older agent can be put back."""
_DAMAGE: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_PARTS: Final = ("", "-wal", "-shm")
_LETTER: Final = ("epoch", "seq", "kind", "kept", "code", "reason", "tries", "since_ms")

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


class StateObserver(Protocol):
    """Hears what becomes of the file."""

    def state_set_aside(self, name: str, reason: str) -> None:
        """A file that cannot be used was renamed, and kept."""
        ...

    def state_unusable(self, reason: str) -> None:
        """The file cannot be read or written for now."""
        ...

    def state_usable(self) -> None:
        """It was read or written."""
        ...


class _Nobody:
    def state_set_aside(self, name: str, reason: str) -> None:
        pass

    def state_unusable(self, reason: str) -> None:
        pass

    def state_usable(self) -> None:
        pass


class _Damaged(Exception):
    """The file is no database, or its pages do not hold together, or it is a newer agent's (`why`)."""

    def __init__(self, why: str, reason: str) -> None:
        super().__init__(reason)
        self.why = why


class State:
    """The state file. Saves raise `StateUnavailable` when the disk will not have it; so does `last_push`.

    What a start needs is loaded as far as it can be read.
    """

    def __init__(
        self, connection: aiosqlite.Connection | None, file: Path | None = None, observer: StateObserver | None = None
    ) -> None:
        self._db = connection
        self._file = file
        self._observer = observer or _Nobody()
        self._broken: aiosqlite.Connection | None = None
        self._lock = asyncio.Lock()
        self._opening = asyncio.Lock()

    @classmethod
    async def open(cls, file: Path, observer: StateObserver | None = None) -> State:
        """Open or make the file, or do without for now."""
        state = cls(None, file, observer)
        with suppress(StateUnavailable):
            await state._connection()
        return state

    @staticmethod
    async def peek_acked(file: Path) -> dict[bytes, tuple[Range, ...]]:
        """What a stopped agent knew of acknowledgements; nothing is written. Raises `StateUnavailable`."""
        async with _peeking(file) as state:
            return await state.load_acked()

    @staticmethod
    async def peek_letters(file: Path) -> tuple[list[Letter], int]:
        """What a stopped agent knew of dead letters; nothing is written. Raises `StateUnavailable`."""
        async with _peeking(file) as state:
            return await state.load_letters()

    async def close(self) -> None:
        """Close the file; what was saved stays."""
        connection, self._db, self._file = self._db, None, None
        if connection is not None:
            with _translated():
                await connection.close()

    async def load_acked(self) -> dict[bytes, tuple[Range, ...]]:
        """What the server holds, by epoch; nothing where that cannot be vouched for."""
        rows = await self._rows("select epoch, first, last from acked order by epoch, first")
        known = await self._rows("select value from digest where what = 'acked'")
        if known and known[0][0] != _digest(rows):
            self._observer.state_unusable("the acknowledged ranges do not fit their digest")
            return {}
        ranges: dict[bytes, list[Range]] = {}
        for epoch, first, last in rows:
            ranges.setdefault(epoch, []).append(Range(first, last))
        return {epoch: tuple(found) for epoch, found in ranges.items()}

    async def save_acked(self, acked: Mapping[bytes, Sequence[Range]]) -> None:
        """Replace what is known to be held by the server."""
        rows = sorted((epoch, r.first, r.last) for epoch, ranges in acked.items() for r in ranges)
        async with self._transaction() as db:
            await db.execute("delete from acked")
            await db.executemany("insert into acked values (?, ?, ?)", rows)
            await db.execute("insert or replace into digest values ('acked', ?)", (_digest(rows),))

    async def load_letters(self) -> tuple[list[Letter], int]:
        """The dead letters that are known by name, oldest first, and how many others there were."""
        rows = await self._rows("select * from letter order by since_ms, epoch, seq")
        letters = [letter for row in rows if (letter := _letter(row)) is not None]
        unnamed = await self._rows("select letters from unnamed")
        return letters, unnamed[0][0] if unnamed and isinstance(unnamed[0][0], int) else 0

    async def save_letters(self, changes: Changes) -> None:
        """Take in what changed in the book of dead letters."""
        async with self._transaction() as db:
            await db.executemany("delete from letter where epoch = ? and seq = ?", changes.drop)
            rows = [tuple(getattr(letter, name) for name in _LETTER) for letter in changes.put]
            await db.executemany("insert or replace into letter values (?, ?, ?, ?, ?, ?, ?, ?)", rows)
            await db.execute("insert or replace into unnamed values (1, ?)", (changes.unnamed,))

    async def load_settled(self) -> dict[tuple[int, bytes], int]:
        """What was spent of leases in chunks that are gone, by chunk and lease."""
        rows = await self._rows("select chunk, lease, units from settled")
        return {(chunk, lease): units for chunk, lease, units in rows if isinstance(units, int)}

    async def save_settled(self, spends: Mapping[tuple[int, bytes], int]) -> None:
        """Remember what was spent in chunks that are about to go. Saying it twice changes nothing."""
        rows = [(chunk, lease, units) for (chunk, lease), units in spends.items()]
        async with self._transaction() as db:
            await db.executemany("insert or replace into settled values (?, ?, ?)", rows)

    async def load_runs(self) -> dict[bytes, str]:
        """Epochs of which it is not known that all they wrote is on the disk, and the boot that each ran in."""
        rows = await self._rows("select epoch, boot from run")
        return dict(rows)

    async def begin_run(self, epoch: bytes, boot: str) -> None:
        """Remember that an epoch is written to."""
        async with self._transaction() as db:
            await db.execute("insert or replace into run values (?, ?)", (epoch, boot))
            await db.execute("insert or ignore into digest values ('runs', x'')")

    async def remembers_runs(self) -> bool:
        """Whether a run that is not remembered ended well: in a fresh file, nobody can tell."""
        return bool(await self._rows("select 1 from digest where what = 'runs'"))

    async def end_runs(self, epochs: Sequence[bytes]) -> None:
        """Everything of these epochs is on the disk, or its loss is reported."""
        async with self._transaction() as db:
            await db.executemany("delete from run where epoch = ?", [(epoch,) for epoch in epochs])

    async def last_push(self) -> int:
        """The highest push seq that is held durably; 0 before the first."""
        with self._noticed():
            db = await self._connection()
            rows = list(await db.execute_fetchall("select last_seq from pushed"))
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
        kept: list[Kept] = []
        for seq, expires, body in await self._rows(query, (now_ms,)):
            with suppress(InvalidInput, TypeError):  # a damaged offer is forgotten
                kept.append(Kept(seq, expires, _decode_offer(body)))
        return kept

    async def drop_offers(self, *, answered: Sequence[bytes] = (), expired_before_ms: int = 0) -> None:
        """Forget offers that were answered or can no longer be shown."""
        async with self._transaction() as db:
            await db.executemany("delete from offer where offer_id = ?", [(offer,) for offer in answered])
            await db.execute("delete from offer where expires_ms <= ?", (expired_before_ms,))

    async def load_pack(self) -> SignedPack | None:
        """The signed pack that the till last took."""
        rows = await self._rows("select payload, signature from pack")
        whole = rows and isinstance(rows[0][0], bytes) and isinstance(rows[0][1], bytes)
        return SignedPack(rows[0][0], rows[0][1]) if whole else None

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

    async def _rows(self, query: str, arguments: tuple[int, ...] = ()) -> list[Any]:
        """What a start reads: nothing where it cannot be read."""
        try:
            with self._noticed():
                db = await self._connection()
                return list(await db.execute_fetchall(query, arguments))
        except StateUnavailable:
            return []

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[aiosqlite.Connection]:
        async with self._lock:
            with self._noticed():
                db = await self._connection()
                try:
                    await db.execute("begin immediate")
                    yield db
                    await db.execute("commit")
                except BaseException:
                    # Cancelled while it waits, a statement is carried out all the same: even a `begin`.
                    await db.rollback()
                    raise

    @contextmanager
    def _noticed(self) -> Iterator[None]:
        """Raises `StateUnavailable` for what the disk or the file does."""
        try:
            with _translated():
                yield
        except StateUnavailable as error:
            if self._db is not None and _is_damage(error.__cause__):
                self._broken, self._db = self._db, None
            self._observer.state_unusable(error.message)
            raise
        self._observer.state_usable()

    async def _connection(self) -> aiosqlite.Connection:
        """The open file; opened anew if it could not be opened before. Raises `StateUnavailable`."""
        async with self._opening:
            if self._broken is not None:
                broken, self._broken = self._broken, None
                with suppress(aiosqlite.Error, ValueError):
                    await broken.close()
            if self._db is None:
                if self._file is None:
                    raise StateUnavailable("the state file is closed")
                with _translated():
                    self._db = await self._open(self._file)
            return self._db

    async def _open(self, file: Path) -> aiosqlite.Connection:
        try:
            return await _connect(file)
        except _Damaged as damage:
            name = _set_aside(file, damage.why)
            self._observer.state_set_aside(name, str(damage))
            return await _connect(file)


async def _connect(file: Path) -> aiosqlite.Connection:
    """Open or make the file. Raises `_Damaged`, `OSError` or `aiosqlite.Error`."""
    file.touch(mode=0o600, exist_ok=True)
    connection = await aiosqlite.connect(file, isolation_level=None)
    try:
        await _prepare(connection)
    except BaseException as error:
        await connection.close()
        if _is_damage(error):
            raise _Damaged("damaged", str(error)) from error
        raise
    return connection


async def _prepare(connection: aiosqlite.Connection) -> None:
    """Writes only where something is missing, so that a file on a full disk can still be read."""
    (version,) = next(iter(await connection.execute_fetchall("pragma user_version")))
    if version > _VERSION:
        raise _Damaged("newer", "it was written by a newer agent")
    (found,) = next(iter(await connection.execute_fetchall("pragma quick_check(1)")))
    if found != "ok":
        raise _Damaged("damaged", found)
    await connection.execute("pragma journal_mode = wal")
    await connection.execute("pragma synchronous = full")
    (tables,) = next(iter(await connection.execute_fetchall("select count(*) from sqlite_master where type = 'table'")))
    if version < _VERSION or tables < _SCHEMA.count("create table"):
        await connection.executescript(_SCHEMA)
        await connection.execute(f"pragma user_version = {_VERSION}")


def _set_aside(file: Path, why: str) -> str:
    """Give the file, and what belongs to it, a name that nothing has. Returns that."""
    for number in itertools.count():
        name = f"{file.name}.{why}" + (f"-{number}" if number else "")
        if not any(file.with_name(name + part).exists() for part in _PARTS):
            break
    for part in reversed(_PARTS):
        with suppress(FileNotFoundError):
            file.with_name(file.name + part).rename(file.with_name(name + part))
    return name


def _is_damage(error: BaseException | None) -> bool:
    return isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGE


def _digest(rows: Iterable[Any]) -> bytes:
    return hashlib.blake2b(encode([tuple(row) for row in rows]), digest_size=16).digest()


def _letter(row: Any) -> Letter | None:
    try:
        return msgspec.convert(dict(zip(_LETTER, row, strict=True)), Letter, builtin_types=(bytes,))
    except msgspec.ValidationError:
        return None


@asynccontextmanager
async def _peeking(file: Path) -> AsyncIterator[State]:
    """A state that is read and never written; of a file that is not there or damaged, an empty one."""
    if not file.exists():
        yield State(None)
        return
    with _translated():
        connection = await aiosqlite.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)
    try:
        with _translated():
            await connection.execute("pragma query_only = on")
        yield State(connection)
    finally:
        await connection.close()


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (aiosqlite.Error, OSError, ValueError) as error:  # ValueError: the connection is closed
        raise StateUnavailable(f"the state file could not be used: {error}", hint="check disk space") from error
