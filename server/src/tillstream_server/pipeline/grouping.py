"""Group commit: batches that wait while another is written are written together, in one transaction.

Whoever gets the turn takes along what else waits. So the busier the server, the more batches share a transaction and
write the rows that all of them touch once; where nothing waits, nobody waits for company. A group that fails says
nothing of its members: each is then taken alone, unless the machine is to blame. One whose caller is cancelled while
it leads takes nothing from the others: the next of them leads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from .isolation import machine_failed

T = TypeVar("T")
R = TypeVar("R")


@dataclass(slots=True, eq=False)
class _Member(Generic[T, R]):
    """What waits to be taken, and what became of it; `woken` when it was taken, or is to lead.

    `alone` where its caller said so, or once a group with it has failed.
    """

    what: T
    alone: bool
    result: R | None = None
    error: Exception | None = None
    woken: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def done(self) -> bool:
        return self.result is not None or self.error is not None


class Groups(Generic[T, R]):
    """Takes things one group after the other."""

    def __init__(self, take: Callable[[Sequence[T]], Awaitable[Sequence[R]]], fits: Callable[[Sequence[T], T], bool]):
        """`take` takes a group and gives a result for each; `fits` says whether something may join a group."""
        self._take = take
        self._fits = fits
        self._waiting: list[_Member[T, R]] = []
        self._leader: _Member[T, R] | None = None

    async def take(self, what: T, *, alone: bool = False) -> R:
        """The result of taking it, `alone` or with others. Raises what `take` did."""
        member = _Member[T, R](what, alone)
        self._waiting.append(member)
        try:
            if self._leader is None:
                self._leader = member
            else:
                await member.woken.wait()
            while not member.done:
                await self._lead(member)
        finally:
            self._waiting.remove(member)
            if self._leader is member:
                self._hand_over()
        if member.error is not None:
            raise member.error
        assert member.result is not None
        return member.result

    def _hand_over(self) -> None:
        """The one that has waited longest leads next."""
        self._leader = next((one for one in self._waiting if not one.done), None)
        if self._leader is not None:
            self._leader.woken.set()

    async def _lead(self, leader: _Member[T, R]) -> None:
        """Take a group, and tell its members what became of them."""
        group = self._group_of(leader)
        try:
            taken = list(zip(group, await self._take([one.what for one in group]), strict=True))
        except Exception as error:  # noqa: BLE001 - it is raised again by whom it concerns
            for one in group:
                one.alone = True
                if len(group) == 1 or machine_failed(error):
                    one.error = error
        else:
            for one, result in taken:
                one.result = result
        for one in group:
            if one.done:
                one.woken.set()

    def _group_of(self, leader: _Member[T, R]) -> list[_Member[T, R]]:
        group = [leader]
        for one in self._waiting:
            free = one is not leader and not (one.done or one.alone or leader.alone)
            if free and self._fits([other.what for other in group], one.what):
                group.append(one)
        return group
