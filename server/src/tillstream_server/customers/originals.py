"""A POS's own bytes, read back from the vault: the proof that nothing of a record was lost.

They lie under the key of the record's member, or under the retailer's own where it has none. Whoever reads them may
read a name and an address, so that each reading is told as an event, with its reason.
"""

from __future__ import annotations

import hashlib
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from tillstream_protocol.codec import msgpack_decoder
from tillstream_protocol.errors import TillstreamError
from tillstream_protocol.events import Original
from tillstream_protocol.limits import DEFAULT
from tillstream_protocol.packing import unpacked

from .identity import Namer
from .vault import Vault, VaultDamaged

ORIGINAL: Final = "original"
"""The field of the vault's items that hold originals. An item's record is its name: epoch and seq."""

_decode: Final = msgpack_decoder(Original, limit=DEFAULT.record)

_FIND: Final = "SELECT subject, retailer FROM ledger WHERE till_id = ? AND epoch = ? AND seq = ?"
_FIND_OTHER: Final = """
SELECT l.epoch, l.seq, coalesce(t.till, hex(l.till_id)) AS till
FROM duplicate d JOIN ledger l ON l.id = d.ledger_id LEFT JOIN till t ON t.till_id = l.till_id
WHERE d.till_id = ? AND d.epoch = ? AND d.seq = ?
"""
_OWN: Final = "SELECT subject FROM identifier WHERE hash = ?"


class UnknownRecord(TillstreamError):
    """The ledger has no record of this name."""

    code = "unknown_record"


class NoOriginal(TillstreamError):
    """A record that came without a POS's own bytes."""

    code = "no_original"


class OriginalErased(TillstreamError):
    """The person whom the bytes name was erased, and the bytes with them."""

    code = "original_erased"


def record_name(epoch: bytes, seq: int) -> bytes:
    """What the vault calls the items of a record."""
    return epoch + seq.to_bytes(8, "big")


class Originals:
    """Reads originals."""

    def __init__(self, vault: Vault, identifier_key: bytes) -> None:
        self._vault = vault
        self._identifier_key = identifier_key

    async def read(self, conn: AsyncConnection, till_id: bytes, epoch: bytes, seq: int) -> Original:
        """The bytes that came with a record, as they were captured.

        Raises `UnknownRecord`, `NoOriginal`, `OriginalErased` or `VaultDamaged`.
        """
        found = (await conn.exec_driver_sql(_FIND, (till_id, epoch, seq))).first()
        if found is None:
            raise await self._missing(conn, till_id, epoch, seq)
        subject = found.subject or await self._own(conn, found.retailer)
        if subject is not None:
            if not await self._vault.holds_key(subject):
                raise OriginalErased("the person it names was erased, and with them the bytes that the POS sent")
            plain = await self._vault.find(conn, subject, ORIGINAL, record_name(epoch, seq))
            if plain is not None:
                return _whole(_decode(plain))
        raise NoOriginal("the record came without bytes of the POS's own", hint="a POS that speaks JSON sends none")

    async def _own(self, conn: AsyncConnection, retailer: str) -> bytes | None:
        found = (await conn.exec_driver_sql(_OWN, (Namer(self._identifier_key, retailer).own(),))).first()
        return None if found is None else bytes(found.subject)

    async def _missing(self, conn: AsyncConnection, till_id: bytes, epoch: bytes, seq: int) -> TillstreamError:
        other = (await conn.exec_driver_sql(_FIND_OTHER, (till_id, epoch, seq))).first()
        if other is None:
            hint = "see `till gaps` and `dead-letters list`"
            return UnknownRecord("the ledger has no such record of this till", hint=hint)
        hint = f"till {other.till}, epoch {other.epoch.hex()}, seq {other.seq}"
        return NoOriginal("the same sale was in the ledger already, whose own bytes were kept", hint=hint)


def _whole(packed: Original) -> Original:
    if packed.form == "left_out":
        hint = "a drop folder keeps such a file under done/"
        raise NoOriginal("the bytes were left out when the sale was captured: no record had room for them", hint=hint)
    original = unpacked(packed)
    if hashlib.sha256(original.data).digest() != original.sha256:
        raise VaultDamaged("the original is not what the till sealed: its SHA-256 is another")
    return original
