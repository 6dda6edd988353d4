"""How fast tills are told to send."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from prometheus_client import CollectorRegistry

from support.serving import SetClock
from tillstream_server.gateway.flow import MAX_PAUSE_MS, Busy, Flow
from tillstream_server.metrics import Metrics


def flow(clock: SetClock, *, waiting: int = 100) -> Flow:
    return Flow(max_bytes=65_536, max_waiting=waiting, clock=clock, metrics=Metrics(CollectorRegistry()))


def test_an_idle_server_asks_nobody_to_wait() -> None:
    pace = flow(SetClock()).pace("backlog")
    assert (pace.max_bytes, pace.pause_ms) == (65_536, 0)


def test_backlogs_pause_as_long_as_the_batches_that_wait_will_take() -> None:
    clock = SetClock()
    busy = flow(clock)
    for _ in range(100):
        with busy.one():
            clock.turn(2)
    with ExitStack() as stack:
        for _ in range(11):
            stack.enter_context(busy.one())
        assert busy.pace("backlog").pause_ms == pytest.approx(20_000, rel=0.01)
        assert busy.pace("live").pause_ms == 0


def test_no_pause_is_longer_than_a_minute() -> None:
    clock = SetClock()
    busy = flow(clock)
    for _ in range(100):
        with busy.one():
            clock.turn(600)
    with busy.one(), busy.one():
        assert busy.pace("backlog").pause_ms == MAX_PAUSE_MS


def test_beyond_its_bound_nothing_more_is_held() -> None:
    full = flow(SetClock(), waiting=1)
    with full.one(), pytest.raises(Busy, match="too many"), full.one():
        pass
    with full.one():
        pass
