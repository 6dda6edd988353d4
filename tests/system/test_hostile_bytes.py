"""Loopback is hostile ground: what bytes a stranger may send to the hook, they capture nothing and bring nothing back.

Each case differs in one or two places from the call that a page of the allowed origin makes, and that is taken.
"""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from itertools import product

import msgspec
import pytest
import pytest_asyncio

from support.agents import member, sale
from support.hooked import Till, till

pytestmark = [pytest.mark.system, pytest.mark.asyncio(loop_scope="module")]

ORIGIN = "https://pos.example"
JSON = "application/json"
HOST = "127.0.0.1:{port}"
RIGHT = "Bearer {token}"
WRITES = {
    "POST /v1/transactions": msgspec.json.encode(sale("hostile")),
    "POST /v1/members/identify": msgspec.json.encode(member("hostile")),
    "POST /v1/offers/00000000000000000000000000000001/accepted": b"",
    "PUT /v1/baskets/B7": b'{"revision": 1, "state": "open", "lines": [], "total": 0}',
    "POST /v1/observations": b'{"kind": "other_bags"}',
    "POST /v1/survey-answers": b'{"question": "nps", "answer": "9"}',
    "POST /v1/wish-list": b'{"text": "a boat"}',
    "POST /v1/adapters/odoo": b"[]",
}
READS = ("/healthz", "/metrics", "/v1/status", "/display/stream", "/display/app.js")


@dataclass(frozen=True)
class Try:
    """One request. A header given twice is sent twice, one not given is not sent."""

    line: str = "POST /v1/transactions"
    host: tuple[str, ...] = (HOST,)
    origin: tuple[str, ...] = (ORIGIN,)
    token: tuple[str, ...] = (RIGHT,)
    kind: tuple[str, ...] = (JSON,)
    more: tuple[str, ...] = ()
    version: str = "HTTP/1.1"
    body: bytes | None = None

    def __str__(self) -> str:
        changed = [
            f"{n}={v}"
            for n in ("host", "origin", "token", "kind", "more", "version")
            if (v := getattr(self, n)) != _of(n)
        ]
        return " ".join([self.line, *changed]).replace("[", "(")

    def bytes(self, port: int, token: str) -> bytes:
        """The request as it is sent."""
        body = WRITES.get(self.line, b"") if self.body is None else self.body
        named = {"Host": self.host, "Origin": self.origin, "Authorization": self.token, "Content-Type": self.kind}
        lines = [f"{self.line} {self.version}", *(f"{name}: {v}" for name, values in named.items() for v in values)]
        if not any(line.lower().startswith(("content-length", "transfer-encoding")) for line in self.more):
            lines.append(f"Content-Length: {len(body)}")
        head = "\r\n".join([*lines, *self.more, "", ""])
        words = {"port": str(port), "next": str(port + 1), "token": token, "display": "d" * 43}
        words["basic"] = base64.b64encode(f"pos:{token}".encode()).decode()
        for word, value in words.items():
            head = head.replace(f"{{{word}}}", value)
        return head.encode("latin-1") + body


def _of(name: str) -> object:
    return getattr(Try(), name)


HOSTS: tuple[tuple[str, ...], ...] = (
    (),
    ("",),
    ("127.0.0.1",),
    ("127.0.0.1:{next}",),
    ("localhost",),
    ("localhost.:{port}",),
    ("evil.example",),
    ("evil.example:{port}",),
    ("127.0.0.1.evil.example:{port}",),
    ("127.0.0.1:{port}.evil.example",),
    ("0.0.0.0:{port}",),
    ("127.1:{port}",),
    ("2130706433:{port}",),
    ("[::ffff:127.0.0.1]:{port}",),
    ("pos@127.0.0.1:{port}",),
    ("127.0.0.1:{port}, evil.example",),
    (HOST, "evil.example:{port}"),
    ("evil.example:{port}", HOST),
    (HOST, HOST),
)
ORIGINS: tuple[tuple[str, ...], ...] = (
    ("null",),
    ("",),
    ("https://evil.example",),
    ("http://pos.example",),
    ("https://pos.example:444",),
    ("https://pos.example.evil.example",),
    ("https://pos.example/",),
    ("https://www.pos.example",),
    ("HTTPS://POS.EXAMPLE",),
    ("https://pos.example https://evil.example",),
    ("http://127.0.0.1",),
    ("http://localhost:3000",),
    ("file://",),
    ("chrome-extension://abcdefgh",),
    ("*",),
    (ORIGIN, "https://evil.example"),
    ("https://evil.example", ORIGIN),
    (ORIGIN, ORIGIN),
)
TOKENS: tuple[tuple[str, ...], ...] = (
    (),
    ("",),
    ("Bearer",),
    ("Bearer x",),
    ("{token}",),
    ("bearer {token}",),
    ("Bearer {display}",),
    ("Basic {basic}",),
    (RIGHT, RIGHT),
    (RIGHT, "Bearer x"),
)
KINDS: tuple[tuple[str, ...], ...] = (
    (),
    ("",),
    ("text/plain",),
    ("text/plain;charset=application/json",),
    ("application/x-www-form-urlencoded",),
    ("multipart/form-data; boundary=x",),
    ("application/xml",),
    ("application/json-patch+json",),
    (JSON, JSON),
    ("text/plain", JSON),
)
SITES = ("Sec-Fetch-Site: cross-site", "Sec-Fetch-Site: same-site")
METHODS = ("GET", "HEAD", "PUT", "PATCH", "DELETE", "TRACE", "CONNECT", "PROPFIND", "OPTIONS", "BREW")
TARGETS = (
    "POST http://evil.example/v1/transactions",
    "POST http://127.0.0.1:{port}/v1/transactions",
    "POST v1/transactions",
    "POST *",
    "POST //evil.example/v1/transactions",
    "POST /v1//transactions",
    "POST /v1/transactions/",
    "POST /display/../v1/transactions",
    "POST /v1/transactions?ack=never",
    "CONNECT 127.0.0.1:{port}",
)
UPGRADES = ("Upgrade: websocket", "Upgrade: tcp", "Upgrade: h2c, websocket")
FRAMINGS = (
    ("Content-Length: 4", "Transfer-Encoding: chunked"),
    ("Content-Length: 4", "Content-Length: 5"),
    ("Content-Length: -1",),
    ("Transfer-Encoding: gzip, chunked",),
    ("Content-Encoding: gzip",),
    ("Content-Encoding: identity",),
)
ASKS = ("Access-Control-Request-Method: POST", "Access-Control-Request-Headers: authorization,content-type")


def without_anybodys_leave() -> Iterator[Try]:
    """Each part of a good call gone wrong, at every call that writes."""
    for line, origin in product(WRITES, ORIGINS):
        yield Try(line, origin=origin)
    for line, host in product(list(WRITES)[:2], HOSTS):
        yield Try(line, host=host)
    for host in HOSTS:
        yield Try("GET /metrics", host=host, origin=(), token=(), kind=())
    for line, token in product(list(WRITES)[:3], TOKENS):
        yield Try(line, token=token)
    for line, kind in product(list(WRITES)[:2], KINDS):
        yield Try(line, kind=kind)
    for method in METHODS:
        yield Try(f"{method} /v1/transactions", body=WRITES["POST /v1/transactions"])


def as_pages_load_things() -> Iterator[Try]:
    """Images, scripts, streams and sockets: requests without an origin, or without a token."""
    for path, site in product(READS, SITES):
        yield Try(f"GET {path}", origin=(), token=(), kind=(), more=(site, "Sec-Fetch-Mode: no-cors"))
    for path, site in product(("/healthz", "/metrics", "/v1/status"), SITES):
        yield Try(f"GET {path}", origin=(), token=(), kind=(), more=(site, "Sec-Fetch-Mode: navigate"))
    for origin, cookie in product((("https://evil.example",), ("null",), (ORIGIN,), ()), ("", "tillstream-display=x")):
        more = ("Accept: text/event-stream", f"Cookie: {cookie}")
        yield Try("GET /display/stream", origin=origin, token=(), kind=(), more=more)
    key = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="
    for path, origin, upgrade in product(READS[2:4], (("https://evil.example",), (ORIGIN,), ()), UPGRADES):
        yield Try(f"GET {path}", origin=origin, kind=(), more=("Connection: Upgrade", upgrade, key))
    yield Try(more=("Connection: Upgrade", "Upgrade: websocket"))


def as_preflights() -> Iterator[Try]:
    """What a browser asks for on behalf of a page that may not have it."""
    asking = Try("OPTIONS /v1/transactions", token=(), kind=(), more=ASKS)
    for origin in (*ORIGINS, ()):
        yield replace(asking, origin=origin)
    for host in HOSTS[:9]:
        yield replace(asking, host=host)
    for path in ("/v1/status", "/metrics", "/healthz", "/display", "/display/stream", "/v1/unknown", "*", "/"):
        yield replace(asking, line=f"OPTIONS {path}")
    for method in ("GET", "PUT", "DELETE", "post", "*", ""):
        yield replace(asking, more=(f"Access-Control-Request-Method: {method}",))
    for names in ("x-evil", "authorization,x-evil", "*", "cookie"):
        yield replace(asking, more=(ASKS[0], f"Access-Control-Request-Headers: {names}"))
    yield replace(asking, more=(ASKS[0], ASKS[0], ASKS[1]))


def as_no_browser_writes_them() -> Iterator[Try]:
    """What only a program sends."""
    for line in TARGETS:
        yield Try(line, body=WRITES["POST /v1/transactions"])
    for more in FRAMINGS:
        yield Try(more=more, body=b"{}")
    yield Try(host=(), version="HTTP/1.0")
    yield Try(origin=(), version="HTTP/1.0", host=("",))
    yield Try(version="HTTP/1.1 HTTP/1.1")
    yield Try(line="get /v1/transactions")
    yield Try(more=("X-Forwarded-Host: 127.0.0.1",), host=("evil.example",))
    yield Try(more=("X-HTTP-Method-Override: POST",), line="GET /v1/transactions")
    yield Try(line="POST /v1/transactions?token={token}", token=())
    yield Try(line="POST /v1/transactions", token=(), more=("Cookie: tillstream-display={display}",))


TRIES = [*without_anybodys_leave(), *as_pages_load_things(), *as_preflights(), *as_no_browser_writes_them()]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hook(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Till]:
    async with till(tmp_path_factory.mktemp("hostile"), [ORIGIN], hook_request_s=0.5) as running:
        yield running


async def answer(hook: Till, request: Try) -> tuple[int, str]:
    """The status (0 if there is none) and the whole answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", hook.port)
    writer.write(request.bytes(hook.port, hook.token))
    said = b""
    try:
        async with asyncio.timeout(10):
            said = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", said)
            if length is not None and not request.line.startswith("HEAD "):
                said += await reader.readexactly(int(length[1]))
    except (ConnectionError, asyncio.IncompleteReadError):
        pass  # it hung up without a word
    finally:
        writer.close()
    text = said.decode("latin-1")
    return (int(text.split(" ", 2)[1]) if text else 0), text


async def refused(hook: Till, request: Try) -> bool:
    """Whether nothing was captured and nothing readable came back."""
    before = await hook.captured()
    status, text = await answer(hook, request)
    gave = "access-control-" in text.lower() and request.origin != (ORIGIN,)
    return (
        (status == 0 or 400 <= status < 500)
        and not gave
        and "access-control-allow-methods" not in text.lower()
        and hook.folder.identity().till_id.hex() not in text
        and hook.token not in text
        and await hook.captured() == before
    )


async def test_there_are_hundreds() -> None:
    assert len({str(one) for one in TRIES}) == len(TRIES)
    assert len(TRIES) > 370


@pytest.mark.parametrize("request_", TRIES, ids=str)
async def test_a_stranger_can_do_nothing(hook: Till, request_: Try) -> None:
    assert await refused(hook, request_)


async def test_the_page_of_the_allowed_origin_can(hook: Till) -> None:
    before = await hook.captured()
    asked = Try("OPTIONS /v1/transactions", token=(), kind=(), more=ASKS)
    status, granted = await answer(hook, asked)
    assert (status, f"Access-Control-Allow-Origin: {ORIGIN}\r\n" in granted) == (204, True)
    status, taken = await answer(hook, Try())
    assert (status, f"Access-Control-Allow-Origin: {ORIGIN}\r\n" in taken) == (201, True)
    assert await hook.captured() == before + 1


async def test_the_proof_would_notice_a_way_in(hook: Till) -> None:
    assert not await refused(hook, Try("POST /v1/members/identify", body=msgspec.json.encode(member("control"))))
    assert not await refused(hook, Try("GET /v1/status", origin=()))
