"""Processes of the simulated world: which task belongs to which, so that one can be killed with all that it runs.

A killed process does nothing any more. Its coroutines are still unwound, as Python must; by then its disk, its
databases and its sockets are gone, so that nothing of it has an effect.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

T = TypeVar("T")

CURRENT: Final[contextvars.ContextVar[Process | None]] = contextvars.ContextVar("process", default=None)


class Process:
    """One run of a program. `place` is what it finds of the world: its disk, its network."""

    def __init__(self, name: str, place: Any) -> None:
        self.name = name
        self.place = place
        self.connections: Any = None
        self.alive = True
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._context = contextvars.copy_context()
        self._context.run(CURRENT.set, self)

    def spawn(self, main: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run something as a part of this process."""
        return asyncio.get_running_loop().create_task(main, context=self._context)

    def own(self, task: asyncio.Task[Any]) -> None:
        """This task is a part of it."""
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))

    async def die(self) -> None:
        """Be killed. What it had open must be gone before."""
        self.alive = False
        for task in list(self._tasks):
            task.cancel()
        while self._tasks:
            await asyncio.sleep(0)


def adopt_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """Have every task belong to the process that began it."""

    def factory(
        loop: asyncio.AbstractEventLoop, coro: Any, *, context: contextvars.Context | None = None
    ) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=loop, context=context)
        process = CURRENT.get() if context is None else context.get(CURRENT)
        if process is not None:
            process.own(task)
        return task

    loop.set_task_factory(factory)


def here() -> Process:
    """The process that this runs in."""
    process = CURRENT.get()
    assert process is not None, "this runs in no process"
    return process
