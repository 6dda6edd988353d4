"""What a page of a configured origin may call, and how its browser is told so.

A browser asks first (a preflight) before it lets a page of another origin send a token or JSON. It is answered for
origins that stand in `hook.origins`, for the calls of a POS, and for nothing else: no wildcard, no credentials, and no
header at all for anybody who is not meant. Everything that a page of another origin is not granted here, its browser
keeps from it.

Source: https://fetch.spec.whatwg.org/#http-cors-protocol
"""

from __future__ import annotations

import re
from typing import Final

from .guard import Forbidden, Headers

_CALLS: Final = {
    "/v1/transactions": "POST",
    "/v1/members/identify": "POST",
    "/v1/observations": "POST",
    "/v1/survey-answers": "POST",
    "/v1/wish-list": "POST",
    "/v1/pair": "POST",
}
"""The method of each path that a POS in a browser calls."""
_NAMED: Final = re.compile(
    r"/v1/(?:(?P<PUT>baskets/[^/]+)|(?P<POST>adapters/[^/]+|offers/[^/]+/(?:accepted|declined)))"
)
"""The same for those that name something; before any decoding."""
HEADERS: Final = frozenset({"authorization", "content-type"})
"""Headers that these calls need and that a browser asks for."""
MAX_AGE_S: Final = 600
VARY: Final = {"Vary": "Origin"}


def method_of(path: str) -> str | None:
    """The method by which a page may call a path; None for one that is no page's."""
    found = _NAMED.fullmatch(path)
    return _CALLS.get(path) if found is None else found.lastgroup


def preflight(headers: Headers, path: str) -> dict[str, str]:
    """The headers that allow what a browser asks for. Its origin was looked at before. Raises `Forbidden`."""
    method = method_of(path)
    origin, wanted = _one(headers, "Origin"), _one(headers, "Access-Control-Request-Method")
    if method is None or wanted != method:
        raise Forbidden("pages may not call this", field="Access-Control-Request-Method", limit=method)
    asked = {
        name.strip().lower()
        for value in headers.getall("Access-Control-Request-Headers", [])
        for name in value.split(",")
        if name.strip()
    }
    if not asked <= HEADERS:
        allowed = ", ".join(sorted(HEADERS))
        raise Forbidden("pages may not send this header", field="Access-Control-Request-Headers", limit=allowed)
    return {
        **shared(origin),
        "Access-Control-Allow-Methods": method,
        "Access-Control-Allow-Headers": ", ".join(sorted(HEADERS)),
        "Access-Control-Max-Age": str(MAX_AGE_S),
    }


def shared(origin: str) -> dict[str, str]:
    """The headers that let a page of this origin read an answer."""
    return {"Access-Control-Allow-Origin": origin, **VARY}


def _one(headers: Headers, name: str) -> str:
    given = headers.getall(name, [])
    if len(given) != 1:
        raise Forbidden("a preflight says this once", field=name)
    return given[0]
