"""Calls of a running agent's own hook, as a POS on this machine makes them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

import msgspec

from tillstream_protocol.errors import TillstreamError

_MAX_REPLY: Final = 1024 * 1024


class CallFailed(TillstreamError):
    """The hook did not answer, or not in form."""

    code = "call_failed"
    retryable = True


@dataclass(frozen=True, slots=True)
class Answer:
    """What the hook said: an HTTP status, and JSON."""

    status: int
    body: bytes


async def call_hook(port: int, token: str, method: str, path: str, content: object = None) -> Answer:
    """Make one call with a JSON body, if any. Raises `CallFailed`; the caller sets the time limit."""
    body = b"" if content is None else msgspec.json.encode(content)
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(head.encode("ascii") + body)
            await writer.drain()
            return _parse(await _read(reader))
        finally:
            writer.close()
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or "it hung up"
        raise CallFailed(f"the hook does not answer: {reason}", hint="see tillstream-agent doctor") from error


async def _read(reader: asyncio.StreamReader) -> bytes:
    """Everything up to the end of the connection, which was asked to close."""
    data = bytearray()
    while piece := await reader.read(65_536):
        data += piece
        if len(data) > _MAX_REPLY:
            break
    return bytes(data)


def _parse(data: bytes) -> Answer:
    """A reply whose body ends with the connection, as the hook's do; it chunks none."""
    head, _, body = data.partition(b"\r\n\r\n")
    words = head.split(b"\r\n", 1)[0].split(b" ", 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit() or len(data) > _MAX_REPLY:
        raise CallFailed("what answers there is not the hook", hint="see what listens on its port: ss -ltnp")
    return Answer(int(words[1]), body)
