"""The signed set of rules and leases that a till decides by."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from .codec import encode, msgpack_decoder
from .decisions import Campaign
from .errors import Damaged
from .limits import MAX_SHORT
from .signing import SignKey, verify
from .transaction import Code, InstantMs

MAX_PACK = 8 * 1024 * 1024
_PURPOSE = b"tillstream-pack-1"
_Key = Annotated[bytes, Meta(min_length=32, max_length=32)]


class ForeignPack(Damaged):
    """A pack that is not for this till, or older than the one it has."""

    code = "foreign_pack"


class Lease(Struct, frozen=True, forbid_unknown_fields=True):
    """A quantity that this till alone may spend, offline too. `id` is 16 bytes."""

    id: Annotated[bytes, Meta(min_length=16, max_length=16)]
    campaign: Code
    units: Annotated[int, Meta(ge=1, le=1_000_000)]


class Pack(Struct, frozen=True, forbid_unknown_fields=True):
    """What one till may decide by, from `issued_ms` until `expires_ms`. Versions only grow.

    It also carries keys of 32 bytes: `offer_key` names offers; new chunks are sealed to the other two, whether the
    pack has expired or not, so that the server can change its key and no till has to enrol again.
    """

    version: Annotated[int, Meta(ge=1, le=2**63 - 1)]
    retailer: Annotated[str, Meta(max_length=MAX_SHORT)]
    store: Annotated[str, Meta(max_length=MAX_SHORT)]
    till: Annotated[bytes, Meta(min_length=16, max_length=16)]
    issued_ms: InstantMs
    expires_ms: InstantMs
    campaigns: Annotated[tuple[Campaign, ...], Meta(max_length=5_000)]
    leases: Annotated[tuple[Lease, ...], Meta(max_length=5_000)]
    offer_key: _Key
    box_public_key: _Key
    escrow_public_key: _Key


class SignedPack(Struct, frozen=True, forbid_unknown_fields=True):
    """A pack's bytes and the server's signature over them."""

    payload: bytes
    signature: Annotated[bytes, Meta(min_length=64, max_length=64)]


_decode = msgpack_decoder(Pack, limit=MAX_PACK)  # its signature is looked at first, so it goes straight into its type


def sign_pack(pack: Pack, server: SignKey) -> SignedPack:
    """Seal a pack's content with the server's signing key."""
    payload = encode(pack)
    return SignedPack(payload, server.sign(_PURPOSE + payload))


def open_pack(signed: SignedPack, server_public_key: bytes, till: bytes) -> Pack:
    """The pack, if the server signed it for this till.

    Raises `BadSignature`, `InvalidInput` or `ForeignPack`.
    """
    verify(server_public_key, _PURPOSE + signed.payload, signed.signature)
    pack = _decode(signed.payload)
    if pack.till != till:
        raise ForeignPack("the pack was signed for another till", field="till")
    return pack
