"""Looks an agent over, and says for each trouble what causes it and what to do."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from msgspec import Struct

from tillstream_protocol.codec import encode
from tillstream_protocol.errors import TillstreamError
from tillstream_protocol.framing import FRAMES_START, HEADER_SIZE, ChunkHeader, DamagedChunk, Gap, scan
from tillstream_protocol.messages import Hello, Introduction, decode_introduction, introduction_bytes
from tillstream_protocol.signing import verify
from tillstream_protocol.versions import PROTOCOL

from .clock import MAX_SKEW_MS, Clock
from .config import Config
from .config_doors import Doors, DropSetting
from .folder import Folder, Identity, NotEnrolled
from .hooks.drop_folder import DropFolder, printable
from .inspection import ask, read_stopped
from .status import Status, damaged_files, disk_free
from .sync.transport import Transport, server_address, tls_context

Verdict = Literal["ok", "problem"]

MIN_FREE: Final = 256 * 1024 * 1024
MAX_SYNC_S: Final = 0.1
MAX_HOOK_US: Final = 20_000
MAX_QUEUE_AGE_MS: Final = 3_600_000
_ROUNDS: Final = 5
_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")
_BESIDE: Final = ("-wal", "-shm")

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


class Finding(Struct, frozen=True, omit_defaults=True):
    """One thing looked at. A problem names its cause and what to do."""

    check: str
    verdict: Verdict
    detail: str
    cause: str = ""
    fix: str = ""


def _ok(check: str, detail: str) -> Finding:
    return Finding(check, "ok", detail)


def _problem(check: str, detail: str, cause: str, fix: str) -> Finding:
    return Finding(check, "problem", detail, cause, fix)


@dataclass(frozen=True, slots=True)
class Doctor:
    """Examines one state folder. `timer` measures seconds."""

    folder: Folder
    config: Config
    clock: Clock
    randomness: Callable[[int], bytes]
    timer: Callable[[], float] = time.perf_counter

    async def examine(self) -> list[Finding]:
        """Everything, in order of what depends on what."""
        try:
            identity = self.folder.identity()
        except TillstreamError as error:
            fix = error.hint or "enrol anew with --replace"
            cause = "this agent has joined no server" if isinstance(error, NotEnrolled) else "the file was altered"
            return [_problem("identity", error.message, cause, fix)]
        findings = [self._identity(identity), self._permissions(), self._disk_space(), await self._disk_speed()]
        journal = await asyncio.to_thread(self._journal)
        findings += [journal, self._state(), *await self._server(identity)]
        findings += await asyncio.to_thread(lambda: list(findings_of_doors(self.config.doors)))
        return findings + await self._agent()

    def _identity(self, identity: Identity) -> Finding:
        try:
            self.folder.device_key(identity)
            self.folder.tag_key()
            self.folder.hook_token()
        except TillstreamError as error:
            return _problem("identity", error.message, "a file of the state folder is gone", error.hint or "")
        return _ok("identity", f"till {identity.till} of store {identity.store}, {identity.retailer}")

    def _permissions(self) -> Finding:
        f = self.folder
        files = (f.identity_file, f.device_key_file, f.tag_key_file, f.token_file, f.database, f.socket)
        wrong = [path.name for path in (f.path, *files) if path.exists() and _is_open(path)]
        if wrong:
            names = ", ".join(wrong)
            fix = f"chown to the agent's user, chmod 700 {f.path}, chmod 600 the files"
            return _problem("permissions", f"open to others, or another user's: {names}", "modes were changed", fix)
        return _ok("permissions", "the state folder is its user's alone")

    def _disk_space(self) -> Finding:
        free = disk_free(self.folder.path)
        reserve = self.config.journal_reserve_bytes
        detail = f"{(free or 0) // 2**20} MiB free, of which {reserve // 2**20} MiB are held in reserve"
        if free is None or free < reserve + MIN_FREE:
            fix = "make room; captures stop when no more than the reserve is left"
            return _problem("disk space", detail, "the disk is nearly full", fix)
        return _ok("disk space", detail)

    async def _disk_speed(self) -> Finding:
        try:
            slowest = await asyncio.to_thread(self._measure_sync)
        except OSError as error:
            return _problem(
                "disk speed", f"cannot write: {error.strerror}", "the disk is full or read-only", "repair it"
            )
        detail = f"a sync takes up to {slowest * 1000:.1f} ms"
        if slowest > MAX_SYNC_S:
            return _problem("disk speed", detail, "a slow or worn disk, or one in heavy use", "use another disk")
        return _ok("disk speed", detail)

    def _measure_sync(self) -> float:
        file = self.folder.path / f".doctor-{os.getpid()}"
        slowest = 0.0
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            for _ in range(_ROUNDS):
                os.write(handle, bytes(4096))
                started = self.timer()
                os.fsync(handle)
                slowest = max(slowest, self.timer() - started)
        finally:
            os.close(handle)
            file.unlink()
        return slowest

    def _journal(self) -> Finding:
        """Reads every chunk, some 70 MB a second: damage in a closed one shows nowhere else before it is sent."""
        kept = damaged_files(self.folder.path)
        damaged = [name for name in kept if name.endswith(".damaged")]
        damaged += [file.name for file in sorted(self.folder.journal.glob("*.chunk")) if _is_damaged(file)]
        if damaged:
            fix = "check the disk; keep the files and send them to support: the server may still open parts of them"
            detail = f"{len(damaged)} damaged files: {_some(damaged)}"
            return _problem("journal", detail, "the disk returned damaged bytes", fix)
        torn = f"; {len(kept)} torn ends of writes that a crash cut off are kept" if kept else ""
        return _ok("journal", f"no damaged files{torn}")

    def _state(self) -> Finding:
        aside = sorted(file.name for file in self.folder.path.glob("state.db.*") if not file.name.endswith(_BESIDE))
        if aside:
            cause = "the state file could not be read at a start"
            fix = "check the disk; what it knew was learned again, so the files may be removed"
            return _problem("state", f"set aside: {_some(aside)}", cause, fix)
        return _ok("state", "no damaged files")

    async def _server(self, identity: Identity) -> list[Finding]:
        try:
            address = server_address(identity.server)
            tls = tls_context(address, self.config.sync_ca_file)
        except TillstreamError as error:
            return [_problem("server", error.message, "the identity or the settings were altered", error.hint or "")]
        transport = Transport(address, tls=tls, timeout=self.config.sync_timeout_s)
        try:
            return await self._greet(transport, identity)
        finally:
            await transport.close()

    async def _greet(self, transport: Transport, identity: Identity) -> list[Finding]:
        nonce = self.randomness(16)
        started = self.timer()
        try:
            response = await transport.post("/till/v1/hello", encode(Hello(nonce, PROTOCOL)))
            server = decode_introduction(response.require_ok())
        except TillstreamError as error:
            fix = "check network, name, firewall and certificate; capturing goes on meanwhile"
            return [_problem("server", error.message, "the server is down, or something is between", fix)]
        took = (self.timer() - started) * 1000
        if not _is_ours(server, nonce, identity):
            cause = "another server answers there, or its signing key was made anew"
            return [_problem("server", "the server is not the one that was joined", cause, "ask head office")]
        kind = "plain HTTP on this machine" if identity.server.startswith("http:") else "TLS"
        return [
            _ok("server", f"{identity.server} answers in {took:.0f} ms over {kind}"),
            self._time(response.server_ms),
        ]

    def _time(self, server_ms: int | None) -> Finding:
        if server_ms is None:
            return _ok("clock", "the server does not tell the time")
        offset = self.clock.now_ms() - server_ms
        if abs(offset) > MAX_SKEW_MS:
            detail = f"{abs(offset) // 1000} s {'ahead of' if offset > 0 else 'behind'} the server"
            cause = "the till's clock or the server's is wrong; offers that expire are off"
            return _problem("clock", detail, cause, "set the clock, and keep it by NTP")
        return _ok("clock", "within 5 minutes of the server's")

    async def _agent(self) -> list[Finding]:
        try:
            if not self.folder.is_running():
                status = await read_stopped(self.folder, self.clock)
                fix = "start it: tillstream-agent run"
                return [_problem("agent", "not running", "nobody has started it, or it ended", fix), _queue(status)]
            started = self.timer()
            status = await ask(self.folder)
            took = self.timer() - started
        except TillstreamError as error:
            return [_problem("agent", error.message, "it hangs, or runs as another user", error.hint or "")]
        return [_ok("agent", f"running, answers in {took * 1000:.1f} ms"), *findings_of(status)]


def _some(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (" …" if len(names) > most else "")


def _is_damaged(chunk: Path) -> bool:
    """Whether a chunk cannot be read, has a bad header, or bytes that are nothing before the last of its frames.

    What follows the last frame may be a write under way, or one that a crash cut off.
    """
    try:
        data = chunk.read_bytes()
        ChunkHeader.read(data[:FRAMES_START])
    except FileNotFoundError:
        return False  # it was acknowledged, and its time was over
    except (OSError, DamagedChunk):
        return True
    return data[:HEADER_SIZE] != data[HEADER_SIZE:FRAMES_START] or any(
        isinstance(part, Gap) and part.end < len(data) for part in scan(data, FRAMES_START)
    )


def _is_open(path: Path) -> bool:
    found = path.stat()
    return bool(found.st_mode & 0o077) or found.st_uid != os.geteuid()


def _is_ours(server: Introduction, nonce: bytes, identity: Identity) -> bool:
    """Whether the server holds the signing key that was joined; its other keys may change, and packs bring them."""
    keys = (server.server_public_key, server.box_public_key, server.escrow_public_key)
    claim = introduction_bytes(nonce, *keys, server.protocol_from, server.protocol_to)
    try:
        verify(identity.server_public, claim, server.signature)
    except TillstreamError:
        return False
    return True


def findings_of(status: Status) -> Iterator[Finding]:
    """What a running agent's own account of itself gives away."""
    for code in status.trouble:
        if code in TROUBLES:
            yield _problem("sync" if status.capturing else "capture", code, *TROUBLES[code])
    hook = status.hook
    if hook is not None and hook.count:
        detail = f"p50 {hook.p50} µs, p99 {hook.p99} µs, longest {hook.max} µs, of {hook.count}"
        if hook.p99 > MAX_HOOK_US:
            yield _problem("hook", detail, "the till is short of processor time", "see what else runs on it")
        else:
            yield _ok("hook", detail)
    yield _queue(status)
    if status.dead_letters:
        yield _ok("dead letters", f"{status.dead_letters} records that the server keeps and could not take")


def findings_of_doors(doors: Doors) -> Iterator[Finding]:
    """What the folders and ports that the settings name give away from outside."""
    for drop in doors.drops:
        try:
            yield _drop(drop)
        except OSError as error:
            fix = "make it, and let the agent's user read, write and enter it"
            yield _problem(
                "drop folder", f"{drop.folder}: {error.strerror}", "it is not there, or not ours to use", fix
            )
    for printer in doors.printers:
        if printer.listen.host not in _LOOPBACK:
            fix = "listen on 127.0.0.1, or have a firewall let nobody but the POS in"
            detail = f"whoever reaches {printer.listen} can print and report sales"
            yield _problem("printer port", detail, "[[printer]] listen is an address on the network", fix)
        else:
            yield _ok("printer port", f"{printer.listen}, to {printer.to}")


def _drop(drop: DropSetting) -> Finding:
    folder = DropFolder(drop.folder, drop.pattern)
    look, where = folder.look(), str(drop.folder)
    if not os.access(drop.folder, os.R_OK | os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    refused = folder.refused()
    if refused:
        fix = "see the .error.json beside each; set the adapter right, and move the files back"
        return _problem(
            "drop folder", f"{where}: {len(refused)} in error/: {_some(refused)}", "not as the adapter reads", fix
        )
    if look.open_to_others:
        fix = f"chmod o= {where}, and give the POS's user and the agent's a group in common"
        return _problem("drop folder", f"{where} is open to every user", "anybody can read or forge sales there", fix)
    if look.odd:
        detail = f"{where}: left alone, as they are no files: {_some([printable(name) for name in look.odd])}"
        return _problem("drop folder", detail, "links and folders are not followed", "remove them")
    return _ok("drop folder", f"{where}: {len(look.files)} files wait")


def _queue(status: Status) -> Finding:
    queue = status.queue
    aside = f" and {queue.aside} refused ones" if queue.aside else ""
    detail = f"{queue.records} records{aside} in {queue.bytes} bytes, the oldest {queue.oldest_ms // 1000} s old"
    if queue.records and queue.oldest_ms > MAX_QUEUE_AGE_MS:
        return _problem("queue", detail, "the server has not taken records for an hour", "see the other findings")
    return _ok("queue", detail)
