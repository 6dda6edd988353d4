"""What one sees while the demo runs: a live table on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import asyncio
import time

from rich.console import Console
from rich.live import Live
from rich.table import Table

from .figures import Summary, Watcher
from .replay import Progress
from .report import quantile

LIVE_S = 0.5
LINES_S = 5.0


async def watch(console: Console, watcher: Watcher, progress: Progress) -> None:
    """Show progress until cancelled."""
    if not console.is_terminal:
        while True:
            console.print(_line(progress, await watcher.summary(), await watcher.queued()))
            await asyncio.sleep(LINES_S)
    with Live(console=console, transient=True) as live:
        while True:
            live.update(_table(progress, await watcher.summary(), await watcher.queued()))
            await asyncio.sleep(LIVE_S)


def _table(progress: Progress, summary: Summary | None, queued: int | None) -> Table:
    table = Table(title="Tillstream: real baskets through real tills", title_justify="left", show_header=False)
    for name, value in _figures(progress, summary, queued):
        table.add_row(name, value)
    return table


def _line(progress: Progress, summary: Summary | None, queued: int | None) -> str:
    return " · ".join(f"{name} {value}" for name, value in _figures(progress, summary, queued))


def _figures(progress: Progress, summary: Summary | None, queued: int | None) -> list[tuple[str, str]]:
    seconds = time.perf_counter() - progress.started
    recent = sorted(progress.hook_us[-2000:])
    return [
        ("captured", f"{progress.captured:,} of {progress.baskets:,} ({progress.captured / seconds:,.0f}/s)"),
        ("queued", "a till is down" if queued is None else f"{queued:,}"),
        ("stored", "the server is down" if summary is None else f"{summary.transactions:,}"),
        ("offers", "" if summary is None else f"{summary.offers_pushed:,} pushed, {_edge(summary):,} at the till"),
        ("hook", f"p50 {quantile(recent, 0.5):,.0f} µs, p99 {quantile(recent, 0.99):,.0f} µs"),
    ]


def _edge(summary: Summary) -> int:
    return sum(summary.offers_edge.values())
