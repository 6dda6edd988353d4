"""What the service manager is told: that the agent is ready, how it is, that it is alive, and that it stops.

systemd's notification protocol (sd_notify(3)): one datagram of `NAME=value` lines to the Unix socket that
`NOTIFY_SOCKET` names; a leading `@` stands for the null byte of an abstract name. `WATCHDOG_USEC` says within how many
microseconds it wants to hear `WATCHDOG=1` again, if `WATCHDOG_PID` is this process or not given; we say it three times
as often. Whoever starts the agent without any of these is told nothing.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tillstream_protocol.errors import TillstreamError

_BEATS: Final = 3
"""How often `WATCHDOG=1` is said in the time in which it is expected once."""


class NotTold(TillstreamError):
    """The service manager could not be told."""

    code = "not_told"


@dataclass(frozen=True, slots=True)
class Supervisor:
    """Whoever started the agent and wants to know how it is. Without an address every call does nothing."""

    address: str = ""
    watchdog_s: float = 0.0
    """Seconds within which a sign of life is expected; 0 where none is."""

    @classmethod
    def of(cls, environment: Mapping[str, str], pid: int) -> Supervisor:
        """As the environment of the process `pid` says. What makes no sense there counts as not said."""
        address = environment.get("NOTIFY_SOCKET", "")
        if not address.startswith(("/", "@")):
            return cls()
        microseconds = environment.get("WATCHDOG_USEC", "")
        meant = environment.get("WATCHDOG_PID", str(pid)) == str(pid)
        wanted = int(microseconds) / 1e6 if microseconds.isdecimal() and meant else 0.0
        return cls(address, wanted)

    def ready(self, status: str) -> None:
        """The doors are open. Raises `NotTold`, like every other call."""
        self._tell("READY=1", f"STATUS={status}")

    def stopping(self) -> None:
        """No more is taken; what remains is to close."""
        self._tell("STOPPING=1")

    async def live(self) -> None:
        """Give signs of life for ever; as the event loop gives them, a loop that hangs gives none."""
        while self.watchdog_s:
            self._tell("WATCHDOG=1")
            await asyncio.sleep(self.watchdog_s / _BEATS)
        await asyncio.Event().wait()

    def _tell(self, *lines: str) -> None:
        if self.address:
            _send(self.address, "\n".join(lines).encode())


def _send(address: str, data: bytes) -> None:
    if sys.platform != "win32":
        name = f"\0{address[1:]}" if address.startswith("@") else address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.setblocking(False)
                sender.connect(name)
                sender.send(data)
        except OSError as error:
            raise NotTold(f"the service manager could not be told: {error.strerror or error}") from error


NOBODY: Final = Supervisor()
"""Who wants to be told nothing."""
