"""Small durable state is there after a restart, and says so when the disk will not have it."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from support.agents import HOUR_MS, NOW_MS, offer_push
from tillstream_agent.letters import Changes, Kept, Letter
from tillstream_agent.state import State, StateUnavailable
from tillstream_protocol.messages import Range
from tillstream_protocol.pack import SignedPack

PACK = SignedPack(b"rules", b"s" * 64)
EPOCH = b"e" * 16


class Heard:
    """Listens to the state."""

    def __init__(self) -> None:
        self.aside: list[str] = []
        self.usable = True

    def state_set_aside(self, name: str, reason: str) -> None:
        self.aside.append(name)

    def state_unusable(self, reason: str) -> None:
        self.usable = False

    def state_usable(self) -> None:
        self.usable = True


def letter(seq: int, kept: Kept = "here") -> Letter:
    return Letter(EPOCH, seq, 1, kept, "invalid_input", "it says nothing", 1, NOW_MS + seq)


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
        await state.last_push()
    with pytest.raises(StateUnavailable):
        await state.note_push(1)


async def test_acknowledgements_that_were_taken_back_stay_so(state: State, tmp_path: Path) -> None:
    await state.save_acked({EPOCH: (Range(0, 9),), b"f" * 16: (Range(0, 3),)})
    await state.save_acked({EPOCH: (Range(0, 2), Range(7, 9))})
    again = await reopened(state, tmp_path)
    assert await again.load_acked() == {EPOCH: (Range(0, 2), Range(7, 9))}
    await again.close()


async def test_dead_letters_survive_a_restart_and_go_when_they_are_settled(state: State, tmp_path: Path) -> None:
    letters = [letter(seq, "here" if seq % 2 else "server") for seq in range(4)]
    await state.save_letters(Changes(tuple(letters), (), 7))
    again = await reopened(state, tmp_path)
    assert await again.load_letters() == (letters, 7)
    await again.save_letters(Changes((replace(letters[1], tries=2),), (letters[0].key, (b"?" * 16, 5)), 8))
    assert await again.load_letters() == ([replace(letters[1], tries=2), *letters[2:]], 8)
    await again.close()


async def test_a_stopped_agents_dead_letters_can_be_looked_at(state: State, tmp_path: Path) -> None:
    await state.save_letters(Changes((letter(1),), (), 3))
    await state.close()
    assert await State.peek_letters(tmp_path / "state.db") == ([letter(1)], 3)
    assert await State.peek_letters(tmp_path / "none.db") == ([], 0)


async def test_a_transaction_that_fails_changes_nothing(state: State) -> None:
    await state.save_acked({EPOCH: (Range(0, 4),)})
    with pytest.raises(StateUnavailable):
        await state.save_acked({EPOCH: (Range(0, 1), Range(0, 2))})
    assert await state.load_acked() == {EPOCH: (Range(0, 4),)}


async def test_a_damaged_file_is_set_aside_and_a_fresh_one_made(tmp_path: Path) -> None:
    heard = Heard()
    for turn in ("", "-1"):
        (tmp_path / "state.db").write_bytes(b"not a database, but long enough to be looked at" * 30)
        state = await State.open(tmp_path / "state.db", heard)
        assert await state.load_acked() == {}
        await state.save_acked({EPOCH: (Range(0, 4),)})
        await state.close()
        assert (tmp_path / f"state.db.damaged{turn}").read_bytes().startswith(b"not a database")
    assert heard.aside == ["state.db.damaged", "state.db.damaged-1"]


async def test_a_file_with_damaged_pages_is_set_aside_at_start(tmp_path: Path) -> None:
    state = await State.open(tmp_path / "state.db")
    await state.save_acked({bytes([n] * 16): (Range(0, 4),) for n in range(256)})
    await state.close()
    data = bytearray((tmp_path / "state.db").read_bytes())
    data[4096:] = bytes(len(data) - 4096)
    (tmp_path / "state.db").write_bytes(data)
    heard = Heard()
    state = await State.open(tmp_path / "state.db", heard)
    assert await state.load_acked() == {}
    assert heard.aside == ["state.db.damaged"]
    await state.close()


async def test_a_file_that_turns_out_damaged_while_it_is_used_is_replaced(tmp_path: Path) -> None:
    heard = Heard()
    state = await State.open(tmp_path / "state.db", heard)
    await state.save_acked({bytes([n] * 16): (Range(0, 4),) for n in range(256)})
    await state.close()
    state = await State.open(tmp_path / "state.db", heard)
    size = (tmp_path / "state.db").stat().st_size
    with (tmp_path / "state.db").open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (size - 4096))
    await (await state._connection()).execute("pragma shrink_memory")  # what it remembers of the file's pages
    with pytest.raises(StateUnavailable):
        await state.save_acked({bytes([n] * 16): (Range(0, 5),) for n in range(256)})
    await state.save_acked({EPOCH: (Range(0, 1),)})
    assert heard.aside == ["state.db.damaged"]
    assert await state.load_acked() == {EPOCH: (Range(0, 1),)}
    await state.close()


async def test_a_flipped_bit_never_makes_a_record_look_acknowledged(tmp_path: Path) -> None:
    """Whatever byte of the file is altered: what is loaded was saved, or nothing is."""
    file = tmp_path / "state.db"
    saved = {EPOCH: (Range(0, 40), Range(50, 1000)), b"f" * 16: (Range(3, 3),)}
    state = await State.open(file)
    await state.save_acked(saved)
    await state.close()
    whole = file.read_bytes()
    row = whole.index(EPOCH)
    for place in range(row - 8, row + 30):
        data = bytearray(whole)
        data[place] ^= 1 << place % 8
        file.write_bytes(data)
        state = await State.open(file)
        assert await state.load_acked() in ({}, saved), place
        await state.close()


async def test_an_offer_that_cannot_be_read_is_forgotten(tmp_path: Path) -> None:
    state = await State.open(tmp_path / "state.db")
    for number in (1, 2):
        await state.save_offer(number, NOW_MS, offer_push(number))
    await state.close()
    connection = sqlite3.connect(tmp_path / "state.db")
    connection.execute("update offer set body = x'c1' where seq = 1")
    connection.commit()
    connection.close()
    state = await State.open(tmp_path / "state.db")
    assert [kept.seq for kept in await state.load_offers(0)] == [2]
    await state.close()


async def test_a_dead_letter_that_cannot_be_read_is_forgotten(tmp_path: Path) -> None:
    state = await State.open(tmp_path / "state.db")
    await state.save_letters(Changes((letter(1), letter(2)), (), 0))
    await state.close()
    connection = sqlite3.connect(tmp_path / "state.db")
    connection.execute("update letter set kept = 'nowhere' where seq = 1")
    connection.commit()
    connection.close()
    state = await State.open(tmp_path / "state.db")
    assert await state.load_letters() == ([letter(2)], 0)
    await state.close()


async def test_without_a_file_nothing_is_known_and_nothing_saved_until_there_is_one(tmp_path: Path) -> None:
    heard = Heard()
    file = tmp_path / "state.db"
    file.mkdir()
    state = await State.open(file, heard)
    assert await state.load_acked() == {}
    assert await state.load_letters() == ([], 0)
    assert await state.load_pack() is None
    assert await state.load_offers(0) == []
    with pytest.raises(StateUnavailable):
        await state.last_push()
    with pytest.raises(StateUnavailable):
        await state.save_pack(PACK)
    said = [heard.usable]
    file.rmdir()
    await state.save_pack(PACK)
    assert [*said, heard.usable] == [False, True]
    assert await state.load_pack() == PACK
    await state.close()


async def test_a_full_disk_fails_the_save_and_keeps_what_was_saved(state: State) -> None:
    await state.save_acked({EPOCH: (Range(0, 4),)})
    connection = await state._connection()
    (pages,) = next(iter(await connection.execute_fetchall("pragma page_count")))
    await connection.execute(f"pragma max_page_count = {pages}")
    many = {n.to_bytes(16, "big"): (Range(0, 4),) for n in range(2000)}
    with pytest.raises(StateUnavailable, match="full"):
        await state.save_acked(many)
    assert await state.load_acked() == {EPOCH: (Range(0, 4),)}
    await connection.execute("pragma max_page_count = 1000000")
    await state.save_acked(many)
    assert len(await state.load_acked()) == 2000


async def test_a_file_on_a_full_disk_can_still_be_read_at_start(tmp_path: Path) -> None:
    state = await State.open(tmp_path / "state.db")
    await state.save_acked({EPOCH: (Range(0, 4),)})
    await state.close()
    before = (tmp_path / "state.db").read_bytes()
    state = await State.open(tmp_path / "state.db")
    assert await state.load_acked() == {EPOCH: (Range(0, 4),)}
    await state.close()
    assert (tmp_path / "state.db").read_bytes() == before


async def test_a_newer_agents_file_is_kept_and_a_fresh_one_made(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "state.db")
    connection.execute("pragma user_version = 99")
    connection.close()
    before = (tmp_path / "state.db").read_bytes()
    heard = Heard()
    state = await State.open(tmp_path / "state.db", heard)
    await state.save_acked({EPOCH: (Range(0, 4),)})
    await state.close()
    assert heard.aside == ["state.db.newer"]
    assert (tmp_path / "state.db.newer").read_bytes() == before


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
