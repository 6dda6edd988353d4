"""What the server counts. No label ever names a till, a member, an article or a cashier."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector

from tillstream_protocol.events import KIND_NUMBERS
from tillstream_protocol.transaction import SELLING_KINDS

from . import __version__
from .gauges import ALARM_KINDS, Gauges

BATCH_OUTCOMES: Final = (
    "accepted",
    "partial",
    "unsigned",
    "bad_signature",
    "unknown_device",
    "revoked",
    "too_large",
    "invalid_input",
    "damaged",
    "busy",
    "failed",
)
RECORD_OUTCOMES: Final = ("stored", "repeat", "duplicate", "dead", "conflict")
ENROLMENT_OUTCOMES: Final = (
    "joined",
    "repeated",
    "token_unknown",
    "token_expired",
    "token_used",
    "token_till_revoked",
    "token_till_is_source",
    "version_mismatch",
    "invalid",
)
RETURN_OUTCOMES: Final = ("taken_back", "known", "refused")
HOOK_KINDS: Final = ("square", "shopify", "woocommerce", "generic")
HOOK_OUTCOMES: Final = (
    "stored",
    "repeat",
    "ignored",
    "ping",
    "hint",
    "dead_letter",
    "unknown_source",
    "bad_signature",
    "stale_delivery",
    "too_large",
    "unsupported_media",
    "invalid_input",
    "busy",
    "failed",
)
LOSS_REASONS: Final = ("damaged_frame", "damaged_header", "torn_tail", "missing_chunk", "power_cut")
BODIES: Final = tuple(str(body.__struct_config__.tag) for body in KIND_NUMBERS)
DIRECTIONS: Final = ("sold", "returned")
MAX_CURRENCIES: Final = 16
"""Currencies with a series of their own; what comes in further ones is counted without its amount."""
SETTINGS_OUTCOMES: Final = ("none", "trial", "kept", "refused", "rolled_back")
SIGN_INS: Final = ("signed_in", "wrong", "throttled")
PUSH_ENDS: Final = ("closed", "replaced", "revoked", "refused", "broken", "failed", "shutdown")

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """Every metric of the server, on a registry of its own; zeros are there from the start."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._count_what_comes_in(registry)
        self._say_how_the_process_is(registry)
        self.batches = _counted(registry, "batches", "Batches received, by what became of them.", BATCH_OUTCOMES)
        self.records = _counted(registry, "records", "Records received, by what became of them.", RECORD_OUTCOMES)
        self.originals_left_out = Counter(
            "tillstream_server_originals_left_out",
            "Records stored without the POS's own bytes, for which they had no room.",
            registry=registry,
        )
        self.enrolments = _counted(registry, "enrolments", "Attempts to enrol, by outcome.", ENROLMENT_OUTCOMES)
        self.returns = _counted(registry, "returns", "Tills that asked to be taken back.", RETURN_OUTCOMES)
        self.alarms = _labelled(registry, "alarms", "Things in tills' histories that do not fit.", "kind", ALARM_KINDS)
        self.losses = _labelled(
            registry, "losses_stated", "Losses that tills have stated, by reason.", "reason", LOSS_REASONS
        )
        self.settings = _counted(
            registry, "settings_reported", "What became of settings at tills, as they say.", SETTINGS_OUTCOMES
        )
        self.rollouts_halted = Counter(
            "tillstream_server_rollouts_halted", "Rollouts of settings that tills' reports halted.", registry=registry
        )
        self.push_ends = _counted(registry, "push_sessions_ended", "Push sessions ended, by reason.", PUSH_ENDS)
        self.sign_ins = _counted(registry, "console_sign_ins", "Attempts to sign in to the console.", SIGN_INS)
        self.live_queries = Counter(
            "tillstream_server_console_live_queries", "Questions about sales that the console asked.", registry=registry
        )
        self.hooks = Counter(
            "tillstream_server_hooks",
            "Deliveries of webhooks, by the kind of source and by what became of them.",
            ["kind", "outcome"],
            registry=registry,
        )
        for kind in HOOK_KINDS:
            for outcome in HOOK_OUTCOMES:
                self.hooks.labels(kind, outcome)
        self.batch_seconds = Histogram(
            "tillstream_server_batch_seconds",
            "From a batch's last byte to its commit.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.batches_waiting = Gauge(
            "tillstream_server_batches_waiting", "Batches received and not yet committed.", registry=registry
        )
        self.push_sessions = Gauge("tillstream_server_push_sessions", "Tills on the push channel.", registry=registry)
        self.pushes = Counter("tillstream_server_pushes_sent", "Messages pushed to tills.", registry=registry)
        self.receipts = Counter("tillstream_server_push_receipts", "Receipts from tills.", registry=registry)
        self.heartbeats = Counter("tillstream_server_heartbeats", "Heartbeats from tills.", registry=registry)
        self.packs = Counter("tillstream_server_packs_issued", "Packs signed for tills.", registry=registry)
        self.asked_again = Counter(
            "tillstream_server_asked_again", "Acknowledged records that tills were asked for again.", registry=registry
        )
        self.malformed = Counter(
            "tillstream_server_malformed_requests", "Requests that were not HTTP, or not whole.", registry=registry
        )
        self.failures = Counter(
            "tillstream_server_unexpected_errors", "Requests that ended in an unexpected error.", registry=registry
        )

    def _count_what_comes_in(self, registry: CollectorRegistry) -> None:
        self.taken = _labelled(registry, "taken_records", "New records, by what they are.", "body", BODIES)
        self.transactions = _labelled(
            registry,
            "transactions",
            "New transactions that sell, without training and test.",
            "kind",
            sorted(SELLING_KINDS),
        )
        self._amounts = Counter(
            "tillstream_server_amount",
            "What new transactions came to, in the currency's main unit; returns apart, and never negative.",
            ["currency", "direction"],
            registry=registry,
        )
        self._currencies: set[str] = set()

    def _say_how_the_process_is(self, registry: CollectorRegistry) -> None:
        self.certificate_ends = Gauge(
            "tillstream_server_tls_certificate_end_timestamp_seconds",
            "When the certificate that the server shows ends; 0 without one.",
            registry=registry,
        )
        self.gauges = Gauges()
        registry.register(self.gauges)
        Info("tillstream_server_build", "The server that runs.", registry=registry).info({"version": __version__})
        ProcessCollector(registry=registry)

    def know_currency(self, currency: str) -> bool:
        """Have a currency's amounts begin at zero; whether it has a series, since there are not too many yet."""
        if currency not in self._currencies and len(self._currencies) < MAX_CURRENCIES:
            self._currencies.add(currency)
            for direction in DIRECTIONS:
                self._amounts.labels(currency, direction)
        return currency in self._currencies

    def amount(self, currency: str, direction: str, amount: float) -> None:
        """Count what transactions came to; `direction` is one of `DIRECTIONS`."""
        if self.know_currency(currency):
            self._amounts.labels(currency, direction).inc(amount)


def _counted(registry: CollectorRegistry, name: str, text: str, outcomes: Iterable[str]) -> Counter:
    return _labelled(registry, name, text, "outcome", outcomes)


def _labelled(registry: CollectorRegistry, name: str, text: str, label: str, values: Iterable[str]) -> Counter:
    counter = Counter(f"tillstream_server_{name}", text, [label], registry=registry)
    for value in values:
        counter.labels(value)
    return counter
