"""Where the agent is, and by which token it lets a POS in.

The agent writes both into its state folder: `hook.port` while it runs, `hook-token` for good. They are read when a
connection is opened, so that an agent that comes back on another port is found again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Union
from urllib.parse import urlsplit

HOSTS = {"127.0.0.1": "127.0.0.1", "localhost": "127.0.0.1", "::1": "::1"}
"""The names by which an agent may be called, and their addresses: no resolver is asked while a sale waits."""

Mark = tuple[int, ...]


class Absent(Exception):
    """There is no agent here now."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True)
class Place:
    """An address, the `Host` that the agent expects there, and its token."""

    address: str
    port: int
    host: str
    token: str


class Finder(Protocol):
    """Finds the agent."""

    def find(self) -> Place:
        """Where it is now. Raises `Absent`."""
        ...

    def mark(self) -> Mark:
        """Something that changes when an agent starts: looking is cheaper than trying."""
        ...


class Given:
    """An address that the POS was told."""

    def __init__(self, url: str, token: str) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or parts.hostname not in HOSTS or parts.path.strip("/"):
            raise ValueError(f"{url!r} is not the address of an agent: http://127.0.0.1 and its port")
        port = parts.port or 80
        host = f"[::1]:{port}" if parts.hostname == "::1" else f"127.0.0.1:{port}"
        self._place = Place(HOSTS[parts.hostname], port, host, token)

    def find(self) -> Place:
        """Always the same."""
        return self._place

    def mark(self) -> Mark:
        """Nothing tells."""
        return ()


class Folder:
    """The agent's state folder on this machine."""

    def __init__(self, path: Path) -> None:
        self._port = path / "hook.port"
        self._token = path / "hook-token"

    def find(self) -> Place:
        """Read port and token. Raises `Absent`."""
        try:
            port = int(self._port.read_text(encoding="ascii"))
            token = self._token.read_text(encoding="ascii").strip()
        except FileNotFoundError:
            raise Absent("no agent runs on this state folder", f"{self._port} appears when one starts") from None
        except (OSError, ValueError) as error:
            hint = f"the user of the POS must be able to read {self._port} and {self._token}, or give url and token"
            raise Absent("the agent's state folder cannot be read", hint) from error
        return Place("127.0.0.1", port, f"127.0.0.1:{port}", token)

    def mark(self) -> Mark:
        """Which file names the port: an agent writes it anew at each start."""
        try:
            found = self._port.stat()
        except OSError:
            return (0,)
        return (found.st_ino, found.st_mtime_ns)


def finder(
    state: Union[str, os.PathLike[str]] | None,
    url: str | None,
    token: str | None,
    environment: Mapping[str, str],
) -> Finder:
    """What was given, else the environment's state folder, else where agents keep it. Raises `ValueError`."""
    if url is not None:
        if state is not None or not token:
            raise ValueError("give a state folder, or url and token")
        return Given(url, token)
    if token is not None:
        raise ValueError("a token needs the url that it is for")
    return Folder(Path(state) if state is not None else _usual(environment))


def _usual(environment: Mapping[str, str]) -> Path:
    if environment.get("TILLSTREAM_STATE"):
        return Path(environment["TILLSTREAM_STATE"])
    base = environment.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "tillstream-agent"
