"""How an agent is: what `status`, the heartbeat and `/healthz` report. No personal data."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from msgspec import Struct

from tillstream_protocol.messages import HookLatency, Vitals
from tillstream_protocol.settings import SettingsReport

from .clock import Clock
from .events import Events
from .folder import Identity
from .journal import Journal, Queue
from .letters import Letters
from .metrics import Gauges, LatencyWindow
from .offers.edge import Edge
from .sync.link import Link

DAMAGED: Final = (".damaged", ".torn")
HealthState = Literal["ok", "degraded", "failing"]


class QueueStatus(Struct, frozen=True):
    """What waits to be sent. `oldest_ms` is an age; `aside` records were refused and are kept apart from these."""

    records: int
    bytes: int
    oldest_ms: int
    aside: int = 0


class Health(Struct, frozen=True):
    """`GET /healthz`: `failing` means that the last capture could not be written."""

    status: HealthState
    online: bool
    queued: int


class Status(Struct, frozen=True):
    """Everything that store IT asks of a till. Ids are hex; times are milliseconds since 1970, or ages where said."""

    running: bool
    agent_version: str
    server: str
    till_id: str
    retailer: str
    store: str
    till: str
    queue: QueueStatus
    online: bool = False
    push_connected: bool = False
    trouble: tuple[str, ...] = ()
    """What keeps the agent from working as it should, as stable codes: `revoked`, `journal_full` …"""
    capturing: bool = False
    http_port: int | None = None
    epoch: str | None = None
    position: int | None = None
    pack_version: int = 0
    hook: HookLatency | None = None
    """Of the current heartbeat's interval, in microseconds."""
    last_contact_ms: int | None = None
    clock_offset_ms: int | None = None
    """How far the till's clock is ahead of the server's."""
    last_error: str = ""
    disk_free: int | None = None
    reserve: int | None = None
    """Free bytes below which nothing is captured."""
    dead_letters: int = 0
    """Records that the server has acknowledged without being able to take them."""
    damaged_files: int = 0
    """Files of the journal that are kept because they were damaged or torn."""
    settings: SettingsReport | None = None
    """What became of the settings that head office set from afar."""


@dataclass(slots=True)
class Reporter:
    """Puts together how the running agent is."""

    identity: Identity
    agent_version: str
    folder: Path
    journal: Journal
    edge: Edge
    link: Link
    events: Events
    latency: LatencyWindow
    clock: Clock
    http_port: int
    letters: Letters
    reserve: int
    settings: Callable[[], SettingsReport]

    def status(self) -> Status:
        """For store IT."""
        who = self.identity
        name = self.journal.position
        troubles = (*self.link.trouble, self.events.capture_trouble, self.events.state_trouble)
        return Status(
            running=True,
            agent_version=self.agent_version,
            server=who.server,
            till_id=who.till_id.hex(),
            retailer=who.retailer,
            store=who.store,
            till=who.till,
            queue=queue_status(self.journal.queue()),
            online=self.link.online,
            push_connected=self.link.push_connected,
            trouble=tuple(code for code in troubles if code),
            capturing=not self.events.capture_trouble,
            http_port=self.http_port,
            epoch=name.epoch.hex(),
            position=name.seq,
            pack_version=self.edge.pack_version,
            hook=self.latency.read(),
            last_contact_ms=self.link.last_contact_ms,
            clock_offset_ms=self.link.clock_offset_ms,
            last_error=self.events.last_error,
            disk_free=disk_free(self.folder),
            reserve=self.reserve,
            dead_letters=self.letters.server_total,
            damaged_files=len(damaged_files(self.folder)),
            settings=self.settings(),
        )

    def health(self) -> Health:
        """For the POS."""
        degraded = bool(self.link.trouble)
        state: HealthState = "failing" if self.events.capture_trouble else "degraded" if degraded else "ok"
        return Health(state, self.link.online, self.journal.queue().records)

    def vitals(self) -> Vitals:
        """For the server. Begins a new interval of latencies."""
        queue = self.journal.queue()
        name = self.journal.position
        return Vitals(
            self.identity.till_id,
            name.epoch,
            name.seq,
            queue.records,
            queue.oldest_ms,
            self.latency.take(),
            disk_free(self.folder) or 0,
            self.clock.now_ms(),
            self.agent_version,
            self.events.last_error,
            queue.aside,
            len(damaged_files(self.folder)),
            self.settings(),
        )

    def gauges(self) -> Gauges:
        """For Prometheus."""
        queue = self.journal.queue()
        chunks = sum(1 for _ in self.folder.glob("journal/*.chunk"))
        return Gauges(
            queue.records,
            queue.bytes,
            queue.oldest_ms,
            chunks,
            connected=self.link.push_connected,
            pack_version=self.edge.pack_version,
            aside_records=queue.aside,
            damaged_files=len(damaged_files(self.folder)),
            online=self.link.online,
            clock_ahead_ms=self.link.clock_offset_ms or 0,
            disk_free=disk_free(self.folder) or 0,
        )


def disk_free(folder: Path) -> int | None:
    """Bytes that the agent's user may still write, or None where that cannot be told."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def damaged_files(folder: Path) -> list[str]:
    """Names of the journal's files that were damaged or torn, and kept."""
    try:
        names = [file.name for file in (folder / "journal").iterdir()]
    except OSError:
        return []
    return sorted(name for name in names if name.endswith(DAMAGED))


def queue_status(queue: Queue) -> QueueStatus:
    """The queue as it is reported."""
    return QueueStatus(queue.records, queue.bytes, queue.oldest_ms, queue.aside)
