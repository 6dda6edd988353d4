"""Whether the machine itself sees to it that an agent runs: its systemd unit."""

from __future__ import annotations

import asyncio
from asyncio import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from .finding import Finding, ok, problem

UNIT: Final = "tillstream-agent.service"
BOOTED: Final = Path("/run/systemd/system")
"""There where systemd runs the machine: sd_booted(3)."""
MANY_RESTARTS: Final = 5
_ASK_S: Final = 3.0
_FIELDS: Final = ("LoadState", "ActiveState", "UnitFileState", "Result", "NRestarts")
_LOG: Final = f"journalctl -u {UNIT} -n 50"

_RESULTS: Final[dict[str, tuple[str, str]]] = {
    "oom-kill": ("the machine ran out of memory", "see what else runs on it"),
    "watchdog": ("it hung, and systemd ended it", f"send support a bundle; {_LOG}"),
    "start-limit-hit": (
        "it ended again and again right after its start",
        f"see why: {_LOG}; then systemctl reset-failed {UNIT} and systemctl start {UNIT}",
    ),
}
AskService = Callable[[], Awaitable[str | None]]
"""What `systemctl show` says of the unit, or None where no systemd runs."""


async def ask_systemd(booted: Path = BOOTED, program: str = "systemctl") -> str | None:
    """What systemd says of the agent's unit; None where there is no systemd or it does not answer."""
    if not booted.is_dir():
        return None
    try:
        asked = await asyncio.create_subprocess_exec(
            program, "show", UNIT, f"--property={','.join(_FIELDS)}", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
    except OSError:
        return None
    try:
        told, _ = await asyncio.wait_for(asked.communicate(), _ASK_S)
    except TimeoutError:
        asked.kill()
        await asked.wait()
        return None
    return told.decode(errors="replace")


async def look_at_service(ask: AskService) -> list[Finding]:
    """How the unit is."""
    told = await ask()
    if told is None:
        return [ok("service", "no systemd runs here")]
    unit = dict(line.partition("=")[::2] for line in told.splitlines())
    return [_finding(unit)]


def _finding(unit: dict[str, str]) -> Finding:
    state = f"{UNIT} is {unit.get('ActiveState', 'unknown')}, {unit.get('UnitFileState') or 'not enabled'}"
    if unit.get("LoadState") in (None, "not-found"):
        return ok("service", f"{UNIT} is not installed: somebody else has to start the agent")
    if unit.get("LoadState") == "masked":
        return problem("service", state, "somebody has forbidden it to start", f"systemctl unmask --now {UNIT}")
    if unit.get("ActiveState") == "failed":
        usual = ("it ended with an error", f"see why: {_LOG}; then systemctl restart {UNIT}")
        return problem("service", f"{state}: {unit.get('Result')}", *_RESULTS.get(unit.get("Result", ""), usual))
    if unit.get("UnitFileState") == "disabled":
        return problem("service", state, "it does not start with the machine", f"systemctl enable --now {UNIT}")
    if unit.get("ActiveState") == "inactive":
        return problem("service", state, "somebody has stopped it", f"systemctl start {UNIT}")
    restarts = unit.get("NRestarts", "0")
    if restarts.isdecimal() and int(restarts) >= MANY_RESTARTS:
        return problem("service", f"{state}, restarted {restarts} times", "it ends again and again", f"see why: {_LOG}")
    return ok("service", state)
