"""The reference of the metrics names every one of both sides, with its type, labels and meaning.

Run as a program, it writes the tables anew.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest
from prometheus_client import CollectorRegistry

from tillstream_agent.metrics import AgentMetrics
from tillstream_server.metrics import Metrics

FILE: Final = Path(__file__).parents[2] / "docs" / "reference" / "metrics.md"
SIDES: Final = ("server", "agent")
ROWS: Final = re.compile(r"(?:^\| `.*\n)+", re.MULTILINE)


def told(side: str) -> list[str]:
    """A row of the page for each metric, in the order of their names, as Prometheus calls them."""
    registry = CollectorRegistry()
    if side == "server":
        Metrics(registry).know_currency("USD")
    else:
        AgentMetrics(registry)
    rows = []
    for family in sorted(registry.collect(), key=lambda family: family.name):
        if family.name.startswith("tillstream_") and not family.name.endswith("_created"):
            kind = {"gaugehistogram": "gauge histogram", "info": "gauge"}.get(family.type, family.type)
            name = family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")
            labels = sorted({label for sample in family.samples for label in sample.labels} - {"le"})
            says = family.documentation.rstrip(".")
            rows.append(f"| `{name}` | {kind} | {', '.join(f'`{one}`' for one in labels) or '–'} | {says} |")
    return rows


@pytest.mark.parametrize("side", SIDES)
def test_every_metric_is_there(side: str) -> None:
    tables = dict(zip(SIDES, ROWS.findall(FILE.read_text(encoding="utf-8")), strict=True))
    assert len(told(side)) > 30
    assert tables[side].splitlines() == told(side), (
        f"write the page anew: .venv/bin/python tests/docs/{Path(__file__).name}"
    )


def write() -> None:
    """Write both tables as they should be."""
    tables = iter(SIDES)
    page = ROWS.sub(lambda _: "\n".join(told(next(tables))) + "\n", FILE.read_text(encoding="utf-8"))
    FILE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    write()
