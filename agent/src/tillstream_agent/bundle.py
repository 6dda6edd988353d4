"""The support file: what somebody elsewhere needs to help, and nothing about anybody.

Everything in it is there because it is on a list here, never because it was not on one of things to leave out:

    README.txt       what is in the file, and what is not
    about.json       versions, platform, and which files there are in the state folder
    doctor.json      each finding's check, verdict and cause; its detail where that is figures alone
    status.json      figures and codes of the agent's own account
    settings.json    numbers, switches and choices; of texts only how many there are
    journal.json     each chunk's name, size, age and damage; no frame of it
    log.jsonl        the kept log: times, events, codes, figures; no reasons, paths or names

Names of retailer, store, till and server are left out too: the till's id says which one it is.
"""

from __future__ import annotations

import io
import os
import platform
import re
import sys
import tarfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import msgspec

from tillstream_protocol.adapters.registry import ADAPTERS
from tillstream_protocol.errors import TillstreamError
from tillstream_protocol.framing import FRAMES_START, ChunkHeader, DamagedChunk, Frame, Gap, scan
from tillstream_protocol.signing import to_text

from . import __version__
from .clock import Clock
from .config import Config
from .doctor.finding import Finding
from .folder import Folder
from .logs import kept_lines
from .platforms import NEW_FILE
from .status import Status

MAX_LOG_LINES: Final = 20_000
SCAN_S: Final = 5.0
"""Seconds in which chunks are looked through; of the rest, name and size are told."""
PACKAGES: Final = (
    "aiohttp", "aiosqlite", "httpx", "msgpack", "msgspec", "prometheus-client", "pynacl", "structlog", "uvloop", "yarl",
    "zstandard",
)  # fmt: skip
FIGURES: Final = (
    "agent version", "capture", "clock", "dead letters", "disk space", "disk speed", "hook", "hook door", "hook port",
    "queue", "service", "sync", "version",
)  # fmt: skip
"""Checks whose detail is made of figures and codes, without a name or a path."""
STATUS: Final = (
    "running", "agent_version", "till_id", "queue", "online", "push_connected", "trouble", "capturing", "http_port",
    "epoch", "position", "pack_version", "hook", "last_contact_ms", "clock_offset_ms", "last_error", "disk_free",
    "reserve", "dead_letters", "damaged_files",
)  # fmt: skip
_WORD: Final = re.compile(r"[a-z](?!.*\d{5})[a-z0-9_]{0,47}")
CODES: Final[Mapping[str, re.Pattern[str]]] = {
    "error": re.compile(r"[A-Z][A-Za-z]{0,47}"),
    "timestamp": re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?Z"),
    "version": re.compile(r"\d{1,4}(?:\.\d{1,4}){1,3}"),
    **dict.fromkeys(("code", "door", "event", "lane", "level", "outcome", "what"), _WORD),
}
"""Fields of a log line that hold a word of the agent's own, and what such words look like."""
COUNTS: Final = (
    "calls", "chunk", "dead", "end", "first", "here", "last", "port", "queued", "records", "repeated", "retry_s",
    "seconds", "server", "size", "start", "version",
)  # fmt: skip
_CHUNK: Final = re.compile(r"0{3}\d{7}\.(?:chunk|damaged|torn)")
"""What a till numbers in all its life. A longer number may be somebody's."""
_FRAME: Final = re.compile(r"[a-z_]{1,40}\.py:\d{1,5}")
_MOST: Final = 2**32
"""Larger numbers in a log line count nothing."""
_README: Final = """Tillstream support file

What an agent does and how it is, without personal data: no records, no keys, no tokens, no identifiers, no names of
people, stores, hosts or folders, and no text that anybody typed. Every part is readable as it is. Look through it
before you send it, if you like: that is what it is plain for.
"""


class BundleError(TillstreamError):
    """The support file cannot be written, or would hold what it must not."""

    code = "bundle"


def gather(
    folder: Folder, config: Config, findings: Sequence[Finding], status: Status | None, clock: Clock
) -> dict[str, bytes]:
    """The parts of a support file by name. Raises `BundleError` if a secret of the folder is in one."""
    parts = {
        "README.txt": _README.encode(),
        "about.json": _json(about(folder, clock)),
        "doctor.json": _json([finding_facts(finding) for finding in findings]),
        "status.json": _json(status_facts(status)),
        "settings.json": _json(settings_facts(config)),
        "journal.json": _json(journal_facts(folder, clock)),
        "log.jsonl": b"".join(msgspec.json.encode(line) + b"\n" for line in log_facts(_log(folder))),
    }
    secrets = list(_secrets(folder))
    for name, content in parts.items():
        if any(secret in content for secret in secrets):
            raise BundleError(
                f"{name} would hold a secret of this till", hint="nothing was written; tell the developers"
            )
    return parts


def write(file: Path, parts: Mapping[str, bytes]) -> int:
    """Write a gzipped tar, for its owner alone, where no file is yet. Returns its size. Raises `BundleError`."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in parts.items():
            member = tarfile.TarInfo(f"tillstream-support/{name}")
            member.size, member.mode, member.mtime = len(content), 0o600, int(time.time())
            archive.addfile(member, io.BytesIO(content))
    try:
        handle = os.open(file, NEW_FILE, 0o600)
    except OSError as error:
        raise BundleError(f"{file} cannot be written: {error.strerror}", hint="name a new file") from error
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(packed.getvalue())
    except OSError as error:
        with suppress(OSError):
            file.unlink()
        hint = "name a file where there is room; nothing is left of this one"
        raise BundleError(f"{file} cannot be written: {error.strerror}", hint=hint) from error
    return len(packed.getvalue())


def about(folder: Folder, clock: Clock) -> dict[str, object]:
    """Versions, platform, and the state folder's own files."""
    return {
        "agent": __version__,
        "made_ms": clock.now_ms(),
        "python": platform.python_version(),
        "frozen": bool(getattr(sys, "frozen", False)),
        "system": platform.system(),
        "release": platform.release(),
        "machine": platform.machine(),
        "processors": os.cpu_count(),
        "packages": dict(_versions()),
        "files": list(_files(folder)),
    }


def finding_facts(finding: Finding) -> dict[str, str]:
    """A finding without what may name somebody. Causes are texts of the doctor's own."""
    detail = finding.detail if finding.check in FIGURES else ""
    return {"check": finding.check, "verdict": finding.verdict, "detail": detail, "cause": finding.cause}


def status_facts(status: Status | None) -> dict[str, object] | None:
    """Figures and codes of a status. A code may be the server's own: it passes if it looks like one."""
    if status is None:
        return None
    facts: dict[str, object] = {name: getattr(status, name) for name in STATUS}
    facts["last_error"] = _word(status.last_error, _WORD)
    facts["trouble"] = [_word(code, _WORD) for code in status.trouble]
    facts["plain_http"] = status.server.startswith("http:")
    return facts


def settings_facts(config: Config) -> dict[str, object]:
    """Numbers, switches and choices; of lists and texts how many entries there are, or whether there is one."""
    facts: dict[str, object] = {}
    for field in fields(Config):
        value = getattr(config, field.name)
        if isinstance(value, bool | int | float) or field.name in ("display_language", "display_member", "log_level"):
            facts[field.name] = value
        elif field.name != "doors":
            facts[field.name] = len(value) if isinstance(value, tuple) else bool(value)
    facts["drops"] = [
        {"adapter": _adapter(one.adapter), "poll_s": one.poll_s, "settle_s": one.settle_s, "keep": one.keep}
        for one in config.doors.drops
    ]
    facts["printers"] = [{"adapter": _adapter(one.adapter), "idle_s": one.idle_s} for one in config.doors.printers]
    return facts


def journal_facts(folder: Folder, clock: Clock) -> list[dict[str, object]]:
    """What there is in the journal's folder, the newest first."""
    until = clock.monotonic() + SCAN_S
    with suppress(OSError):
        return [
            _chunk(file, look=clock.monotonic() < until)
            for file in sorted(folder.journal.iterdir(), reverse=True)
            if _CHUNK.fullmatch(file.name)
        ]
    return []


def log_facts(lines: Iterable[str]) -> Iterator[dict[str, object]]:
    """Log lines with what is on the lists; of what cannot be read, how many there were comes last."""
    unread = 0
    for text in lines:
        try:
            line = msgspec.json.decode(text, type=dict[str, Any])
        except msgspec.MsgspecError:
            unread += 1
            continue
        yield dict(_of_line(line))
    if unread:
        yield {"event": "lines_not_read", "records": unread}


def _of_line(line: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    for name, value in line.items():
        if name in COUNTS and isinstance(value, int | float) and abs(value) < _MOST:
            yield name, value
        elif name in CODES and isinstance(value, str):
            yield name, _word(value, CODES[name])
        elif name == "at" and isinstance(value, list):
            yield name, [_frame(one) for one in value if isinstance(one, str)]


def _word(text: str, fits: re.Pattern[str]) -> str:
    """A word of the agent's own as it is; anything else as "…"."""
    return text if not text or fits.fullmatch(text) else "…"


def _frame(text: str) -> str:
    """Where in the code, without the folder that it lies in."""
    name = text.rpartition("/")[2].rpartition("\\")[2]
    return _word(name, _FRAME)


def _adapter(name: str) -> str:
    return name if name in ADAPTERS else "one of the till's own"


def _chunk(file: Path, *, look: bool) -> dict[str, object]:
    found = file.stat()
    facts: dict[str, object] = {"name": file.name, "size": found.st_size, "changed_ms": found.st_mtime_ns // 10**6}
    if look:
        facts |= _inside(file)
    return facts


def _inside(file: Path) -> dict[str, object]:
    """What the clear parts of a chunk say; nothing that came from a POS is in them."""
    try:
        data = file.read_bytes()
        header, _ = ChunkHeader.read(data[:FRAMES_START])
    except (OSError, DamagedChunk):
        return {"header": "damaged"}
    parts = list(scan(data, FRAMES_START))
    return {
        "created_ms": header.created,
        "epoch": header.epoch.hex(),
        "frames": sum(isinstance(part, Frame) for part in parts),
        "gaps": [[part.start, part.end] for part in parts if isinstance(part, Gap)],
    }


def _files(folder: Folder) -> Iterator[dict[str, object]]:
    """The files that an agent makes in its state folder."""
    f = folder
    known = (
        f.path, f.identity_file, f.device_key_file, f.next_device_key_file, f.former, f.tag_key_file, f.token_file,
        f.socket, f.port_file, f.paired_file, f.machine_file, f.journal, f.database, f.lock_file,
    )  # fmt: skip
    for file in known:
        with suppress(OSError):
            found = file.stat()
            name = "STATE" if file == f.path else file.name
            mine = sys.platform == "win32" or found.st_uid == os.geteuid()
            yield {"name": name, "size": found.st_size, "mode": oct(found.st_mode & 0o7777), "mine": mine}


def _versions() -> Iterator[tuple[str, str | None]]:
    for name in PACKAGES:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            yield name, None


def _log(folder: Folder) -> list[str]:
    try:
        return kept_lines(folder.path)[-MAX_LOG_LINES:]
    except OSError:
        return []


def _secrets(folder: Folder) -> Iterator[bytes]:
    """What must be in no part, whatever else is: the folder's keys and its token, in every form they are written in."""
    f = folder
    files = [f.device_key_file, f.next_device_key_file, f.following_device_key_file, f.tag_key_file]
    with suppress(OSError):
        files += f.former.glob("*.key")
    for file in files:
        with suppress(OSError):
            if raw := file.read_bytes():
                yield from (raw, raw.hex().encode(), to_text(raw).encode())
    with suppress(TillstreamError):
        yield folder.hook_token().encode()


def _json(facts: object) -> bytes:
    return msgspec.json.format(msgspec.json.encode(facts), indent=1) + b"\n"
