"""What is not HTTP is refused and counted, and neither logged nor sent back."""

from __future__ import annotations

import asyncio
import logging
from urllib.parse import urlsplit

import msgspec
import pytest

from support.serving import Server

PHONE, CARD = "+31655501427", "4111111111111111"
CANARIES = f"{PHONE} {CARD}".encode()
POST = b"POST /till/v1/batches HTTP/1.1\r\nHost: a\r\n"

MALFORMED = {
    "spaces in the address": b"POST /till/v1/batches?phone=" + CANARIES + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    "NUL in a header": POST + b"X-Member: " + CANARIES + b"\x00\r\n\r\n",
    "no host": b"GET /healthz?q=" + CARD.encode() + b" HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /healthz HTTP/1.1\r\nHost: " + CARD.encode() + b"\r\nHost: " + PHONE.encode() + b"\r\n\r\n",
    "a chunk without a size": POST + b"Transfer-Encoding: chunked\r\n\r\n" + CANARIES + b"\r\n0\r\n\r\n",
    "no HTTP at all": CANARIES + b"\r\n\r\n",
    "a body after the body": POST + b"Content-Length: 2\r\n\r\n{}" + CANARIES + b"\r\n\r\n",
}


async def sends(server: Server, raw: bytes) -> bytes:
    """All that is answered until the server closes the connection."""
    address = urlsplit(server.address)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(raw)
    async with asyncio.timeout(10):
        reply = await reader.read()
    writer.close()
    return reply


def quotes_nothing(server: Server, caplog: pytest.LogCaptureFixture, reply: bytes = b"") -> None:
    for canary in (PHONE, CARD):
        assert canary not in server.log.getvalue()
        assert canary not in caplog.text
        assert canary.encode() not in reply
    assert not [record for record in caplog.records if record.name.startswith("aiohttp")]


@pytest.mark.parametrize("raw", MALFORMED.values(), ids=MALFORMED.keys())
async def test_what_is_not_http_is_refused_and_quoted_nowhere(
    server: Server, caplog: pytest.LogCaptureFixture, raw: bytes
) -> None:
    caplog.set_level(logging.DEBUG)
    reply = await sends(server, raw)
    head, _, body = reply[reply.rindex(b"HTTP/1.") :].partition(b"\r\n\r\n")
    assert int(head.split()[1]) == 400
    assert b"default-src 'none'" in head
    assert b"aiohttp" not in head
    error = msgspec.json.decode(body)["error"]
    assert (error["code"], "not HTTP" in error["message"]) == ("invalid_input", True)
    assert server.count("malformed_requests_total") == 1
    assert server.count("unexpected_errors_total") == 0
    quotes_nothing(server, caplog, reply)


async def test_an_expectation_that_nobody_knows_is_quoted_nowhere(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    reply = await sends(server, POST + b"Expect: " + CANARIES + b"\r\n\r\n")
    assert b" 417 " in reply.splitlines()[0]
    assert server.count("malformed_requests_total") == 1
    quotes_nothing(server, caplog, reply)


async def test_the_name_of_a_subprotocol_is_quoted_nowhere(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    headers = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Protocol": CARD}
    reply = await server.get("/till/v1/push", headers=headers)
    assert (reply.status, reply.error["code"]) == (400, "invalid_input")
    quotes_nothing(server, caplog, reply.body)


async def test_a_sender_who_leaves_in_the_middle_of_a_body_is_no_fault_of_ours(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    address = urlsplit(server.address)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    head = b"Content-Type: application/msgpack\r\nExpect: 100-continue\r\nContent-Length: 900\r\n\r\n"
    writer.write(POST.replace(b"batches", b"enrol") + head + CANARIES)
    assert b"100 Continue" in await reader.readline()
    writer.transport.abort()
    async with asyncio.timeout(10):
        while server.count("malformed_requests_total") == 0:
            await asyncio.sleep(0.01)
    assert server.logged("unexpected_error") == []
    quotes_nothing(server, caplog)


async def test_what_the_event_loop_complains_of_is_told_without_its_text(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    asyncio.get_running_loop().call_exception_handler({"message": PHONE, "exception": ValueError(CARD)})
    assert [line["type"] for line in server.logged("unexpected_error")] == ["ValueError"]
    quotes_nothing(server, caplog)
