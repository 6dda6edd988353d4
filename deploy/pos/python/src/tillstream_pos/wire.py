"""One kept connection to the agent, in as much of HTTP/1.1 as the agent speaks.

The standard library's client counts a time-out anew at each read; a peer that dribbles would hold a sale for long. So
here every wait is what is left until the call's deadline.
"""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass

from .place import Place

HEAD_LIMIT = 32 * 1024
BODY_LIMIT = 4 * 1024 * 1024
_PIECE = 65_536


class Overdue(Exception):
    """The deadline passed. What was sent may have been taken."""


class Broken(Exception):
    """The connection ended. `unanswered` says that not a byte of an answer had come."""

    def __init__(self, message: str, *, unanswered: bool = False) -> None:
        super().__init__(message)
        self.unanswered = unanswered


class Strange(Exception):
    """What came is not an agent's answer."""


@dataclass(frozen=True)
class Request:
    """A call as it is sent."""

    method: str
    path: str
    body: bytes
    kind: str
    """The body's content type."""


class Connection:
    """Sends one request at a time. Not thread-safe: each thread that calls has one of its own meanwhile."""

    def __init__(self, place: Place, deadline: float) -> None:
        self.place = place
        self.used = False
        try:
            self._socket = socket.create_connection((place.address, place.port), timeout=_left(deadline))
        except socket.timeout:  # noqa: UP041 (another class before Python 3.10)
            raise Overdue from None
        except OSError as error:
            raise Broken(error.strerror or "the connection was refused") from error
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, request: Request, deadline: float) -> tuple[int, bytes, bool]:
        """Status, body, and whether the connection can be used again.

        Raises `Overdue`, `Broken` and `Strange`; the connection must then be closed.
        """
        sent = self._head(request) + request.body
        self.used = True
        data = bytearray()
        try:
            self._socket.settimeout(_left(deadline))
            self._socket.sendall(sent)
            while (end := data.find(b"\r\n\r\n")) < 0:
                self._receive(data, deadline, HEAD_LIMIT)
            status, length, kept = _head(bytes(data[:end]))
            while len(data) < end + 4 + length:
                self._receive(data, deadline, end + 4 + length)
        except socket.timeout:  # noqa: UP041
            raise Overdue from None
        except OSError as error:
            raise Broken(error.strerror or "the connection ended", unanswered=not data) from error
        return status, bytes(data[end + 4 : end + 4 + length]), kept and len(data) == end + 4 + length

    def stale(self) -> bool:
        """Whether the other side hung up, or said something unasked, while nothing was going on."""
        try:
            self._socket.setblocking(False)
            self._socket.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            return True
        return True

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def _head(self, request: Request) -> bytes:
        lines = (
            f"{request.method} {request.path} HTTP/1.1",
            f"Host: {self.place.host}",
            f"Authorization: Bearer {self.place.token}",
            f"Content-Type: {request.kind}",
            f"Content-Length: {len(request.body)}",
            "Accept: application/json",
        )
        return "".join(f"{line}\r\n" for line in (*lines, "")).encode("ascii")

    def _receive(self, data: bytearray, deadline: float, limit: int) -> None:
        if len(data) >= limit:
            raise Strange("the answer has no end")
        self._socket.settimeout(_left(deadline))
        piece = self._socket.recv(_PIECE)
        if not piece:
            raise Broken("the agent hung up", unanswered=not data)
        data += piece


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise Overdue
    return left


def _head(text: bytes) -> tuple[int, int, bool]:
    """Status, length of the body, and whether the connection stays open."""
    first, *lines = text.decode("latin-1").split("\r\n")
    version, _, rest = first.partition(" ")
    length: int | None = None
    kept = version == "HTTP/1.1"
    for line in lines:
        name, _, value = line.partition(":")
        if name.lower() == "content-length" and value.strip().isdecimal():
            length = int(value)
        elif name.lower() == "connection" and value.strip().lower() == "close":
            kept = False
    if version not in ("HTTP/1.1", "HTTP/1.0") or not rest[:3].isdecimal() or length is None or length > BODY_LIMIT:
        raise Strange("this is not an agent's answer")
    return int(rest[:3]), length, kept
