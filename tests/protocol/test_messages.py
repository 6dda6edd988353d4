"""Tills and server read each other's messages whole, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tillstream_protocol import messages
from tillstream_protocol.codec import encode
from tillstream_protocol.errors import InvalidInput, TooLarge
from tillstream_protocol.framing import HEADER_SIZE
from tillstream_protocol.messages import (
    Batch,
    BatchReply,
    Certificate,
    Heartbeat,
    HookLatency,
    Introduction,
    Pace,
    Present,
    Range,
    Receipt,
    SignedCertificate,
    Token,
    Vitals,
    challenge_bytes,
    introduction_bytes,
    open_certificate,
    open_heartbeat,
    proof_bytes,
    sign_certificate,
    sign_heartbeat,
)
from tillstream_protocol.signing import BadSignature, SignKey, verify

DEVICE = SignKey(b"\1" * 32)
VITALS = Vitals(
    till_id=b"t" * 16,
    epoch=b"e" * 16,
    position=7,
    queued=2,
    oldest_queued_ms=150,
    hook=HookLatency(p50=100, p99=400, max=900, count=60),
    disk_free=10**10,
    clock_ms=1_767_349_800_000,
    agent_version="0.1.0",
    last_error="",
    dead_letters=1,
    damaged_files=0,
)
DECODERS: dict[str, Callable[[bytes], Any]] = {
    "Hello": messages.decode_hello,
    "Introduction": messages.decode_introduction,
    "EnrolRequest": messages.decode_enrol_request,
    "EnrolReply": messages.decode_enrol_reply,
    "Batch": messages.decode_batch,
    "BatchReply": messages.decode_batch_reply,
    "Challenge": messages.decode_to_till,
    "Missing": messages.decode_to_till,
    "ReturnRequest": messages.decode_return_request,
    "ReturnReply": messages.decode_return_reply,
    "Push/offer": messages.decode_to_till,
    "Push/pack": messages.decode_to_till,
    "Push/revoked": messages.decode_to_till,
    "Push/settings": messages.decode_to_till,
    "Push/rotate": messages.decode_to_till,
    "RotateRequest": messages.decode_rotate_request,
    "RotateReply": messages.decode_rotate_reply,
    "Present": messages.decode_to_server,
    "Receipt": messages.decode_to_server,
    "Heartbeat": messages.decode_to_server,
    "Vitals": messages.decode_vitals,
    "Vitals/settings": messages.decode_vitals,
}


_OPTIONAL = {("Vitals", "type"), ("Vitals", "settings")}


@pytest.mark.parametrize("name", DECODERS)
def test_the_vector_messages_are_read_and_written_alike(name: str, vectors: Callable[[str], Any]) -> None:
    data = bytes.fromhex(vectors("messages")["messages"][name])
    message = DECODERS[name](data)
    assert type(message).__name__ == name.split("/")[0]
    assert encode(message) == data


def test_there_is_a_vector_for_every_message(vectors: Callable[[str], Any]) -> None:
    assert set(vectors("messages")["messages"]) == set(DECODERS)


@pytest.mark.parametrize("name", DECODERS)
@given(cut=st.floats(0, 1, exclude_max=True))
def test_a_message_cut_short_is_refused(name: str, cut: float, vectors: Callable[[str], Any]) -> None:
    data = bytes.fromhex(vectors("messages")["messages"][name])
    with pytest.raises(InvalidInput):
        DECODERS[name](data[: int(cut * len(data))])


@pytest.mark.parametrize("name", DECODERS)
def test_an_unknown_field_is_refused_by_name(name: str, vectors: Callable[[str], Any]) -> None:
    fields = msgpack.unpackb(bytes.fromhex(vectors("messages")["messages"][name]))
    with pytest.raises(InvalidInput) as refused:
        DECODERS[name](msgpack.packb({**fields, "colour": "red"}))
    assert refused.value.field == "colour"


@pytest.mark.parametrize("name", DECODERS)
def test_every_field_is_needed_or_has_its_default(name: str, vectors: Callable[[str], Any]) -> None:
    fields = msgpack.unpackb(bytes.fromhex(vectors("messages")["messages"][name]))
    for field in fields:
        if field in {"acked", "lane", "basket"} or (name.split("/")[0], field) in _OPTIONAL:
            continue
        with pytest.raises(InvalidInput) as refused:
            DECODERS[name](msgpack.packb({key: value for key, value in fields.items() if key != field}))
        assert refused.value.field == field


@pytest.mark.parametrize(
    ("decode", "name", "changes", "field", "limit"),
    [
        (messages.decode_hello, "Hello", {"nonce": bytes(15)}, "nonce", "bytes of length >= 16"),
        (messages.decode_hello, "Hello", {"protocol": -1}, "protocol", "int >= 0"),
        (messages.decode_batch, "Batch", {"header": bytes(511)}, "header", "bytes of length >= 512"),
        (messages.decode_batch, "Batch", {"lane": "fast"}, "lane", None),
        (messages.decode_batch_reply, "BatchReply", {"acked": [[0, 2**63]]}, "acked[0][1]", f"int <= {2**63 - 1}"),
        (messages.decode_batch_reply, "BatchReply", {"acked": [[0]]}, "acked[0]", "array of at least length 2"),
        (messages.decode_to_server, "Receipt", {"seq": 2**64 - 1}, "seq", f"int <= {2**63 - 1}"),
        (messages.decode_to_server, "Receipt", {"type": "push"}, "type", None),
        (messages.decode_vitals, "Vitals", {"queued": -1}, "queued", "int >= 0"),
        (messages.decode_vitals, "Vitals", {"disk_free": 2**63}, "disk_free", f"int <= {2**63 - 1}"),
        (messages.decode_vitals, "Vitals", {"last_error": "e" * 257}, "last_error", "str of length <= 256"),
    ],
)
def test_what_is_out_of_bounds_is_refused_by_field_and_limit(
    decode: Callable[[bytes], Any],
    name: str,
    changes: dict[str, Any],
    field: str,
    limit: str | None,
    vectors: Callable[[str], Any],
) -> None:
    fields = msgpack.unpackb(bytes.fromhex(vectors("messages")["messages"][name]))
    with pytest.raises(InvalidInput) as refused:
        decode(msgpack.packb({**fields, **changes}))
    assert refused.value.field == field
    assert limit is None or (refused.value.limit or "").startswith(limit)


def test_a_message_over_its_limit_is_refused_unread() -> None:
    with pytest.raises(TooLarge) as refused:
        messages.decode_hello(bytes(4097))
    assert refused.value.limit == "4096 bytes"


def test_a_batch_as_large_as_may_be_is_read() -> None:
    batch = Batch(header=bytes(HEADER_SIZE), frames=bytes(4 * 1024 * 1024 - 1024))
    assert messages.decode_batch(encode(batch)) == batch


@given(st.lists(st.tuples(st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1)), max_size=5))
def test_ranges_travel_whole(pairs: list[tuple[int, int]]) -> None:
    reply = BatchReply(b"e" * 16, tuple(Range(*pair) for pair in pairs), 0, (), Pace(1024, 0), 0)
    assert messages.decode_batch_reply(encode(reply)) == reply


# The token


@given(secret=st.binary(min_size=16, max_size=16), key=st.binary(min_size=16, max_size=16))
def test_a_token_comes_back_from_its_text(secret: bytes, key: bytes) -> None:
    token = Token(secret, key)
    assert Token.parse(f" {token.text()}\n") == token


def test_the_vector_token(vectors: Callable[[str], Any]) -> None:
    v = vectors("messages")["token"]
    token = Token.parse(v["text"])
    assert (token.secret.hex(), token.fingerprint.hex()) == (v["secret"], v["fingerprint"])


@pytest.mark.parametrize("text", ["", "ts1", "ts1.", "ts2." + "A" * 32, "ts1.AAAA", "A" * 32, "ts1." + "é" * 32])
def test_what_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        Token.parse(text)


@given(st.text(max_size=50).map(lambda text: "ts1." + text) | st.text(max_size=50))
def test_any_text_is_a_token_or_is_refused(text: str) -> None:
    try:
        token = Token.parse(text)
    except InvalidInput:
        return
    assert Token.parse(token.text()) == token


# Signatures in messages


def test_the_vector_signatures_hold_over_what_they_are_said_to(vectors: Callable[[str], Any]) -> None:
    v = vectors("messages")
    server, device = bytes.fromhex(v["server_public_key"]), bytes.fromhex(v["device_public_key"])
    nonce, till = bytes.fromhex(v["nonce"]), bytes.fromhex(v["till"])
    told: Introduction = messages.decode_introduction(bytes.fromhex(v["messages"]["Introduction"]))
    keys = (told.server_public_key, told.box_public_key, told.escrow_public_key)
    verify(server, introduction_bytes(nonce, *keys, told.protocol_from, told.protocol_to), told.signature)
    asked = messages.decode_enrol_request(bytes.fromhex(v["messages"]["EnrolRequest"]))
    verify(device, proof_bytes(asked.secret, asked.device_public_key), asked.proof)
    present = messages.decode_to_server(bytes.fromhex(v["messages"]["Present"]))
    assert isinstance(present, Present)
    verify(device, challenge_bytes(nonce, till), present.signature)


def test_an_introduction_to_another_agent_is_no_introduction() -> None:
    server = SignKey(b"\2" * 32)
    keys = (server.public, b"b" * 32, b"e" * 32)
    signature = server.sign(introduction_bytes(b"n" * 16, *keys, 1, 1))
    for said in (introduction_bytes(b"m" * 16, *keys, 1, 1), introduction_bytes(b"n" * 16, *keys, 1, 2)):
        with pytest.raises(BadSignature):
            verify(server.public, said, signature)


def test_a_certificate_is_the_servers_word_and_nobody_elses() -> None:
    server, certificate = SignKey(b"\2" * 32), Certificate(b"t" * 16, "r", "s", "1", DEVICE.public, 1)
    signed = sign_certificate(certificate, server)
    assert open_certificate(signed, server.public) == certificate
    with pytest.raises(BadSignature):
        open_certificate(signed, DEVICE.public)
    with pytest.raises(BadSignature):
        open_certificate(SignedCertificate(signed.payload + b"\0", signed.signature), server.public)
    nonsense = SignedCertificate(b"", server.sign(b"tillstream-till-1"))
    with pytest.raises(InvalidInput):
        open_certificate(nonsense, server.public)


def test_a_heartbeat_opens_with_the_key_of_its_device() -> None:
    heartbeat = sign_heartbeat(VITALS, DEVICE)
    assert open_heartbeat(heartbeat, DEVICE.public) == VITALS
    with pytest.raises(BadSignature):
        open_heartbeat(heartbeat, SignKey(b"\2" * 32).public)


def test_a_heartbeat_is_not_altered_unseen_and_not_read_before_it_is_verified() -> None:
    heartbeat = sign_heartbeat(VITALS, DEVICE)
    with pytest.raises(BadSignature):
        open_heartbeat(Heartbeat(heartbeat.vitals + b"\0", heartbeat.signature), DEVICE.public)
    for vitals in (b"", encode(Receipt(1))):
        with pytest.raises(InvalidInput):
            open_heartbeat(Heartbeat(vitals, DEVICE.sign(b"tillstream-vitals-1" + vitals)), DEVICE.public)
