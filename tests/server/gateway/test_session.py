"""The push session, without sockets."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.serving import NOW
from tillstream_protocol import messages, versions
from tillstream_protocol.codec import encode
from tillstream_protocol.errors import InvalidInput
from tillstream_protocol.messages import EpochRanges, Push, Range, Receipt, Revoked
from tillstream_protocol.signing import BadSignature, SignKey
from tillstream_protocol.versions import VersionMismatch
from tillstream_server.devices import Device
from tillstream_server.gateway.session import OutOfTurn, PushSession

KEY = SignKey(b"k" * 32)
TILL = b"t" * 16
NONCE = b"n" * 16
DEVICE = Device(TILL, "acme", "north", "till-1", KEY.key_id, KEY.public, revoked=False, currency="USD")


def present(
    key: SignKey = KEY, *, nonce: bytes = NONCE, last_push: int = 0, protocol: int = versions.PROTOCOL
) -> bytes:
    signature = key.sign(messages.challenge_bytes(nonce, TILL))
    return encode(messages.Present(TILL, KEY.key_id, signature, protocol, "0.1.0", last_push, 1))


def push(seq: int, expires_ms: int = NOW + 1000) -> Push:
    return Push(seq, expires_ms, Revoked(""))


def opened(last_push: int = 0) -> PushSession:
    session = PushSession(NONCE, NOW)
    session.present(present(last_push=last_push))
    session.admit(DEVICE)
    return session


def test_a_session_begins_with_a_challenge() -> None:
    assert messages.decode_to_till(PushSession(NONCE, NOW).greeting) == messages.Challenge(NONCE, NOW)


def test_a_till_that_signs_the_challenge_is_let_in() -> None:
    assert opened().state == "open"


def test_a_signature_over_another_challenge_is_refused() -> None:
    session = PushSession(NONCE, NOW)
    session.present(present(nonce=os.urandom(16)))
    with pytest.raises(BadSignature):
        session.admit(DEVICE)


def test_a_device_may_not_present_another_till() -> None:
    session = PushSession(NONCE, NOW)
    session.present(present())
    with pytest.raises(OutOfTurn, match="another till"):
        session.admit(replace(DEVICE, till_id=b"u" * 16))


def test_nobody_is_let_in_without_presenting() -> None:
    with pytest.raises(OutOfTurn):
        PushSession(NONCE, NOW).admit(DEVICE)


def test_another_protocol_is_refused() -> None:
    with pytest.raises(VersionMismatch):
        PushSession(NONCE, NOW).present(present(protocol=99))


def test_a_number_that_no_till_can_have_is_refused() -> None:
    with pytest.raises(InvalidInput) as caught:
        PushSession(NONCE, NOW).present(present(last_push=2**60))
    assert caught.value.field == "last_push"


@pytest.mark.parametrize("message", [encode(Receipt(1)), present()])
def test_a_present_comes_first_and_once(message: bytes) -> None:
    session = PushSession(NONCE, NOW)
    if message == present():
        session.present(message)
    with pytest.raises(OutOfTurn):
        session.present(message)


def test_nothing_is_received_before_the_session_is_open() -> None:
    with pytest.raises(OutOfTurn):
        PushSession(NONCE, NOW).receive(encode(Receipt(0)))


def test_a_second_present_is_out_of_turn() -> None:
    with pytest.raises(OutOfTurn):
        opened().receive(present())


def test_bytes_that_are_no_message_are_refused() -> None:
    with pytest.raises(InvalidInput):
        opened().receive(b"\xc1")


def test_a_receipt_for_what_was_never_sent_is_refused() -> None:
    session = opened()
    session.send(push(1), NOW)
    assert session.receive(encode(Receipt(1))) == Receipt(1)
    with pytest.raises(OutOfTurn):
        session.receive(encode(Receipt(2)))


def test_a_heartbeat_must_be_this_tills_and_signed_by_its_device() -> None:
    latency = messages.HookLatency(1, 2, 3, 4)
    vitals = messages.Vitals(TILL, b"e" * 16, 0, 0, 0, latency, 1, NOW, "0.1.0", "", 0, 0)
    session = opened()
    assert session.receive(encode(messages.sign_heartbeat(vitals, KEY))) == vitals
    with pytest.raises(BadSignature):
        session.receive(encode(messages.sign_heartbeat(vitals, SignKey(b"x" * 32))))
    other = messages.Vitals(b"u" * 16, b"e" * 16, 0, 0, 0, latency, 1, NOW, "0.1.0", "", 0, 0)
    with pytest.raises(OutOfTurn):
        session.receive(encode(messages.sign_heartbeat(other, KEY)))


def test_what_the_till_holds_already_is_not_sent_again() -> None:
    session = opened(last_push=5)
    assert session.send(push(5), NOW) is None
    assert session.send(push(6), NOW) is not None


def test_an_expired_push_is_passed_over() -> None:
    session = opened()
    assert session.send(push(1, expires_ms=NOW), NOW) is None
    assert session.last_sent == 1


@given(st.lists(st.integers(1, 20), max_size=40))
def test_whatever_comes_pushes_leave_in_order_and_once(seqs: list[int]) -> None:
    session = opened()
    sent = [seq for seq in seqs if session.send(push(seq), NOW) is not None]
    assert sent == sorted(set(sent))


@given(st.lists(st.integers(1, 8), max_size=8))
def test_pushes_follow_only_when_no_number_lies_between(seqs: list[int]) -> None:
    session = opened()
    whole = set(range(1, max(seqs, default=0) + 1)) == set(seqs)
    if session.follows([push(seq) for seq in seqs]):
        assert whole
    if whole and seqs == sorted(seqs):
        assert session.follows([push(seq) for seq in seqs])


# What is missing


def ranges_of(messages_: list[bytes]) -> dict[bytes, list[Range]]:
    found: dict[bytes, list[Range]] = {}
    for data in messages_:
        message = messages.decode_to_till(data)
        assert isinstance(message, messages.Missing)
        for one in message.epochs:
            found.setdefault(one.epoch, []).extend(one.ranges)
    return found


def test_nothing_missing_is_nothing_to_say() -> None:
    assert opened().ask_again([]) == []


def test_what_is_missing_is_said_after_admission_and_before_any_push() -> None:
    lacking = [EpochRanges(b"e" * 16, (Range(3, 4),))]
    session = PushSession(NONCE, NOW)
    with pytest.raises(OutOfTurn):
        session.ask_again(lacking)
    session.present(present())
    with pytest.raises(OutOfTurn):
        session.ask_again(lacking)
    session.admit(DEVICE)
    (data,) = session.ask_again(lacking)
    assert messages.decode_to_till(data) == messages.Missing(tuple(lacking))
    session.send(push(1), NOW)
    with pytest.raises(OutOfTurn):
        session.ask_again(lacking)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 12_000), max_size=4))
def test_however_much_is_missing_every_message_is_small_and_nothing_is_left_out(sizes: list[int]) -> None:
    lacking = [
        EpochRanges(number.to_bytes(16, "big"), tuple(Range(2**52 + 2 * n, 2**52 + 2 * n) for n in range(size)))
        for number, size in enumerate(sizes)
    ]
    data = opened().ask_again(lacking)
    assert ranges_of(data) == {one.epoch: list(one.ranges) for one in lacking}
    assert all(len(message) <= 128 * 1024 for message in data)


def test_a_thousand_epochs_are_said_and_not_one_more_in_one_message() -> None:
    lacking = [EpochRanges(number.to_bytes(16, "big"), (Range(0, 0),)) for number in range(1_001)]
    data = opened().ask_again(lacking)
    assert len(data) == 2
    assert ranges_of(data) == {one.epoch: list(one.ranges) for one in lacking}
