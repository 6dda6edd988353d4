"""What is not HTTP is refused like everything else, and neither logged nor sent back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from support.agents import WELCOME, Telling, counter
from support.doors import http_door, pairing_of
from tillstream_protocol.limits import DEFAULT

TOKEN = "k" * 43
PHONE, CARD = "+31655501427", "4111111111111111"
POST = b"POST /v1/transactions HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\n"
BEARER = b"Authorization: Bearer " + TOKEN.encode() + b"\r\n"
CANARIES = f"{PHONE} {CARD}".encode()

MALFORMED = {
    "spaces in the address": b"POST /v1/transactions?phone=" + CANARIES + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    "NUL in a header": POST + b"X-Member: " + CANARIES + b"\x00\r\n\r\n",
    "no host": b"GET /healthz?q=" + CARD.encode() + b" HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /healthz HTTP/1.1\r\nHost: " + CARD.encode() + b"\r\nHost: " + PHONE.encode() + b"\r\n\r\n",
    "a chunk without a size": POST + BEARER + b"Transfer-Encoding: chunked\r\n\r\n" + CANARIES + b"\r\n0\r\n\r\n",
    "no HTTP at all": CANARIES + b"\r\n\r\n",
    "a long address": b"GET /" + CARD.encode() * 2000 + b" HTTP/1.1\r\n\r\n",
    "a body after the body": POST + BEARER + b"Content-Length: 2\r\n\r\n{}" + CANARIES + b"\r\n\r\n",
}


@dataclass
class Wire:
    """A socket before the door, and what the agent said."""

    port: int
    telling: Telling
    caplog: pytest.LogCaptureFixture

    async def sends(self, raw: bytes) -> bytes:
        """All that is answered until the door closes the connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(raw.replace(b"%d", str(self.port).encode()))
        async with asyncio.timeout(10):
            reply = await reader.read()
        writer.close()
        return reply

    async def breaks_off(self, raw: bytes) -> None:
        """Leave in the middle of a body, and wait until that was counted."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(raw.replace(b"%d", str(self.port).encode()))
        assert b"100 Continue" in await reader.readline()
        writer.transport.abort()
        async with asyncio.timeout(10):
            while self.telling.counted("refusals", reason="disconnected") == 0:
                await asyncio.sleep(0.01)

    def quotes_nothing(self, reply: bytes = b"") -> None:
        """Neither a log nor the reply holds a canary."""
        for canary in (PHONE, CARD):
            assert canary not in self.telling.stream.getvalue()
            assert canary not in self.caplog.text
            assert canary.encode() not in reply


@pytest.fixture
async def wire(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> AsyncIterator[Wire]:
    caplog.set_level(logging.DEBUG)
    async with counter(tmp_path, WELCOME) as behind:
        door = http_door(behind, pairing_of(behind, tmp_path), limits=replace(DEFAULT, hook_body=2048))
        try:
            yield Wire(await door.open(0), behind.telling, caplog)
        finally:
            await door.close()


def last_answer(reply: bytes) -> tuple[int, Any]:
    """The status and body of the last answer on a connection."""
    last = reply[reply.rindex(b"HTTP/1.") :]
    head, _, body = last.partition(b"\r\n\r\n")
    assert b"application/json" in head
    return int(head.split()[1]), msgspec.json.decode(body)


@pytest.mark.parametrize("raw", MALFORMED.values(), ids=MALFORMED.keys())
async def test_what_is_not_http_is_refused_and_quoted_nowhere(wire: Wire, raw: bytes) -> None:
    reply = await wire.sends(raw)
    status, body = last_answer(reply)
    assert (status, body["error"]["code"]) == (400, "invalid_input")
    assert "not HTTP" in body["error"]["message"]
    assert wire.telling.said()[-1] == "hook_refused"
    assert "defect" not in wire.telling.said()
    assert wire.telling.counted("refusals", reason="invalid_input") == reply.count(b"HTTP/1.1 400") + reply.count(
        b"HTTP/1.0 400"
    )
    wire.quotes_nothing(reply)
    assert not [record for record in wire.caplog.records if record.name.startswith("aiohttp")]


async def test_a_bad_chunk_that_nobody_reads_is_quoted_nowhere(wire: Wire) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
    writer.write(POST.replace(b"%d", str(wire.port).encode()) + b"Transfer-Encoding: chunked\r\n\r\n")
    reply = await reader.readline()
    assert b" 401 " in reply
    writer.write(CANARIES + b"\r\n")
    await writer.drain()
    await wire.sends(b"GET /healthz HTTP/1.0\r\n\r\n")  # by then the chunk was read too
    writer.close()
    assert "defect" not in wire.telling.said()
    wire.quotes_nothing(reply)


async def test_an_expectation_that_nobody_knows_is_quoted_nowhere(wire: Wire) -> None:
    reply = await wire.sends(POST + b"Expect: " + CANARIES + b"\r\n\r\n")
    status, body = last_answer(reply)
    assert (status, body["error"]["code"]) == (417, "invalid_input")
    wire.quotes_nothing(reply)


async def test_a_caller_who_leaves_in_the_middle_of_a_body_is_no_defect(wire: Wire) -> None:
    await wire.breaks_off(POST + BEARER + b'Expect: 100-continue\r\nContent-Length: 900\r\n\r\n{"phone": "' + CANARIES)
    assert wire.telling.said() == ["hook_disconnected"]
    assert wire.telling.lines()[0]["level"] == "debug"
    assert wire.telling.counted("refusals", reason="error") == 0
    wire.quotes_nothing()


async def test_what_the_event_loop_complains_of_is_told_as_a_defect_without_its_text(wire: Wire) -> None:
    loop = asyncio.get_running_loop()
    loop.call_exception_handler({"message": PHONE, "exception": ValueError(CARD)})
    loop.call_exception_handler({"message": PHONE})
    assert [(line["event"], line["error"]) for line in wire.telling.lines()] == [
        ("defect", "ValueError"),
        ("defect", "RuntimeError"),
    ]
    wire.quotes_nothing()
