"""How the agent speaks to its server: plainly where it may, with verified TLS elsewhere, and never by a proxy."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
from aiohttp import web

from support.certificates import certificate, needs_openssl
from tillstream_agent.sync.asking import Asker
from tillstream_agent.sync.transport import Transport, Unreachable
from tillstream_protocol.messages import CONTENT_TYPE


class Heard:
    """A server that keeps what it was asked."""

    def __init__(self) -> None:
        self.requests: list[web.Request] = []
        self.bodies: list[bytes] = []
        self.address = ""
        self.date = ""

    async def answer(self, request: web.Request) -> web.Response:
        self.requests.append(request)
        self.bodies.append(await request.read())
        return web.Response(body=b"heard", headers={"Date": self.date} if self.date else {})


@asynccontextmanager
async def standing(heard: Heard, tls: ssl.SSLContext | None = None) -> AsyncIterator[None]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", heard.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    heard.address = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield
    finally:
        await runner.cleanup()


@pytest.fixture
async def server() -> AsyncIterator[Heard]:
    heard = Heard()
    async with standing(heard):
        yield heard


Kind = type[Asker] | type[Transport]


@pytest.fixture(params=[Transport, Asker])
def kind(request: pytest.FixtureRequest) -> Kind:
    """What carries batches, and what asks once: a server hears no difference."""
    made: Kind = request.param
    return made


def unused() -> str:
    """Where nobody listens."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{one.getsockname()[1]}"


async def test_a_request_says_what_it_carries_and_what_it_takes(kind: Kind, server: Heard) -> None:
    client = kind(server.address, tls=None, timeout=5)
    assert (await client.post("/there", b"body", {"X-More": "yes"})).body == b"heard"
    assert (await client.get("/here")).body == b"heard"
    await client.close()
    post, get = server.requests
    assert (post.method, post.path, server.bodies) == ("POST", "/there", [b"body", b""])
    assert (get.method, get.path) == ("GET", "/here")
    assert post.headers["Content-Type"] == CONTENT_TYPE
    assert post.headers["X-More"] == "yes"
    assert "Content-Type" not in get.headers
    for one in (post, get):
        assert one.headers["Accept"] == CONTENT_TYPE
        assert one.headers["Accept-Encoding"] == "identity"


async def test_who_cannot_be_reached_is_named(kind: Kind) -> None:
    address = f"http://{unused()}"
    client = kind(address, tls=None, timeout=1)
    with pytest.raises(Unreachable, match=f"^{address} cannot be reached: .") as caught:
        await client.get("/")
    assert caught.value.hint == "check address and network"
    await client.close()


class Watched(ssl.SSLContext):
    """A context that notes whether it was asked, and whose handshakes fail."""

    asked = False
    error: OSError = ssl.SSLError(1, "not today")

    def wrap_bio(self, *args: Any, **more: Any) -> ssl.SSLObject:
        self.asked = True
        wrapped = super().wrap_bio(*args, **more)
        wrapped.do_handshake = self.refuse  # type: ignore[method-assign]
        return wrapped

    def refuse(self) -> None:
        raise self.error


async def test_the_authorities_that_were_given_are_the_ones_asked(kind: Kind, server: Heard) -> None:
    context = Watched(ssl.PROTOCOL_TLS_CLIENT)
    client = kind(server.address.replace("http", "https"), tls=context, timeout=5)
    with pytest.raises(Unreachable, match="not today"):
        await client.get("/")
    assert context.asked
    assert server.requests == []
    await client.close()


@needs_openssl
async def test_a_certificate_that_nobody_trusts_is_told_and_nothing_is_sent(kind: Kind, tmp_path: Path) -> None:
    theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    theirs.load_cert_chain(*certificate(tmp_path))
    heard = Heard()
    async with standing(heard, theirs):
        address = heard.address.replace("http", "https")
        client = kind(address, tls=ssl.create_default_context(), timeout=5)
        said = rf"^{address} cannot be reached: .*certificate verify failed: self.signed certificate"
        with pytest.raises(Unreachable, match=said):
            await client.post("/there", b"body")
        await client.close()
        knowing = kind(address, tls=ssl.create_default_context(cafile=tmp_path / "server.pem"), timeout=5)
        assert (await knowing.post("/there", b"again")).body == b"heard"
        await knowing.close()
    assert heard.bodies == [b"again"]


async def test_an_error_without_words_is_called_by_its_name(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_arguments: object, **_options: object) -> None:
        raise OSError

    monkeypatch.setattr(aiohttp, "ClientSession", fails)
    monkeypatch.setattr(httpx.AsyncClient, "stream", fails)
    client = kind("http://127.0.0.1:1", tls=None, timeout=5)
    with pytest.raises(Unreachable, match=r"cannot be reached: OSError$"):
        await client.get("/")
    await client.close()


async def test_an_answer_of_exactly_the_limit_is_taken(
    kind: Kind, server: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tillstream_agent.sync.transport.MAX_REPLY", len(b"heard"))
    client = kind(server.address, tls=None, timeout=5)
    assert (await client.get("/")).body == b"heard"
    monkeypatch.setattr("tillstream_agent.sync.transport.MAX_REPLY", len(b"heard") - 1)
    with pytest.raises(Unreachable, match="more than fits"):
        await client.get("/")
    await client.close()


async def test_the_servers_time_is_read_to_the_second(kind: Kind, server: Heard) -> None:
    server.date = "Tue, 14 Nov 2023 22:13:20 GMT"
    client = kind(server.address, tls=None, timeout=5)
    assert (await client.get("/")).server_ms == 1_700_000_000_000
    await client.close()


@pytest.mark.parametrize("address", ["https://head.example", "http://127.0.0.1:1"])
@pytest.mark.parametrize(("timeout", "connect"), [(5.0, 5.0), (30.0, 10.0)])
async def test_what_carries_verifies_and_waits_no_longer_than_it_should(
    monkeypatch: pytest.MonkeyPatch, address: str, timeout: float, connect: float
) -> None:
    told: dict[str, Any] = {}

    def session(**options: Any) -> None:
        told.update(options)
        raise OSError("no further")

    monkeypatch.setattr(aiohttp, "TCPConnector", dict)
    monkeypatch.setattr(aiohttp, "ClientSession", session)
    transport = Transport(address, tls=None, timeout=timeout)
    with pytest.raises(Unreachable, match="no further"):
        await transport.get("/")
    await transport.close()
    assert told["connector"]["ssl"] is True
    assert told["timeout"] == aiohttp.ClientTimeout(total=None, sock_connect=connect)
    assert told["trust_env"] is False


@pytest.mark.parametrize(("address", "verified"), [("https://head.example", True), ("http://127.0.0.1:1", False)])
@pytest.mark.parametrize(("timeout", "connect"), [(5.0, 5.0), (30.0, 10.0)])
async def test_what_asks_verifies_and_waits_no_longer_than_it_should(
    monkeypatch: pytest.MonkeyPatch, address: str, verified: bool, timeout: float, connect: float
) -> None:
    told: dict[str, Any] = {}

    class Observed(httpx.AsyncClient):
        def __init__(self, **options: Any) -> None:
            told.update(options)
            super().__init__(**options)

    monkeypatch.setattr(httpx, "AsyncClient", Observed)
    client = Asker(address, tls=None, timeout=timeout)
    await client.close()
    assert (told["base_url"], told["verify"], told["trust_env"]) == (address, verified, False)
    assert told["timeout"] == httpx.Timeout(timeout, connect=connect)
