"""The operator's way to the one process that writes.

While a server runs, it listens on a Unix socket in its data folder; the folder's mode is the access control. One
connection carries one command and its answer, each one JSON document: the command ends with a newline, the answer
with the connection. When no server runs, the CLI takes the folder's lock and runs the very same command itself.

A server that starts holds the lock before it listens, and a command holds it for as long as it takes: whoever finds the
lock held waits a few seconds for its turn, or for the server to listen.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, TypeVar, cast

import msgspec

from tillstream_protocol.codec import json_decoder
from tillstream_protocol.errors import ErrorBody, InvalidInput, TillstreamError

from .events import Events
from .folder import Folder, FolderBusy, FolderError
from .office import Command, Office

MAX_COMMAND: Final = 8 * 1024 * 1024
"""Bytes: a batch of the largest size fits, as JSON carries it."""
FINISH_SECONDS: Final = 5.0
ACCEPT_TURNS: Final = 5
"""Turns of the loop after which every connection that waited at the socket has been accepted."""
PATIENCE_SECONDS: Final = 5.0
"""How long to wait for a folder that another process holds without listening."""
RETRY_SECONDS: Final = 0.05
MAX_PATH: Final = 100
"""Bytes of a Unix socket's path, on every system we run on."""

_T = TypeVar("_T")

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
        path.unlink(missing_ok=True)  # from now on nobody new knocks; whoever has is let in
        for _ in range(ACCEPT_TURNS):
            await asyncio.sleep(0)
        server.close()
        if running:  # a command that has begun comes to its end, within reason
            await asyncio.wait(running, timeout=FINISH_SECONDS)


async def order(
    folder: Folder,
    command: Command,
    open_office: Callable[[Folder], AbstractAsyncContextManager[Office]],
    *,
    patience: float = PATIENCE_SECONDS,
) -> bytes:
    """Have a command carried out, by the running server or here; its result as JSON.

    Raises whatever the command raises, and `FolderBusy` when another process holds the folder for longer than
    `patience` seconds without listening.
    """

    async def attempt() -> bytes:
        connection = await _connect(folder)
        if connection is not None:
            return await _ask(connection, command)
        async with open_office(folder) as office:
            return msgspec.json.encode(await office.run(command))

    return await _in_turn(attempt, patience)


async def wait_to_serve(
    folder: Folder, serve: Callable[[], Awaitable[None]], *, patience: float = PATIENCE_SECONDS
) -> None:
    """Serve as soon as no command holds the folder. Raises `FolderBusy` where another server runs, or at the end of
    `patience` seconds, and whatever `serve` raises."""

    async def attempt() -> None:
        connection = await _connect(folder)
        if connection is not None:
            connection[1].close()
            raise _Served(f"another server serves {folder.root}", hint="stop it first, or give another --data")
        await serve()

    await _in_turn(attempt, patience)


class _Served(FolderBusy):
    """A server listens already: there is nothing to wait for."""


async def _in_turn(attempt: Callable[[], Awaitable[_T]], patience: float) -> _T:
    """Try again while the folder is busy, for so many seconds."""
    loop = asyncio.get_running_loop()
    until = loop.time() + patience
    while True:
        try:
            return await attempt()
        except _Served:
            raise
        except FolderBusy:
            if loop.time() >= until:
                raise
        await asyncio.sleep(RETRY_SECONDS)


async def _ask(connection: tuple[asyncio.StreamReader, asyncio.StreamWriter], command: Command) -> bytes:
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
