"""A defect may happen with anybody's data at hand: its log line says where, and quotes nothing."""

from __future__ import annotations

import io

from prometheus_client import CollectorRegistry

from tillstream_agent import events as agent_events
from tillstream_agent.metrics import AgentMetrics, LatencyWindow
from tillstream_server import events as server_events
from tillstream_server.metrics import Metrics

CANARY = "+1 555 0142 777"


def failed_with(text: str) -> Exception:
    """An error that quotes the text, raised where it is also a local variable."""
    nothing: dict[str, str] = {}
    try:
        nothing[text]
    except KeyError as error:
        return error
    raise AssertionError


def test_the_agents_log_of_a_defect_quotes_no_value() -> None:
    log = io.StringIO()
    events = agent_events.Events(
        agent_events.json_logger(log, "debug"), AgentMetrics(CollectorRegistry()), LatencyWindow()
    )
    events.crashed("http", failed_with(CANARY))
    assert "KeyError" in log.getvalue()
    assert CANARY not in log.getvalue()


def test_the_servers_log_of_a_defect_quotes_no_value() -> None:
    log = io.StringIO()
    events = server_events.Events(Metrics(CollectorRegistry()), server_events.json_logger(log))
    events.unexpected("POST /till/v1/batches", failed_with(CANARY))
    assert "KeyError" in log.getvalue()
    assert CANARY not in log.getvalue()
