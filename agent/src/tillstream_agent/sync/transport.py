"""The one place that knows httpx: requests to the server, and what can become of them."""

from __future__ import annotations

import email.utils
import ipaddress
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import anyio
import anyio.lowlevel
import httpx
import msgspec

from tillstream_protocol.errors import ErrorBody, InvalidInput, TillstreamError
from tillstream_protocol.messages import CONTENT_TYPE
from tillstream_protocol.pack import MAX_PACK

MAX_REPLY: Final = MAX_PACK + 64 * 1024
MAX_RETRY_AFTER: Final = 3600.0
_CONNECT_TIMEOUT: Final = 10.0
_PIECE: Final = 16 * 1024
"""Bytes that are sent before what else the till has to do gets its turn."""


class Unreachable(TillstreamError):
    """The server could not be reached, or did not answer in time or in form."""

    code = "unreachable"
    retryable = True


class Refused(TillstreamError):
    """The server answered that it will not. `code` is the server's own."""

    def __init__(self, status: int, error: ErrorBody) -> None:
        super().__init__(error.message, field=error.field, limit=error.limit, hint=error.hint)
        self.status = status
        self.code = error.code
        self.retryable = error.retryable


class _ErrorReply(msgspec.Struct):
    error: ErrorBody


@dataclass(frozen=True, slots=True)
class Response:
    """What the server answered. `retry_after` is in seconds."""

    status: int
    body: bytes
    retry_after: float | None = None
    server_ms: int | None = None
    """The server's time by its `Date` header, to the second."""

    def error(self) -> ErrorBody:
        """The error that the body tells of, or one made of the status."""
        try:
            return msgspec.json.decode(self.body, type=_ErrorReply).error
        except msgspec.MsgspecError:
            return ErrorBody(f"http_{self.status}", f"the server answered with status {self.status}")

    def require_ok(self) -> bytes:
        """The body of a good answer. Raises `Refused`, or `Unreachable` when the server is in trouble itself."""
        if 200 <= self.status < 300:
            return self.body
        error = self.error()
        if self.status >= 500 or self.status == 429:
            raise Unreachable(f"the server is there but cannot answer now: {error.message}", hint="try again later")
        raise Refused(self.status, error)


def server_address(text: str) -> str:
    """A server's address as scheme, host and port.

    Plain HTTP goes to loopback only, and by exact comparison: a name that merely resolves to it will not do. Raises
    `InvalidInput`.
    """
    parts = _split(text)
    host = parts.hostname or ""
    if parts.scheme not in ("http", "https") or not host or parts.username is not None:
        raise InvalidInput("this is not a server's address", field="server", limit="https://host[:port]")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise InvalidInput("a server's address has no path", field="server", limit="https://host[:port]")
    if parts.scheme == "http" and not is_loopback(host):
        hint = "use https://; plain HTTP is only spoken to 127.0.0.1, ::1 and localhost"
        raise InvalidInput("plain HTTP would show everything on the way to everyone", field="server", hint=hint)
    name = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{name}" + (f":{parts.port}" if parts.port is not None else "")


def is_loopback(host: str) -> bool:
    """Whether a host is this machine: `localhost`, 127.0.0.0/8 or ::1, written out."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host) in _LOOPBACK_4 or ipaddress.ip_address(host) == _LOOPBACK_6
    except (ValueError, TypeError):
        return False


_LOOPBACK_4: Final = ipaddress.ip_network("127.0.0.0/8")
_LOOPBACK_6: Final = ipaddress.ip_address("::1")


class _Parts(msgspec.Struct, frozen=True):
    scheme: str
    hostname: str | None
    port: int | None
    username: str | None
    path: str
    query: str
    fragment: str


def _split(text: str) -> _Parts:
    try:
        p = urlsplit(text.strip())
        return _Parts(p.scheme, p.hostname, p.port, p.username, p.path, p.query, p.fragment)
    except ValueError as error:
        raise InvalidInput("this is not a server's address", field="server", limit="https://host[:port]") from error


def tls_context(address: str, ca_file: str) -> ssl.SSLContext | None:
    """What the agent trusts: the system's authorities, or those of a file instead. None where HTTP is plain.

    Raises `InvalidInput`.
    """
    if address.startswith("http://"):
        return None
    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except (OSError, ssl.SSLError) as error:
        raise InvalidInput(f"the certificates in {ca_file} cannot be read", field="sync.ca_file") from error


class Transport:
    """Speaks HTTP to one server. Proxies of the environment are not used, redirects not followed."""

    def __init__(self, address: str, *, tls: ssl.SSLContext | None, timeout: float) -> None:
        self._address = address
        self._client = httpx.AsyncClient(
            base_url=address,
            verify=tls if tls is not None else not address.startswith("http://"),
            timeout=httpx.Timeout(timeout, connect=min(timeout, _CONNECT_TIMEOUT)),
            trust_env=False,
            headers={"Accept": CONTENT_TYPE, "Accept-Encoding": "identity"},
        )

    async def warm_up(self) -> None:
        """Load what httpx would load at its first request: that takes so long that captures would feel it."""
        await anyio.lowlevel.checkpoint()

    async def post(self, path: str, body: bytes, headers: Mapping[str, str] | None = None) -> Response:
        """Send a msgpack body. Raises `Unreachable`."""
        return await self._send("POST", path, body, {"Content-Type": CONTENT_TYPE, **(headers or {})})

    async def get(self, path: str, headers: Mapping[str, str] | None = None) -> Response:
        """Fetch a path. Raises `Unreachable`."""
        return await self._send("GET", path, None, headers or {})

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _send(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Response:
        length = {} if body is None else {"Content-Length": str(len(body))}
        content = None if body is None else _in_pieces(body)
        try:
            async with self._client.stream(method, path, content=content, headers={**headers, **length}) as response:
                return Response(
                    response.status_code, await self._read(response), _retry_after(response), _date_ms(response)
                )
        except httpx.TimeoutException as error:
            raise Unreachable(f"{self._address} does not answer in time", hint="check the network") from error
        except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError, OSError) as error:
            reason = str(error) or type(error).__name__
            raise Unreachable(
                f"{self._address} cannot be reached: {reason}", hint="check address and network"
            ) from error

    async def _read(self, response: httpx.Response) -> bytes:
        body = bytearray()
        async for part in response.aiter_raw():
            body += part
            if len(body) > MAX_REPLY:
                raise Unreachable(f"{self._address} answers more than fits", limit=f"{MAX_REPLY} bytes")
        return bytes(body)


def _retry_after(response: httpx.Response) -> float | None:
    """`Retry-After` in seconds (RFC 9110, section 10.2.3); its date form is not spoken between tills and servers."""
    text = response.headers.get("Retry-After", "")
    return min(float(text), MAX_RETRY_AFTER) if text.isdecimal() else None


def _date_ms(response: httpx.Response) -> int | None:
    try:
        return int(email.utils.parsedate_to_datetime(response.headers.get("Date", "")).timestamp() * 1000)
    except (TypeError, ValueError):
        return None


async def _in_pieces(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), _PIECE):
        yield body[start : start + _PIECE]
