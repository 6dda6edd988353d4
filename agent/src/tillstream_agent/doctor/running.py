"""What a running agent says of itself, and how its hook answers."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from tillstream_protocol.errors import TillstreamError

from ..calling import call_hook
from ..clock import Clock
from ..folder import Folder
from ..inspection import ask, read_stopped
from ..status import Status
from .finding import Finding, ok, problem

MAX_HOOK_US: Final = 20_000
MAX_ANSWER_S: Final = 1.0
"""What one call may take that comes from outside, whatever else the machine does."""
MAX_QUEUE_AGE_MS: Final = 3_600_000
PATIENCE_S: Final = 3.0
_OK: Final = 200

TROUBLES: Final[dict[str, tuple[str, str]]] = {
    "authentication": ("the server does not know this device", "ask head office, or enrol anew with --replace"),
    "revoked": ("head office has revoked this till", "ask head office; what is queued is kept"),
    "replaced": (
        "another agent speaks for this till, from a copy of this state folder or an image of this machine",
        "find it, and on the copy run tillstream-agent enroll --replace; nothing is overwritten meanwhile",
    ),
    "confused": (
        "the server, or something before it, gives answers that make no sense",
        "see what stands between: proxy, firewall, load balancer; what is queued is kept",
    ),
    "poison": (
        "the server refuses records as they are",
        "see tillstream-agent queue list; once the server can take them: tillstream-agent queue retry --all",
    ),
    "state_unavailable": (
        "the state file cannot be read or written; capturing and uploads go on",
        "make room on the disk, and check owner and mode of state.db",
    ),
    "version": ("server and agent speak different versions", "upgrade the older one"),
    "journal_full": ("there is no room for the journal", "make room on the disk"),
    "journal_unavailable": ("the journal could not be written", "check the disk, and the agent's log"),
    "not_on_disk": ("the disk takes too long to confirm", "check the disk, and what else uses it"),
}


@dataclass(frozen=True, slots=True)
class Running:
    """Looks over the agent of a folder. `timer` measures seconds."""

    folder: Folder
    clock: Clock
    hook_port: int
    """The port that an agent would take, by the settings; 0 is any."""
    version: str
    """Of what is installed."""
    timer: Callable[[], float]

    async def look(self) -> list[Finding]:
        """The agent, running or not."""
        try:
            if not self.folder.is_running():
                stopped = problem("agent", "not running", "nobody has started it, or it ended", _START)
                return [stopped, *port_taken(self.hook_port), await self._waiting()]
            started = self.timer()
            status = await ask(self.folder, patience=PATIENCE_S)
            took = self.timer() - started
        except TillstreamError as error:
            return [problem("agent", error.message, "it hangs, or runs as another user", error.hint or "")]
        findings = [ok("agent", f"running, answers in {took * 1000:.1f} ms"), *self._age(status)]
        return [*findings, *await self._door(status), *findings_of(status)]

    async def _waiting(self) -> Finding:
        """The queue of an agent that does not run."""
        try:
            return queue(await read_stopped(self.folder, self.clock))
        except TillstreamError as error:
            fix = "see the other findings; then start the agent, which makes a damaged state file anew"
            return problem("queue", error.message, "state.db, which says what the server has, cannot be read", fix)

    def _age(self, status: Status) -> Iterator[Finding]:
        if status.agent_version != self.version:
            detail = f"version {status.agent_version} runs, {self.version} is installed"
            fix = "restart it: systemctl restart tillstream-agent; its queue stays"
            yield problem("agent version", detail, "it was upgraded and not restarted", fix)

    async def _door(self, status: Status) -> list[Finding]:
        """Whether a POS would be answered, and how fast."""
        try:
            token = self.folder.hook_token()
            started = self.timer()
            async with asyncio.timeout(PATIENCE_S / 2):
                answer = await call_hook(status.http_port or 0, token, "GET", "/v1/status")
            took = self.timer() - started
        except TillstreamError as error:
            return [_no_door(status, error.message)]
        except TimeoutError:
            return [_no_door(status, "no answer in time")]
        if answer.status != _OK:
            return [_no_door(status, f"it answers with status {answer.status}")]
        detail = f"port {status.http_port} answers in {took * 1000:.1f} ms"
        if took > MAX_ANSWER_S:
            return [problem("hook door", detail, "the till is short of processor time", "see what else runs on it")]
        return [ok("hook door", detail)]


_START: Final = "start it: systemctl start tillstream-agent, or tillstream-agent run"


def _no_door(status: Status, said: str) -> Finding:
    cause = "something else answers on that port, or the token in STATE/hook-token was changed meanwhile"
    fix = "restart the agent; look what listens there: ss -ltnp"
    return problem("hook door", f"port {status.http_port}: {said}", cause, fix)


def port_taken(port: int) -> Iterator[Finding]:
    """Whether something else has the port that an agent would take."""
    with socket.socket() as trying:
        trying.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trying.bind(("127.0.0.1", port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                fix = "end it (ss -ltnp shows it), or set hook.port, and the same in the POS"
                yield problem("hook port", f"port {port} is taken", "another program listens there", fix)


def findings_of(status: Status) -> Iterator[Finding]:
    """What a running agent's own account of itself gives away."""
    for code in status.trouble:
        if code in TROUBLES:
            yield problem("sync" if status.capturing else "capture", code, *TROUBLES[code])
    hook = status.hook
    if hook is not None and hook.count:
        detail = f"p50 {hook.p50} µs, p99 {hook.p99} µs, longest {hook.max} µs, of {hook.count}"
        if hook.p99 > MAX_HOOK_US:
            yield problem("hook", detail, "the till is short of processor time", "see what else runs on it")
        else:
            yield ok("hook", detail)
    yield queue(status)
    if status.dead_letters:
        yield ok("dead letters", f"{status.dead_letters} records that the server keeps and could not take")


def queue(status: Status) -> Finding:
    """What waits to be sent, and since when."""
    waiting = status.queue
    aside = f" and {waiting.aside} refused ones" if waiting.aside else ""
    detail = f"{waiting.records} records{aside} in {waiting.bytes} bytes, the oldest {waiting.oldest_ms // 1000} s old"
    if waiting.records and waiting.oldest_ms > MAX_QUEUE_AGE_MS:
        return problem("queue", detail, "the server has not taken records for an hour", "see the other findings")
    return ok("queue", detail)
