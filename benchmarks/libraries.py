"""What the libraries' own work on a batch costs: another floor of `ingest`.

Each frame's checksum; its opening by libsodium and by zstd; msgspec's decoding into the typed record, the body without
its customer and the encoding of both; the keyed hashes of record, content, idempotency key and identifier; and, of a
member who is new, the sealing of the identifier and of the member's key. What those calls are given lies ready, all but
what another of them makes; nothing is checked or looked up, and nothing is kept but what they return. What they made is
compared afterwards with the rows that the pipeline wrote of the same batch.
"""

from __future__ import annotations

import hashlib
import sqlite3
import zlib
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Final, NamedTuple

import msgspec
import zstandard
from msgspec.structs import replace
from nacl._sodium import ffi, lib  # type: ignore[import-not-found]

from tillstream_protocol import framing
from tillstream_protocol.codec import encode
from tillstream_protocol.events import Record
from tillstream_protocol.framing import ChunkHeader, Frame, Place
from tillstream_protocol.limits import DEFAULT
from tillstream_protocol.messages import Batch
from tillstream_protocol.sealing import MAX_WINDOW, TAG_SIZE, RecordSeal, open_key
from tillstream_protocol.transaction import Customer, Identifier, Transaction, idempotency_key
from tillstream_server.app import Parts
from tillstream_server.customers.identity import normalise
from tillstream_server.folder import Folder
from tillstream_server.keys import ServerKeys
from tillstream_server.pipeline.opening import DATE_SIZE, HASH_SIZE
from tillstream_server.pipeline.split import IDENTIFIER

from .bare import Took, read_only
from .ledgers import NotStored
from .records import RETAILER

_NOBODY: Final = Customer()
"""What a ledger row's body has in the place of a customer who gave no consents and has no points, as here."""
_CHECKSUM_SIZE: Final = 4
_COLUMNS: Final = ("checksum", "digest", "content", "idem", "identifier", "body")
_ROWS: Final = """
SELECT digest, content, substr(idem, ?), hash, body FROM ledger l CROSS JOIN identifier i ON i.subject = l.subject
WHERE id > ? AND till_id = ? ORDER BY seq
"""
"""`CROSS JOIN` begins with the ledger's new rows, however many members there are."""
_ITEMS: Final = "SELECT record, subject, nonce, sealed FROM vault_item WHERE field = ?"
_WRAPPED: Final = "SELECT subject, nonce, wrapped FROM subject_key"

_decode: Final = msgspec.msgpack.Decoder(Record).decode

Made = tuple[int, bytes, bytes, bytes, bytes, bytes]
"""What the calls made of a frame: `_COLUMNS`."""
Stored = tuple[int | bytes, ...]
"""What stands of it in frame and ledger."""


class Sealed(NamedTuple):
    """What the calls are given of one frame."""

    checked: memoryview
    """What its checksum is of."""
    sealed: bytes
    bound: bytes
    nonce: bytes
    sale: bytes
    """What the idempotency key is the hash of."""
    member: bytes
    """What the identifier's hash is of."""


class Secret(NamedTuple):
    """What the calls are given of one thing that is sealed: as msgpack, unless it is bytes already."""

    plain: Identifier | bytes
    bound: bytes
    nonce: bytes
    key: bytes


class _Given(NamedTuple):
    """What the calls are given of one batch, and what they have to come to: its checksums, and the pipeline's rows."""

    key: bytes
    frames: list[Sealed]
    members: list[Identifier]
    checksums: list[int]
    rows: list[tuple[bytes, ...]]


class LibraryCalls:
    """Does with batches that the pipeline has taken what nobody could leave out."""

    def __init__(self, parts: Parts) -> None:
        """What the ledger holds by now is not of the batches that follow."""
        self._parts = parts
        self._ledger = sqlite3.connect(read_only(parts.database.path), uri=True)
        self._calls = _Calls(parts.keys)
        self._known = {subject for _, subject, _, _ in self._items()}
        (highest,) = self._ledger.execute("SELECT coalesce(max(id), 0) FROM ledger").fetchone()
        self._after = int(highest)

    async def take(self, batches: Sequence[Batch], took: Took) -> None:
        """Do the work of the batches that were taken since the last, each of another till.

        Raises `NotStored` if it came to other rows.
        """
        given = [self._given(batch) for batch in batches]
        self._after += sum(len(one.rows) for one in given)
        members = {row[3]: member for one in given for row, member in zip(one.rows, one.members, strict=True)}
        secrets, items = await self._secrets(members)
        with took.timing():
            made = [self._calls.open(one.frames, one.key) for one in given]
            sealed = self._calls.seal(secrets)
        for one, its in zip(given, made, strict=True):
            stored: list[Stored] = [(checksum, *row) for checksum, row in zip(one.checksums, one.rows, strict=True)]
            _compare(its, stored)
        if sealed != items:
            raise NotStored("the vault holds other things than were sealed")

    def _given(self, batch: Batch) -> _Given:
        header = ChunkHeader.decode(batch.header)
        key = open_key(header.server_sealed_key, self._parts.keys.box_private)
        place, seal = Place(header.till, header.epoch, header.chunk), RecordSeal(key, limit=DEFAULT.record)
        frames = [one for one in framing.scan(batch.frames) if isinstance(one, Frame)]
        bodies = [_body(framing.open_frame(seal, place, frame)) for frame in frames]
        return _Given(
            key,
            [_sealed(batch, place, *both) for both in zip(frames, bodies, strict=True)],
            [_member(body) for body in bodies],
            [_checksum(batch, frame) for frame in frames],
            self._rows(header.till, len(frames)),
        )

    def _rows(self, till: bytes, count: int) -> list[tuple[bytes, ...]]:
        """What the pipeline made of a batch's records."""
        rows = self._ledger.execute(_ROWS, (DATE_SIZE + 1, self._after, till)).fetchall()
        if len(rows) != count:
            raise NotStored(f"of {count} records the ledger has {len(rows)}")
        return rows

    async def _secrets(self, members: Mapping[bytes, Identifier]) -> tuple[list[Secret], list[bytes]]:
        """What was sealed of new members, by the hashes of their identifiers, and what that came to."""
        new = [item for item in self._items() if item[1] not in self._known]
        keys = await self._parts.vault.keys([subject for _, subject, _, _ in new])
        wrapped = self._wrapped() if new else {}
        secrets, made = [], []
        for name, subject, nonce, sealed in new:
            bound = b"".join((b"tillstream-item-1", subject, IDENTIFIER.encode(), b"\0", name))
            secrets.append(Secret(members[name], bound, nonce, keys[subject]))
            around, wrap = wrapped[subject]
            bound = b"tillstream-subject-key-1" + subject
            secrets.append(Secret(keys[subject], bound, around, self._parts.keys.vault_key))
            made += [sealed, wrap]
        self._known.update(keys)
        return secrets, made

    def _items(self) -> list[tuple[bytes, bytes, bytes, bytes]]:
        return self._ledger.execute(_ITEMS, (IDENTIFIER,)).fetchall()

    def _wrapped(self) -> dict[bytes, tuple[bytes, bytes]]:
        path = Folder(self._parts.database.path.parent).vault_keys
        with closing(sqlite3.connect(read_only(path), uri=True)) as database:
            return {subject: (nonce, wrapped) for subject, nonce, wrapped in database.execute(_WRAPPED)}

    def close(self) -> None:
        """Close the ledger."""
        self._ledger.close()


class _Calls:
    """The calls themselves."""

    def __init__(self, keys: ServerKeys) -> None:
        self._digest = _keyed(keys.digest_key, b"tillstream-recrd")
        self._content = _keyed(keys.digest_key, b"tillstream-contn")
        self._idem = _keyed(keys.digest_key, b"tillstream-idemp")
        self._identifier = _keyed(keys.identifier_key, b"tillstream-ident")
        self._identifier.update(RETAILER.encode() + b"\0")
        self._decompress = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW).decompress

    def open(self, given: Sequence[Sealed], key: bytes) -> list[Made]:
        decrypt, from_buffer, null = lib.crypto_aead_xchacha20poly1305_ietf_decrypt, ffi.from_buffer, ffi.NULL
        crc32, decompress, decode = zlib.crc32, self._decompress, _decode
        pack, without, nobody = encode, replace, _NOBODY
        digests, contents = self._digest.copy, self._content.copy
        idems, identifiers = self._idem.copy, self._identifier.copy
        made = []
        for checked, sealed, bound, nonce, sale, member in given:
            checksum = crc32(checked)
            packed = bytearray(len(sealed) - TAG_SIZE)
            decrypt(from_buffer(packed), null, null, sealed, len(sealed), bound, len(bound), nonce, key)
            plain = decompress(packed)
            body = decode(plain).body
            (digest := digests()).update(plain)
            (content := contents()).update(pack(body))
            (idem := idems()).update(sale)
            (identifier := identifiers()).update(member)
            stored = pack(without(body, customer=nobody))
            made.append((checksum, digest.digest(), content.digest(), idem.digest(), identifier.digest(), stored))
        return made

    def seal(self, secrets: Sequence[Secret]) -> list[bytes]:
        encrypt, from_buffer, null = lib.crypto_aead_xchacha20poly1305_ietf_encrypt, ffi.from_buffer, ffi.NULL
        made = []
        for what, bound, nonce, key in secrets:
            plain = what if isinstance(what, bytes) else encode(what)
            sealed = bytearray(len(plain) + TAG_SIZE)
            encrypt(from_buffer(sealed), null, plain, len(plain), bound, len(bound), null, nonce, key)
            made.append(bytes(sealed))
        return made


def _keyed(key: bytes, person: bytes) -> hashlib.blake2b:
    return hashlib.blake2b(digest_size=HASH_SIZE, key=key, person=person)


def _body(plain: bytes) -> Transaction:
    body = _decode(plain).body
    assert isinstance(body, Transaction)
    return body


def _member(body: Transaction) -> Identifier:
    assert body.customer is not None
    (identifier,) = body.customer.identifiers
    return identifier


def _sealed(batch: Batch, place: Place, frame: Frame, body: Transaction) -> Sealed:
    member = _member(body)
    return Sealed(
        checked=memoryview(batch.frames)[frame.start : frame.end - _CHECKSUM_SIZE],
        sealed=frame.sealed,
        bound=place.associated_data(frame.clear),
        nonce=frame.nonce,
        sale="\0".join(idempotency_key(body)).encode(),
        member=f"{member.scheme}\0{normalise(member.scheme, member.value)}".encode(),
    )


def _checksum(batch: Batch, frame: Frame) -> int:
    return int.from_bytes(batch.frames[frame.end - _CHECKSUM_SIZE : frame.end], "big")


def _compare(made: Sequence[Made], stored: Sequence[Stored]) -> None:
    """Of an idempotency key, what is hashed: the name of one begins with its date."""
    for mine, row in zip(made, stored, strict=True):
        found = {**dict(zip(_COLUMNS, mine, strict=True)), "idem": mine[3][DATE_SIZE:]}
        for column, theirs in zip(_COLUMNS, row, strict=True):
            if found[column] != theirs:
                raise NotStored(f"{column} is another in the ledger than the libraries' calls make")
