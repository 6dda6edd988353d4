"""What the state folder and its disk give away."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tillstream_protocol.errors import TillstreamError
from tillstream_protocol.framing import FRAMES_START, HEADER_SIZE, ChunkHeader, DamagedChunk, Gap, scan

from ..clock import MAX_SKEW_MS, Clock
from ..folder import Folder, Identity, NotEnrolled
from ..platforms import NEW_FILE
from ..status import damaged_files, disk_free
from .finding import Finding, ok, problem, some

MIN_FREE: Final = 256 * 1024 * 1024
MIN_FILES: Final = 1_000
"""Files that a disk must still have room for."""
MAX_SYNC_S: Final = 0.1
LOOK_S: Final = 4.5
"""Seconds in which the journal is looked through."""
_ROUNDS: Final = 5
_BESIDE: Final = ("-wal", "-shm")
_NEWEST: Final = 8

_CANNOT_WRITE: Final[dict[int, tuple[str, str]]] = {
    errno.ENOSPC: ("the disk is full", "make room: nothing can be captured; never delete files of the journal"),
    errno.EDQUOT: ("the quota of the agent's user is used up", "raise the quota, or make room"),
    errno.EROFS: (
        "the disk is mounted read-only, which systems do by themselves when it fails",
        "see dmesg for errors of the disk; replace it, or mount it for writing again",
    ),
    errno.EIO: ("the disk fails", "see dmesg; save the state folder and replace the disk"),
    errno.EACCES: ("the folder is not the agent's user's to write", "chown it to the agent's user, chmod 700"),
}


@dataclass(frozen=True, slots=True)
class Files:
    """Looks over one state folder. `timer` measures seconds."""

    folder: Folder
    clock: Clock
    reserve: int
    """Bytes below which nothing is captured."""
    machine: str | None
    """The id of this machine, where it has one."""
    timer: Callable[[], float]

    def identity(self) -> Identity | Finding:
        """Who the agent is, or why that cannot be told."""
        try:
            identity = self.folder.identity()
        except TillstreamError as error:
            if isinstance(error.__cause__, PermissionError):
                return self._locked_out(error.__cause__)
            fix = error.hint or "enrol anew with --replace"
            cause = "this agent has joined no server" if isinstance(error, NotEnrolled) else "the file was altered"
            return problem("identity", error.message, cause, fix)
        return identity

    def quick(self, identity: Identity) -> list[Finding]:
        """What takes no time."""
        findings = [self._keys(identity), self._permissions(), self._space(), self._state()]
        return findings + list(self._machine())

    def calendar(self, identity: Identity) -> Finding:
        """The clock, judged without a server: it is not before what has already happened."""
        known = max([identity.enrolled_ms, *self._created()])
        behind = known - self.clock.now_ms()
        if behind > MAX_SKEW_MS:
            detail = f"{behind // 1000} s before the agent's own newest record"
            cause = "the clock was set back, or its battery is empty"
            return problem("clock", detail, cause, "set the clock, and keep it by NTP: timedatectl set-ntp true")
        return ok("clock", "not before what was captured last; the server could not be asked")

    def speed(self) -> Finding:
        """How long the disk takes to confirm."""
        try:
            slowest = self._measure_sync()
        except OSError as error:
            usual = ("the disk is full, read-only or broken", "see dmesg, and repair it")
            return problem("disk speed", f"cannot write: {error.strerror}", *_CANNOT_WRITE.get(error.errno or 0, usual))
        detail = f"a sync takes up to {slowest * 1000:.1f} ms"
        if slowest > MAX_SYNC_S:
            return problem("disk speed", detail, "a slow or worn disk, or one in heavy use", "use another disk")
        return ok("disk speed", detail)

    def journal(self) -> Finding:
        """Reads chunks, the newest first: damage in a closed one shows nowhere else before it is sent.

        That goes at some 70 MB a second, and ends after `LOOK_S`.
        """
        try:
            os.scandir(self.folder.journal).close()
        except FileNotFoundError:
            pass  # nothing was captured yet
        except PermissionError:
            return _may_not_read("journal", [self.folder.journal.name])
        kept = damaged_files(self.folder.path)
        damaged = [name for name in kept if name.endswith(".damaged")]
        barred: list[str] = []
        chunks, until, seen = self._chunks(), self.clock.monotonic() + LOOK_S, 0
        for file in chunks:
            if self.clock.monotonic() >= until:
                break
            seen += 1
            try:
                if _is_damaged(file):
                    damaged.append(file.name)
            except PermissionError:
                barred.append(file.name)
        if barred and not damaged:
            return _may_not_read("journal", sorted(barred))
        if damaged:
            fix = "check the disk; keep the files and send them to support: the server may still open parts of them"
            detail = f"{len(damaged)} damaged files: {some(sorted(damaged))}"
            return problem("journal", detail, "the disk returned damaged bytes", fix)
        torn = f"; {len(kept)} torn ends of writes that a crash cut off are kept" if kept else ""
        rest = f" among the newest {seen} of {len(chunks)}" if seen < len(chunks) else ""
        return ok("journal", f"no damaged files{rest}{torn}")

    def _keys(self, identity: Identity) -> Finding:
        try:
            self.folder.device_key(identity)
            self.folder.tag_key()
            self.folder.hook_token()
        except TillstreamError as error:
            f = self.folder
            barred = [file.name for file in (f.device_key_file, f.tag_key_file, f.token_file) if _is_barred(file)]
            if barred:
                return _may_not_read("identity", barred)
            return problem("identity", error.message, "a file of the state folder is gone", error.hint or "")
        return ok("identity", f"till {identity.till} of store {identity.store}, {identity.retailer}")

    def _permissions(self) -> Finding:
        f = self.folder
        owner = f.path.stat().st_uid
        keys = (f.device_key_file, f.next_device_key_file, f.following_device_key_file, *f.former.glob("*"))
        files = (f.identity_file, *keys, f.tag_key_file, f.token_file, f.database, f.socket)
        wrong = [path.name for path in (f.path, *files) if path.exists() and _is_open(path, owner)]
        foreign = [path.name for path in (f.lock_file, f.journal, *self._chunks()) if _is_foreign(path, owner)]
        if wrong or foreign:
            fix = f"chown -R to the agent's user, chmod 700 {f.path}, chmod 600 the files in it"
            cause = "modes were changed" if wrong else "the agent ran as another user, such as root"
            return problem("permissions", f"open to others, or another user's: {some(wrong + foreign)}", cause, fix)
        if _is_barred(f.database):
            return _may_not_read("permissions", [f.database.name])
        if sys.platform != "win32" and os.geteuid() not in (owner, 0):
            return _another_user("the folder is another user's", owner)
        return ok("permissions", "the state folder is its user's alone")

    def _locked_out(self, error: PermissionError) -> Finding:
        """Who looks may not read what the agent needs: they are not its user, or not even that may."""
        detail = f"{error.filename}: {error.strerror}"
        with suppress(OSError):
            owner = self.folder.path.stat().st_uid
            if sys.platform != "win32" and os.geteuid() != owner:
                return _another_user(detail, owner)
            return problem("permissions", detail, *_BARRED)
        return problem("permissions", detail, "you are not the agent's user", "run it as root, or as the agent's user")

    def _space(self) -> Finding:
        free = disk_free(self.folder.path)
        detail = f"{(free or 0) // 2**20} MiB free, of which {self.reserve // 2**20} MiB are held in reserve"
        if free is None or free < self.reserve + MIN_FREE:
            fix = "make room; captures stop when no more than the reserve is left"
            return problem("disk space", detail, "the disk is nearly full", fix)
        places = _places(self.folder.path)
        if places is not None and places < MIN_FILES:
            fix = "delete small files that nobody needs: each takes one of the disk's places (df -i)"
            return problem("disk space", f"room for {places} files only", "too many files on the disk", fix)
        return ok("disk space", detail)

    def _state(self) -> Finding:
        aside = sorted(file.name for file in self.folder.path.glob("state.db.*") if not file.name.endswith(_BESIDE))
        if aside:
            cause = "the state file could not be read at a start"
            fix = "check the disk; what it knew was learned again, so the files may be removed"
            return problem("state", f"set aside: {some(aside)}", cause, fix)
        return ok("state", "no damaged files")

    def _machine(self) -> Iterator[Finding]:
        with suppress(TillstreamError):  # without its key, which is a finding of its own, the mark says nothing
            if self.machine is None or not self.folder.is_of_another_machine(self.machine):
                return
            cause = "this state folder, or the image it came in, was copied to this machine"
            fix = (
                "if the other machine still sells: stop this agent and run tillstream-agent enroll --replace here; "
                f"if the till was moved here for good: rm {self.folder.machine_file}"
            )
            yield problem("copied folder", "the folder was enrolled on another machine", cause, fix)

    def _chunks(self) -> list[Path]:
        """The journal's chunks, the newest first."""
        return sorted(self.folder.journal.glob("*.chunk"), reverse=True)

    def _created(self) -> Iterator[int]:
        for file in self._chunks()[:_NEWEST]:
            try:
                with file.open("rb") as opened:
                    header, _ = ChunkHeader.read(opened.read(FRAMES_START))
                yield header.created
            except (OSError, DamagedChunk):
                continue

    def _measure_sync(self) -> float:
        file = self.folder.path / f".doctor-{os.getpid()}"
        slowest = 0.0
        handle = os.open(file, NEW_FILE, 0o600)
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


_BARRED: Final = ("its mode or owner was changed", "chown it to the agent's user; chmod 700 folders, 600 files")


def _may_not_read(check: str, names: list[str]) -> Finding:
    """The disk is well, and nothing is gone: no reason to enrol anew, or to replace anything."""
    return problem(check, f"may not be read: {some(names)}", *_BARRED)


def _another_user(detail: str, owner: int) -> Finding:
    fix = f"run it as user {owner}: sudo -u '#{owner}' tillstream-agent doctor"
    return problem("permissions", detail, "you are not the agent's user", fix)


def _is_barred(file: Path) -> bool:
    """Whether a file is there that may not be read."""
    try:
        file.open("rb").close()
    except PermissionError:
        return True
    except OSError:
        return False
    return False


def _is_damaged(chunk: Path) -> bool:
    """Whether a chunk cannot be read, has a bad header, or bytes that are nothing before the last of its frames.

    What follows the last frame may be a write under way, or one that a crash cut off. Raises `PermissionError`.
    """
    try:
        data = chunk.read_bytes()
        ChunkHeader.read(data[:FRAMES_START])
    except FileNotFoundError:
        return False  # it was acknowledged, and its time was over
    except PermissionError:
        raise
    except (OSError, DamagedChunk):
        return True
    return data[:HEADER_SIZE] != data[HEADER_SIZE:FRAMES_START] or any(
        isinstance(part, Gap) and part.end < len(data) for part in scan(data, FRAMES_START)
    )


def _is_open(path: Path, owner: int) -> bool:
    found = path.stat()
    return sys.platform != "win32" and (bool(found.st_mode & 0o077) or found.st_uid != owner)


def _is_foreign(path: Path, owner: int) -> bool:
    try:
        return path.stat().st_uid != owner
    except OSError:
        return False


def _places(folder: Path) -> int | None:
    """How many more files the disk takes, where that is limited."""
    if sys.platform != "win32":
        found = os.statvfs(folder)
        if found.f_files:
            return found.f_favail
    return None
