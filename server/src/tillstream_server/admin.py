"""The operator's way to the one process that writes.

While a server runs, it listens on a Unix socket in its data folder; the folder's mode is the access control. One
connection carries one command and its answer, each one JSON document: the command ends with a newline, the answer
with the connection. When no server runs, the CLI takes the folder's lock and runs the very same command itself.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, cast

import msgspec

from tillstream_protocol.codec import json_decoder
from tillstream_protocol.errors import ErrorBody, InvalidInput, TillstreamError

from .events import Events
from .folder import Folder, FolderError
from .office import Command, Office

MAX_COMMAND: Final = 1024 * 1024
FINISH_SECONDS: Final = 5.0
MAX_PATH: Final = 100
"""Bytes of a Unix socket's path, on every system we run on."""

_decode: Callable[[bytes], Command] = json_decoder(cast("Any", Command), limit=MAX_COMMAND)


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What comes back over the socket: a result or an error."""

    result: msgspec.Raw = msgspec.Raw()
    error: ErrorBody | None = None


class CommandFailed(TillstreamError):
    """The running server refused a command; its own code, field and hint are kept."""

    def __init__(self, body: ErrorBody) -> None:
        super().__init__(body.message, field=body.field, limit=body.limit, hint=body.hint)
        self.code = body.code
        self.retryable = body.retryable


@asynccontextmanager
async def listening(folder: Folder, office: Office, events: Events) -> AsyncIterator[None]:
    """Take commands while the server runs; the caller holds the folder's lock. Raises `FolderError`."""
    path = folder.admin_socket
    if len(os.fsencode(path)) > MAX_PATH:
        raise FolderError(f"the path {path} is too long for a socket", limit=f"{MAX_PATH} bytes", hint="shorten --data")
    path.unlink(missing_ok=True)  # left by a server that was killed

    running: set[asyncio.Task[object]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            running.add(task)
            task.add_done_callback(running.discard)
        try:
            writer.write(await _answer(reader, office, events))
            await writer.drain()
        except ConnectionError:
            pass  # nobody waits for the answer any more
        finally:
            writer.close()

    server = await asyncio.start_unix_server(connected, path, limit=MAX_COMMAND)
    path.chmod(0o600)
    try:
        yield
    finally:
        server.close()
        path.unlink(missing_ok=True)
        if running:  # a command that has begun comes to its end, within reason
            await asyncio.wait(running, timeout=FINISH_SECONDS)


async def order(
    folder: Folder, command: Command, open_office: Callable[[Folder], AbstractAsyncContextManager[Office]]
) -> bytes:
    """Have a command carried out, by the running server or here; its result as JSON.

    Raises whatever the command raises, and `FolderBusy` when another process holds the folder without listening.
    """
    connection = await _connect(folder)
    if connection is None:
        async with open_office(folder) as office:
            return msgspec.json.encode(await office.run(command))
    reader, writer = connection
    try:
        writer.write(msgspec.json.encode(command) + b"\n")
        await writer.drain()
        return _result(await reader.read(-1))
    except ConnectionError as error:
        raise FolderError("the server stopped before it answered", hint="try again") from error
    finally:
        writer.close()


async def _connect(folder: Folder) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
    if len(os.fsencode(folder.admin_socket)) > MAX_PATH:
        return None
    try:
        return await asyncio.open_unix_connection(folder.admin_socket)
    except (FileNotFoundError, ConnectionRefusedError):
        return None
    except OSError as error:
        raise FolderError(f"cannot reach {folder.admin_socket}: {error.strerror}") from error


def _result(data: bytes) -> bytes:
    try:
        answer = msgspec.json.decode(data, type=Answer)
    except msgspec.DecodeError as error:
        raise FolderError("the server stopped before it answered", hint="try again") from error
    if answer.error is not None:
        raise CommandFailed(answer.error)
    return bytes(answer.result)


async def _answer(reader: asyncio.StreamReader, office: Office, events: Events) -> bytes:
    try:
        command = _decode(await _line(reader))
        return msgspec.json.encode({"result": await office.run(command)})
    except TillstreamError as error:
        return msgspec.json.encode({"error": error.body()})
    except Exception as error:  # noqa: BLE001 - a fault of ours is told as such, and the server goes on
        events.unexpected("admin", error)
        fault = ErrorBody("internal", "the server failed; see its log")
        return msgspec.json.encode({"error": fault})


async def _line(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\n")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        limit = f"{MAX_COMMAND} bytes"
        raise InvalidInput("a command is one line of JSON", field="command", limit=limit) from error
