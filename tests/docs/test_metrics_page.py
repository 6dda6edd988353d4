"""The reference of the metrics names every one of both sides, with its type, labels and meaning."""

from __future__ import annotations

from pathlib import Path

from prometheus_client import CollectorRegistry

from tillstream_agent.metrics import AgentMetrics
from tillstream_server.metrics import Metrics

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "metrics.md").read_text(encoding="utf-8")


def told(registry: CollectorRegistry, prefix: str) -> list[str]:
    """A row of the page for each metric, in the order of their names, as Prometheus calls them."""
    rows = []
    for family in sorted(registry.collect(), key=lambda family: family.name):
        if family.name.startswith(prefix) and not family.name.endswith("_created"):
            kind = {"gaugehistogram": "gauge histogram", "info": "gauge"}.get(family.type, family.type)
            name = family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")
            labels = sorted({label for sample in family.samples for label in sample.labels} - {"le"})
            says = family.documentation.rstrip(".")
            rows.append(f"| `{name}` | {kind} | {', '.join(f'`{one}`' for one in labels) or '–'} | {says} |")
    return rows


def table(heading: str) -> list[str]:
    lines = PAGE.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0].splitlines()
    return [line for line in lines if line.startswith("| `")]


def test_every_metric_of_the_server_is_there() -> None:
    registry = CollectorRegistry()
    Metrics(registry).know_currency("USD")
    rows = told(registry, "tillstream_server")
    assert len(rows) > 40
    assert table("The server") == rows


def test_every_metric_of_the_agent_is_there() -> None:
    registry = CollectorRegistry()
    AgentMetrics(registry)
    rows = told(registry, "tillstream_agent")
    assert len(rows) > 30
    assert table("The agent") == rows
