"""What may be said how often."""

from __future__ import annotations

import io

from prometheus_client import CollectorRegistry

from support.agents import Telling
from support.tills import TurnedClock
from tillstream_agent.events import REFUSALS_A_SECOND, Events, json_logger
from tillstream_agent.metrics import AgentMetrics, LatencyWindow
from tillstream_protocol.errors import InvalidInput


class Rationed(Telling):
    """A telling whose seconds pass when the test says so."""

    def __post_init__(self) -> None:
        self.clock = TurnedClock()
        self.stream, self.registry = io.StringIO(), CollectorRegistry()
        self.metrics = AgentMetrics(self.registry)
        self.events = Events(json_logger(self.stream, "debug"), self.metrics, LatencyWindow(), self.clock.monotonic)

    def refuses(self, calls: int, door: str = "http") -> None:
        for _ in range(calls):
            self.events.refused(door, InvalidInput("no"))


def test_refusals_in_a_flood_are_all_counted_and_few_are_logged() -> None:
    telling = Rationed()
    telling.refuses(1000)
    assert telling.said() == ["hook_refused"] * REFUSALS_A_SECOND
    assert telling.counted("refusals", reason="invalid_input") == 1000


def test_how_many_were_held_back_is_told_with_the_next_refusal() -> None:
    telling = Rationed()
    telling.refuses(REFUSALS_A_SECOND + 5)
    telling.clock.turn(1.0)
    telling.refuses(REFUSALS_A_SECOND + 1)
    assert telling.said()[REFUSALS_A_SECOND:] == ["hook_refusals_not_logged", *["hook_refused"] * REFUSALS_A_SECOND]
    assert telling.lines()[REFUSALS_A_SECOND]["calls"] == 5


def test_how_many_were_held_back_is_told_at_the_end() -> None:
    telling = Rationed()
    telling.refuses(REFUSALS_A_SECOND + 3)
    telling.events.stopping(queued=0)
    assert telling.said()[-2:] == ["hook_refusals_not_logged", "stopping"]
    assert telling.lines()[-2]["calls"] == 3


def test_slow_refusals_are_all_logged() -> None:
    telling = Rationed()
    for _ in range(30):
        telling.refuses(1)
        telling.clock.turn(1.0)
    assert telling.said() == ["hook_refused"] * 30


def test_a_flood_at_one_door_leaves_the_others_lines_alone() -> None:
    telling = Rationed()
    telling.refuses(100)
    telling.refuses(1, "socket")
    assert telling.lines()[-1]["door"] == "socket"
