"""An event loop whose time is made up: when nothing is ready it jumps to the next timer. No threads, no sockets.

Everything that happens on it happens in an order that depends on nothing but the program, so a run is its seed.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Executor
from typing import Any, Final, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

MAX_IDLE_TURNS: Final = 1_000_000
"""Turns of the loop without time going on, after which something spins."""


class Stuck(AssertionError):
    """Nothing is left that could ever happen, or something spins on the spot."""


class _Selector(selectors.BaseSelector):
    """Has no files. Asked to wait, it lets the made-up time go on instead."""

    def __init__(self) -> None:
        self.now = 0.0
        self._idle = 0
        self._map: dict[int, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        raise NotImplementedError("there are no sockets in a simulation")

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        raise NotImplementedError("there are no sockets in a simulation")

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._map

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Stuck("nothing is left that could ever happen")
        if timeout > 0:
            self.now += timeout
            self._idle = 0
        else:
            self._idle += 1
            if self._idle > MAX_IDLE_TURNS:
                raise Stuck("something spins on the spot")
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on made-up time, in seconds from 0. What is given to a thread is done on the spot."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)
        self._clock_resolution = 1e-9
        self.faults: list[dict[str, Any]] = []
        """What nobody caught: `call_exception_handler`'s contexts."""
        self.set_exception_handler(lambda _loop, context: self.faults.append(context))

    def time(self) -> float:
        """The made-up time."""
        return self._virtual.now

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        """Do it now; the future is done when this returns."""
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - handed on to whoever awaits it
            future.set_exception(error)
        return future

    def _make_self_pipe(self) -> None:
        """There is no other thread that could wake this one."""

    def _close_self_pipe(self) -> None:
        """There is none."""

    def _write_to_self(self) -> None:
        """It is awake."""


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end on a loop of its own. Raises what it raises, and `Stuck`."""
    loop = VirtualLoop()
    asyncio.set_event_loop(loop)
    try:
        result = loop.run_until_complete(main)
        _end_what_is_left(loop)
        return result
    finally:
        asyncio.set_event_loop(None)
        loop.close()


def _end_what_is_left(loop: VirtualLoop) -> None:
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    if left:
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
