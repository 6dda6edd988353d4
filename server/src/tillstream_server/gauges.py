"""How the fleet and the ledger are, as Prometheus is told. No label names a till: there may be 100,000 of them.

`watch` reads these figures when somebody asks; here is what they are and how they are written. Distributions over tills
are gauge histograms: each till is counted once, as it is now, so that `histogram_quantile` needs no `rate`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from prometheus_client.core import GaugeHistogramMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from .opening import STATES, OpeningState

LAG_SECONDS: Final = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 21_600.0, 86_400.0)
SKEW_SECONDS: Final = (1.0, 5.0, 30.0, 120.0, 600.0, 3600.0)
HOOK_SECONDS: Final = (0.0003, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5)
SHORT_OF_DISK_BYTES: Final = 1 << 30
VERSIONS: Final = 8
"""Agent versions that are named; a till that is older or stranger than these counts as `other`."""
ALARM_KINDS: Final = ("forked", "restored_image", "tail_lost", "journal_missing", "missing")

_PREFIX: Final = "tillstream_server_"


@dataclass(frozen=True, slots=True)
class Spread:
    """How a figure is spread over tills. `counts` are of tills within each of `bounds`; `total`, `sum` and `max` are
    over all of them, in the bounds' unit."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: int = 0
    sum: float = 0.0
    max: float = 0.0


def nowhere(bounds: tuple[float, ...]) -> Spread:
    """A figure that no till has given."""
    return Spread(bounds, (0,) * len(bounds))


@dataclass(frozen=True, slots=True)
class Fleet:
    """Tills, webhook sources left out. Each is in one of the first four; the other figures are of the last heartbeats.

    Queued, refused and damaged are over all tills that are not revoked; spreads, disks and versions over talking ones.
    """

    talking: int = 0
    silent: int = 0
    unheard: int = 0
    revoked: int = 0
    queued: int = 0
    refused: int = 0
    damaged: int = 0
    short_of_disk: int = 0
    lag: Spread = field(default_factory=lambda: nowhere(LAG_SECONDS))
    skew: Spread = field(default_factory=lambda: nowhere(SKEW_SECONDS))
    hook: Spread = field(default_factory=lambda: nowhere(HOOK_SECONDS))
    versions: Mapping[str, int] = field(default_factory=dict)
    """Version → tills, with at most `VERSIONS` names and `other`."""
    distinct_versions: int = 0
    off_main_version: int = 0
    """Tills that run another version than most of them."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """What waits for somebody, and how large the files are, in bytes."""

    alarms: Mapping[str, int] = field(default_factory=dict)
    dead_letters: int = 0
    quarantined: int = 0
    conflicts: int = 0
    size: int = 0
    wal_size: int = 0
    disk_free: int = 0


@dataclass(frozen=True, slots=True)
class Readings:
    """Everything that is read when somebody asks."""

    fleet: Fleet = field(default_factory=Fleet)
    ledger: Ledger = field(default_factory=Ledger)
    opening: OpeningState = "unset"


class Gauges(Collector):
    """Gives the latest readings; without any, as when the ledger cannot be read, no figure rather than an old one."""

    def __init__(self) -> None:
        self.now: Readings | None = Readings()

    def collect(self) -> Iterator[Metric]:
        """The families as they are now."""
        now = self.now
        yield _gauge("ledger_readable", "1 while the figures of fleet and ledger can be read.", now is not None)
        if now is not None:
            yield from _fleet(now.fleet)
            yield from _ledger(now.ledger)
            yield _labelled(
                "opening",
                "1 for whether stores are open by the setting opening_hours.",
                "state",
                {state: int(state == now.opening) for state in STATES},
            )


def _fleet(fleet: Fleet) -> Iterator[Metric]:
    states = {name: getattr(fleet, name) for name in ("talking", "silent", "unheard", "revoked")}
    yield _labelled("fleet_tills", "Tills, each in one state.", "state", states)
    versions = {"other": 0, **fleet.versions}
    yield _labelled("fleet_tills_by_version", "Talking tills by their agent's version.", "version", versions)
    for name, text, value in (
        ("fleet_versions", "Different versions of the agent that talking tills run.", fleet.distinct_versions),
        ("fleet_tills_off_main_version", "Talking tills that run another version than most.", fleet.off_main_version),
        ("fleet_queued_records", "Records that tills have not been acknowledged, as last heard.", fleet.queued),
        ("fleet_refused_records", "Records that the server refused and tills keep, as last heard.", fleet.refused),
        ("fleet_damaged_files", "Damaged files that tills keep, as last heard.", fleet.damaged),
        ("fleet_tills_short_of_disk", "Talking tills with less than 1 GiB of free disk.", fleet.short_of_disk),
    ):
        yield _gauge(name, text, value)
    yield from _spread("fleet_sync_lag", "Age of the oldest record not acknowledged, over talking tills.", fleet.lag)
    yield from _spread("fleet_clock_skew", "Distance of tills' clocks from the server's.", fleet.skew)
    yield from _spread("fleet_hook_p99", "Hooks' p99 in the last interval, over talking tills with calls.", fleet.hook)


def _ledger(ledger: Ledger) -> Iterator[Metric]:
    alarms = {kind: ledger.alarms.get(kind, 0) for kind in ALARM_KINDS}
    yield _labelled("alarms_open", "Alarms that nobody has settled.", "kind", alarms)
    for name, text, value in (
        ("dead_letters_kept", "Records that could not be taken and are kept.", ledger.dead_letters),
        ("quarantined_batches", "Batches of revoked tills that are kept.", ledger.quarantined),
        ("conflicts_kept", "Records that came under a name that has another content.", ledger.conflicts),
        ("ledger_bytes", "Size of the ledger's database.", ledger.size),
        ("ledger_wal_bytes", "Size of the ledger's write-ahead log.", ledger.wal_size),
        ("data_free_bytes", "Free space where the ledger lies.", ledger.disk_free),
    ):
        yield _gauge(name, text, value)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(_PREFIX + name, text, value=value)


def _labelled(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(_PREFIX + name, text, labels=(label,))
    for value, count in values.items():
        family.add_metric((value,), count)
    return family


def _spread(name: str, text: str, spread: Spread) -> Iterator[Metric]:
    buckets = [(str(bound), float(count)) for bound, count in zip(spread.bounds, spread.counts, strict=True)]
    buckets.append(("+Inf", float(spread.total)))
    yield GaugeHistogramMetricFamily(f"{_PREFIX}{name}_seconds", text, buckets=buckets, gsum_value=spread.sum)
    yield _gauge(f"{name}_max_seconds", f"The highest of them: {text[0].lower()}{text[1:]}", spread.max)
