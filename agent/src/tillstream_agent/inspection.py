"""How an agent is, asked from outside: of the running one over its socket, of a stopped one from its folder.

Reading a stopped agent's folder changes nothing in it.
"""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec

from tillstream_protocol.errors import TillstreamError
from tillstream_protocol.limits import DEFAULT
from tillstream_protocol.ranges import merge

from . import __version__
from .clock import Clock
from .folder import Folder
from .hooks.socket import Borders
from .journal.disk import File, FolderDisk
from .journal.observer import JournalObserver
from .journal.recovery import Found, recover
from .state import State
from .status import QueueStatus, Status, disk_free

PATIENCE_S: Final = 5.0
"""How long to wait for an agent's answer, and for an agent that starts to be there."""
RETRY_S: Final = 0.05
_ASK: Final = msgspec.msgpack.encode({"call": "status"})


class NoAnswer(TillstreamError):
    """An agent holds the folder but does not answer on its socket."""

    code = "no_answer"
    retryable = True


class _Reply(msgspec.Struct):
    status: int
    body: Status


async def look(folder: Folder, clock: Clock) -> Status:
    """How the agent of a folder is, running or not. Raises `NotEnrolled`, `StateError` or `NoAnswer`."""
    folder.identity()
    return await ask(folder) if folder.is_running() else await read_stopped(folder, clock)


async def ask(folder: Folder, *, patience: float = PATIENCE_S) -> Status:
    """Ask the running agent, or the starting one as soon as it listens. Raises `NoAnswer` after `patience` seconds."""
    try:
        async with asyncio.timeout(patience):
            while True:
                try:
                    return await _ask(folder)
                except (FileNotFoundError, ConnectionRefusedError):
                    await asyncio.sleep(RETRY_S)
    except (OSError, TimeoutError, EOFError, msgspec.MsgspecError, TillstreamError) as error:
        raise NoAnswer(
            f"the agent on {folder.path} does not answer", hint="is this its user? see its log, or restart it"
        ) from error


async def _ask(folder: Folder) -> Status:
    reader, writer = await asyncio.open_unix_connection(folder.socket)
    try:
        writer.write(_ASK)
        borders = Borders(DEFAULT.hook_body)
        while data := await reader.read(65_536):
            for message in borders.feed(data):
                return msgspec.msgpack.decode(message, type=_Reply).body
        raise EOFError
    finally:
        writer.close()


async def read_stopped(folder: Folder, clock: Clock) -> Status:
    """Read a stopped agent's folder. Raises `NotEnrolled` or `StateError`."""
    who = folder.identity()
    found = await asyncio.to_thread(_find, folder)
    acked = await State.peek_acked(folder.database)
    records = size = oldest = 0
    for chunk in found.chunks:
        left = chunk.unacknowledged(merge(acked.get(chunk.epoch, ())))
        if left:
            records += left
            size += chunk.frames_end - chunk.cursor
            oldest = max(oldest, clock.now_ms() - chunk.header.created)
    return Status(
        running=False,
        agent_version=__version__,
        server=who.server,
        till_id=who.till_id.hex(),
        retailer=who.retailer,
        store=who.store,
        till=who.till,
        queue=QueueStatus(records, size, oldest),
        disk_free=disk_free(folder.path),
    )


def _find(folder: Folder) -> Found:
    if not folder.journal.is_dir():
        return Found()
    return recover(_ReadOnly(folder.journal), JournalObserver())


class _ReadOnly(FolderDisk):
    """The journal's folder, on which nothing is ever changed."""

    def create(self, name: str) -> File:  # noqa: ARG002 (the disk's signature)
        return _Nothing()

    def append_to(self, name: str) -> File:  # noqa: ARG002 (the disk's signature)
        return _Nothing()

    def rename(self, name: str, to: str) -> None:
        pass

    def unlink(self, name: str) -> None:
        pass

    def sync_folder(self) -> None:
        pass


class _Nothing:
    """A file that takes everything and keeps nothing."""

    def write(self, data: bytes) -> None:
        pass

    def cut(self, size: int) -> None:
        pass

    async def sync(self) -> None:
        pass

    def close(self) -> None:
        pass
