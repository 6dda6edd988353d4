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
from functools import partial
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
from .folder import Folder, Identity, StateError, in_thread, write_private

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
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while the file is written: what is decided on a trial is not about settings that come meanwhile."""

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

        Raises `StateError`, or what `open_settings` raises for settings that are not ours; then nothing is taken, and
        the same may come again.
        """
        settings = open_settings(signed, self.identity.server_public, self.identity.till_id)
        async with self._turn:
            if settings.version <= self.newest:
                return False
            before = (self.newest, self.outcome, self.reason, self.trying, self._candidate)
            taken = self._accept(_Held(signed, settings))
            try:
                await self._store()
            except BaseException:
                self.newest, self.outcome, self.reason, self.trying, self._candidate = before
                raise
        if taken:
            self.changed.set()
        return taken

    def _accept(self, held: _Held) -> bool:
        """Have settings wait, if they can be meant."""
        self.newest, self.reason = held.settings.version, ""
        try:
            require_remote(frozenset(held.settings.settings))
            self.apply(held.settings.settings)
        except TillstreamError as error:
            self.outcome, self.reason = "refused", error.message[:MAX_TEXT]
            return False
        self.outcome, self.trying, self._candidate = "trial", False, held
        return True

    async def begin(self) -> None:
        """Run with those that wait, if any do, from now on and on trial. Raises `StateError`."""
        async with self._turn:
            self.changed.clear()
            if not self.waiting:
                return
            self.trying = True
            try:
                await self._store()
            except StateError:
                self.trying = False
                raise

    async def keep(self) -> bool:
        """The till is well with those on trial. False where others came meanwhile. Raises `StateError`."""
        async with self._turn:
            if not self.trying:
                return False
            self._end("kept", "")
            self._good, self._candidate, self.trying = self._candidate, None, False
            await self._store()
        return True

    async def roll_back(self, reason: str) -> None:
        """Run with the last good ones again, whether that can be written down or not. Raises `StateError`.

        Where others came meanwhile, those are next.
        """
        async with self._turn:
            if self.trying:
                self._end("rolled_back", reason[:MAX_TEXT])
                self._candidate, self.trying = None, False
                await self._store()

    def _end(self, outcome: Outcome, reason: str) -> None:
        """The report is of the newest settings: a later version that was refused has its own."""
        if self.running == self.newest:
            self.outcome, self.reason = outcome, reason

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
            await in_thread(partial(write_private, self.file, msgspec.json.encode(plain) + b"\n"))
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
