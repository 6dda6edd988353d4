"""From an identifier to its subject: a random id that is the only name a person has in the ledger.

An identifier is normalised, hashed with a key that never leaves the server, and looked up in the one table that
holds the hash. Several identifiers of one record get a subject each: nobody is merged here.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncConnection

from tillstream_protocol.codec import encode
from tillstream_protocol.transaction import Identifier

from ..ledger.database import execute_all
from ..ledger.lookup import among

SUBJECT_SIZE: Final = 16
HASH_SIZE: Final = 16
CACHED: Final = 200_000

_NOT_DIGIT: Final = re.compile(r"\D+")
_CUT: Final = re.compile(r"[*•…]|x{4}", re.IGNORECASE)
_OWN: Final = "retailer"
"""The scheme of a retailer's own subject. No POS can name it: it is not among the identifiers' schemes."""


class Name(Struct, frozen=True, gc=False):
    """An identifier as the server looks it up. `form` tells apart the ways of writing one identifier."""

    hash: bytes
    form: bytes
    identifier: Identifier

    def encoded(self) -> bytes:
        """The identifier in clear, as it lies in the vault."""
        return encode(self.identifier)


def normalise(scheme: str, value: str) -> str:
    """One text for every way of writing an identifier; empty where it names nobody.

    Telephone numbers keep their digits, with a plus where one was given (`00` counts as one); e-mail addresses are
    lower-cased; spaces count nowhere. A card number that has been cut is shared by many people, so it names nobody.
    Case is kept where it may matter: to split one person is a smaller harm than to merge two.
    """
    if not value.isascii():
        value = unicodedata.normalize("NFKC", value)
    value = "".join(value.split())
    if scheme == "email":
        return value.lower()
    if scheme == "phone":
        digits = _NOT_DIGIT.sub("", value)
        if value.startswith("+"):
            return f"+{digits}" if digits else ""
        return f"+{digits[2:]}" if digits.startswith("00") else digits
    if scheme == "card" and _CUT.search(value):
        return ""
    return value


class Namer:
    """Hashes the identifiers of one retailer."""

    def __init__(self, identifier_key: bytes, retailer: str) -> None:
        self._base = hashlib.blake2b(digest_size=HASH_SIZE, key=identifier_key, person=b"tillstream-ident")
        self._base.update(retailer.encode() + b"\0")

    def name(self, identifier: Identifier, normal: str) -> Name:
        """The name of an identifier whose normal text is not empty."""
        hashed = self._hash(identifier.scheme, normal)
        form = hashed if normal == identifier.value else self._hash(identifier.scheme, f"{normal}\0{identifier.value}")
        return Name(hashed, form, identifier)

    def own(self) -> bytes:
        """The hash under which the retailer's own subject is found: for what names somebody, but no member."""
        return self._hash(_OWN, "")

    def _hash(self, scheme: str, value: str) -> bytes:
        state = self._base.copy()
        state.update(f"{scheme}\0{value}".encode())
        return state.digest()


@dataclass(frozen=True, slots=True)
class Resolved:
    """The subject of each hash, and which subjects are new in this transaction."""

    subjects: Mapping[bytes, bytes]
    new: frozenset[bytes]


class Identities:
    """Finds subjects and makes new ones. What is cached has been committed: call `remember` only after it was."""

    def __init__(self, randomness: Callable[[int], bytes], *, cached: int = CACHED) -> None:
        self._randomness = randomness
        self._limit = cached
        self._subjects: OrderedDict[bytes, bytes] = OrderedDict()
        self._forms: OrderedDict[bytes, None] = OrderedDict()

    async def resolve(self, conn: AsyncConnection, retailer: str, hashes: Collection[bytes], now_ms: int) -> Resolved:
        """The subject of every hash, inside the transaction that writes about them."""
        found = {name: subject for name in hashes if (subject := self._subjects.get(name)) is not None}
        missing = [name for name in dict.fromkeys(hashes) if name not in found]
        rows = await among(conn, "SELECT hash, subject FROM identifier WHERE hash IN (?)", missing)
        found.update((name, subject) for name, subject in rows)
        made = {name: self._randomness(SUBJECT_SIZE) for name in missing if name not in found}
        if made:
            subjects = [(subject, retailer, now_ms) for subject in made.values()]
            names = [(name, subject, retailer) for name, subject in made.items()]
            await execute_all(conn, [(_ADD_SUBJECT, subjects), (_ADD_NAME, names)])
        return Resolved(found | made, frozenset(made.values()))

    def needs_keeping(self, name: Name, resolved: Resolved) -> bool:
        """Whether this way of writing an identifier may not be in the vault yet."""
        if name.form == name.hash:
            return resolved.subjects[name.hash] in resolved.new
        return name.form not in self._forms

    def remember(self, resolved: Resolved, names: Iterable[Name]) -> None:
        """Keep what a committed transaction found and made, and which names it wrote to the vault."""
        self._subjects.update(resolved.subjects)
        self._forms.update((name.form, None) for name in names if name.form != name.hash)
        for cache in (self._subjects, self._forms):
            while len(cache) > self._limit:
                cache.popitem(last=False)

    def forget(self) -> None:
        """Drop what is cached: an erasure changed the table."""
        self._subjects.clear()
        self._forms.clear()


_ADD_SUBJECT: Final = "INSERT INTO subject (subject, retailer, created_ms) VALUES (?, ?, ?)"
_ADD_NAME: Final = "INSERT INTO identifier (hash, subject, retailer) VALUES (?, ?, ?)"
