"""Housekeeping keeps what must not be lost before it throws anything away, and goes on after failures."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from support.agents import NOW_MS, Telling, offer_push
from support.tills import TestTill
from tillstream_agent import housekeeping
from tillstream_agent.housekeeping import Housekeeping, keep_running
from tillstream_agent.journal import Journal, JournalFull
from tillstream_agent.letters import Letters
from tillstream_agent.state import State
from tillstream_protocol.framing import Spend
from tillstream_protocol.limits import DEFAULT
from tillstream_protocol.messages import Range

LEASE = b"l" * 16


@dataclass
class House:
    """A journal and a state, kept tidy."""

    till: TestTill
    journal: Journal
    state: State
    telling: Telling
    keeping: Housekeeping
    letters: Letters
    answered: list[bytes]
    acknowledged: asyncio.Event


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    till = TestTill(tmp_path / "journal", replace(DEFAULT, sync_interval=0.0, retain_age=60.0))
    journal = await till.start()
    state = await State.open(tmp_path / "state.db")
    telling = Telling()
    letters = Letters(till.clock)
    answered: list[bytes] = []
    acknowledged = asyncio.Event()
    keeping = Housekeeping(
        journal, state, till.clock.now_ms, telling.events, acknowledged, lambda: answered, letters, lambda: None
    )
    yield House(till, journal, state, telling, keeping, letters, answered, acknowledged)
    await journal.close()
    await state.close()


async def captured(house: House, spends: tuple[Spend, ...] = ()) -> None:
    name = house.journal.append(os.urandom(50), kind=1, spends=spends)
    await house.journal.synced(name)
    house.journal.acknowledge(name.epoch, [Range(name.seq, name.seq)])
    house.journal.roll()


async def test_spends_are_kept_before_their_chunk_goes(house: House) -> None:
    await captured(house, (Spend(LEASE, 1),))
    await captured(house)
    house.till.clock.turn(61)
    await house.keeping.sweep()
    assert house.telling.said() == []
    assert await house.state.load_settled() == {(1, LEASE): 1}
    assert not (house.till.folder / "0000000001.chunk").exists()
    again = await house.till.start(settled=await house.state.load_settled())
    assert again.spent[LEASE] == 1
    await again.close()


async def test_a_chunk_whose_spends_cannot_be_kept_stays(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    await captured(house, (Spend(LEASE, 1),))
    await captured(house)
    house.till.clock.turn(61)
    await house.state.close()
    await house.keeping.sweep()
    assert (house.till.folder / "0000000001.chunk").exists()
    assert house.telling.said() == ["housekeeping_failed", "housekeeping_failed"]


@pytest.mark.parametrize(
    ("trouble", "told"), [(ZeroDivisionError(), "defect"), (JournalFull("no room"), "housekeeping_failed")]
)
async def test_baskets_that_cannot_be_left_do_not_keep_chunks_from_going(
    house: House, trouble: Exception, told: str
) -> None:
    def fail() -> None:
        raise trouble

    await captured(house)
    await captured(house)
    house.till.clock.turn(61)
    await replace(house.keeping, leave_baskets=fail).sweep()
    assert not (house.till.folder / "0000000001.chunk").exists()
    assert house.telling.said() == [told]


async def test_acknowledgements_are_kept_before_what_they_speak_of_goes(house: House) -> None:
    await captured(house)
    await captured(house)
    house.till.clock.turn(61)
    await house.keeping.sweep()
    assert not (house.till.folder / "0000000001.chunk").exists()
    again = await house.till.start(acked=await house.state.load_acked())
    assert again.damage == ()
    await again.close()


async def test_the_journal_hears_which_acknowledgements_were_kept(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[object] = []
    monkeypatch.setattr(house.journal, "kept", told.append)
    await captured(house)
    await house.keeping.finish()
    assert told == [dict(house.journal.acked())]
    await house.state.close()
    await house.keeping.finish()
    assert len(told) == 1, "not where it failed"


async def test_answered_and_expired_offers_are_forgotten(house: House) -> None:
    for number, expires in ((1, NOW_MS + 1000), (2, NOW_MS), (3, NOW_MS + 1000)):
        await house.state.save_offer(number, expires, offer_push(number))
    house.answered.append(offer_push(1).decision.offer_id)
    await house.keeping.sweep()
    assert [kept.seq for kept in await house.state.load_offers(0)] == [3]


async def test_acknowledgements_are_saved_soon_after_they_came(house: House) -> None:
    task = asyncio.create_task(house.keeping.keep_acknowledgements())
    await captured(house)
    house.acknowledged.set()
    async with asyncio.timeout(5):
        while not await house.state.load_acked():
            await asyncio.sleep(0.005)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert await house.state.load_acked() == dict(house.journal.acked())


async def test_the_last_acknowledgements_are_saved_at_the_end(house: House) -> None:
    await captured(house)
    await house.keeping.finish()
    assert await house.state.load_acked() == dict(house.journal.acked())


async def test_dead_letters_are_saved_with_the_acknowledgements(house: House) -> None:
    house.letters.refused((b"e" * 16, 3), 1, "invalid_input", "no", counts=True)
    task = asyncio.create_task(house.keeping.keep_acknowledgements())
    house.acknowledged.set()
    async with asyncio.timeout(5):
        while not (await house.state.load_letters())[0]:
            await asyncio.sleep(0.005)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert (await house.state.load_letters())[0] == list(house.letters.here.values())


async def test_dead_letters_that_could_not_be_saved_are_saved_later(house: House, tmp_path: Path) -> None:
    house.letters.refused((b"e" * 16, 3), 1, "invalid_input", "no", counts=True)
    connection = await house.state._connection()
    await connection.execute("pragma query_only = on")
    await house.keeping.sweep()
    assert "housekeeping_failed" in house.telling.said()
    await connection.execute("pragma query_only = off")
    await house.keeping.sweep()
    assert (await house.state.load_letters())[0] == list(house.letters.here.values())


async def test_a_part_with_a_defect_is_told_of_and_begun_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeping, "RESTART_AFTER_S", 0.0)
    telling = Telling()
    runs = 0
    twice = asyncio.Event()

    async def broken() -> None:
        nonlocal runs
        runs += 1
        if runs == 2:
            twice.set()
            await asyncio.Event().wait()
        raise ZeroDivisionError

    task = asyncio.create_task(keep_running("part", broken, telling.events))
    await twice.wait()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert telling.said() == ["defect"]
    assert telling.events.last_error == "defect"
