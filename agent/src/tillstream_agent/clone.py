"""Makes a state folder forget which till it was, so that an image of the machine can be rolled out.

What goes is whatever would make two machines one till: identity, keys, hook token, pairings, state and journal. The
identity goes first, so that nothing starts on what is left when this is cut short; then the journal; then the rest,
among it the state that says what was acknowledged. So the same call can be made again, and counts by the same state.

The journal is the one thing that cannot be had again. Records that no server has, and files that were kept because they
were damaged, are thrown away only by whoever names their number.
"""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Final

from msgspec import Struct

from tillstream_protocol.errors import InvalidInput

from .aftermath import MARK
from .folder import Folder, StateError
from .inspection import unsent
from .logs import FORMER as FORMER_LOG
from .logs import NAME as LOG
from .status import damaged_files

_BESIDE: Final = ("", "-wal", "-shm", "-journal")


class QueueNotEmpty(StateError):
    """There are records here that no server has."""

    code = "queue_not_empty"


class Forgotten(Struct, frozen=True):
    """What a reset did. `discarded` counts records and damaged files that nobody has any more."""

    removed: tuple[str, ...]
    """Names in the state folder."""
    discarded: int


async def reset(folder: Folder, *, discard: int | None = None) -> Forgotten:
    """Forget which till this was. `discard` is how many records and damaged files may be lost.

    Raises `AlreadyRunning`, `QueueNotEmpty`, `InvalidInput` where `discard` is another number, or `StateError`.
    """
    if not folder.path.is_dir():
        return Forgotten((), 0)
    with folder.locked():
        waiting = await unsent(folder) + len(damaged_files(folder.path))
        if discard is None and waiting:
            raise QueueNotEmpty(
                f"{waiting} records or damaged files of the queue are nowhere but in {folder.path}",
                hint="start the agent until status says that the queue is empty, or take them along with "
                f"tillstream-agent queue export --all; to throw them away: --discard {waiting}",
            )
        if discard is not None and discard != waiting:
            raise InvalidInput(f"there are {waiting} to discard, not {discard}", field="clone-reset")
        removed = await asyncio.to_thread(_remove, folder)
    return Forgotten(removed, waiting)


def _remove(folder: Folder) -> tuple[str, ...]:
    database = [folder.database.with_name(folder.database.name + end) for end in _BESIDE]
    # Sockets and ports belong to a running agent; a killed one leaves them.
    ours = (
        folder.identity_file,
        folder.journal,
        *database,
        folder.device_key_file,
        folder.next_device_key_file,
        folder.following_device_key_file,
        folder.rotate_file,
        folder.former,
        folder.tag_key_file,
        folder.token_file,
        folder.paired_file,
        folder.settings_file,
        folder.path / MARK,
        folder.path / LOG,
        folder.path / FORMER_LOG,
        folder.socket,
        folder.port_file,
    )
    removed = []
    for path in ours:
        if path.is_symlink() or path.exists():
            _unlink(path)
            removed.append(path.name)
    return tuple(removed)


def _unlink(path: Path) -> None:
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    except OSError as error:
        raise StateError(
            f"{path} could not be removed: {error.strerror}", hint="make the same call again, as the agent's user"
        ) from error
