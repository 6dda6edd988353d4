"""A disk that kills its own process at its n-th call: before it, after it, or with half a write done."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

from tillstream_agent.journal import File, FolderDisk

from .disks import copy_by_steps

Moment = Literal["before", "torn", "after"]


@dataclass
class Death:
    """When to die: at the call that has this number, counted from 1. 0 is never."""

    call: int
    moment: Moment
    calls: int = 0

    def at(self, do: Callable[[], None], half: Callable[[], None] | None = None) -> None:
        """Make one call, and die of it if its time has come."""
        self.calls += 1
        if self.calls != self.call:
            do()
            return
        if self.moment == "after":
            do()
        elif self.moment == "torn" and half is not None:
            half()
        _die()


def _die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("SIGKILL was survived")


class DyingFile:
    """A file of a dying disk."""

    def __init__(self, file: File, death: Death) -> None:
        self._file = file
        self._death = death

    def write(self, data: bytes) -> None:
        half = data[: len(data) // 2]
        self._death.at(lambda: self._file.write(data), lambda: self._file.write(half))

    def cut(self, size: int) -> None:
        self._death.at(lambda: self._file.cut(size))

    async def sync(self) -> None:
        self._death.at(_nothing)
        await self._file.sync()
        self._death.at(_nothing)

    def sync_now(self) -> bool:
        self._death.at(_nothing)
        synced = self._file.sync_now()
        self._death.at(_nothing)
        return synced

    def close(self) -> None:
        self._death.at(self._file.close)


class DyingDisk(FolderDisk):
    """A real folder, until death comes."""

    def __init__(self, folder: Path, death: Death) -> None:
        super().__init__(folder)
        self._death = death

    def create(self, name: str) -> File:
        made: list[File] = []
        self._death.at(lambda: made.append(super(DyingDisk, self).create(name)))
        return DyingFile(made[0], self._death)

    def append_to(self, name: str) -> File:
        return DyingFile(super().append_to(name), self._death)

    async def copy(self, name: str, start: int, size: int, to: str) -> None:
        await copy_by_steps(self, name, start, size, to)

    def rename(self, name: str, to: str) -> None:
        self._death.at(lambda: super(DyingDisk, self).rename(name, to))

    def unlink(self, name: str) -> None:
        self._death.at(lambda: super(DyingDisk, self).unlink(name))

    async def sync_folder(self) -> None:
        self._death.at(_nothing)
        await super().sync_folder()
        self._death.at(_nothing)


def _nothing() -> None:
    """A sync runs in a thread; its death comes on this side of it, or on the other."""
