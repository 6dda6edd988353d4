"""How an agent is, asked from outside: of the running one over its socket, of a stopped one from its folder.

Reading a stopped agent's folder changes nothing in it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Final, TypeVar

import msgspec

from tillstream_protocol.errors import TillstreamError
from tillstream_protocol.limits import MIB
from tillstream_protocol.ranges import contains, merge

from . import __version__
from .clock import Clock, SystemClock
from .folder import AlreadyRunning, Folder
from .hooks.pairing import Code, Forgotten, Pairing
from .hooks.socket import Borders
from .journal.disk import File, FolderDisk
from .journal.observer import JournalObserver
from .journal.recovery import Found, recover
from .journal.seqs import without
from .letters import Changes, Key, Letter, by_epoch
from .platforms import connect
from .queue import Line, Page, Retried, Wanted, line_of
from .state import State
from .status import QueueStatus, Status, damaged_files, disk_free

PATIENCE_S: Final = 5.0
"""How long to wait for an agent's answer, and for an agent that starts to be there."""
RETRY_S: Final = 0.05
_MAX_REPLY: Final = 4 * MIB
_Answer = TypeVar("_Answer")


class NoAnswer(TillstreamError):
    """An agent holds the folder but does not answer on its socket."""

    code = "no_answer"
    retryable = True


class _Reply(msgspec.Struct):
    status: int
    body: msgspec.Raw = msgspec.Raw()


async def look(folder: Folder, clock: Clock) -> Status:
    """How the agent of a folder is, running or not. Raises `NotEnrolled`, `StateError` or `NoAnswer`."""
    folder.identity()
    return await ask(folder) if folder.is_running() else await read_stopped(folder, clock)


async def ask(folder: Folder, *, patience: float = PATIENCE_S) -> Status:
    """How the running agent is, or the starting one as soon as it listens. Raises `NoAnswer` after `patience` s."""
    return await _ask({"call": "status"}, Status, folder, patience)


async def pair(folder: Folder) -> Code:
    """A code that pairs one screen with the running agent. Raises `NoAnswer`."""
    return await _ask({"call": "pair"}, Code, folder, PATIENCE_S)


async def forget_pairings(folder: Folder) -> Forgotten:
    """End every pairing, running or not. Raises `NotEnrolled`, `StateError` or `NoAnswer`."""
    folder.identity()
    try:
        with folder.locked():
            pairing = Pairing(folder.paired_file, folder.hook_token(), SystemClock(), os.urandom)
            return await pairing.forget()
    except AlreadyRunning:
        return await _ask({"call": "forget"}, Forgotten, folder, PATIENCE_S)


async def _ask(call: dict[str, object], kind: type[_Answer], folder: Folder, patience: float) -> _Answer:
    try:
        async with asyncio.timeout(patience):
            while True:
                try:
                    return await _call(msgspec.msgpack.encode(call), kind, folder)
                except (FileNotFoundError, ConnectionRefusedError):
                    await asyncio.sleep(RETRY_S)
    except (OSError, TimeoutError, EOFError, msgspec.MsgspecError, TillstreamError) as error:
        raise NoAnswer(
            f"the agent on {folder.path} does not answer", hint="is this its user? see its log, or restart it"
        ) from error


async def _call(call: bytes, kind: type[_Answer], folder: Folder) -> _Answer:
    reader, writer = await connect(folder.socket)
    try:
        writer.write(call)
        borders = Borders(_MAX_REPLY)
        while data := await reader.read(65_536):
            for message in borders.feed(data):
                return msgspec.msgpack.decode(msgspec.msgpack.decode(message, type=_Reply).body, type=kind)
        raise EOFError
    finally:
        writer.close()


async def list_queue(folder: Folder, clock: Clock) -> Page:
    """Everything that the server would not take, running or not. Raises as `look` does."""
    folder.identity()
    if not folder.is_running():
        return await _read_page(folder, clock)
    lines: list[Line] = []
    start: int | None = 0
    while start is not None:
        page = await _ask({"call": "queue_list", "start": start}, Page, folder, PATIENCE_S)
        lines.extend(page.lines)
        start = page.next
    return msgspec.structs.replace(page, lines=tuple(lines))


async def retry(folder: Folder, wanted: Wanted) -> Retried:
    """Queue records again that the server would not take: at once, or when the agent starts.

    Raises `NotEnrolled`, `StateError` or `NoAnswer`.
    """
    folder.identity()
    try:
        with folder.locked():
            return await _retry_stopped(folder, wanted)
    except AlreadyRunning:
        return await _ask({"call": "queue_retry", "wanted": wanted}, Retried, folder, PATIENCE_S)


async def to_export(folder: Folder, clock: Clock, *, everything: bool) -> Callable[[Key], bool]:
    """Which records an export is to hold: those set aside, or everything that is not acknowledged."""
    page = await list_queue(folder, clock)
    if not everything:
        aside = {(bytes.fromhex(line.epoch), line.seq) for line in page.lines if line.kept == "here"}
        return aside.__contains__
    acked = {epoch: merge(ranges) for epoch, ranges in (await State.peek_acked(folder.database)).items()}
    return lambda key: not contains(acked.get(key[0], ()), key[1])


async def _read_page(folder: Folder, clock: Clock) -> Page:
    letters, unnamed = await State.peek_letters(folder.database)
    status = await read_stopped(folder, clock)
    here = sum(letter.kept == "here" for letter in letters)
    ordered = sorted(letters, key=lambda letter: letter.kept)
    return Page(tuple(map(line_of, ordered)), None, here, len(letters) - here + unnamed, status.queue)


async def _retry_stopped(folder: Folder, wanted: Wanted) -> Retried:
    state = await State.open(folder.database)
    try:
        letters, unnamed = await state.load_letters()
        meant = [letter for letter in letters if wanted.fits(letter.key)]
        here = [letter.key for letter in meant if letter.kept == "here"]
        found = await asyncio.to_thread(_find, folder)
        again = [letter.key for letter in meant if letter.kept == "server" and _holds(found, letter)]
        acked = await state.load_acked()
        for epoch, ranges in by_epoch(again).items():
            acked[epoch] = without(acked.get(epoch, ()), ranges)
        await state.save_acked(acked)
        await state.save_letters(Changes((), (*here, *again), unnamed))
    finally:
        await state.close()
    return Retried(len(here), len(again), len(meant) - len(here) - len(again))


def _holds(found: Found, letter: Letter) -> bool:
    return any(chunk.epoch == letter.epoch and contains(chunk.present, letter.seq) for chunk in found.chunks)


async def read_stopped(folder: Folder, clock: Clock) -> Status:
    """Read a stopped agent's folder. Raises `NotEnrolled` or `StateError`."""
    who = folder.identity()
    found = await asyncio.to_thread(_find, folder)
    acked = await State.peek_acked(folder.database)
    letters, unnamed = await State.peek_letters(folder.database)
    aside = by_epoch(letter.key for letter in letters if letter.kept == "here")
    refused = sum(letter.kept == "here" for letter in letters)
    records = size = oldest = 0
    for chunk in found.chunks:
        left = chunk.unacknowledged(merge([*acked.get(chunk.epoch, ()), *aside.get(chunk.epoch, ())]))
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
        queue=QueueStatus(records, size, oldest, refused),
        trouble=("poison",) if refused else (),
        disk_free=disk_free(folder.path),
        dead_letters=len(letters) - refused + unnamed,
        damaged_files=len(damaged_files(folder.path)),
    )


async def unsent(folder: Folder) -> int:
    """How many records of a stopped agent's folder no server has acknowledged, refused ones among them.

    It needs no identity. Raises `StateError`.
    """
    found = await asyncio.to_thread(_find, folder)
    acked = await State.peek_acked(folder.database)
    return sum(chunk.unacknowledged(merge(acked.get(chunk.epoch, ()))) for chunk in found.chunks)


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

    async def copy(self, name: str, start: int, size: int, to: str) -> None:
        pass

    def rename(self, name: str, to: str) -> None:
        pass

    def unlink(self, name: str) -> None:
        pass

    async def sync_folder(self) -> None:
        pass


class _Nothing:
    """A file that takes everything and keeps nothing."""

    def write(self, data: bytes) -> None:
        pass

    def cut(self, size: int) -> None:
        pass

    async def sync(self) -> None:
        pass

    def sync_now(self) -> bool:
        return True

    def close(self) -> None:
        pass
