"""The till's side of the push channel, without I/O: what it says, and what it makes of what it hears."""

from __future__ import annotations

import pytest

from support.agents import HOUR_MS, NOW_MS, offer_push
from support.gateways import TILL_ID
from tillstream_agent.sync.push import (
    Again,
    Forget,
    Keep,
    OutOfTurn,
    PushSession,
    Requeue,
    Say,
)
from tillstream_protocol import messages
from tillstream_protocol.codec import encode
from tillstream_protocol.errors import InvalidInput
from tillstream_protocol.messages import (
    MAX_EPOCH_RANGES,
    Challenge,
    EpochRanges,
    Missing,
    Present,
    Push,
    Range,
    Receipt,
)
from tillstream_protocol.signing import SignKey, verify

DEVICE = SignKey(b"d" * 32)
EPOCH = b"e" * 16
ACKED = (EpochRanges(EPOCH, (Range(0, 4), Range(8, 9))),)


def session(last_push: int = 0) -> PushSession:
    return PushSession(
        till_id=TILL_ID,
        device=DEVICE,
        agent_version="1.0",
        last_push=last_push,
        pack_version=3,
        claim=lambda: ACKED,
    )


def open_session(last_push: int = 0) -> PushSession:
    opened = session(last_push)
    opened.receive(encode(Challenge(bytes(16), NOW_MS)), NOW_MS)
    return opened


def a_push(seq: int, expires_ms: int = NOW_MS + HOUR_MS) -> Push:
    return Push(seq, expires_ms, offer_push(seq))


def test_a_challenge_is_answered_with_a_signed_present() -> None:
    till = session(last_push=7)
    step = till.receive(encode(Challenge(b"n" * 16, NOW_MS)), NOW_MS)
    assert isinstance(step, Say)
    present = messages.decode_to_server(step.data)
    assert isinstance(present, Present)
    assert (present.till_id, present.device_key_id, present.last_push, present.pack_version) == (
        TILL_ID,
        DEVICE.key_id,
        7,
        3,
    )
    verify(DEVICE.public, messages.challenge_bytes(b"n" * 16, TILL_ID), present.signature)
    assert present.acked == ACKED
    assert till.server_ms == NOW_MS


def test_a_new_push_is_kept_and_then_receipted() -> None:
    till = open_session()
    assert till.receive(encode(a_push(4)), NOW_MS) == Keep(a_push(4))
    assert till.last_push == 0
    assert messages.decode_to_server(till.kept(a_push(4))) == Receipt(4)
    assert till.last_push == 4


def test_a_repeat_is_receipted_and_not_kept_again() -> None:
    till = open_session(last_push=4)
    assert till.receive(encode(a_push(4)), NOW_MS) == Again(a_push(4))
    till.kept(a_push(2))
    assert till.last_push == 4


def test_an_expired_push_is_forgotten() -> None:
    late = a_push(1, expires_ms=NOW_MS)
    assert open_session().receive(encode(late), NOW_MS) == Forget(late)


def test_what_is_missing_of_what_was_claimed_is_to_be_queued_again() -> None:
    said = Missing((EpochRanges(EPOCH, (Range(3, 8),)), EpochRanges(b"x" * 16, (Range(0, 9),))))
    assert open_session().receive(encode(said), NOW_MS) == Requeue((EpochRanges(EPOCH, (Range(3, 4), Range(8, 8))),))


def test_where_more_is_told_than_believed_no_more_than_that_is_queued_again() -> None:
    every_other = tuple(Range(2 * n, 2 * n) for n in range(MAX_EPOCH_RANGES + 1))
    believed = (EpochRanges(EPOCH, every_other),)
    till = PushSession(
        till_id=TILL_ID, device=DEVICE, agent_version="1.0", last_push=0, pack_version=3, claim=lambda: believed
    )
    step = till.receive(encode(Challenge(bytes(16), NOW_MS)), NOW_MS)
    assert isinstance(step, Say)
    present = messages.decode_to_server(step.data)
    assert isinstance(present, Present)
    assert present.acked == (
        EpochRanges(EPOCH, (*every_other[:-2], Range(every_other[-2].first, every_other[-1].last))),
    )
    said = Missing((EpochRanges(EPOCH, (Range(0, 5),)),))
    assert till.receive(encode(said), NOW_MS) == Requeue((EpochRanges(EPOCH, every_other[:3]),))


def test_nothing_can_be_missing_before_the_till_has_presented_itself() -> None:
    with pytest.raises(OutOfTurn):
        session().receive(encode(Missing(ACKED)), NOW_MS)


def test_what_has_no_place_is_refused() -> None:
    with pytest.raises(OutOfTurn):
        session().receive(encode(a_push(1)), NOW_MS)
    with pytest.raises(OutOfTurn):
        open_session().receive(encode(Challenge(bytes(16), NOW_MS)), NOW_MS)
    with pytest.raises(InvalidInput):
        open_session().receive(b"\xc1", NOW_MS)
