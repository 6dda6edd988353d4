"""The demo's report: what was sent, what was stored, and how long it took."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from rich.console import Console
from rich.table import Table

BARS = " ▁▂▃▄▅▆▇█"


class Quantiles(msgspec.Struct, frozen=True):
    """Of a latency, in microseconds."""

    p50: float
    p99: float
    p999: float
    max: float


class OfferQuantiles(msgspec.Struct, frozen=True):
    """From the capture of a sale to the till's receipt of its offer, in milliseconds."""

    p50: float
    p99: float


class Report(msgspec.Struct, frozen=True):
    """What `--report` writes. Amounts are in cents."""

    baskets_sent: int
    transactions_captured: int
    transactions_stored: int
    events_stored: int
    duplicates: int
    revenue_sent_minor: int
    revenue_stored_minor: int
    offers_expected: int
    offers_pushed: int
    hook_us: Quantiles
    offer_ms: OfferQuantiles
    drain_s: float
    replay_s: float
    offers_delivered: int
    offers_edge: dict[str, int]
    offers_edge_expected: dict[str, int]
    events_sent: int
    repeats_answered: int
    duplicates_refused: int
    dead_letters: int
    kills: int
    complaints: list[str]

    @property
    def proven(self) -> bool:
        """Whether every basket is in the ledger once, to the cent, with its offers."""
        return not self.complaints


def quantile(values: Sequence[float], share: float) -> float:
    """A quantile of sorted values by the nearest rank; 0 if there are none."""
    if not values:
        return 0.0
    return round(values[min(len(values) - 1, int(share * len(values)))], 1)


def quantiles(values: Sequence[float]) -> Quantiles:
    """The usual ones."""
    ordered = sorted(values)
    return Quantiles(quantile(ordered, 0.5), quantile(ordered, 0.99), quantile(ordered, 0.999), quantile(ordered, 1.0))


def histogram(values: Sequence[float]) -> list[tuple[str, int]]:
    """How many calls took how long, in steps of the factor two from 125 µs on."""
    bounds = [125.0 * 2**step for step in range(10)]
    counts = [0] * (len(bounds) + 1)
    for value in values:
        counts[next((place for place, bound in enumerate(bounds) if value <= bound), len(bounds))] += 1
    labels = [f"≤ {_time(bound)}" for bound in bounds] + [f"> {_time(bounds[-1])}"]
    return list(zip(labels, counts, strict=True))


def show(console: Console, report: Report, latencies: Sequence[float]) -> None:
    """Print the proof, and the latencies as a histogram."""
    table = Table(title="The proof", title_justify="left", show_header=True)
    for column in ("", "sent", "stored"):
        table.add_column(column, justify="left" if not column else "right")
    table.add_row("baskets", f"{report.baskets_sent:,}", f"{report.transactions_stored:,}")
    table.add_row("revenue", _money(report.revenue_sent_minor), _money(report.revenue_stored_minor))
    table.add_row("offers by the server", f"{report.offers_expected:,}", f"{report.offers_pushed:,}")
    for campaign, expected in report.offers_edge_expected.items():
        table.add_row(f"offers at the till: {campaign}", f"{expected:,}", f"{report.offers_edge.get(campaign, 0):,}")
    table.add_row("more than once", "", f"{report.duplicates:,}")
    console.print(table)
    _show_latencies(console, report, latencies)
    for complaint in report.complaints:
        console.print(f"✗ {complaint}", style="red")
    if report.proven:
        console.print("✓ every basket is in the ledger once, and revenue agrees to the cent", style="green")


def _show_latencies(console: Console, report: Report, latencies: Sequence[float]) -> None:
    hook, offer = report.hook_us, report.offer_ms
    table = Table(title="Hook latency, as the POS sees it", title_justify="left", show_header=False)
    counts = histogram(latencies)
    most = max((count for _, count in counts), default=0) or 1
    for label, count in counts:
        table.add_row(label, "█" * round(40 * count / most), f"{count:,}")
    console.print(table)
    console.print(
        f"hook p50 {_time(hook.p50)} · p99 {_time(hook.p99)} · p99.9 {_time(hook.p999)} · max {_time(hook.max)}"
    )
    console.print(f"offer at the till p50 {offer.p50:.0f} ms · p99 {offer.p99:.0f} ms after the sale")
    console.print(
        f"replayed in {report.replay_s:.1f} s, drained {report.drain_s:.1f} s later; "
        f"{report.repeats_answered} repeats answered at the tills, {report.duplicates_refused} refused by the server, "
        f"{report.kills} kills"
    )


def _time(us: float) -> str:
    return f"{us:.0f} µs" if us < 1000 else f"{us / 1000:.1f} ms"


def _money(minor: int) -> str:
    return f"${minor / 100:,.2f}"
