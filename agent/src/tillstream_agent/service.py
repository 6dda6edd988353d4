"""The agent as a service of Windows: `tillstream-agent service install | uninstall | start | stop | status`.

The service runs as its own virtual account, which has no password and no rights beyond its folder. Windows' own tools
(`sc.exe`, `icacls.exe`) make and ask it; what they are told and what they say is put together here without Windows, and
tested. `run`, which the service manager starts, is in `service_host.py`, for Windows alone.

Checked by mypy for Windows. It has not been run there yet.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from secrets import SystemRandom
from typing import Final, Literal, TextIO, cast

from tillstream_protocol.errors import InvalidInput, TillstreamError

from .app import World, run
from .clock import SystemClock
from .folder import Folder
from .logs import KeptLog
from .remote import Apply, peek

NAME: Final = "TillstreamAgent"
ACCOUNT: Final = f"NT SERVICE\\{NAME}"
_ADMINISTRATORS: Final = "*S-1-5-32-544"
_SYSTEM: Final = "*S-1-5-18"
_NOT_THERE: Final = 1060
_ALREADY_RUNNING: Final = 1056
_NOT_STARTED: Final = 1062
_STATES: Final = {1: "stopped", 2: "starting", 3: "stopping", 4: "running", 5: "resuming", 6: "pausing", 7: "paused"}

Action = Literal["install", "uninstall", "start", "stop", "status"]
ACTIONS: Final[tuple[Action, ...]] = ("install", "uninstall", "start", "stop", "status")
Run = Callable[[Sequence[str]], tuple[int, str]]
"""Runs a program; its exit code, and what it printed."""


class ServiceError(TillstreamError):
    """Windows would not do what was asked of the service."""

    code = "service"


@dataclass(frozen=True, slots=True)
class Plan:
    """What the service is to run, and where."""

    program: PureWindowsPath
    state: PureWindowsPath
    config: PureWindowsPath | None = None

    def command_line(self) -> str:
        """What the service manager starts."""
        words = [str(self.program), "service", "run", "--state", str(self.state)]
        if self.config is not None:
            words += ["--config", str(self.config)]
        return subprocess.list2cmdline(words)

    def commands(self) -> list[list[str]]:
        """What makes the service. Restarts after a failure, and after an error's exit code too; rights are cut to none
        but the one that every account has. The folder is closed to all but service, system and administrators."""
        grants = [f"{who}:(OI)(CI)F" for who in (ACCOUNT, _SYSTEM, _ADMINISTRATORS)]
        delays = "restart/2000/restart/10000/restart/60000"
        create = ["sc.exe", "create", NAME, "binPath=", self.command_line(), "start=", "delayed-auto"]
        return [
            [*create, "obj=", ACCOUNT, "DisplayName=", "Tillstream agent"],
            ["sc.exe", "description", NAME, "Captures what happens at this till and syncs it to head office."],
            ["sc.exe", "failure", NAME, "reset=", "86400", "actions=", delays],
            ["sc.exe", "failureflag", NAME, "1"],
            ["sc.exe", "privs", NAME, "SeChangeNotifyPrivilege"],
            ["icacls.exe", str(self.state), "/inheritance:r", "/grant:r", *grants],
        ]


def state_of(queried: str) -> str:
    """The state in what `sc.exe query` prints; the words round its number depend on Windows' language."""
    found = re.search(r":\s+([1-7])\s+[A-Z]\w*", queried)
    return _STATES[int(found[1])] if found is not None else "unknown"


@dataclass(frozen=True, slots=True)
class Service:
    """The service of this machine, by way of Windows' tools."""

    run: Run

    def install(self, plan: Plan) -> str:
        """Make it. Raises `ServiceError`; then nothing of it is left."""
        create, *rest = plan.commands()
        self._must(create)
        try:
            for command in rest:
                self._must(command)
        except ServiceError:
            self.run(["sc.exe", "delete", NAME])
            raise
        return f"installed as {NAME}; it starts with Windows, and now by: tillstream-agent service start"

    def uninstall(self) -> str:
        """Stop and remove it; its folder stays. Raises `ServiceError`."""
        self.run(["sc.exe", "stop", NAME])
        self._must(["sc.exe", "delete", NAME])
        return "removed; the till's queue and keys are kept"

    def start(self) -> str:
        """Start it. Raises `ServiceError`."""
        self._must(["sc.exe", "start", NAME], unless=(_ALREADY_RUNNING,))
        return "started"

    def stop(self) -> str:
        """Stop it. Raises `ServiceError`."""
        self._must(["sc.exe", "stop", NAME], unless=(_NOT_STARTED,))
        return "stopped"

    def status(self) -> str:
        """`running`, `stopped` … or `not installed`. Raises `ServiceError`."""
        code, said = self.run(["sc.exe", "query", NAME])
        if code == _NOT_THERE:
            return "not installed"
        if code != 0:
            raise _failed(["sc.exe", "query"], code, said)
        return state_of(said)

    def _must(self, command: list[str], unless: Iterable[int] = ()) -> None:
        code, said = self.run(command)
        if code != 0 and code not in unless:
            raise _failed(command[:2], code, said)


def _failed(command: list[str], code: int, said: str) -> ServiceError:
    hints = {5: "run it as administrator", _NOT_THERE: "install it first: tillstream-agent service install"}
    hints |= {1073: "it is installed already; uninstall it first"}
    reason = " ".join(said.split())[:200]
    return ServiceError(f"{' '.join(command)} failed with {code}: {reason}", hint=hints.get(code))


def act(action: Action, state: Path, config: Path | None) -> str:
    """Do it on this machine; what to say of it. Raises `ServiceError`, or `InvalidInput` where this is no Windows."""
    if sys.platform == "win32":
        return perform(Service(_run), action, Path(sys.executable), state, config)
    raise _not_here()


def perform(service: Service, action: Action, program: Path, state: Path, config: Path | None) -> str:
    """Do it with `service`; what to say of it. Raises `ServiceError`."""
    if action == "install":
        state.mkdir(parents=True, exist_ok=True)
        settings = PureWindowsPath(config.absolute()) if config is not None else None
        return service.install(Plan(PureWindowsPath(program), PureWindowsPath(state.absolute()), settings))
    others = {"uninstall": service.uninstall, "start": service.start, "stop": service.stop, "status": service.status}
    return others[action]()


def run_service(folder: Folder, settings: Apply) -> None:
    """Be the agent under Windows' service manager, which starts this.

    Nobody reads a service's standard error, so the log is what the state folder keeps of it. Raises `ServiceError`,
    `ConfigError`, or as the agent does.
    """
    config = settings(peek(folder))
    if sys.platform == "win32":
        from .service_host import Host

        folder.identity()
        with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
            log = cast("TextIO", KeptLog(nowhere, folder.path, config.log_kept_bytes))
            world = World(SystemClock(), os.urandom, SystemRandom().random, log)

            async def be_agent(stop: asyncio.Event, ready: Callable[[int], None]) -> None:
                await run(folder, config, world, stop=stop, started=ready, settings=settings)

            try:
                Host(NAME, be_agent).run()
            except OSError as error:
                hint = "start it by: tillstream-agent service start"
                raise ServiceError(f"the service manager did not start this: {error}", hint=hint) from error
    else:  # for mypy, which reads the one half or the other
        raise _not_here()


def _not_here() -> InvalidInput:
    hint = "here: systemctl status tillstream-agent"
    return InvalidInput("services of this kind are Windows'", field="service", hint=hint)


def _run(command: Sequence[str]) -> tuple[int, str]:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")  # noqa: S603 (Windows' own tools)
    return done.returncode, done.stdout + done.stderr
