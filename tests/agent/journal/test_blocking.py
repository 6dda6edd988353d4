"""Calls that block: made in threads, never holding up the loop for longer than a good disk takes."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from tillstream_agent.journal import blocking
from tillstream_agent.journal.blocking import OffTheLoop, Threads


class Gate:
    """A call that blocks until it is let through; what it raises then is planted."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.made = 0
        self.thread: threading.Thread | None = None
        self.error: BaseException | None = None

    def __call__(self) -> None:
        self.thread = threading.current_thread()
        assert self.open.wait(30)
        self.made += 1
        if self.error is not None:
            raise self.error


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.open.set()


@pytest.fixture
def calls() -> OffTheLoop:
    return OffTheLoop(Threads())


def nothing() -> None:
    """Over at once."""


async def held_off(calls: OffTheLoop, gate: Gate) -> None:
    """A call that did not end while the loop waited."""
    assert not calls.run_now(gate)
    assert not calls.swift


async def test_a_call_is_made_in_another_thread(calls: OffTheLoop) -> None:
    made: list[int] = []
    await calls.run(lambda: made.append(threading.get_ident()))
    assert made
    assert made != [threading.get_ident()]


async def test_what_a_call_raises_is_raised_once(calls: OffTheLoop, gate: Gate) -> None:
    gate.error = OSError("planted")
    gate.open.set()
    with pytest.raises(OSError, match="planted"):
        await calls.run(gate)
    await calls.run(nothing)


async def test_the_loop_goes_on_while_a_call_blocks(calls: OffTheLoop, gate: Gate) -> None:
    asyncio.get_running_loop().call_later(0.01, gate.open.set)
    await calls.run(gate)
    assert gate.made == 1


async def test_a_call_that_is_soon_over_needs_no_turn_of_the_loop(
    calls: OffTheLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocking, "SWIFT_S", 30)
    turns: list[int] = []
    asyncio.get_running_loop().call_soon(turns.append, 1)
    assert calls.swift
    assert calls.run_now(nothing)
    assert not turns
    assert calls.swift
    assert not await calls.ended(), "it is over, and nobody need ask"


async def test_the_loop_does_not_wait_for_a_call_that_blocks(calls: OffTheLoop, gate: Gate) -> None:
    await held_off(calls, gate)
    gate.open.set()
    assert await calls.ended()
    assert not calls.swift, "it took longer than the loop waits"
    await calls.run(nothing)
    assert gate.made == 1


async def test_the_loop_waits_again_once_a_call_was_soon_over(
    calls: OffTheLoop, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    await held_off(calls, gate)
    gate.open.set()
    await calls.ended()
    monkeypatch.setattr(blocking, "SWIFT_S", 30)
    await calls.run(nothing)
    assert calls.swift


async def test_no_loop_waits_after_a_call_that_took_long(calls: OffTheLoop) -> None:
    await calls.run(lambda: time.sleep(2 * blocking.SWIFT_S))
    assert not calls.swift


async def test_no_loop_waits_again_where_the_system_let_it_wait_for_longer(
    calls: OffTheLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold = blocking._Call.hold
    monkeypatch.setattr(blocking._Call, "hold", lambda call, _: hold(call, 30))  # as a coarse timer does
    assert calls.run_now(lambda: time.sleep(2 * blocking.SWIFT_S))
    assert not calls.swift
    monkeypatch.setattr(blocking, "SWIFT_S", 30)
    await calls.run(nothing)
    assert calls.swift


async def test_what_was_raised_while_the_loop_waited_is_told_to_who_asks(
    calls: OffTheLoop, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocking, "SWIFT_S", 30)
    gate.error = OSError("planted")
    gate.open.set()
    assert not calls.run_now(gate)
    assert not calls.swift, "nobody has been told"
    with pytest.raises(OSError, match="planted"):
        await calls.ended()
    assert not await calls.ended()


@pytest.mark.parametrize("error", [OSError("planted"), ValueError("planted")])
async def test_who_comes_after_a_caller_that_went_away_is_told(calls: OffTheLoop, gate: Gate, error: Exception) -> None:
    gate.error = error
    first = asyncio.create_task(calls.run(gate))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    asyncio.get_running_loop().call_later(0.01, gate.open.set)
    with pytest.raises(type(error), match="planted"):
        await calls.run(nothing)
    await calls.run(nothing)


async def test_everybody_who_waits_for_a_call_is_told_that_it_is_over(calls: OffTheLoop, gate: Gate) -> None:
    await held_off(calls, gate)
    waiting = [asyncio.create_task(calls.ended()) for _ in range(3)]
    await asyncio.sleep(0)
    gate.open.set()
    assert await asyncio.gather(*waiting) == [True] * 3
    assert not await calls.ended()


async def test_a_call_that_ends_as_somebody_begins_to_wait_is_not_missed(
    calls: OffTheLoop, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    await held_off(calls, gate)
    running = calls._running
    assert running is not None

    def ends_first(call: Callable[..., None], *given: object) -> Callable[[], None]:
        gate.open.set()
        while not running._over:
            time.sleep(0.001)
        return partial(call, *given)

    monkeypatch.setattr(blocking, "partial", ends_first)
    async with asyncio.timeout(10):
        assert await calls.ended()


async def test_who_waited_for_a_call_leaves_the_next_one_alone(calls: OffTheLoop, gate: Gate) -> None:
    first, second = Gate(), gate
    await held_off(calls, first)
    late = asyncio.create_task(calls.run(second))
    await asyncio.sleep(0)
    asks = asyncio.create_task(calls.ended())
    await asyncio.sleep(0)
    first.open.set()
    assert await asks
    assert not calls.swift, "the second call is under way"
    second.open.set()
    await late


async def test_a_thread_that_is_idle_makes_the_next_call(calls: OffTheLoop) -> None:
    made: list[int] = []
    for _ in range(5):
        await calls.run(lambda: made.append(threading.get_ident()))
    assert len(set(made)) == 1


async def test_calls_at_one_time_have_a_thread_each(gate: Gate) -> None:
    threads = Threads()
    held = asyncio.create_task(OffTheLoop(threads).run(gate))
    await asyncio.sleep(0)
    await OffTheLoop(threads).run(nothing)
    assert not held.done()
    gate.open.set()
    await held


def test_threads_end_with_who_had_them() -> None:
    async def use() -> threading.Thread:
        made: list[threading.Thread] = []
        await OffTheLoop(Threads()).run(lambda: made.append(threading.current_thread()))
        return made[0]

    thread = asyncio.run(use())
    gc.collect()
    thread.join(5)
    assert not thread.is_alive()
    assert thread.daemon, "a disk that hangs must not keep a process"


def test_a_call_that_outlives_its_loop_ends_quietly(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    raised: list[object] = []
    monkeypatch.setattr(threading, "excepthook", raised.append)

    async def begin() -> None:
        task = asyncio.create_task(OffTheLoop(Threads()).run(gate))
        await asyncio.sleep(0.01)
        task.cancel()

    asyncio.run(begin())
    gc.collect()
    gate.open.set()
    assert gate.thread is not None
    gate.thread.join(5)
    assert gate.made == 1
    assert not raised
