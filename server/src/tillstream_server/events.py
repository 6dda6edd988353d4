"""Says what happened: one method an event, which counts it and writes one log line.

Log lines are JSON on stderr. They name tills and reasons; never a person, a body, a token or a key.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Mapping
from typing import Final, TextIO

import structlog
from structlog.typing import FilteringBoundLogger

from .metrics import Metrics

_NOTEWORTHY: Final = ("dead", "conflict", "original_left_out")
"""What of a batch is said in the log, beside being counted."""


def json_logger(stream: TextIO | None = None) -> FilteringBoundLogger:
    """A logger of JSON lines; stderr unless told otherwise."""
    logger: FilteringBoundLogger = structlog.wrap_logger(
        structlog.WriteLogger(stream or sys.stderr),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger("info"),
    )
    return logger


class Events:
    """What the server has to say."""

    def __init__(self, metrics: Metrics, log: FilteringBoundLogger) -> None:
        self.metrics = metrics
        self._log = log

    # The process

    def serving(self, address: str, tls: bool) -> None:
        """The server takes requests."""
        self._log.info("serving", address=address, tls=tls)

    def certificate(self, ends_at: int | None) -> None:
        """The server's certificate ends at a second since 1970; None where it has none, or where that is unknown."""
        self.metrics.certificate_ends.set(ends_at or 0)

    def stopping(self) -> None:
        """The server was told to stop."""
        self._log.info("stopping")

    def unexpected(self, where: str, error: BaseException) -> None:
        """A fault of ours. The message is left out: it may quote what somebody sent."""
        self.metrics.failures.inc()
        frames = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)[-6:]]
        self._log.error("unexpected_error", where=where, type=type(error).__name__, at=frames)

    def malformed(self) -> None:
        """Somebody sent what is not HTTP, or broke off. Only counted, as anybody may do it as often as they like."""
        self.metrics.malformed.inc()

    def commanded(self, command: str) -> None:
        """Somebody on this machine gave a command."""
        self._log.info("command", command=command)

    # The console. Who signed in is no business of the log's: it names no person.

    def to_be_set_up(self, file: str) -> None:
        """Nobody may sign in yet; the code for the page that makes the first user lies in a file."""
        self._log.warning("console_to_be_set_up", page="/set-up", code_in=file)

    def signed_in(self, role: str) -> None:
        """Somebody proved who they are."""
        self.metrics.sign_ins.labels("signed_in").inc()
        self._log.info("signed_in", role=role)

    def sign_in_refused(self, outcome: str) -> None:
        """Somebody did not; counted, as anybody may try."""
        self.metrics.sign_ins.labels(outcome).inc()

    def done_in_console(self, role: str, what: str) -> None:
        """A user changed something."""
        self._log.warning("done_in_console", role=role, what=what)

    # Enrolment

    def enrolled(self, retailer: str, store: str, till: str, *, repeated: bool) -> None:
        """An agent joined a till, or asked again for the answer it missed."""
        self.metrics.enrolments.labels("repeated" if repeated else "joined").inc()
        self._log.info("enrolled", retailer=retailer, store=store, till=till, repeated=repeated)

    def enrolment_refused(self, outcome: str, reason: str) -> None:
        """An agent was not let in."""
        self.metrics.enrolments.labels(outcome).inc()
        self._log.warning("enrolment_refused", outcome=outcome, reason=reason)

    def returned(self, retailer: str, store: str, till: str) -> None:
        """A till that was forgotten is known again by its certificate."""
        self.metrics.returns.labels("taken_back").inc()
        self._log.warning("till_returned", retailer=retailer, store=store, till=till)

    def return_repeated(self) -> None:
        """A till asked to be taken back that was known all along."""
        self.metrics.returns.labels("known").inc()

    def return_refused(self, reason: str) -> None:
        """Somebody asked to be taken back without a certificate of ours."""
        self.metrics.returns.labels("refused").inc()
        self._log.warning("return_refused", reason=reason)

    # Batches

    def batch_taken(self, lane: str, counts: Mapping[str, int], seconds: float, *, whole: bool) -> None:
        """A batch is committed, or what of it could be read."""
        self.metrics.batches.labels("accepted" if whole else "partial").inc()
        self.metrics.batch_seconds.observe(seconds)
        for outcome, count in counts.items():
            if outcome == "original_left_out":
                self.metrics.originals_left_out.inc(count)
            else:
                self.metrics.records.labels(outcome).inc(count)
        noteworthy = {outcome: count for outcome, count in counts.items() if outcome in _NOTEWORTHY and count}
        if noteworthy:
            self._log.warning("records_set_aside", lane=lane, **noteworthy)

    def came_in(
        self,
        bodies: Mapping[str, int],
        transactions: Mapping[str, int],
        amounts: Mapping[tuple[str, str, int], int],
    ) -> None:
        """New records are in the ledger: by body, selling ones by kind, and amounts by currency,
        direction and exponent, in minor units of that exponent."""
        for body, count in bodies.items():
            self.metrics.taken.labels(body).inc(count)
        for kind, count in transactions.items():
            self.metrics.transactions.labels(kind).inc(count)
        for (currency, direction, exponent), amount in amounts.items():
            self.metrics.amount(currency, direction, amount / 10**exponent)

    def batch_refused(self, outcome: str, reason: str) -> None:
        """A batch was not taken."""
        self.metrics.batches.labels(outcome).inc()
        self._log.warning("batch_refused", outcome=outcome, reason=reason)

    def conflict(self, till_id: bytes, epoch: bytes, seq: int) -> None:
        """One name came with two contents: a clone, or a till gone wrong."""
        self._log.error("conflict", till=till_id.hex(), epoch=epoch.hex(), seq=seq)

    def alarm(self, kind: str, till_id: bytes, epoch: bytes) -> None:
        """A till's history does not fit together: a clone, an old image, or records that never came."""
        self.metrics.alarms.labels(kind).inc()
        self._log.error("alarm", kind=kind, till=till_id.hex(), epoch=epoch.hex())

    def records_lost(self, till_id: bytes, reason: str) -> None:
        """A till says that it lost records of its own."""
        self.metrics.losses.labels(reason).inc()
        self._log.error("records_lost", till=till_id.hex(), reason=reason)

    def original_read(self, till_id: bytes, epoch: str, seq: int, reason: str) -> None:
        """Somebody on this machine read a POS's own bytes, which may name a person."""
        self._log.warning("original_read", till=till_id.hex(), epoch=epoch, seq=seq, reason=reason)

    def replayed(self, retried: int, taken: int) -> None:
        """Dead letters were tried again."""
        self._log.info("dead_letters_replayed", retried=retried, taken=taken)

    def released(self, batches: int) -> None:
        """Quarantined batches went through the pipeline after all."""
        self._log.info("quarantine_released", batches=batches)

    # Webhooks

    def hook_taken(self, kind: str, outcome: str) -> None:
        """A delivery was acknowledged."""
        self.metrics.hooks.labels(kind, outcome).inc()

    def hook_unreadable(self, kind: str, reason: str) -> None:
        """A delivery in which a sale should be could not be read, and is kept among the dead letters."""
        self._log.warning("hook_unreadable", kind=kind, reason=reason)

    def hook_refused(self, kind: str, outcome: str, reason: str) -> None:
        """A delivery was not taken; nothing that was sent is repeated here."""
        self.metrics.hooks.labels(kind, outcome).inc()
        self._log.warning("hook_refused", kind=kind, outcome=outcome, reason=reason)

    def source_changed(self, kind: str, name: str, change: str) -> None:
        """A webhook source was made, got another secret, or was revoked."""
        self._log.warning("source", kind=kind, name=name, change=change)

    # The push channel

    def push_opened(self, till_id: bytes, agent_version: str) -> None:
        """A till is on the push channel."""
        self.metrics.push_sessions.inc()
        self._log.info("push_opened", till=till_id.hex(), agent_version=agent_version)

    def push_ended(self, till_id: bytes, outcome: str) -> None:
        """A till left the push channel."""
        self.metrics.push_sessions.dec()
        self.metrics.push_ends.labels(outcome).inc()
        self._log.info("push_ended", till=till_id.hex(), outcome=outcome)

    def push_refused(self, reason: str) -> None:
        """Somebody was not let onto the push channel."""
        self.metrics.push_ends.labels("refused").inc()
        self._log.warning("push_refused", reason=reason)

    def push_misspoken(self, till_id: bytes, reason: str) -> None:
        """A till said something that the channel does not carry."""
        self._log.warning("push_misspoken", till=till_id.hex(), reason=reason)

    def asked_again(self, till_id: bytes, records: int) -> None:
        """A till believes records to be here that are not, and was asked for them."""
        self.metrics.asked_again.inc(records)
        self._log.warning("asked_again", till=till_id.hex(), records=records)

    def pushed(self) -> None:
        """A message was written to a till."""
        self.metrics.pushes.inc()

    def receipt(self) -> None:
        """A till holds what it was pushed."""
        self.metrics.receipts.inc()

    def heartbeat(self) -> None:
        """A till said how it is."""
        self.metrics.heartbeats.inc()

    def pack_issued(self, count: int = 1) -> None:
        """Packs were signed."""
        self.metrics.packs.inc(count)

    # Campaigns and the fleet

    def campaign_changed(self, retailer: str, campaign: str, change: str) -> None:
        """Head office put or ended a campaign."""
        self._log.info("campaign", retailer=retailer, campaign=campaign, change=change)

    def settings_changed(self, retailer: str, version: int, change: str) -> None:
        """Head office made, staged, halted or rolled back a version of its tills' settings."""
        self._log.warning("settings", retailer=retailer, version=version, change=change)

    def settings_reported(self, outcome: str) -> None:
        """A till said what became of its settings."""
        self.metrics.settings.labels(outcome).inc()

    def rollout_halted(self, retailer: str, version: int, why: str) -> None:
        """Tills could not take a version, so that it reaches nobody new."""
        self.metrics.rollouts_halted.inc()
        self._log.error("rollout_halted", retailer=retailer, version=version, why=why)

    def till_changed(self, retailer: str, store: str, till: str, change: str) -> None:
        """A till was revoked or let in again."""
        self._log.warning("till", retailer=retailer, store=store, till=till, change=change)
