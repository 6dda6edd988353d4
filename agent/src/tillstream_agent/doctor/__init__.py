"""Looks an agent over, and says for each trouble what causes it and what to do.

It needs no server and no running agent, and is done within ten seconds whatever hangs: what depends on nothing else is
looked at side by side, each under a limit of its own.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from tillstream_protocol.errors import TillstreamError

from .. import __version__
from ..boot import machine_id
from ..clock import Clock
from ..config import Config, lowered_in_words
from ..folder import Folder, Identity
from .doors import findings_of_doors
from .files import Files
from .finding import Finding, Verdict, ok, patiently, problem
from .running import TROUBLES, Running, findings_of
from .server import Way, addresses
from .service import AskService, ask_systemd, look_at_service

__all__ = ["TROUBLES", "Doctor", "Finding", "Surroundings", "Verdict", "findings_of", "findings_of_doors"]

FIRST_S: Final = 1.5
"""Seconds for a first look at the folder: a disk that does not answer meanwhile hangs."""
REST_S: Final = 5.5
"""Seconds for everything after it; the last word on the clock may take half of `FIRST_S` more."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the doctor asks of the machine around the agent."""

    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    resolve: Callable[[str, int], Iterable[str]] = addresses
    ask_service: AskService = ask_systemd
    machine_id: Callable[[], str | None] = machine_id
    version: str = __version__
    """Of what is installed."""


@dataclass(frozen=True, slots=True)
class Doctor:
    """Examines one state folder. `timer` measures seconds."""

    folder: Folder
    config: Config
    clock: Clock
    randomness: Callable[[int], bytes]
    timer: Callable[[], float] = time.perf_counter
    surroundings: Surroundings = field(default_factory=Surroundings)
    complaint: TillstreamError | None = None
    """What is wrong with the settings, where `config` is not what was asked for."""

    async def examine(self) -> list[Finding]:
        """Everything, in order of what depends on what."""
        files = self._files()
        try:
            async with asyncio.timeout(FIRST_S):
                identity = await patiently(files.identity, FIRST_S)
                if isinstance(identity, Finding):
                    return [identity]
                first = await patiently(lambda: files.quick(identity), FIRST_S)
        except TimeoutError:
            return [_dead_disk()]
        except OSError as error:
            return [_unreadable(error)]
        rest = await asyncio.gather(
            self._limited("disk speed", patiently(lambda: [files.speed()], REST_S)),
            self._limited("journal", patiently(lambda: [files.journal()], REST_S)),
            self._limited("server", self._way(identity).go()),
            self._limited("doors", patiently(lambda: list(findings_of_doors(self.config.doors)), REST_S)),
            self._limited("service", look_at_service(self.surroundings.ask_service)),
            self._limited("agent", self._running().look()),
        )
        findings = [*first, *self._settings(), *(finding for part in rest for finding in part)]
        if not any(finding.check == "clock" for finding in findings):
            findings += await self._limited("clock", patiently(lambda: [files.calendar(identity)], FIRST_S / 2))
        return findings

    async def _limited(self, check: str, look: Awaitable[list[Finding]]) -> list[Finding]:
        try:
            async with asyncio.timeout(REST_S):
                return await look
        except TimeoutError:
            fix = "see the other findings, and what else the machine is busy with; try again"
            return [problem(check, f"no result within {REST_S:.1f} s", "the machine, its disk or a line hangs", fix)]
        except OSError as error:
            detail = f"{error.filename or check}: {error.strerror or error}"
            fix = "see dmesg, and what lies there; send support a bundle"
            return [problem(check, detail, "the disk fails, or somebody changed what lies there", fix)]

    def _files(self) -> Files:
        reserve, machine = self.config.journal_reserve_bytes, self.surroundings.machine_id()
        return Files(self.folder, self.clock, reserve, machine, self.timer)

    def _way(self, identity: Identity) -> Way:
        return Way(
            identity,
            self.config.sync_ca_file,
            self.config.sync_timeout_s,
            self.clock,
            self.randomness,
            self.timer,
            self.surroundings.resolve,
            self.surroundings.environment,
        )

    def _running(self) -> Running:
        return Running(self.folder, self.clock, self.config.hook_port, self.surroundings.version, self.timer)

    def _settings(self) -> list[Finding]:
        error = self.complaint
        if error is None:
            return [ok("settings", sentence) for sentence in lowered_in_words(self.config)]
        if isinstance(error.__cause__, PermissionError):
            fix = "let the agent's user read the file and enter its folder; then restart the agent"
            return [problem("settings", error.message, "it is not the agent's user's to read", fix)]
        fix = f"write {error.limit}" if error.limit else error.hint or "set it right; then restart the agent"
        return [problem("settings", error.message, "a setting cannot be meant, so the agent does not start", fix)]


def _dead_disk() -> Finding:
    cause = "the disk, or the network share, that holds the state folder hangs"
    fix = "see dmesg; keep the state folder on a disk of the till itself"
    return problem("disk speed", f"the state folder does not answer within {FIRST_S:.1f} s", cause, fix)


def _unreadable(error: OSError) -> Finding:
    fix = "run the doctor as the agent's user, or as root"
    return problem("permissions", f"{error.filename}: {error.strerror}", "you are not the agent's user", fix)
