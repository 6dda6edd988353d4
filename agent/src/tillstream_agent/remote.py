"""What head office sets on this till: kept, tried, and gone back from.

    none ── take ──▶ waiting ── begin ──▶ on trial ──▶ kept (the last good ones from now on)
                        │                    ├─ the till falls ill ──▶ rolled back to the last good ones
                        └─ cannot be meant   └─ the agent ends meanwhile ──▶ rolled back at its next start
                           ──▶ refused

All of it stands in one file, `settings.json`, that is there whole or as it was. Settings count only under the signature
of the server that this till joined, for this till; each version is tried once, and a former one never comes back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from tillstream_protocol.errors import TillstreamError
from tillstream_protocol.limits import MAX_TEXT
from tillstream_protocol.settings import (
    Outcome,
    Settings,
    SettingsReport,
    SignedSettings,
    open_settings,
    require_remote,
)
from tillstream_protocol.signing import from_text, to_text

from .config import Config, ConfigError
from .events import Events
from .folder import Folder, Identity, StateError, write_private

Apply = Callable[[Mapping[str, str]], Config]
"""The till's own settings with those from afar among them. Raises `ConfigError`."""


class _SignedFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    payload: str
    signature: str


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`settings.json`. `trying` says that the candidate is being run with."""

    server: str
    till: str
    newest: int = 0
    outcome: Outcome = "none"
    reason: str = ""
    trying: bool = False
    good: _SignedFile | None = None
    candidate: _SignedFile | None = None


@dataclass(frozen=True, slots=True)
class _Held:
    """Settings that were opened, and their bytes."""

    signed: SignedSettings
    settings: Settings


@dataclass(slots=True)
class Remote:
    """The settings from afar of one state folder. `changed` is set when something waits to be taken up."""

    file: Path
    identity: Identity
    apply: Apply
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    newest: int = 0
    outcome: Outcome = "none"
    reason: str = ""
    trying: bool = False
    _good: _Held | None = None
    _candidate: _Held | None = None

    @classmethod
    def open(cls, folder: Folder, identity: Identity, apply: Apply) -> Remote:
        """What the folder holds; nothing where it is damaged, or of an earlier enrolment."""
        remote = cls(folder.settings_file, identity, apply)
        remote._load()
        return remote

    @property
    def values(self) -> Mapping[str, str]:
        """What is set from afar now."""
        held = self._held
        return held.settings.settings if held is not None else {}

    @property
    def running(self) -> int:
        """The version that the till runs with; 0 for none."""
        held = self._held
        return held.settings.version if held is not None else 0

    @property
    def waiting(self) -> bool:
        """Whether there are others that were not tried yet."""
        return self._candidate is not None and not self.trying

    @property
    def _held(self) -> _Held | None:
        return self._candidate if self.trying else self._good

    def config(self) -> Config:
        """The till's settings as they are to be now. Raises `ConfigError` where its own cannot be meant.

        Kept settings that this agent no longer understands, an older one say, are left out of account.
        """
        try:
            return self.apply(self.values)
        except ConfigError:
            if not self.values or self.trying:
                raise
        return self.apply({})

    async def take(self, signed: SignedSettings) -> bool:
        """Keep newer settings to be tried, or say why not. Whether they are to be tried.

        Raises `StateError`, or what `open_settings` raises for settings that are not ours.
        """
        settings = open_settings(signed, self.identity.server_public, self.identity.till_id)
        if settings.version <= self.newest:
            return False
        self.newest, self.reason = settings.version, ""
        try:
            require_remote(frozenset(settings.settings))
            self.apply(settings.settings)
        except TillstreamError as error:
            self.outcome, self.reason = "refused", error.message[:MAX_TEXT]
            await self._store()
            return False
        self.outcome, self.trying, self._candidate = "trial", False, _Held(signed, settings)
        await self._store()
        self.changed.set()
        return True

    async def begin(self) -> None:
        """Run with those that wait, if any do, from now on and on trial. Raises `StateError`."""
        self.changed.clear()
        if self._candidate is not None and not self.trying:
            self.trying = True
            try:
                await self._store()
            except StateError:
                self.trying = False
                raise

    async def keep(self) -> None:
        """The till is well with those on trial. Raises `StateError`."""
        self._good, self._candidate, self.trying, self.outcome = self._candidate, None, False, "kept"
        await self._store()

    async def roll_back(self, reason: str) -> None:
        """Run with the last good ones again, whether that can be written down or not. Raises `StateError`."""
        self._candidate, self.trying = None, False
        self.outcome, self.reason = "rolled_back", reason[:MAX_TEXT]
        await self._store()

    def report(self) -> SettingsReport:
        """What the server is told."""
        return SettingsReport(self.running, self.newest, self.outcome, self.reason)

    async def _store(self) -> None:
        """Raises `StateError`. What was trying on the disk and ends there is rolled back at the next start."""
        plain = _File(
            to_text(self.identity.server_public),
            self.identity.till_id.hex(),
            self.newest,
            self.outcome,
            self.reason,
            self.trying,
            _written(self._good),
            _written(self._candidate),
        )
        try:
            await asyncio.to_thread(write_private, self.file, msgspec.json.encode(plain) + b"\n")
        except OSError as error:
            raise StateError(f"{self.file} cannot be written: {error.strerror}", hint="check disk space") from error

    def _load(self) -> None:
        try:
            found = msgspec.json.decode(self.file.read_bytes(), type=_File)
        except (OSError, msgspec.MsgspecError):
            return
        if (found.server, found.till) != (to_text(self.identity.server_public), self.identity.till_id.hex()):
            return
        self.newest, self.outcome, self.reason = found.newest, found.outcome, found.reason
        self._good, self._candidate = self._read(found.good), self._read(found.candidate)
        self.trying = found.trying and self._candidate is not None

    def _read(self, file: _SignedFile | None) -> _Held | None:
        """Settings out of the file, if they are still under their signature."""
        if file is None:
            return None
        try:
            signed = SignedSettings(from_text(file.payload), from_text(file.signature))
            return _Held(signed, open_settings(signed, self.identity.server_public, self.identity.till_id))
        except TillstreamError:
            return None


def peek(folder: Folder) -> Mapping[str, str]:
    """What is set from afar in a folder, to be shown; nothing where no till is enrolled."""
    try:
        identity = folder.identity()
    except StateError:
        return {}
    return Remote.open(folder, identity, lambda _: Config()).values


def current(folder: Folder, apply: Apply) -> Config:
    """The settings of a folder's agent, whether it runs or not, and whether a till is enrolled there or not.

    Raises `ConfigError`.
    """
    try:
        identity = folder.identity()
    except StateError:
        return apply({})
    return Remote.open(folder, identity, apply).config()


async def recover(remote: Remote, events: Events) -> None:
    """After the agent ended while it tried settings: go back, since they may be why."""
    if remote.trying:
        await rolled_back(remote, "the agent ended while it tried them", events)


async def rolled_back(remote: Remote, reason: str, events: Events) -> None:
    """Go back to the last good settings, and say so."""
    version = remote.running
    try:
        await remote.roll_back(reason)
    except StateError as error:
        events.housekeeping_failed("remember the settings", error)
    events.settings_rolled_back(version, reason)


def _written(held: _Held | None) -> _SignedFile | None:
    return _SignedFile(to_text(held.signed.payload), to_text(held.signed.signature)) if held is not None else None
