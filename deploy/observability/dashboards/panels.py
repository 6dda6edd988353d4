"""What a dashboard shows: rows of panels, each with the queries it draws. Nothing of Grafana's own is known here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

Look = Literal["number", "lines", "stack"]

COLUMNS: Final = 24
"""A dashboard's width."""
SERVER: Final = 'instance=~"$instance"'
"""The servers that the reader has chosen."""
AGENT: Final = 'instance=~"$agent"'


@dataclass(frozen=True, slots=True)
class Query:
    """One expression in PromQL, and how its series are called: `{{label}}` stands for a label's value."""

    expr: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel. `why` says what to read from it. From `warn` and `alarm` on, a number turns yellow and red."""

    title: str
    why: str
    queries: tuple[Query, ...]
    look: Look = "lines"
    unit: str = "short"
    width: int = 8
    warn: float | None = None
    alarm: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under a heading."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Variable:
    """What the reader chooses at the top: the values of a label of a metric."""

    name: str
    title: str
    metric: str
    label: str


SERVERS: Final = Variable("instance", "Server", "tillstream_server_build_info", "instance")
AGENTS: Final = Variable("agent", "Agent", "tillstream_agent_build_info", "instance")


@dataclass(frozen=True, slots=True)
class Dashboard:
    """One page. `name` is its file's and, with a prefix, its address in Grafana."""

    name: str
    title: str
    about: str
    rows: tuple[Row, ...]
    variables: tuple[Variable, ...] = field(default=(SERVERS,))


def number(
    title: str,
    why: str,
    expr: str,
    *,
    unit: str = "short",
    width: int = 4,
    warn: float | None = None,
    alarm: float | None = None,
    legend: str = "",
) -> Panel:
    """A panel of one large number as it is now."""
    return Panel(title, why, (Query(expr, legend),), "number", unit, width, warn, alarm)


def lines(title: str, why: str, *queries: Query, unit: str = "short", width: int = 8) -> Panel:
    """A panel of lines over time."""
    return Panel(title, why, queries, "lines", unit, width)


def stack(title: str, why: str, *queries: Query, unit: str = "short", width: int = 8) -> Panel:
    """A panel of areas over time that add up."""
    return Panel(title, why, queries, "stack", unit, width)


def over_tills(metric: str) -> tuple[Query, ...]:
    """How a figure of the fleet is spread over tills: the median till, the worst in a hundred, the worst."""
    base = f"tillstream_server_fleet_{metric}"
    bucket = f"sum by (le) ({base}_seconds_bucket{{{SERVER}}})"
    return (
        Query(f"histogram_quantile(0.5, {bucket})", "median till"),
        Query(f"histogram_quantile(0.99, {bucket})", "worst till in a hundred"),
        Query(f"max({base}_max_seconds{{{SERVER}}})", "worst till"),
    )


def rate(metric: str, by: str = "", where: str = SERVER) -> str:
    """A counter's increase a second, over the time that suits the picture's width."""
    return f"sum{f' by ({by})' if by else ''} (rate({metric}{{{where}}}[$__rate_interval]))"
