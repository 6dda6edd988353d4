"""Requests to the server, what can become of them, and how a running agent makes them.

Every batch goes by aiohttp, which costs the event loop least, and what it raises ends here. What commands ask once goes
by `asking`.
"""

from __future__ import annotations

import asyncio
import email.utils
import ipaddress
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Protocol
from urllib.parse import urlsplit

import aiohttp
import msgspec
from yarl import URL

from tillstream_protocol.errors import ErrorBody, InvalidInput, TillstreamError
from tillstream_protocol.messages import CONTENT_TYPE
from tillstream_protocol.pack import MAX_PACK

MAX_REPLY: Final = MAX_PACK + 64 * 1024
MAX_RETRY_AFTER: Final = 3600.0
CONNECT_TIMEOUT: Final = 10.0
"""Seconds that a connection may take to come about, where a request may take longer."""
HEADERS: Final = MappingProxyType({"Accept": CONTENT_TYPE, "Accept-Encoding": "identity"})
"""What every request says."""
_KEPT_S: Final = 5.0
"""Seconds for which a connection that is not used is kept."""
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


class Client(Protocol):
    """Speaks HTTP to one server. Proxies of the environment are not used, redirects not followed."""

    async def send(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Response:
        """One request and its answer. Raises `Unreachable`."""

    async def post(self, path: str, body: bytes, headers: Mapping[str, str] | None = None) -> Response:
        """Send a msgpack body. Raises `Unreachable`."""
        return await self.send("POST", path, body, {"Content-Type": CONTENT_TYPE, **(headers or {})})

    async def get(self, path: str, headers: Mapping[str, str] | None = None) -> Response:
        """Fetch a path. Raises `Unreachable`."""
        return await self.send("GET", path, None, headers or {})

    async def close(self) -> None:
        """Close the connections."""


def answered(status: int, headers: Mapping[str, str], body: bytes) -> Response:
    """A response of what arrived. `headers` are found by their names in any case."""
    return Response(status, body, _retry_after(headers), _date_ms(headers))


async def gathered(address: str, parts: AsyncIterable[bytes]) -> bytes:
    """All of an answer's body. Raises `Unreachable` when it is more than `MAX_REPLY`."""
    body = bytearray()
    async for part in parts:
        body += part
        if len(body) > MAX_REPLY:
            raise Unreachable(f"{address} answers more than fits", limit=f"{MAX_REPLY} bytes")
    return bytes(body)


def too_slow(address: str) -> Unreachable:
    """Nothing came, or nothing was taken, for as long as was waited."""
    return Unreachable(f"{address} does not answer in time", hint="check the network")


def not_reached(address: str, error: Exception) -> Unreachable:
    """There is no connection, or none that can be used, for the reason that `error` tells."""
    reason = str(error) or type(error).__name__
    return Unreachable(f"{address} cannot be reached: {reason}", hint="check address and network")


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """`Retry-After` in seconds (RFC 9110, section 10.2.3); its date form is not spoken between tills and servers."""
    text = headers.get("Retry-After", "")
    return min(float(text), MAX_RETRY_AFTER) if text.isdecimal() else None


def _date_ms(headers: Mapping[str, str]) -> int | None:
    try:
        return int(email.utils.parsedate_to_datetime(headers.get("Date", "")).timestamp() * 1000)
    except (TypeError, ValueError):
        return None


class Transport(Client):
    """Carries the batches of a running agent, by aiohttp. Cookies are not kept."""

    def __init__(self, address: str, *, tls: ssl.SSLContext | None, timeout: float) -> None:
        """`timeout` is how many seconds may pass without progress."""
        self._address = address
        self._tls = tls
        self._timeout = timeout
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def send(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Response:
        """One request and its answer. Raises `Unreachable`."""
        length = {} if body is None else {"Content-Length": str(len(body))}
        try:
            url = URL(self._address + path, encoded=True)
            async with asyncio.timeout(self._timeout) as patience:
                renew = self._renewing(patience)
                content = None if body is None else _in_pieces(body, renew)
                async with self._client().request(
                    method, url, data=content, headers={**headers, **length}, allow_redirects=False
                ) as response:
                    arriving = _heeded(response.content.iter_any(), renew)
                    return answered(response.status, response.headers, await gathered(self._address, arriving))
        except TimeoutError as error:
            raise too_slow(self._address) from error
        except (aiohttp.ClientError, ssl.SSLError, OSError, ValueError) as error:
            raise not_reached(self._address, _cause(error)) from error

    def _client(self) -> aiohttp.ClientSession:
        """Made at the first request, since it belongs to the event loop that runs then."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=self._tls or True, keepalive_timeout=_KEPT_S),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=min(self._timeout, CONNECT_TIMEOUT)),
                headers=HEADERS,
                skip_auto_headers=("User-Agent",),
                auto_decompress=False,
                trust_env=False,
            )
        return self._session

    def _renewing(self, patience: asyncio.Timeout) -> Callable[[], None]:
        """To be called when a request gets on: its time begins anew."""
        return lambda: patience.reschedule(asyncio.get_running_loop().time() + self._timeout)


def _cause(error: Exception) -> Exception:
    """What went wrong, without what aiohttp says of its own objects."""
    return error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error


async def _in_pieces(body: bytes, renew: Callable[[], None]) -> AsyncIterator[bytes]:
    """A body in pieces, each of which is asked for when the one before has left; between them others have a turn."""
    for start in range(0, len(body), _PIECE):
        yield body[start : start + _PIECE]
        renew()
        await asyncio.sleep(0)


async def _heeded(parts: AsyncIterable[bytes], renew: Callable[[], None]) -> AsyncIterator[bytes]:
    """What arrives, and each part of it is progress."""
    async for part in parts:
        renew()
        yield part
