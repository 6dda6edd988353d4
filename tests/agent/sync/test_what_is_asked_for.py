"""How the agent speaks to its server: plainly where it may, with verified TLS elsewhere, and never by a proxy."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from aiohttp import web

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


@pytest.fixture
async def server() -> AsyncIterator[Heard]:
    heard = Heard()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", heard.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    heard.address = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield heard
    await runner.cleanup()


def unused() -> str:
    """Where nobody listens."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{one.getsockname()[1]}"


async def test_a_request_says_what_it_carries_and_what_it_takes(server: Heard) -> None:
    transport = Transport(server.address, tls=None, timeout=5)
    assert (await transport.post("/there", b"body", {"X-More": "yes"})).body == b"heard"
    assert (await transport.get("/here")).body == b"heard"
    await transport.close()
    post, get = server.requests
    assert (post.method, post.path, server.bodies) == ("POST", "/there", [b"body", b""])
    assert (get.method, get.path) == ("GET", "/here")
    assert post.headers["Content-Type"] == CONTENT_TYPE
    assert post.headers["X-More"] == "yes"
    assert "Content-Type" not in get.headers
    for one in (post, get):
        assert one.headers["Accept"] == CONTENT_TYPE
        assert one.headers["Accept-Encoding"] == "identity"


async def test_who_cannot_be_reached_is_named() -> None:
    address = f"http://{unused()}"
    transport = Transport(address, tls=None, timeout=1)
    with pytest.raises(Unreachable, match=f"^{address} cannot be reached: .") as caught:
        await transport.get("/")
    assert caught.value.hint == "check address and network"
    await transport.close()


class Watched(ssl.SSLContext):
    """A context that notes whether it was asked, and refuses."""

    asked = False
    error: OSError = ssl.SSLError(1, "not today")

    def wrap_bio(self, *args: Any, **more: Any) -> ssl.SSLObject:
        self.asked = True
        raise self.error


async def test_the_authorities_that_were_given_are_the_ones_asked(server: Heard) -> None:
    context = Watched(ssl.PROTOCOL_TLS_CLIENT)
    transport = Transport(server.address.replace("http", "https"), tls=context, timeout=5)
    with pytest.raises(Unreachable, match="not today"):
        await transport.get("/")
    assert context.asked
    assert server.requests == []
    await transport.close()


async def test_an_error_without_words_is_called_by_its_name(server: Heard) -> None:
    context = Watched(ssl.PROTOCOL_TLS_CLIENT)
    context.error = OSError()
    transport = Transport(server.address.replace("http", "https"), tls=context, timeout=5)
    with pytest.raises(Unreachable, match=r"cannot be reached: (ConnectError|OSError)$"):
        await transport.get("/")
    await transport.close()


async def test_an_answer_of_exactly_the_limit_is_taken(server: Heard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tillstream_agent.sync.transport.MAX_REPLY", len(b"heard"))
    transport = Transport(server.address, tls=None, timeout=5)
    assert (await transport.get("/")).body == b"heard"
    monkeypatch.setattr("tillstream_agent.sync.transport.MAX_REPLY", len(b"heard") - 1)
    with pytest.raises(Unreachable, match="more than fits"):
        await transport.get("/")
    await transport.close()


async def test_the_servers_time_is_read_to_the_second(server: Heard) -> None:
    server.date = "Tue, 14 Nov 2023 22:13:20 GMT"
    transport = Transport(server.address, tls=None, timeout=5)
    assert (await transport.get("/")).server_ms == 1_700_000_000_000
    await transport.close()


@pytest.mark.parametrize(("address", "verified"), [("https://head.example", True), ("http://127.0.0.1:1", False)])
@pytest.mark.parametrize(("timeout", "connect"), [(5.0, 5.0), (30.0, 10.0)])
async def test_the_client_verifies_and_waits_no_longer_than_it_should(
    monkeypatch: pytest.MonkeyPatch, address: str, verified: bool, timeout: float, connect: float
) -> None:
    told: dict[str, Any] = {}

    class Client(httpx.AsyncClient):
        def __init__(self, **options: Any) -> None:
            told.update(options)
            super().__init__(**options)

    monkeypatch.setattr(httpx, "AsyncClient", Client)
    transport = Transport(address, tls=None, timeout=timeout)
    await transport.close()
    assert (told["base_url"], told["verify"], told["trust_env"]) == (address, verified, False)
    assert told["timeout"] == httpx.Timeout(timeout, connect=connect)
