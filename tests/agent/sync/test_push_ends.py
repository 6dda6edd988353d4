"""How the push channel is asked for, and what is said when it is not had or has ended."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from support.agents import offer_push
from support.channels import Till, channel
from support.gateways import Gateway
from tillstream_agent.state import StateUnavailable
from tillstream_agent.sync import push as push_module
from tillstream_agent.sync.push import (
    OutOfTurn,
)
from tillstream_protocol.messages import (
    PackPush,
    Vitals,
)
from tillstream_protocol.pack import MAX_PACK
from tillstream_protocol.signing import SignKey


@pytest.fixture
async def till(tmp_path: Path) -> AsyncIterator[Till]:
    async with channel(tmp_path) as opened:
        yield opened


async def attempt(till: Till, monkeypatch: pytest.MonkeyPatch, error: Exception) -> dict[str, Any]:
    """Try to connect, and fail with this error: what was asked for."""
    asked: dict[str, Any] = {}

    async def ws_connect(_client: aiohttp.ClientSession, url: str, **options: Any) -> None:
        asked.update(options, url=url)
        raise error

    monkeypatch.setattr(aiohttp.ClientSession, "ws_connect", ws_connect)
    till.start()
    await till.hears("push_closed")
    return asked


async def test_the_channel_is_verified_bounded_and_asked_whether_it_lives(
    till: Till, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = await attempt(till, monkeypatch, aiohttp.ClientError("the cable is out"))
    assert asked["url"] == till.server.address.replace("http", "ws") + push_module.PATH
    assert asked["ssl"] is True
    assert asked["max_msg_size"] == MAX_PACK
    assert asked["heartbeat"] == push_module.DEAD_AFTER_S
    assert asked["autoping"] is False
    closed = till.said("push_closed")[0]
    assert (closed["code"], closed["reason"]) == ("unreachable", "the cable is out")


async def test_only_the_scheme_of_the_address_changes_and_the_own_certificates_are_used(
    till: Till, monkeypatch: pytest.MonkeyPatch
) -> None:
    till.channel.address, till.channel.tls = "https://http.example", ssl.create_default_context()
    asked = await attempt(till, monkeypatch, aiohttp.ClientError())
    assert asked["url"] == "wss://http.example" + push_module.PATH
    assert asked["ssl"] is till.channel.tls


async def test_a_ping_is_answered_with_what_it_said_and_no_heartbeat_outlives_its_channel(
    till: Till, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered: list[object] = []

    async def pong(_socket: object, message: object = b"") -> None:
        answered.append(message)

    monkeypatch.setattr(aiohttp.ClientWebSocketResponse, "pong", pong)
    till.start()
    await till.hears("push_opened")
    (socket,) = till.server._sockets
    await till.server.push(1, offer_push(1))
    await till.server.until(lambda server: server.receipts == [1])
    assert [task.get_name() for task in asyncio.all_tasks()].count("heartbeat") == 1
    await socket.ping(b"are you there")
    await socket.close()
    await till.hears("push_closed")
    assert answered == [b"are you there"]
    assert [task.get_name() for task in asyncio.all_tasks()].count("heartbeat") == 0


async def test_an_error_of_the_channel_without_words_is_called_by_its_name(
    till: Till, monkeypatch: pytest.MonkeyPatch
) -> None:
    await attempt(till, monkeypatch, TimeoutError())
    assert till.said("push_closed")[0]["reason"] == "TimeoutError"


async def test_a_state_that_cannot_be_kept_and_a_message_out_of_place_say_what_they_are(
    till: Till, monkeypatch: pytest.MonkeyPatch
) -> None:
    await attempt(till, monkeypatch, OutOfTurn("a second challenge"))
    closed = till.said("push_closed")[0]
    assert (closed["code"], closed["reason"]) == (
        "confused",
        "the server said what has no place: a second challenge",
    )


async def test_a_connection_that_does_not_come_about_is_given_up(till: Till, monkeypatch: pytest.MonkeyPatch) -> None:
    async def ws_connect(*_about: object, **_options: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(push_module, "CONNECT_S", 0.02)
    monkeypatch.setattr(aiohttp.ClientSession, "ws_connect", ws_connect)
    till.start()
    await till.hears("push_closed")
    assert till.said("push_closed")[0]["reason"] == "TimeoutError"


async def test_a_state_that_cannot_be_read_says_so(till: Till, monkeypatch: pytest.MonkeyPatch) -> None:
    await attempt(till, monkeypatch, StateUnavailable("the disk is gone"))
    closed = till.said("push_closed")[0]
    assert (closed["code"], closed["reason"]) == ("state_unavailable", "the disk is gone")


async def test_a_refused_channel_says_with_which_status(till: Till) -> None:
    till.server.answers(403, "revoked")
    till.start()
    await till.hears("push_closed")
    closed = till.said("push_closed")[0]
    assert (closed["code"], closed["reason"]) == ("revoked", "refused with status 403")


@pytest.mark.parametrize("error", [aiohttp.ClientError("gone"), ConnectionResetError("gone")])
async def test_a_heartbeat_that_cannot_be_sent_leaves_it_to_the_channel_to_say_why_it_ended(
    till: Till, error: Exception
) -> None:
    def vitals() -> Vitals:
        raise error

    async def end(socket: web.WebSocketResponse) -> None:
        await socket.close(code=1001)

    till.channel.vitals = vitals
    assert await closed_by(till, end) == ("closed", "closed with code 1001")


async def test_what_broke_the_channel_is_told(till: Till, monkeypatch: pytest.MonkeyPatch) -> None:
    async def end(socket: web.WebSocketResponse) -> None:
        await socket.close(code=1001)

    monkeypatch.setattr(aiohttp.ClientWebSocketResponse, "exception", lambda _socket: OSError("the cable is out"))
    assert await closed_by(till, end) == ("closed", "closed with code 1001 (the cable is out)")


async def test_no_proxy_of_the_environment_is_asked_for_the_channel(
    till: Till, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WS_PROXY", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
        monkeypatch.setenv(name.lower(), "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    till.start()
    await till.hears("push_opened")


async def test_the_pack_that_is_kept_is_receipted_and_told_of_by_its_number(till: Till) -> None:
    till.start()
    await till.server.push(1, PackPush(till.server.pack(version=2)))
    await till.server.until(lambda server: server.receipts == [1])
    assert await till.state.last_push() == 1
    assert [line["version"] for line in till.said("pack_taken")] == [2]


async def closed_by(till: Till, act: Callable[[web.WebSocketResponse], Awaitable[None]]) -> tuple[object, object]:
    """Open the channel, have the server do this with it: the code and reason that are given for its end."""
    till.start()
    await till.hears("push_opened")
    for socket in list(till.server._sockets):
        await act(socket)
    await till.hears("push_closed")
    closed = till.said("push_closed")[0]
    return closed["code"], closed["reason"]


async def test_an_end_in_the_servers_words_is_told_in_them(till: Till) -> None:
    async def end(socket: web.WebSocketResponse) -> None:
        await socket.close(code=4409, message=b"another took its place")

    assert await closed_by(till, end) == ("replaced", "closed with code 4409: another took its place")


async def test_an_end_without_words_is_told_by_its_code(till: Till) -> None:
    async def end(socket: web.WebSocketResponse) -> None:
        await socket.close(code=1001)

    assert await closed_by(till, end) == ("closed", "closed with code 1001")


async def test_text_ends_the_channel(till: Till) -> None:
    async def chat(socket: web.WebSocketResponse) -> None:
        await socket.send_str("hello")

    assert await closed_by(till, chat) == ("confused", "the server sent text")


async def test_a_message_larger_than_any_pack_ends_the_channel(till: Till, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push_module, "MAX_PACK", 10_000)

    async def flood(socket: web.WebSocketResponse) -> None:
        await socket.send_bytes(bytes(20_000))

    code, reason = await closed_by(till, flood)
    assert code == "closed"
    assert re.fullmatch(r"closed with code 1009 \(.*20000.*10000.*\)", str(reason))


async def test_a_channel_opens_once_and_has_one_heartbeat(till: Till) -> None:
    till.start()
    await till.hears("push_opened")
    (socket,) = till.server._sockets
    await socket.pong(b"open")
    await socket.pong(b"something else")
    await till.server.push(1, offer_push(1))
    await till.server.until(lambda server: server.receipts == [1])
    assert len(till.said("push_opened")) == 1
    assert [task.get_name() for task in asyncio.all_tasks()].count("heartbeat") == 1


def _has_receipts(number: int, server: Gateway) -> bool:
    return len(server.receipts) == number


async def test_each_pack_with_other_keys_is_followed_and_one_with_the_same_is_not(till: Till) -> None:
    till.start()
    for number, fill in enumerate((b"1", b"2", b"2"), start=1):
        till.server.box_public = SignKey(fill * 32).public
        await till.server.push(number, PackPush(till.server.pack(version=number + 1)))
        await till.server.until(partial(_has_receipts, number))
        assert till.folder.identity().box_public == till.server.box_public
    assert len(till.said("keys_changed")) == 2
