"""How much may be opened at a time: a record in its parts takes some twenty times the memory of its frame."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Room:
    """Lets in what there is room for, in the order it came. What is larger than all of it goes in alone."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._taken = 0
        self._waiting: deque[tuple[int, asyncio.Event]] = deque()

    @asynccontextmanager
    async def of(self, size: int) -> AsyncIterator[None]:
        """Room of a size, until the end."""
        await self._enter(min(size, self._size))
        try:
            yield
        finally:
            self._taken -= min(size, self._size)
            self._let_in()

    async def _enter(self, size: int) -> None:
        if not self._waiting and self._taken + size <= self._size:
            self._taken += size
            return
        let_in = asyncio.Event()
        self._waiting.append((size, let_in))
        try:
            await let_in.wait()
        except asyncio.CancelledError:
            if let_in.is_set():
                self._taken -= size
            else:
                self._waiting.remove((size, let_in))
            self._let_in()
            raise

    def _let_in(self) -> None:
        while self._waiting and self._taken + self._waiting[0][0] <= self._size:
            size, let_in = self._waiting.popleft()
            self._taken += size
            let_in.set()
