"""Who is on the push channel: one line a till, the newest wins."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final, Literal

from tillstream_protocol.messages import Push, since
from tillstream_protocol.versions import REVISION

from ..devices import Device

Ending = Literal["closed", "replaced", "revoked", "refused", "broken", "failed", "shutdown"]

MAX_WAITING: Final = 1_000
"""Pushes held in memory for one till; the rest is read from the outbox when its turn comes."""


class Line:
    """What waits to be written to one connected till."""

    def __init__(self, device: Device, revision: int = REVISION) -> None:
        """`revision` is what was agreed on with this till."""
        self.device = device
        self.revision = revision
        self.ending: Ending | None = None
        self.missed = True
        """Whether the outbox may hold something that did not come through here."""
        self._waiting: deque[Push] = deque()
        self._wake = asyncio.Event()

    def put(self, push: Push) -> None:
        """Queue a push; its row is committed in the outbox."""
        if len(self._waiting) < MAX_WAITING:
            self._waiting.append(push)
        else:
            self.missed = True
        self._wake.set()

    def end(self, ending: Ending) -> None:
        """Ask the driver to close. The first reason given stays."""
        self.ending = self.ending or ending
        self._wake.set()

    async def wait(self) -> None:
        """Return when there is something to write or the line is to end."""
        await self._wake.wait()
        self._wake.clear()

    def take(self) -> list[Push]:
        """Everything queued."""
        taken = list(self._waiting)
        self._waiting.clear()
        return taken


class Hub:
    """Finds the line of a till."""

    def __init__(self) -> None:
        self._lines: dict[bytes, Line] = {}
        self._closed = False

    def join(self, device: Device, revision: int = REVISION) -> Line:
        """A line for a till; an older one ends."""
        line = Line(device, revision)
        self.end(device.till_id, "replaced")
        self._lines[device.till_id] = line
        if self._closed:
            line.end("shutdown")
        return line

    def leave(self, line: Line) -> None:
        """Forget a line, unless a newer one took its place."""
        if self._lines.get(line.device.till_id) is line:
            del self._lines[line.device.till_id]

    def send(self, till_id: bytes, push: Push) -> None:
        """Hand a committed push to a till if it is connected; else it waits in the outbox."""
        line = self._lines.get(till_id)
        if line is not None:
            line.put(push)

    def has(self, till_id: bytes) -> bool:
        """Whether a till is on the channel now."""
        return till_id in self._lines

    def hears(self, till_id: bytes, push: Push) -> bool:
        """Whether a till is on the channel now, and knows of such a push."""
        line = self._lines.get(till_id)
        return line is not None and since(push.body) <= line.revision

    def end(self, till_id: bytes, ending: Ending) -> None:
        """End a till's line, if it has one."""
        line = self._lines.get(till_id)
        if line is not None:
            line.end(ending)

    def connected(self, retailer: str | None = None) -> list[Device]:
        """The devices that are on the channel now, of one retailer or of all."""
        return [line.device for line in self._lines.values() if retailer in (None, line.device.retailer)]

    def close(self) -> None:
        """End every line, now and from now on."""
        self._closed = True
        for line in self._lines.values():
            line.end("shutdown")
