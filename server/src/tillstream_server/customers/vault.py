"""Where what names a person lies: sealed, item by item, under a key per subject.

An item is named by subject, field and record, and bound to that name (the associated data), so that no item can be
passed off as another. The items lie in the ledger's database. The subjects' keys lie wrapped in a file of their own,
so that destroying a key there erases every copy of the items, in whatever backup they are. A key is on the disk
before the items that it seals are; a crash between the two leaves a key without use.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_decrypt as decrypt
from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_encrypt as encrypt
from nacl.exceptions import CryptoError
from sqlalchemy import Column, Integer, LargeBinary, MetaData, Table, select
from sqlalchemy.ext.asyncio import AsyncConnection

from tillstream_protocol.errors import Damaged
from tillstream_protocol.sealing import KEY_SIZE, NONCE_SIZE

from ..clock import Clock
from ..ledger import schema
from ..ledger.database import Database, create, execute_all
from ..ledger.lookup import among

CACHED: Final = 50_000
_ADD_KEY: Final = "INSERT INTO subject_key (subject, nonce, wrapped, created_ms) VALUES (?, ?, ?, ?)"
_ADD_ITEM: Final = """
INSERT INTO vault_item (subject, field, record, nonce, sealed) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING
"""
_FIND_ITEM: Final = "SELECT nonce, sealed FROM vault_item WHERE subject = ? AND field = ? AND record = ?"
_READ_KEYS: Final = "SELECT subject, nonce, wrapped FROM subject_key WHERE subject IN (?)"

_metadata: Final = MetaData()
_subject_key: Final = Table(
    "subject_key",
    _metadata,
    Column("subject", LargeBinary, primary_key=True),
    Column("nonce", LargeBinary, nullable=False),
    Column("wrapped", LargeBinary, nullable=False),
    Column("created_ms", Integer, nullable=False),
    sqlite_with_rowid=False,
)

Row = tuple[bytes, str, bytes, bytes, bytes]
"""Subject, field, record, nonce, sealed: a row of `vault_item`."""


class VaultDamaged(Damaged):
    """An item or a subject's key that does not open: altered, or wrapped under another server's key."""

    code = "vault_damaged"


@dataclass(frozen=True, slots=True)
class Item:
    """Something that names a person. `record` says which of several items of this field it is."""

    subject: bytes
    field: str
    record: bytes
    plain: bytes


class Vault:
    """Seals and reveals. The subjects' keys are unwrapped once and held in memory."""

    def __init__(
        self,
        database: Database,
        vault_key: bytes,
        clock: Clock,
        randomness: Callable[[int], bytes],
        *,
        cached: int = CACHED,
    ) -> None:
        """`database` is the file of wrapped keys, as `create_keys` makes it."""
        self._database = database
        self._vault_key = vault_key
        self._clock = clock
        self._randomness = randomness
        self._limit = cached
        self._keys: OrderedDict[bytes, bytes] = OrderedDict()

    async def keys(self, subjects: Collection[bytes]) -> Mapping[bytes, bytes]:
        """The key of each subject; new ones are made, and on the disk when this returns."""
        known = await self._known(subjects)
        missing = [subject for subject in dict.fromkeys(subjects) if subject not in known]
        if not missing:
            return known
        made = {subject: self._randomness(KEY_SIZE) for subject in missing}
        now_ms = self._clock.now_ms()
        rows = [(subject, *self._wrap(subject, key), now_ms) for subject, key in made.items()]
        async with self._database.write() as conn:
            await execute_all(conn, [(_ADD_KEY, rows)])
        self._remember(made)
        return {**known, **made}

    async def seal(self, items: Sequence[Item]) -> list[Row]:
        """The items as rows, under their subjects' keys."""
        if not items:
            return []
        keys = await self.keys({item.subject for item in items})
        nonces = self._randomness(NONCE_SIZE * len(items))
        return await asyncio.to_thread(_seal, items, keys, nonces)

    async def write(self, conn: AsyncConnection, items: Sequence[Item]) -> None:
        """Seal the items and add them to the ledger's database. One that is there already stays as it is."""
        await execute_all(conn, [(_ADD_ITEM, await self.seal(items))])

    async def reveal(self, conn: AsyncConnection, subject: bytes) -> tuple[Item, ...]:
        """Everything about one subject, in clear. Raises `VaultDamaged`.

        A subject whose key has been destroyed has nothing to reveal.
        """
        keys = await self._known([subject])
        if subject not in keys:
            return ()
        table = schema.vault_item.c
        query = select(table.field, table.record, table.nonce, table.sealed).where(table.subject == subject)
        rows = (await conn.execute(query.order_by(table.field, table.record))).all()
        return tuple(
            Item(subject, field, record, _open(sealed, _aad(subject, field, record), nonce, keys[subject]))
            for field, record, nonce, sealed in rows
        )

    async def find(self, conn: AsyncConnection, subject: bytes, field: str, record: bytes) -> bytes | None:
        """One item in clear; None where there is none, or its key has been destroyed. Raises `VaultDamaged`."""
        keys = await self._known([subject])
        if subject not in keys:
            return None
        row = (await conn.exec_driver_sql(_FIND_ITEM, (subject, field, record))).first()
        return None if row is None else _open(row.sealed, _aad(subject, field, record), row.nonce, keys[subject])

    async def holds_key(self, subject: bytes) -> bool:
        """Whether what is sealed for a subject can still be opened."""
        return subject in await self._known([subject])

    async def _known(self, subjects: Collection[bytes]) -> dict[bytes, bytes]:
        known = {subject: key for subject in subjects if (key := self._keys.get(subject)) is not None}
        missing = [subject for subject in subjects if subject not in known]
        if not missing:
            return known
        async with self._database.read() as conn:
            rows = await among(conn, _READ_KEYS, missing)
        stored = {
            subject: _open(wrapped, _key_aad(subject), nonce, self._vault_key) for subject, nonce, wrapped in rows
        }
        self._remember(stored)
        return known | stored

    def _wrap(self, subject: bytes, key: bytes) -> tuple[bytes, bytes]:
        nonce = self._randomness(NONCE_SIZE)
        return nonce, encrypt(key, _key_aad(subject), nonce, self._vault_key)

    def _remember(self, keys: Mapping[bytes, bytes]) -> None:
        self._keys.update(keys)
        while len(self._keys) > self._limit:
            self._keys.popitem(last=False)


async def create_keys(path: Path) -> None:
    """Make the file of wrapped keys, where there is none."""
    await create(path, _metadata)


def _seal(items: Sequence[Item], keys: Mapping[bytes, bytes], nonces: bytes) -> list[Row]:
    rows: list[Row] = []
    for index, item in enumerate(items):
        nonce = nonces[index * NONCE_SIZE : (index + 1) * NONCE_SIZE]
        aad = _aad(item.subject, item.field, item.record)
        sealed = encrypt(item.plain, aad, nonce, keys[item.subject])
        rows.append((item.subject, item.field, item.record, nonce, sealed))
    return rows


def _open(sealed: bytes, aad: bytes, nonce: bytes, key: bytes) -> bytes:
    try:
        return decrypt(sealed, aad, nonce, key)
    except CryptoError as error:
        raise VaultDamaged("an item of the vault does not open") from error


def _aad(subject: bytes, field: str, record: bytes) -> bytes:
    """Unambiguous, since subjects have one length and field names hold no NUL."""
    return b"".join((b"tillstream-item-1", subject, field.encode(), b"\0", record))


def _key_aad(subject: bytes) -> bytes:
    return b"tillstream-subject-key-1" + subject
