"""Whom the agent speaks to, and what can become of a request."""

from __future__ import annotations

import asyncio
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from tillstream_agent.sync import transport as transport_module
from tillstream_agent.sync.asking import Asker
from tillstream_agent.sync.transport import (
    Client,
    Refused,
    Response,
    Transport,
    Unreachable,
    is_loopback,
    server_address,
    tls_context,
)
from tillstream_protocol.errors import InvalidInput


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("https://head.example", "https://head.example"),
        ("https://head.example:8700/", "https://head.example:8700"),
        (" http://127.0.0.1:8700 ", "http://127.0.0.1:8700"),
        ("http://127.9.9.9", "http://127.9.9.9"),
        ("http://localhost:1", "http://localhost:1"),
        ("http://[::1]:8700", "http://[::1]:8700"),
        ("https://[2001:db8::1]", "https://[2001:db8::1]"),
    ],
)
def test_an_address_is_scheme_host_and_port(given: str, address: str) -> None:
    assert server_address(given) == address


@pytest.mark.parametrize(
    "given",
    [
        "http://head.example",
        "http://10.0.0.1",
        "http://128.0.0.1",
        "http://0.0.0.0",
        "http://localhost.evil.example",
        "http://127.0.0.1.evil.example",
        "http://127.1",
        "http://2130706433",
        "http://[::ffff:127.0.0.1]",
        "http://127.0.0.1@evil.example",
        "ftp://head.example",
        "head.example",
        "https://",
        "https://head.example/path",
        "https://head.example?x",
        "https://user@head.example",
        "https://head.example:port",
        "https://[head",
    ],
)
def test_anything_else_is_refused(given: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        server_address(given)
    assert caught.value.field == "server"


def test_loopback_is_what_is_written_out() -> None:
    assert is_loopback("127.0.0.1")
    assert not is_loopback("127.0.0.1.nip.io")


def test_tls_is_used_wherever_http_is_not_plain(tmp_path: Path) -> None:
    assert tls_context("http://127.0.0.1", "") is None
    context = tls_context("https://head.example", "")
    assert context is not None
    assert context.verify_mode is ssl.CERT_REQUIRED
    with pytest.raises(InvalidInput, match="certificates"):
        tls_context("https://head.example", str(tmp_path / "none.pem"))


def test_an_answer_is_good_refused_or_trouble() -> None:
    assert Response(200, b"yes").require_ok() == b"yes"
    with pytest.raises(Refused) as refused:
        Response(403, b'{"error": {"code": "token_used", "message": "used", "hint": "ask"}}').require_ok()
    assert (refused.value.code, refused.value.hint, refused.value.status) == ("token_used", "ask", 403)
    for status in (500, 503, 429):
        with pytest.raises(Unreachable):
            Response(status, b"").require_ok()


Kind = type[Asker] | type[Transport]


@pytest.fixture(params=[Transport, Asker])
def kind(request: pytest.FixtureRequest) -> Kind:
    """What carries batches, and what asks once: whoever uses them sees no difference."""
    made: Kind = request.param
    return made


@asynccontextmanager
async def speaking_to(
    kind: Kind, handler: web.RequestHandler | object, timeout: float = 5, host: str = "127.0.0.1"
) -> AsyncIterator[Client]:
    app = web.Application()
    app.router.add_route("*", "/", handler)  # type: ignore[arg-type]
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    client = kind(f"http://{host}:{runner.addresses[0][1]}", tls=None, timeout=timeout)
    try:
        yield client
    finally:
        await client.close()
        await runner.cleanup()


async def test_a_server_that_is_not_there_is_unreachable(kind: Kind) -> None:
    client = kind("http://127.0.0.1:1", tls=None, timeout=1)
    with pytest.raises(Unreachable, match=r"^http://127\.0\.0\.1:1 cannot be reached: ") as caught:
        await client.get("/")
    await client.close()
    assert "ssl" not in caught.value.message, "nothing of the library's own objects"


async def test_a_server_that_is_silent_is_unreachable(kind: Kind) -> None:
    async def silent(_request: web.Request) -> web.Response:
        await asyncio.sleep(60)
        return web.Response()

    async with speaking_to(kind, silent, timeout=0.05) as client:
        with pytest.raises(Unreachable, match=r"^http://127\.0\.0\.1:\d+ does not answer in time$") as caught:
            await client.get("/")
    assert caught.value.hint == "check the network"


async def test_an_answer_that_gets_on_is_waited_for(kind: Kind) -> None:
    async def slow(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(4):
            await asyncio.sleep(0.4)
            await response.write(b"on ")
        return response

    async with speaking_to(kind, slow, timeout=1.2) as client:
        assert (await client.post("/", b"")).body == b"on " * 4


async def test_a_server_that_takes_no_more_is_unreachable(kind: Kind) -> None:
    async def full(_request: web.Request) -> web.Response:
        await asyncio.sleep(60)
        return web.Response()

    async with speaking_to(kind, full, timeout=0.3) as client:
        with pytest.raises(Unreachable, match="in time"):
            await client.post("/", bytes(40_000_000))


async def test_a_server_that_refuses_a_body_unread_is_heard(kind: Kind) -> None:
    async def refuses(_request: web.Request) -> web.Response:
        return web.Response(status=413, body=b"too large")

    async with speaking_to(kind, refuses) as client:
        response = await client.post("/", bytes(3_000_000))
        assert (response.status, response.body) == (413, b"too large")
        assert (await client.post("/", b"")).status == 413


async def test_an_answer_without_end_is_cut_off(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(100):
            await response.write(bytes(1000))
        return response

    monkeypatch.setattr("tillstream_agent.sync.transport.MAX_REPLY", 5000)
    async with speaking_to(kind, endless) as client:
        with pytest.raises(Unreachable, match=r"^http://127\.0\.0\.1:\d+ answers more than fits"):
            await client.get("/")


async def test_a_large_body_leaves_in_pieces_and_arrives_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    body, pieces, heard = bytes(range(256)) * 400, list[int](), list[tuple[bytes, str | None, str | None]]()
    real = transport_module._in_pieces

    async def counted(given: bytes, renew: Callable[[], None]) -> AsyncIterator[bytes]:
        async for piece in real(given, renew):
            pieces.append(len(piece))
            yield piece

    async def hears(request: web.Request) -> web.Response:
        told = request.headers
        heard.append((await request.read(), told.get("Content-Length"), told.get("Transfer-Encoding")))
        return web.Response()

    monkeypatch.setattr(transport_module, "_in_pieces", counted)
    async with speaking_to(Transport, hears) as transport:
        async with asyncio.timeout(5):  # others get a turn between the pieces, and no more than that
            await transport.post("/", body)
        await transport.post("/", b"")
    assert heard == [(body, "102400", None), (b"", "0", None)]
    assert pieces == [16_384] * 6 + [4_096]


async def test_redirects_are_not_followed_and_proxies_not_asked(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    async def elsewhere(_request: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": "http://127.0.0.1:1/"})

    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    async with speaking_to(kind, elsewhere) as client:
        assert (await client.get("/")).status == 302


async def test_what_is_asked_for_is_what_was_signed_and_who_asks_is_not_told() -> None:
    heard: list[tuple[str, list[str]]] = []

    async def hears(request: web.Request) -> web.Response:
        heard.append((request.raw_path, [name for name in request.headers if name.lower() in ("cookie", "user-agent")]))
        response = web.Response()
        response.set_cookie("follows", "you")
        return response

    async with speaking_to(Transport, hears, host="localhost") as client:
        await client.get("/?seq=%41")
        await client.get("/?seq=%41")
    assert heard == [("/?seq=%41", [])] * 2


async def test_what_a_proxy_packed_arrives_as_it_came(kind: Kind) -> None:
    async def packed(_request: web.Request) -> web.Response:
        return web.Response(body=b"not packed at all", headers={"Content-Encoding": "gzip"})

    async with speaking_to(kind, packed) as client:
        assert (await client.get("/")).body == b"not packed at all"


async def test_a_request_has_no_bound_but_progress_and_a_connection_is_kept_for_a_moment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: dict[str, object] = {}
    real = aiohttp.TCPConnector

    def connector(**options: object) -> aiohttp.TCPConnector:
        asked.update(options)
        return real()

    monkeypatch.setattr(aiohttp, "TCPConnector", connector)
    transport = Transport("https://head.example", tls=None, timeout=2.0)
    assert transport._client().timeout == aiohttp.ClientTimeout(total=None, sock_connect=2.0)
    assert asked == {"ssl": True, "keepalive_timeout": 5.0}
    await transport.close()


@pytest.mark.parametrize(
    ("text", "seconds"), [("7", 7.0), ("99999", 3600.0), ("soon", None), ("-1", None), (None, None)]
)
async def test_the_server_may_say_when_to_come_back(kind: Kind, text: str | None, seconds: float | None) -> None:
    async def busy(_request: web.Request) -> web.Response:
        return web.Response(status=503, headers={"Retry-After": text} if text is not None else {})

    async with speaking_to(kind, busy) as client:
        response = await client.post("/", b"")
    assert response.retry_after == seconds
    assert response.server_ms is not None


async def test_a_date_that_cannot_be_read_is_left_out(kind: Kind) -> None:
    async def undated(_request: web.Request) -> web.Response:
        return web.Response(headers={"Date": "yesterday"})

    async with speaking_to(kind, undated) as client:
        assert (await client.get("/")).server_ms is None


async def test_a_running_agent_loads_one_client_and_nothing_more_at_its_first_request() -> None:
    program = """
import asyncio, contextlib, sys
from tillstream_agent import app, cli

async def main():
    transport = app.Transport("http://127.0.0.1:1", tls=None, timeout=5)
    before = set(sys.modules)
    with contextlib.suppress(cli.Unreachable):
        await transport.post("/", b"")
    print(sorted(set(sys.modules) - before))
    print(sorted({"aiohttp", "anyio", "httpcore", "httpx", "tillstream_agent.sync.asking"} & set(sys.modules)))
    await transport.close()

asyncio.run(main())
"""
    run = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
    said, _ = await run.communicate()
    assert said.decode().split("\n") == ["[]", "['aiohttp']", ""]
