"""What happened, said once: each method writes the log line and counts the metric.

No line carries personal data: no identifiers, no bodies, no tokens. Captures are counted, not logged.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Final, TextIO, cast

import structlog
from structlog.typing import FilteringBoundLogger

from tillstream_protocol.errors import TillstreamError, UnknownField

from .journal import JournalObserver
from .metrics import AgentMetrics, LatencyWindow

REFUSALS_A_SECOND: Final = 10
"""Lines on refused calls that a door may write a second: whoever is refused need not be anybody we know."""

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def json_logger(stream: TextIO, level: str) -> FilteringBoundLogger:
    """A logger that writes one JSON object a line."""
    logger = structlog.wrap_logger(
        structlog.WriteLogger(stream),
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
    )
    return cast("FilteringBoundLogger", logger)


class _Ration:
    """Lets through so many lines a second, and counts those it held back."""

    def __init__(self) -> None:
        self._since = 0.0
        self._let_through = 0
        self._held_back = 0

    def allows(self) -> bool:
        """Whether one more line may be written in this second."""
        if self._let_through < REFUSALS_A_SECOND:
            self._let_through += 1
            return True
        self._held_back += 1
        return False

    def turn(self, now: float | None) -> int:
        """Begin another second if the last is over, or at `None` in any case; returns how many were held back."""
        if now is not None and self._let_through and now - self._since < 1.0:
            return 0
        held_back = self._held_back
        self._since, self._let_through, self._held_back = now or 0.0, 0, 0
        return held_back


class Events:
    """Everything worth telling about an agent's life. `monotonic` gives seconds."""

    def __init__(
        self,
        log: FilteringBoundLogger,
        metrics: AgentMetrics,
        latency: LatencyWindow,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log
        self._metrics = metrics
        self._latency = latency
        self._monotonic = monotonic
        self._rations: dict[str, _Ration] = {}
        self.last_error = ""
        """The code of the last trouble, for status and heartbeat."""
        self.capture_trouble = ""
        """Why the last capture could not be written, if it could not."""
        self.state_trouble = ""
        """What is wrong with the state file, if anything."""

    def started(self, *, version: str, port: int, queued: int) -> None:
        """The doors are open."""
        self._log.info("started", version=version, port=port, queued=queued)

    def settings_lowered(self, names: Sequence[str]) -> None:
        """Settings say more than holds; the most that holds is taken."""
        self._log.warning("settings_lowered", names=list(names))

    def stopping(self, *, queued: int) -> None:
        """The agent was asked to end."""
        for door, ration in self._rations.items():
            self._held_back(door, ration.turn(None))
        self._log.info("stopping", queued=queued)

    def captured(self, door: str, kind: str, ack: str, *, repeat: bool, seconds: float | None = None) -> None:
        """A fact was captured; where that was a call of its own, it was answered in `seconds`."""
        metrics = self._metrics
        if repeat:
            metrics.repeats.inc()
        else:
            metrics.captures[door, kind, ack].inc()
        self.capture_trouble = ""
        if seconds is not None:
            metrics.hook_seconds.observe(seconds)
            self._latency.add(seconds)

    def adapted(self, door: str, seconds: float) -> None:
        """A payload in a POS's own format was read, and what it holds was captured, in `seconds`."""
        self._metrics.payload_seconds.labels(door).observe(seconds)

    def weighed(self, seconds: float) -> None:
        """An open basket was answered after `seconds`; nothing was captured."""
        self._metrics.hook_seconds.observe(seconds)
        self._latency.add(seconds)

    def decided(self, offers: int) -> None:
        """The till itself made offers."""
        self._metrics.offers_decided.inc(offers)

    def original_left_out(self) -> None:
        """A sale was captured without the bytes that it was read from: no record has room for them."""
        self._metrics.originals_left_out.inc()
        self._log.warning("original_left_out")

    def redacted(self, count: int) -> None:
        """Card numbers or secrets were cut out of what a POS sent."""
        self._metrics.redactions.inc(count)

    def refused(self, door: str, error: TillstreamError) -> None:
        """A hook call was not taken. The name of a field that nobody knows is left out: it may be anything.

        Every call is counted. Lines are rationed, and how many were held back is told with the next one.
        """
        self._metrics.refusal(error.code)
        ration = self._rations.setdefault(door, _Ration())
        self._held_back(door, ration.turn(self._monotonic()))
        if ration.allows():
            field = None if isinstance(error, UnknownField) else error.field
            self._log.warning("hook_refused", door=door, code=error.code, field=field)

    def _held_back(self, door: str, lines: int) -> None:
        if lines:
            self._log.warning("hook_refusals_not_logged", door=door, calls=lines)

    def dropped(self, outcome: str) -> None:
        """A file of a watched folder was taken up; what became of it is one of `DROPS`."""
        self._metrics.dropped(outcome)

    def drop_refused(self, error: TillstreamError) -> None:
        """A file could not be read as what it should be; it is in `error/`, with a report that names it."""
        self._metrics.dropped("refused")
        self.refused("drop", error)

    def drop_unusable(self, error: TillstreamError) -> None:
        """A watched folder cannot be read, or a file cannot leave it. It is tried again."""
        self.last_error = error.code
        self._log.error("drop_unusable", code=error.code, reason=error.message)

    def drop_usable(self, folder: str) -> None:
        """A watched folder that could not be used is read again, and every file in it."""
        self._log.info("drop_usable", folder=folder)

    def drop_left_alone(self, folder: str, name: str) -> None:
        """Something in a watched folder is no regular file."""
        self._log.warning("drop_left_alone", folder=folder, name=name)

    def drop_open(self, folder: str) -> None:
        """Every user of the machine may look into a watched folder, or write there."""
        self._log.warning("drop_open_to_others", folder=folder)

    def printed(self, outcome: str) -> None:
        """A print job is over; what became of its copy is one of `PRINTS`."""
        self._metrics.printed(outcome)
        if outcome == "lost":
            self.last_error = "print_job_lost"
            self._log.error("print_job_lost")

    def print_refused(self, error: TillstreamError) -> None:
        """A print job could not be looked through, or what it holds cannot be captured."""
        self._metrics.printed("refused")
        self.refused("printer", error)

    def print_connection(self, outcome: str) -> None:
        """A connection to a printer's port is over, or was not taken; one of `PRINT_CONNECTIONS`."""
        self._metrics.print_connection(outcome)

    def printer_gone(self, printer: str, reason: str) -> None:
        """A printer cannot be reached, or broke off: the POS is told so, and its receipts are captured all the same."""
        self._log.warning("printer_gone", printer=printer, reason=reason)

    def printer_back(self, printer: str) -> None:
        """A printer that was gone was reached again."""
        self._log.info("printer_back", printer=printer)

    def disconnected(self, door: str) -> None:
        """A caller went away before its call was whole."""
        self._metrics.refusal("disconnected")
        self._log.debug("hook_disconnected", door=door)

    def capture_failed(self, door: str, error: TillstreamError) -> None:
        """The journal could not take a record: the POS was told so."""
        self.last_error = self.capture_trouble = error.code
        self._metrics.refusal(error.code)
        self._log.error("capture_failed", door=door, code=error.code, reason=error.message)

    def crashed(self, where: str, error: BaseException) -> None:
        """A defect: something failed that should not have. The message is left out: it may quote what a POS sent."""
        self.last_error = "defect"
        self._metrics.refusal("error")
        frames = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)[-6:]]
        self._log.error("defect", where=where, error=type(error).__name__, at=frames)

    def uploaded(self, lane: str, records: int, *, repeated: int, dead: int) -> None:
        """The server acknowledged a batch."""
        self._metrics.batch("acked")
        self._metrics.acked_records.inc(records)
        self._metrics.dead_letters.inc(dead)
        if dead:
            self.last_error = "dead_letter"
            self._log.warning("dead_letters", lane=lane, records=records, dead=dead)
        self._log.debug("uploaded", lane=lane, records=records, repeated=repeated, dead=dead)

    def upload_failed(self, outcome: str, code: str, reason: str, *, retry_s: float) -> None:
        """A batch was not acknowledged; it stays queued and is sent again."""
        self.last_error = code
        self._metrics.batch(outcome)
        self._log.warning("upload_failed", outcome=outcome, code=code, reason=reason, retry_s=round(retry_s, 3))

    def set_aside(self, code: str, reason: str, *, records: int, dead: int) -> None:
        """The server refuses records as they are: they are kept and passed over; `dead` were tried often enough."""
        self.last_error = code
        self._metrics.set_aside.inc(records)
        self._metrics.given_up.inc(dead)
        self._log.warning("records_set_aside", code=code, reason=reason, records=records, dead=dead)

    def recovered(self, records: int) -> None:
        """The server took records that it had refused before."""
        self._metrics.recovered.inc(records)
        self._log.info("records_recovered", records=records)

    def taken_up(self, *, here: int, server: int) -> None:
        """Somebody asked for refused records to be tried again: those kept here, and dead letters of the server."""
        self._log.info("records_taken_up", here=here, server=server)

    def state_set_aside(self, name: str, reason: str) -> None:
        """The state file could not be used; it was renamed and kept, and a fresh one made."""
        self.last_error = "state_set_aside"
        self._metrics.state("set_aside")
        self._log.error("state_set_aside", file=name, reason=reason)

    def state_unusable(self, reason: str) -> None:
        """The state file cannot be read or written for now. Capturing and uploads go on without it."""
        self.last_error = "state_unavailable"
        if not self.state_trouble:
            self.state_trouble = "state_unavailable"
            self._metrics.state("unusable")
            self._log.error("state_unusable", reason=reason)

    def state_usable(self) -> None:
        """The state file was read or written."""
        if self.state_trouble:
            self.state_trouble = ""
            self._log.info("state_usable")

    def link_back(self, *, queued: int) -> None:
        """The server is heard again after trouble."""
        self._log.info("link_back", queued=queued)

    def push_opened(self) -> None:
        """The push channel is open."""
        self._log.info("push_opened")

    def push_closed(self, code: str, reason: str, *, retry_s: float) -> None:
        """The push channel is down and will be tried again."""
        self._log.warning("push_closed", code=code, reason=reason, retry_s=round(retry_s, 3))

    def pushed(self, outcome: str) -> None:
        """A pushed message was taken or dropped."""
        self._metrics.push(outcome)
        if outcome == "offer":
            self._metrics.offers_received.inc()
        self._log.debug("pushed", outcome=outcome)

    def pack_taken(self, version: int) -> None:
        """The till decides by a newer pack."""
        self._metrics.push("pack")
        self._log.info("pack_taken", version=version)

    def push_refused(self, error: TillstreamError) -> None:
        """A pushed message could not be taken, now or later."""
        self.last_error = error.code
        self._metrics.push("refused")
        self._log.error("push_refused", code=error.code, reason=error.message)

    def revoked(self, reason: str) -> None:
        """The server no longer takes this till's batches. The queue stays."""
        self.last_error = "revoked"
        self._metrics.push("revoked")
        self._log.error("revoked", reason=reason)

    def settings_waiting(self, version: int) -> None:
        """Head office set something else; it is tried in a quiet moment."""
        self._metrics.push("settings")
        self._log.info("settings_waiting", version=version)

    def settings_refused(self, version: int, reason: str) -> None:
        """Head office set what this agent cannot use."""
        self._metrics.push("settings")
        self._log.warning("settings_refused", version=version, reason=reason)

    def settings_tried(self, version: int) -> None:
        """The agent runs with other settings, on trial."""
        self._log.info("settings_tried", version=version)

    def settings_kept(self, version: int) -> None:
        """The till is well with them."""
        self._log.info("settings_kept", version=version)

    def settings_rolled_back(self, version: int, reason: str) -> None:
        """The till was not well with them, and runs with the last good ones again."""
        self._log.error("settings_rolled_back", version=version, reason=reason)

    def rotation_asked(self, reason: str) -> None:
        """Head office wants this till to take another device key."""
        self._metrics.push("rotate")
        self._log.warning("rotation_asked", reason=reason)

    def rotated(self, key_id: bytes) -> None:
        """The server takes another device key for this till's."""
        self._log.warning("device_key_rotated", device_key_id=key_id.hex())

    def rotation_failed(self, error: TillstreamError) -> None:
        """The server did not take another device key; the present one goes on."""
        self._log.warning("rotation_failed", code=error.code, reason=error.message)

    def rewound(self, records: int) -> None:
        """The server no longer holds records that it had acknowledged: they are queued again."""
        self._metrics.rewound.inc(records)
        self._log.warning("rewound", records=records)

    def beyond_retention(self, records: int) -> None:
        """The server no longer holds records that it had acknowledged, and neither does this till."""
        self.last_error = "beyond_retention"
        self._metrics.beyond_retention.inc(records)
        self._log.error("beyond_retention", records=records)

    def records_lost(self, reason: str, *, chunk: int, first: int, last: int | None) -> None:
        """It was captured that records of this till may be lost; `last` is None where nobody knows how many."""
        self.last_error = "records_lost"
        self._metrics.lost(reason)
        self._log.error("records_lost", reason=reason, chunk=chunk, first=first, last=last)

    def keys_changed(self, server_key_id: bytes, escrow_key_id: bytes) -> None:
        """What is captured from now on is sealed to other keys of the server."""
        self._log.info("keys_changed", server_key=server_key_id.hex(), escrow_key=escrow_key_id.hex())

    def returned(self, till: str) -> None:
        """A server that had forgotten this till took it back by its certificate, under this name."""
        self._metrics.returned("taken_back")
        self._log.warning("returned", till=till)

    def return_refused(self, error: TillstreamError) -> None:
        """A server that does not know this till did not take it back. It will be asked again."""
        self.last_error = error.code
        self._metrics.returned("refused")
        self._log.warning("return_refused", code=error.code, reason=error.message)

    def shown(self) -> None:
        """An offer reached a screen."""
        self._metrics.offers_shown.inc()

    def housekeeping_failed(self, what: str, error: TillstreamError) -> None:
        """Something that is tried again later went wrong."""
        self.last_error = error.code
        self._log.warning("housekeeping_failed", what=what, code=error.code, reason=error.message)


class JournalEvents(JournalObserver):
    """What the journal tells, told on."""

    def __init__(
        self,
        log: FilteringBoundLogger,
        metrics: AgentMetrics,
        events: Events,
        found: Callable[[], None] = lambda: None,
    ) -> None:
        """`found` is called when records are found to be missing or damaged."""
        self._log = log
        self._metrics = metrics
        self._events = events
        self._found = found

    def opened(self, chunk: int) -> None:
        """A chunk was begun."""
        self._log.debug("chunk_opened", chunk=chunk)

    def synced(self, records: int, seconds: float) -> None:  # noqa: ARG002 (the observer's signature)
        """A group of records reached the disk."""
        self._metrics.sync_seconds.observe(seconds)

    def sync_failed(self, chunk: int, reason: str) -> None:
        """A chunk is no longer trusted; its unsynced records go into another."""
        self._trouble("sync_failed", chunk=chunk, reason=reason)

    def sync_stuck(self, records: int, seconds: float) -> None:
        """Records have waited for the disk for so long that callers are told they are not safe."""
        self._trouble("sync_stuck", records=records, seconds=round(seconds, 3))

    def torn(self, chunk: int, size: int) -> None:
        """A torn tail was cut at start: what was never acknowledged as on the disk."""
        self._metrics.incident("torn")
        self._log.warning("journal_torn", chunk=chunk, size=size)

    def damaged(self, chunk: int, start: int, end: int) -> None:
        """Bytes of a chunk hold no frame."""
        self._trouble("damaged", chunk=chunk, start=start, end=end)

    def set_aside(self, name: str, reason: str) -> None:
        """A file that cannot be read was renamed, and kept."""
        self._trouble("set_aside", file=name, reason=reason)

    def lost(self, chunk: int, first: int, last: int | None, reason: str) -> None:
        """Records may be lost; a record that says so is captured as soon as that can be done."""
        self._trouble("lost", chunk=chunk, first=first, last=last, reason=reason)
        self._found()

    def given_up(self, chunk: int, size: int) -> None:
        """An acknowledged chunk went before its time for want of room: the till can send it to nobody again."""
        self._metrics.incident("given_up")
        self._log.warning("chunk_given_up", chunk=chunk, size=size)

    def discarded(self, chunk: int) -> None:
        """An acknowledged chunk was unlinked after its time."""
        self._log.debug("chunk_discarded", chunk=chunk)

    def _trouble(self, what: str, **details: object) -> None:
        self._events.last_error = f"journal_{what}"
        self._metrics.incident(what)
        self._log.error(f"journal_{what}", **details)
