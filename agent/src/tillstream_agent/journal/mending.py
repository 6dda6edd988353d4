"""Putting right what can be, and keeping what cannot: nothing that anybody might still want to look at is deleted."""

from __future__ import annotations

import itertools
from typing import Final

from tillstream_protocol.framing import Footer
from tillstream_protocol.ranges import contains

from .chunks import DAMAGED_SUFFIX, SUFFIX, TORN_SUFFIX, Chunk, file_name
from .directory import Directory
from .disk import Disk
from .reading import Look

_COPY: Final = ".new"


def quarantine(disk: Disk, name: str) -> None:
    """Give a damaged file the name under which it is kept and not looked at again. Raises `OSError`."""
    disk.rename(name, name.removesuffix(SUFFIX) + DAMAGED_SUFFIX)


async def finish(disk: Disk, directory: Directory, found: Look) -> None:
    """Cut off what follows the last frame, and give the chunk the footer that its writer had no time for.

    Only for a chunk that has lost nothing at its end, and whose frames are on the disk. Raises `OSError`; the next
    start tries again.
    """
    chunk = found.chunk
    await keep_torn(disk, directory, chunk)
    rows = [row for row in found.rows if contains(chunk.present, row[0])]  # a later chunk may hold what was at its end
    seqs = [seq for seq, _ in rows]
    first = chunk.header.first_seq
    if found.gaps or seqs != list(range(first, first + len(seqs))):
        return
    footer = Footer(first, tuple(entry for _, entry in rows)).encode()
    file = disk.append_to(chunk.name)
    try:
        file.write(footer)
        chunk.size += len(footer)
        chunk.index = None
    except OSError:
        file.cut(chunk.frames_end)
        raise
    else:
        await file.sync()
    finally:
        file.close()


async def keep_torn(disk: Disk, directory: Directory, chunk: Chunk) -> None:
    """Cut off what follows a chunk's last frame, once a copy of it is on the disk beside it. Raises `OSError`."""
    rest = disk.size(chunk.name) - chunk.frames_end
    if rest <= 0:
        return
    await disk.copy(chunk.name, chunk.frames_end, rest, _free_name(disk, chunk.number))
    await directory.sync(directory.enter())
    file = disk.append_to(chunk.name)
    try:
        file.cut(chunk.frames_end)
    finally:
        file.close()
    chunk.size = chunk.frames_end


async def renew(disk: Disk, directory: Directory, chunk: Chunk) -> None:
    """Write a chunk anew whose sync failed: what can be read now may be on no disk. Raises `OSError`."""
    copy = file_name(chunk.number, _COPY)
    if copy in disk.names():
        disk.unlink(copy)
    await disk.copy(chunk.name, 0, chunk.size, copy)
    disk.rename(copy, chunk.name)
    await directory.sync(directory.enter())


def _free_name(disk: Disk, number: int) -> str:
    taken = set(disk.names())
    name = file_name(number, TORN_SUFFIX)
    for again in itertools.count(2):
        if name not in taken:
            break
        name = file_name(number, f".{again}{TORN_SUFFIX}")
    return name
