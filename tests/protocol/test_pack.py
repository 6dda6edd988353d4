"""A till decides by no pack but its own server's, made for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tillstream_protocol.decisions import Budget, Campaign
from tillstream_protocol.effects import CustomerMessage
from tillstream_protocol.errors import InvalidInput
from tillstream_protocol.messages import decode_enrol_reply
from tillstream_protocol.pack import ForeignPack, Lease, Pack, SignedPack, open_pack, sign_pack
from tillstream_protocol.signing import BadSignature, SignKey

SERVER = SignKey(b"\1" * 32)
TILL = b"t" * 16
PACK = Pack(
    version=3,
    offer_key=b"o" * 32,
    box_public_key=b"b" * 32,
    escrow_public_key=b"e" * 32,
    retailer="r1",
    store="s1",
    till=TILL,
    issued_ms=1_767_349_800_000,
    expires_ms=1_767_436_200_000,
    campaigns=(
        Campaign(
            id="c1",
            version=1,
            name="A campaign",
            trigger="transaction",
            condition={"and": [{">=": [{"var": "sale.total"}, 1000]}, {"!": [{"var": "member.known"}]}]},
            effects=(CustomerMessage("Thank you"),),
            budget=Budget(units=100, lease=10),
        ),
    ),
    leases=(Lease(id=b"l" * 16, campaign="c1", units=10),),
)


def test_a_pack_opens_at_the_till_it_was_made_for() -> None:
    assert open_pack(sign_pack(PACK, SERVER), SERVER.public, TILL) == PACK


def test_a_pack_for_another_till_is_foreign() -> None:
    with pytest.raises(ForeignPack) as refused:
        open_pack(sign_pack(PACK, SERVER), SERVER.public, b"u" * 16)
    assert (refused.value.code, refused.value.field) == ("foreign_pack", "till")


def test_a_pack_of_another_server_is_refused() -> None:
    with pytest.raises(BadSignature):
        open_pack(sign_pack(PACK, SignKey(b"\2" * 32)), SERVER.public, TILL)


def test_a_signature_over_the_bare_bytes_is_no_signature_of_a_pack() -> None:
    """What a server signs for another purpose can never be passed off as a pack."""
    payload = sign_pack(PACK, SERVER).payload
    with pytest.raises(BadSignature):
        open_pack(SignedPack(payload, SERVER.sign(payload)), SERVER.public, TILL)


@given(where=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_an_altered_pack_is_refused(where: float, flip: int) -> None:
    signed = sign_pack(PACK, SERVER)
    payload = bytearray(signed.payload)
    payload[int(where * len(payload))] ^= flip
    with pytest.raises(BadSignature):
        open_pack(SignedPack(bytes(payload), signed.signature), SERVER.public, TILL)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"version": 0}, "version"),
        ({"version": 2**63}, "version"),
        ({"leases": [{"id": b"short", "campaign": "c1", "units": 1}]}, "leases[0].id"),
        ({"leases": [{"id": b"l" * 16, "campaign": "c1", "units": 0}]}, "leases[0].units"),
        ({"leases": [{"id": b"l" * 16, "campaign": "c1", "units": 1_000_001}]}, "leases[0].units"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_signed_pack_is_still_checked(changes: dict[str, Any], field: str) -> None:
    document = {**msgpack.unpackb(sign_pack(PACK, SERVER).payload), **changes}
    payload = msgpack.packb(document)
    with pytest.raises(InvalidInput) as refused:
        open_pack(SignedPack(payload, SERVER.sign(b"tillstream-pack-1" + payload)), SERVER.public, TILL)
    assert refused.value.field == field


def test_the_vector_pack_opens(vectors: Callable[[str], Any]) -> None:
    v = vectors("messages")
    reply = decode_enrol_reply(bytes.fromhex(v["messages"]["EnrolReply"]))
    pack = open_pack(reply.pack, bytes.fromhex(v["server_public_key"]), bytes.fromhex(v["till"]))
    assert (pack.version, pack.campaigns[0].id, pack.leases[0].units) == (7, "coffee-10", 50)
