"""Who may speak to the loopback hook.

Any web page that the till's browser opens can reach a loopback port. So: an exact list of hosts (a rebound name is
not on it), an exact list of origins, a bearer token, content types that no form can send, and cross-origin headers for
configured origins alone (see cors.py). A browser also says by itself from where a request was started
(`Sec-Fetch-Site`): what another site's page embeds or fetches without an origin is refused by that. Screens, and a POS
that runs in a browser, have secrets of their own, by pairing: a screen's opens the cashier's page and what its buttons
do, and nothing of the hook.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection, Iterable, Mapping
from typing import Protocol

from tillstream_protocol.errors import TillstreamError

from .pairing import Kind, bearer_of, cookie_of

DISPLAY_COOKIE = "tillstream-display"
JSON = "application/json"
MSGPACK = "application/msgpack"


class Forbidden(TillstreamError):
    """The caller is not one that may speak here."""

    code = "forbidden"


class Unauthorized(TillstreamError):
    """The caller did not show the token."""

    code = "unauthorized"


class UnsupportedMedia(TillstreamError):
    """A content type or encoding that is not read here."""

    code = "unsupported_media_type"


class Headers(Protocol):
    """A request's headers, case-insensitive, possibly repeated."""

    def getall(self, key: str, default: list[str]) -> list[str]:
        """Every value of a header."""
        ...


class Passes(Protocol):
    """Who was paired."""

    def knows(self, secret: str, kind: Kind, origin: str | None = None) -> bool:
        """Whether this secret was handed out for this, and to a caller from there."""
        ...


class Guard:
    """Checks one door's requests. `port` is the one the door listens on."""

    def __init__(self, token: str, port: int, passes: Passes, origins: Iterable[str] = ()) -> None:
        names = [f"{host}:{port}" for host in ("127.0.0.1", "localhost", "[::1]")]
        self._hosts = frozenset(names)
        self._shared = frozenset(origins)
        self._origins = frozenset([*(f"http://{name}" for name in names), *origins])
        self._bearer = f"Bearer {token}".encode()
        self._passes = passes

    def admit(self, headers: Headers, target: str = "/", *, opened: bool = False) -> None:
        """Raise `Forbidden` unless host, origin and target are allowed.

        `target` is as it stands in the request line; `opened` says that a page which a browser may open from anywhere
        was asked for.
        """
        hosts = headers.getall("Host", [])
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            raise Forbidden("this host name is not served here", field="Host", hint="call 127.0.0.1 and the port")
        if not target.startswith("/"):
            raise Forbidden("this is no path", field="target", hint="begin it with /")
        if any(value.strip().lower() != "h2c" for value in headers.getall("Upgrade", [])):
            raise Forbidden("no connection is made into another here", field="Upgrade")
        origins = headers.getall("Origin", [])
        if len(origins) > 1 or any(origin not in self._origins for origin in origins):
            hint = "add it to hook.origins if it is the POS's own"
            raise Forbidden("pages of this origin may not call here", field="Origin", hint=hint)
        if not origins and not _started_here(headers, opened=opened):
            raise Forbidden("pages of another site may not load this", field="Sec-Fetch-Site")

    def shared_origin(self, headers: Headers) -> str | None:
        """The configured origin whose page sends this, if one does."""
        origins = headers.getall("Origin", [])
        return origins[0] if len(origins) == 1 and origins[0] in self._shared else None

    def knows(self, headers: Headers) -> bool:
        """Whether the hook's token is shown, or that of a POS that was paired from there."""
        given, origins = headers.getall("Authorization", []), headers.getall("Origin", [])
        if len(given) != 1 or len(origins) > 1:
            return False
        if _same(given[0], self._bearer):
            return True
        return self._passes.knows(bearer_of(given[0]), "pos", origins[0] if origins else None)

    def knows_screen(self, cookies: Mapping[str, str]) -> bool:
        """Whether the cookie of a paired screen is shown."""
        return self._passes.knows(cookie_of(cookies, DISPLAY_COOKIE), "display")

    def authenticate(self, headers: Headers) -> None:
        """Raise `Unauthorized` unless the hook's token is shown, or that of a POS that was paired from there."""
        if not self.knows(headers):
            raise Unauthorized("the hook's token is missing or wrong", field="Authorization", hint="see hook-token")

    def authenticate_display(self, headers: Headers, cookies: Mapping[str, str]) -> str:
        """The secret of a screen; empty for who shows the hook's token. Raises `Unauthorized`."""
        secret = cookie_of(cookies, DISPLAY_COOKIE)
        if self._passes.knows(secret, "display"):
            return secret
        try:
            self.authenticate(headers)
        except Unauthorized as error:
            hint = "open the link that `tillstream-agent display` prints"
            raise Unauthorized("this page opens with its link", field="code", hint=hint) from error
        return ""

    def may_look(self, headers: Headers, cookies: Mapping[str, str]) -> bool:
        """Whether `authenticate_display` would let this caller in now."""
        return self.knows_screen(cookies) or self.knows(headers)

    def authenticate_page(self, headers: Headers, cookies: Mapping[str, str]) -> str:
        """The secret of a screen whose own page calls. Raises `Unauthorized` or `Forbidden`."""
        self.require_own_page(headers)
        secret = cookie_of(cookies, DISPLAY_COOKIE)
        if not self._passes.knows(secret, "display"):
            hint = "open the link that `tillstream-agent display` prints"
            raise Unauthorized("this screen is not paired", field="Cookie", hint=hint)
        return secret

    def require_own_page(self, headers: Headers) -> None:
        """Raise `Forbidden` unless a page of this very host and port calls."""
        origins, hosts = headers.getall("Origin", []), headers.getall("Host", [])
        if len(origins) != 1 or [origins[0]] != [f"http://{host.lower()}" for host in hosts]:
            raise Forbidden("only the page itself may call this", field="Origin", hint="open it in a browser")


def opened_by_hand(headers: Headers) -> bool:
    """Whether a person opened this address in a window of its own, as far as a browser says so.

    A frame navigates too, and so does a window that another site's page opens: what a page can do by itself does not
    count. A browser too old to say from where a request was started may still name the page before.
    """
    sites, dests = headers.getall("Sec-Fetch-Site", []), headers.getall("Sec-Fetch-Dest", [])
    if any(site not in ("none", "same-origin") for site in sites):
        return False
    if dests != ["document"] and (sites or dests):
        return False
    own = [f"http://{host.lower()}" for host in headers.getall("Host", [])]
    referers = ("/".join(referer.split("/", 3)[:3]).lower() for referer in headers.getall("Referer", []))
    return all([page] == own for page in (*headers.getall("Origin", []), *referers))


def media_type(headers: Headers, read: Collection[str] = (JSON, MSGPACK)) -> str:
    """The body's type, one of those that are read here: none that a form can send. Raises `UnsupportedMedia`."""
    if headers.getall("Content-Encoding", []):
        raise UnsupportedMedia("encoded bodies are not read here", field="Content-Encoding", hint="send it plain")
    given = headers.getall("Content-Type", [])
    kind = given[0].partition(";")[0].strip().lower() if len(given) == 1 else ""
    if kind not in read:
        limit = " or ".join(read)
        raise UnsupportedMedia("this content type is not read here", field="Content-Type", limit=limit)
    return kind


def wants_msgpack(headers: Headers) -> bool:
    """Whether the caller asked for a reply in msgpack."""
    return any(MSGPACK in value for value in headers.getall("Accept", []))


def _started_here(headers: Headers, *, opened: bool) -> bool:
    """Whether no other site's page stands behind a request without an origin, as far as a browser says so."""
    sites = headers.getall("Sec-Fetch-Site", [])
    if all(site in ("none", "same-origin") for site in sites):
        return True
    return opened and headers.getall("Sec-Fetch-Mode", []) == ["navigate"]


def _same(given: str, expected: bytes) -> bool:
    """Compare without telling by the time taken how much was right."""
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), expected)
