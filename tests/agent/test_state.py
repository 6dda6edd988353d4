"""Small durable state is there after a restart, and says so when the disk will not have it."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.agents import HOUR_MS, NOW_MS, offer_push
from tillstream_agent.folder import StateError
from tillstream_agent.state import State, StateUnavailable
from tillstream_protocol.messages import Range
from tillstream_protocol.pack import SignedPack

PACK = SignedPack(b"rules", b"s" * 64)
EPOCH = b"e" * 16


@pytest.fixture
async def state(tmp_path: Path) -> AsyncIterator[State]:
    opened = await State.open(tmp_path / "state.db")
    yield opened
    await opened.close()


async def reopened(state: State, tmp_path: Path) -> State:
    await state.close()
    return await State.open(tmp_path / "state.db")


async def test_a_new_file_knows_nothing(state: State) -> None:
    assert await state.load_acked() == {}
    assert await state.load_settled() == {}
    assert await state.load_pack() is None
    assert await state.load_offers(0) == []
    assert await state.last_push() == 0


async def test_everything_survives_a_restart(state: State, tmp_path: Path) -> None:
    acked = {EPOCH: (Range(0, 4), Range(6, 6)), b"f" * 16: (Range(0, 0),)}
    await state.save_acked(acked)
    await state.save_settled({(3, b"l" * 16): 2})
    await state.save_pack(PACK, seq=4)
    await state.save_offer(5, NOW_MS + HOUR_MS, offer_push(1))
    again = await reopened(state, tmp_path)
    try:
        assert await again.load_acked() == acked
        assert await again.load_settled() == {(3, b"l" * 16): 2}
        assert await again.load_pack() == PACK
        assert await again.last_push() == 5
        assert [kept.offer for kept in await again.load_offers(NOW_MS)] == [offer_push(1)]
    finally:
        await again.close()


async def test_acknowledgements_replace_what_was_known(state: State) -> None:
    await state.save_acked({EPOCH: (Range(0, 4),)})
    await state.save_acked({b"f" * 16: (Range(0, 0),)})
    assert await state.load_acked() == {b"f" * 16: (Range(0, 0),)}


async def test_spends_said_twice_count_once(state: State) -> None:
    for _ in range(2):
        await state.save_settled({(3, b"l" * 16): 2})
    assert await state.load_settled() == {(3, b"l" * 16): 2}


async def test_the_last_push_never_goes_back(state: State) -> None:
    await state.note_push(7)
    await state.note_push(3)
    await state.save_pack(PACK)
    assert await state.last_push() == 7


async def test_offers_are_forgotten_when_answered_or_expired(state: State) -> None:
    for number, expires in ((1, 100), (2, 200), (3, 300)):
        await state.save_offer(number, expires, offer_push(number))
    await state.drop_offers(answered=[offer_push(3).decision.offer_id], expired_before_ms=100)
    assert [kept.seq for kept in await state.load_offers(0)] == [2]
    assert await state.load_offers(200) == []


async def test_a_new_enrolment_starts_over_but_keeps_acknowledgements(state: State) -> None:
    await state.save_acked({EPOCH: (Range(0, 4),)})
    await state.save_offer(5, NOW_MS, offer_push(1))
    await state.start_over(PACK)
    assert await state.last_push() == 0
    assert await state.load_offers(0) == []
    assert await state.load_pack() == PACK
    assert await state.load_acked() == {EPOCH: (Range(0, 4),)}


async def test_a_stopped_agents_acknowledgements_can_be_looked_at(state: State, tmp_path: Path) -> None:
    await state.save_acked({EPOCH: (Range(0, 4),)})
    await state.close()
    assert await State.peek_acked(tmp_path / "state.db") == {EPOCH: (Range(0, 4),)}
    assert await State.peek_acked(tmp_path / "none.db") == {}
    assert not (tmp_path / "none.db").exists()


async def test_the_file_is_the_users_alone(state: State, tmp_path: Path) -> None:
    assert (tmp_path / "state.db").stat().st_mode & 0o077 == 0


async def test_a_closed_file_is_unavailable(state: State) -> None:
    await state.close()
    with pytest.raises(StateUnavailable):
        await state.load_acked()
    with pytest.raises(StateUnavailable):
        await state.note_push(1)


async def test_a_transaction_that_fails_changes_nothing(state: State) -> None:
    await state.save_acked({EPOCH: (Range(0, 4),)})
    with pytest.raises(StateUnavailable):
        await state.save_acked({EPOCH: (Range(0, 1), Range(0, 2))})
    assert await state.load_acked() == {EPOCH: (Range(0, 4),)}


async def test_a_file_that_is_no_database_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "state.db").write_bytes(b"not a database, but long enough to be looked at" * 30)
    with pytest.raises(StateError, match="not usable"):
        await State.open(tmp_path / "state.db")
    with pytest.raises(StateError, match="cannot be opened"):
        await State.open(tmp_path / "none" / "state.db")


async def test_a_newer_agents_file_is_left_alone(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "state.db")
    connection.execute("pragma user_version = 99")
    connection.close()
    with pytest.raises(StateError, match="newer agent"):
        await State.open(tmp_path / "state.db")


async def test_a_save_that_is_cancelled_anywhere_leaves_the_state_usable(tmp_path: Path) -> None:
    state = await State.open(tmp_path / "state.db")
    for turns in range(12):
        saving = asyncio.create_task(state.save_acked({b"e" * 16: [Range(0, turns)]}))
        for _ in range(turns):
            await asyncio.sleep(0)
        saving.cancel()
        await asyncio.gather(saving, return_exceptions=True)
        await state.save_acked({b"f" * 16: [Range(1, turns)]} if turns else {})
    assert await state.load_acked() == {b"f" * 16: (Range(1, 11),)}
    await state.close()
