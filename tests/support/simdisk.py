"""A disk in memory, for journals under fire: its power can be cut, every call can fail, bits can flip.

`medium` says what a power cut leaves. Everything is decided by what is passed in, so that a run can be repeated.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Final, Literal

from .disks import copy_by_steps
from .medium import Folder, Inode, Manner, Move, Write, betray

Operation = Literal[
    "names", "size", "read", "create", "append_to", "rename", "unlink", "sync_folder", "free", "write", "cut", "sync"
]
WRITING: Final[frozenset[Operation]] = frozenset(
    {"create", "append_to", "rename", "unlink", "sync_folder", "write", "cut", "sync"}
)
"""The calls that change something, or say that it is safe."""
_DONE_BY_HALVES: Final[frozenset[Operation]] = frozenset({"create", "rename", "unlink", "write", "cut"})
"""What a call changes while the power goes may survive; a sync that never returned promised nothing."""

Image = Mapping[str, bytes]
"""A folder's files, as a copy of them would hold."""


@dataclass(frozen=True, slots=True)
class Short:
    """Of a write, only `size` bytes are written before `code` is raised; a read returns no more than them."""

    size: int
    code: int = errno.ENOSPC


Verdict = int | Short | Literal["lie", "off"] | None
"""What becomes of a call: an errno is raised; it is cut short; a sync returns and has done nothing; the power goes
while it is under way; or, with None, it is done."""

Judge = Callable[[Operation, str, int], Verdict]
"""Asked at every call: what is called, on which file, and how many calls there were before."""

HUGE: Final = 1 << 40


class PowerOff(BaseException):
    """The machine went dead while it was in this call. Nothing catches that."""


class SimFile:
    """One file, open for appending, until its process or machine dies."""

    def __init__(self, disk: SimDisk, name: str, inode: Inode) -> None:
        self._disk = disk
        self._name = name
        self._inode = inode
        self._closed = False
        self._failed: OSError | None = None

    def write(self, data: bytes) -> None:
        """Append; what does not fit on the disk is not written, and ENOSPC raised."""
        verdict = self._enter("write")
        taken = min(verdict.size if isinstance(verdict, Short) else len(data), self._disk.room())
        if taken:
            self._inode.change(Write(self._disk.serial(), len(self._inode.seen), data[:taken]))
        if verdict == "off":
            self._disk.die()
        if isinstance(verdict, Short) or taken < len(data):
            raise _error(verdict.code if isinstance(verdict, Short) else errno.ENOSPC)

    def cut(self, size: int) -> None:
        """Cut the file."""
        verdict = self._enter("cut")
        self._inode.change(Write(self._disk.serial(), size, None))
        if verdict == "off":
            self._disk.die()

    async def sync(self) -> None:
        """Make firm what was written before the call; others run meanwhile."""
        disk, before = self._disk, self._disk.serial()
        if self._failed is not None:
            failed, self._failed = self._failed, None
            raise failed
        try:
            verdict = self._enter("sync")
        except OSError:
            await disk.pause()
            betray(self._inode.waiting, before)
            raise
        await disk.pause()
        disk.check_alive()
        if verdict != "lie":
            self._inode.settle(before)

    def sync_now(self) -> bool:
        """The same at once, on a disk that is swift; a failure is for the next `sync`."""
        if not self._disk.swift or self._failed is not None:
            return False
        before = self._disk.serial()
        try:
            verdict = self._enter("sync")
        except OSError as error:
            betray(self._inode.waiting, before)
            self._failed = error
            return False
        if verdict != "lie":
            self._inode.settle(before)
        return True

    def close(self) -> None:
        """Close it."""
        self._disk.check_alive()
        self._check_open()
        self._closed = True

    def _enter(self, operation: Operation) -> Verdict:
        self._disk.check_alive()
        self._check_open()
        return self._disk.enter(operation, self._name)

    def _check_open(self) -> None:
        if self._closed:
            raise _error(errno.EBADF)


class SimDisk:
    """One flat folder in memory.

    `judge` decides on every call and may be exchanged at any time; `capacity` is in bytes; `pause` is what a sync
    waits for while others run; a `swift` one syncs at once where that is asked for. `calls` counts.
    """

    def __init__(
        self,
        *,
        judge: Judge | None = None,
        capacity: int | None = None,
        pause: Callable[[], Awaitable[None]] | None = None,
        swift: bool = True,
    ) -> None:
        self.judge = judge
        self.capacity = capacity
        self.pause = pause or _next_turn
        self.swift = swift
        self.calls = 0
        self._folder = Folder()
        self._serial = 0
        self._dead = False

    # What the journal calls

    def names(self) -> list[str]:
        """Every file's name, in no order to rely on."""
        self.enter("names", "")
        return list(reversed(self._folder.seen))

    def size(self, name: str) -> int:
        """In bytes."""
        self.enter("size", name)
        return len(self._inode(name).seen)

    def read(self, name: str, start: int, size: int) -> bytes:
        """At most `size` bytes from `start` on."""
        verdict = self.enter("read", name)
        most = min(size, verdict.size) if isinstance(verdict, Short) else size
        return bytes(memoryview(self._inode(name).seen)[start : start + most])

    def create(self, name: str) -> SimFile:
        """A new, empty file."""
        verdict = self.enter("create", name)
        if name in self._folder.seen:
            raise _error(errno.EEXIST)
        inode = Inode()
        self._move(None, name, inode, verdict)
        return SimFile(self, name, inode)

    def append_to(self, name: str) -> SimFile:
        """An existing file."""
        self.enter("append_to", name)
        return SimFile(self, name, self._inode(name))

    async def copy(self, name: str, start: int, size: int, to: str) -> None:
        """Lay down a part of a file as a new one, synced."""
        await copy_by_steps(self, name, start, size, to)

    def rename(self, name: str, to: str) -> None:
        """Give a file another name; one that had it before is gone."""
        verdict = self.enter("rename", name)
        self._move(name, to, self._inode(name), verdict)

    def unlink(self, name: str) -> None:
        """Remove a file."""
        verdict = self.enter("unlink", name)
        self._move(name, None, self._inode(name), verdict)

    async def sync_folder(self) -> None:
        """Make firm what happened to names before the call; others run meanwhile."""
        before = self.serial()
        try:
            verdict = self.enter("sync_folder", "")
        except OSError:
            await self.pause()
            betray(self._folder.waiting, before)
            raise
        await self.pause()
        self.check_alive()
        if verdict != "lie":
            self._folder.settle(before)

    def free(self) -> int:
        """Bytes that still fit."""
        self.enter("free", "")
        return self.room()

    # What happens to it

    def crash(self) -> SimDisk:
        """The process died: the same disk for the next one, with all that was written and all its trouble.

        What the dead process had is dead.
        """
        after = self._successor()
        after.judge = self.judge
        after.calls = self.calls
        after._folder = self._folder
        after._serial = self._serial
        self._dead = True
        return after

    def power_cut(self, manner: Manner, random: Random) -> SimDisk:
        """The machine died: a disk that holds what the manner leaves. This one goes on, for another manner."""
        after = self._successor()
        for name, inode in self._folder.after_power_cut(manner, random).items():
            after.put(name, inode.after_power_cut(manner, random))
        return after

    def put(self, name: str, content: bytes) -> None:
        """Lay a file down, synced."""
        self._folder.seen[name] = self._folder.kept[name] = Inode(bytearray(content), bytearray(content))

    def image(self) -> dict[str, bytes]:
        """A copy of the folder, as a reader finds it."""
        return {name: bytes(inode.seen) for name, inode in self._folder.seen.items()}

    def survives(self, name: str, start: int, data: bytes) -> bool:
        """Whether a power cut leaves these bytes at that place of that file, whatever it does to others."""
        inode = self._folder.after_power_cut("dropped", Random(0)).get(name)
        unsure = any(move.state != "firm" and name in (move.name, move.to) for move in self._folder.waiting)
        if inode is None or unsure or any(change.start < start + len(data) for change in _unsure(inode)):
            return False
        return inode.after_power_cut("dropped", Random(0))[start : start + len(data)] == data

    def betrayed(self, name: str) -> bool:
        """Whether a sync failed of which this file, or its name, still bears the consequences."""
        inode = self._folder.seen.get(name)
        changes = [*(inode.waiting if inode else ()), *(m for m in self._folder.waiting if name in (m.name, m.to))]
        return any(change.state == "clean" for change in changes)

    def unsettled_names(self) -> list[tuple[str | None, str | None]]:
        """Which names a power cut may still bring back or take: from what, to what."""
        return [(move.name, move.to) for move in self._folder.waiting if move.state == "dirty"]

    def flip(self, name: str, byte: int, bit: int) -> None:
        """Turn one bit round, on the medium and in memory."""
        self._inode(name).flip(byte, bit)

    def die(self) -> None:
        """Go dead in the middle of a call."""
        self._dead = True
        raise PowerOff

    # What its files need

    def enter(self, operation: Operation, name: str) -> Verdict:
        """Count a call and ask the judge. Raises `OSError`, and `PowerOff` once this disk is dead."""
        self.check_alive()
        index = self.calls
        self.calls += 1
        verdict = self.judge(operation, name, index) if self.judge is not None else None
        if isinstance(verdict, int):
            raise _error(verdict)
        if verdict == "off" and operation not in _DONE_BY_HALVES:
            self.die()
        return verdict

    def check_alive(self) -> None:
        """Raise `PowerOff` if the process or the machine that called is dead."""
        if self._dead:
            raise PowerOff

    def serial(self) -> int:
        """The number of the next change."""
        self._serial += 1
        return self._serial

    def room(self) -> int:
        """Bytes that still fit, asked of nobody."""
        if self.capacity is None:
            return HUGE
        return max(0, self.capacity - sum(len(inode.seen) for inode in self._folder.seen.values()))

    def _inode(self, name: str) -> Inode:
        inode = self._folder.seen.get(name)
        if inode is None:
            raise _error(errno.ENOENT)
        return inode

    def _move(self, name: str | None, to: str | None, inode: Inode, verdict: Verdict) -> None:
        self._folder.change(Move(self.serial(), name, to, inode))
        if verdict == "off":
            self.die()

    def _successor(self) -> SimDisk:
        return SimDisk(capacity=self.capacity, pause=self.pause, swift=self.swift)


def from_image(image: Image, *, capacity: int | None = None) -> SimDisk:
    """A disk that holds these files, all synced: a restored image, or a clone."""
    disk = SimDisk(capacity=capacity)
    for name, content in image.items():
        disk.put(name, content)
    return disk


async def _next_turn() -> None:
    await asyncio.sleep(0)


def _unsure(inode: Inode) -> list[Write]:
    return [change for change in inode.waiting if change.state != "firm"]


def _error(code: int) -> OSError:
    return OSError(code, os.strerror(code))
