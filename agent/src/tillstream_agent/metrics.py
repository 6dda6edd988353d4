"""What the agent counts. No label names a till, a member, an article or a cashier.

Every series is there with its zero from the start, so that a rate over a first event is right.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, Info, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tillstream_protocol.messages import HookLatency

from . import __version__

DOORS: Final = ("display", "http", "socket", "drop", "printer")
KINDS: Final = (
    "basket_changed",
    "member_identified",
    "observation",
    "offer_answered",
    "survey_answer",
    "transaction",
    "wish_list_entry",
)
ACKS: Final = ("os", "disk")
REFUSALS: Final = (
    "disconnected",
    "error",
    "forbidden",
    "invalid_input",
    "journal_full",
    "journal_unavailable",
    "method_not_allowed",
    "not_found",
    "not_on_disk",
    "not_paired",
    "stale",
    "stale_revision",
    "too_large",
    "too_many_calls",
    "too_many_connections",
    "too_slow",
    "unauthorized",
    "unsupported_media_type",
)
DROPS: Final = ("captured", "nothing", "refused", "repeat")
PRINTS: Final = ("captured", "lost", "nothing", "refused", "repeat")
PRINT_CONNECTIONS: Final = ("forwarded", "printer_gone", "refused", "silent")
UPLOADS: Final = ("acked", "authentication", "confused", "refused", "revoked", "too_large", "unavailable", "version")
INCIDENTS: Final = ("damaged", "given_up", "lost", "set_aside", "sync_failed", "sync_stuck", "torn")
LOSSES: Final = ("damaged_frame", "damaged_header", "missing_chunk", "power_cut", "torn_tail")
STATES: Final = ("set_aside", "unusable")
RETURNS: Final = ("refused", "taken_back")
PUSHES: Final = ("expired", "offer", "pack", "refused", "repeat", "revoked", "rotate", "settings")

_BUCKETS: Final = (
    0.00005,
    0.0001,
    0.0002,
    0.0003,
    0.0005,
    0.001,
    0.002,
    0.003,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.5,
)


@dataclass(frozen=True, slots=True)
class Gauges:
    """What is read when somebody asks, instead of being kept up to date in the hot path."""

    queued_records: int
    queued_bytes: int
    oldest_ms: int
    chunks: int
    connected: bool
    pack_version: int
    aside_records: int = 0
    damaged_files: int = 0
    online: bool = False
    clock_ahead_ms: int = 0
    disk_free: int = 0


class AgentMetrics:
    """The agent's counters on a registry of their own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        counter = self._counter
        self._captures = counter("captures", "Records captured", ("door", "kind", "ack"))
        self.captures = {
            (door, kind, ack): self._captures.labels(door, kind, ack)
            for door in DOORS
            for kind in KINDS
            for ack in ACKS
        }
        self.repeats = counter("capture_repeats", "Captures that were answered as repeats")
        self._refusals = counter("refusals", "Hook calls refused, by reason", ("reason",), REFUSALS)
        self.redactions = counter("redactions", "Card numbers cut and secrets dropped before the first write")
        self.originals_left_out = counter("originals_left_out", "Sales captured without what they were read from")
        self.hook_seconds = Histogram(
            "tillstream_agent_hook_seconds", "Time to answer a hook", registry=registry, buckets=_BUCKETS
        )
        self.payload_seconds = Histogram(
            "tillstream_agent_payload_seconds",
            "Time to read a POS's own bytes and capture what they hold",
            ("door",),
            registry=registry,
        )
        for door in DOORS:
            self.payload_seconds.labels(door)
        self._drops = counter("drop_files", "Files of watched folders, by what became of them", ("outcome",), DROPS)
        self._prints = counter("print_jobs", "Copies of print jobs, by what became of them", ("outcome",), PRINTS)
        self._print_connections = counter(
            "print_connections", "Connections to printer ports, by how they ended", ("outcome",), PRINT_CONNECTIONS
        )
        self._batches = counter("sync_batches", "Batches sent, by outcome", ("outcome",), UPLOADS)
        self.acked_records = counter("acked_records", "Records that the server acknowledged")
        self.dead_letters = counter("dead_letters", "Records that the server could not take, and keeps")
        self.set_aside = counter("set_aside_records", "Refusals of single records, which are kept here and passed over")
        self.given_up = counter("given_up_records", "Records refused so often that they wait for somebody to ask")
        self.recovered = counter("recovered_records", "Records that the server took after it had refused them")
        self._states = counter("state_incidents", "What became of the state file", ("what",), STATES)
        self.rewound = counter("rewound_records", "Acknowledged records queued again because the server lost them")
        self.beyond_retention = counter(
            "beyond_retention_records", "Acknowledged records that the server lost and the till no longer had"
        )
        self._losses = counter("losses", "Findings of records that may be lost, by reason", ("reason",), LOSSES)
        self._returns = counter("returns", "Requests to be taken back by the server", ("outcome",), RETURNS)
        self._pushes = counter("pushes", "Messages pushed by the server, by what became of them", ("outcome",), PUSHES)
        self.offers_received = counter("offers_received", "Offers received from the server")
        self.offers_decided = counter("offers_decided", "Offers decided at the till")
        self.offers_shown = counter("offers_shown", "Offers that reached a screen")
        self._incidents = counter("journal_incidents", "What the journal had to deal with", ("what",), INCIDENTS)
        self.sync_seconds = Histogram(
            "tillstream_agent_journal_sync_seconds", "Time to bring a group of records to the disk", registry=registry
        )
        Info("tillstream_agent_build", "The agent that runs.", registry=registry).info({"version": __version__})
        ProcessCollector(registry=registry)
        self._gauges = _GaugeCollector()
        registry.register(self._gauges)

    def _counter(self, name: str, text: str, labels: tuple[str, ...] = (), values: Iterable[str] = ()) -> Counter:
        counter = Counter(f"tillstream_agent_{name}", text, labels, registry=self._registry)
        for value in values:
            counter.labels(value)
        return counter

    def refusal(self, reason: str) -> None:
        """Count a refused call; an unknown reason counts as `error`, so that labels stay few."""
        self._refusals.labels(reason if reason in REFUSALS else "error").inc()

    def dropped(self, outcome: str) -> None:
        """Count a file of a watched folder by its outcome, one of `DROPS`."""
        self._drops.labels(outcome).inc()

    def printed(self, outcome: str) -> None:
        """Count a print job's copy by its outcome, one of `PRINTS`."""
        self._prints.labels(outcome).inc()

    def print_connection(self, outcome: str) -> None:
        """Count a connection to a printer's port by its end, one of `PRINT_CONNECTIONS`."""
        self._print_connections.labels(outcome).inc()

    def batch(self, outcome: str) -> None:
        """Count a batch by its outcome, one of `UPLOADS`."""
        self._batches.labels(outcome).inc()

    def incident(self, what: str) -> None:
        """Count a journal's trouble, one of `INCIDENTS`."""
        self._incidents.labels(what).inc()

    def lost(self, reason: str) -> None:
        """Count a finding of records that may be lost, one of `LOSSES`."""
        self._losses.labels(reason).inc()

    def returned(self, outcome: str) -> None:
        """Count a request to be taken back, one of `RETURNS`."""
        self._returns.labels(outcome).inc()

    def state(self, what: str) -> None:
        """Count a trouble of the state file, one of `STATES`."""
        self._states.labels(what).inc()

    def push(self, outcome: str) -> None:
        """Count a pushed message by its outcome, one of `PUSHES`."""
        self._pushes.labels(outcome).inc()

    async def render(self, gauges: Gauges) -> bytes:
        """The text that Prometheus scrapes, made beside the event loop."""
        self._gauges.now = gauges
        return await asyncio.to_thread(generate_latest, self._registry)


class _GaugeCollector(Collector):
    def __init__(self) -> None:
        self.now = Gauges(0, 0, 0, 0, connected=False, pack_version=0)

    def collect(self) -> Iterator[Metric]:
        now = self.now
        for name, text, value in (
            ("queue_records", "Records not yet acknowledged by the server", now.queued_records),
            ("queue_bytes", "Bytes not yet acknowledged by the server", now.queued_bytes),
            ("queue_oldest_seconds", "Age of the oldest record not yet acknowledged", now.oldest_ms / 1000),
            ("queue_aside_records", "Records that the server has refused, kept here", now.aside_records),
            ("journal_damaged_files", "Damaged and torn files that the journal keeps", now.damaged_files),
            ("journal_chunks", "Chunk files on the disk", now.chunks),
            ("online", "1 while the server is reached", int(now.online)),
            ("clock_ahead_seconds", "How far the clock is ahead of the server's", now.clock_ahead_ms / 1000),
            ("disk_free_bytes", "What the agent may still write to its disk", now.disk_free),
            ("push_connected", "1 while the push channel is open", int(now.connected)),
            ("pack_version", "Version of the pack that the till decides by", now.pack_version),
        ):
            yield GaugeMetricFamily(f"tillstream_agent_{name}", text, value=value)


class LatencyWindow:
    """The hook's answer times since the last look, for the heartbeat. Holds at most `capacity` of them."""

    def __init__(self, capacity: int = 16_384) -> None:
        self._capacity = capacity
        self._values: list[float] = []
        self._count = 0

    def add(self, seconds: float) -> None:
        """Note one answer time. When full, the oldest go first."""
        if len(self._values) < self._capacity:
            self._values.append(seconds)
        else:
            self._values[self._count % self._capacity] = seconds
        self._count += 1

    def read(self) -> HookLatency:
        """Quantiles in microseconds of what is in the window."""
        values = sorted(self._values)
        if not values:
            return HookLatency(0, 0, 0, 0)
        return HookLatency(_micros(values, 0.5), _micros(values, 0.99), _micros(values, 1.0), self._count)

    def take(self) -> HookLatency:
        """The same, and begin anew."""
        latency = self.read()
        self._values.clear()
        self._count = 0
        return latency


def _micros(ordered: list[float], quantile: float) -> int:
    """The nearest-rank quantile, in microseconds."""
    return round(ordered[min(len(ordered) - 1, int(quantile * len(ordered)))] * 1e6)
