"""What earlier runs left behind: records that may be lost are told of, and keys that nothing needs any more go.

A run is remembered, with the boot it ran in, until all that it wrote is known to be on the disk. A killed process loses
nothing while the machine stays up; a run that is still remembered in another boot was ended by a power cut, which may
have taken up to the last 20 ms of it. What may be lost is said by a record like any other, so it arrives exactly once.

The state file may be lost as well. So the run and its boot are also written beside it, without a sync: after a plain
kill that file is whole, and says that the machine stayed up; after a power cut it names another boot, or nothing.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from tillstream_protocol.errors import TillstreamError
from tillstream_protocol.events import RecordsLost
from tillstream_protocol.framing import NO_EPOCH

from .capture import Capture
from .events import Events
from .folder import Folder
from .journal import Damage, Journal, Name
from .state import State

MARK: Final = "last-run"
"""The name of the file that says which run was the newest, and in which boot."""
EVERY_S: Final = 60.0
"""Seconds between tries of what could not be done at once, on a full disk for example."""

_UNKNOWN_BOOT: Final = ""
"""The boot of a run that is only known to have been another one's: no boot is called so."""


@dataclass(slots=True)
class Runs:
    """Which runs may have lost their end. `boot` is None where the platform does not tell boots apart."""

    state: State
    journal: Journal
    boot: str | None
    events: Events
    mark: Path
    """The file beside the state's in which the newest run is written down."""
    cut: set[bytes] = field(default_factory=set)
    """Epochs that a power cut ended, and whose loss is not reported yet."""
    _earlier: set[bytes] = field(default_factory=set)
    _looked: bool = False
    _noted: bool = False

    async def begin(self) -> None:
        """Find out which runs a power cut ended, and remember this one. What fails is done when it is called again."""
        if self.boot is not None and not self._looked:
            await attempt(self.events, "look at earlier runs", self._look_back)
        if self._looked and not self._noted:
            await attempt(self.events, "remember the run", self._note)

    async def _look_back(self) -> None:
        known = await self.state.load_runs()
        self._looked = True
        self.cut = {epoch for epoch, boot in known.items() if boot != self.boot}
        self._earlier = set(known) - self.cut
        parent = self.journal.parent
        unknown = parent.epoch != NO_EPOCH and parent.epoch not in known
        lost = unknown and not await self.state.remembers_runs()
        if lost and parent.seq and not self.journal.clean_end:
            await self._look_beside(parent.epoch)

    async def _look_beside(self, epoch: bytes) -> None:
        """An epoch ended badly, and the state that knew of it is lost."""
        if self._marked() == self._line(epoch):
            self._earlier.add(epoch)
            await self.state.begin_run(epoch, self.boot or "")
        else:
            self.cut.add(epoch)
            await self.state.begin_run(epoch, _UNKNOWN_BOOT)

    def _line(self, epoch: bytes) -> bytes:
        return f"{epoch.hex()} {self.boot}\n".encode()

    def _marked(self) -> bytes:
        try:
            return self.mark.read_bytes()
        except OSError:
            return b""

    async def _note(self) -> None:
        self._write_beside()
        await self.state.begin_run(self.journal.position.epoch, self.boot or "")
        self._noted = True

    def _write_beside(self) -> None:
        with suppress(OSError):  # then a power cut is assumed, should the state be lost too
            self.mark.unlink(missing_ok=True)
            with open(self.mark, "xb", opener=partial(os.open, mode=0o600)) as file:
                file.write(self._line(self.journal.position.epoch))

    async def settle(self) -> None:
        """Forget earlier runs of this boot once nothing of theirs can be lost any more."""
        if self._earlier and self.journal.inherited_safe:
            await attempt(self.events, "forget earlier runs", self._forget_earlier)

    async def _forget_earlier(self) -> None:
        await self.state.end_runs(sorted(self._earlier))
        self._earlier = set()

    async def reported(self, epoch: bytes) -> None:
        """The loss at an epoch's end is on the disk as a record."""
        await self.state.end_runs([epoch])
        self.cut.discard(epoch)

    async def finish(self) -> None:
        """Forget this run and those before it, if the journal was closed whole."""
        if self.journal.safe:
            done = [self.journal.position.epoch, *sorted(self._earlier)]
            await attempt(self.events, "forget the run", lambda: self.state.end_runs(done))

    def fact(self, epoch: bytes) -> RecordsLost:
        """That records from the end of an epoch on may be lost, as far as it is on disk."""
        chunk, position = self.journal.ends.get(epoch, (0, 0))
        return RecordsLost(epoch, position, chunk, "power_cut")


@dataclass(frozen=True, slots=True)
class Aftermath:
    """Reports what may be lost, once, and as soon as there is room for it."""

    journal: Journal
    capture: Capture
    runs: Runs
    folder: Folder
    events: Events
    found: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the journal has found another loss."""

    async def run(self) -> None:
        """Go round for ever: at once when a loss is found, and in any case to try again what could not be done.

        What could not be reported waits for its time: to try it may find the next loss on a disk that fails.
        """
        while True:
            self.found.clear()
            if await self.round():
                await self._wait_for_a_finding()
            else:
                await asyncio.sleep(EVERY_S)

    async def round(self) -> bool:
        """Report what is found, and tidy up what nothing waits for. False where not all could be reported."""
        await self.runs.begin()
        reported = await attempt(self.events, "report what is lost", self._report)
        await self.runs.settle()
        await attempt(self.events, "forget former keys", self._forget_former_keys)
        return reported

    async def _wait_for_a_finding(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(EVERY_S):
                await self.found.wait()

    async def _report(self) -> None:
        """A finding counts as reported once the record of it survives a power cut."""
        damages = [(damage, await self._tell(_fact(damage))) for damage in self.journal.damage]
        cuts = [(epoch, await self._tell(self.runs.fact(epoch))) for epoch in sorted(self.runs.cut)]
        for damage, name in damages:
            if await self._on_disk(name):
                self.journal.reported(damage)
        for epoch, name in cuts:
            if await self._on_disk(name):
                await self.runs.reported(epoch)

    async def _on_disk(self, name: Name) -> bool:
        if name.epoch != self.journal.position.epoch:
            return self.journal.inherited_safe
        await self.journal.synced(name)
        return True

    async def _tell(self, fact: RecordsLost) -> Name:
        """The record's name. Lets others go on after each: there may be many."""
        captured = self.capture.lost(fact)
        if not captured.repeat:
            self.events.records_lost(fact.reason, chunk=fact.chunk, first=fact.first, last=fact.last)
        await asyncio.sleep(0)
        return captured.name

    async def _forget_former_keys(self) -> None:
        needed = self.journal.devices()
        for key_id in self.folder.former_keys():
            if key_id not in needed:
                self.folder.drop_former(key_id)


def _fact(damage: Damage) -> RecordsLost:
    return RecordsLost(damage.epoch, damage.first, damage.chunk, damage.reason, damage.last)


async def attempt(events: Events, what: str, do: Callable[[], Awaitable[None]]) -> bool:
    """Do something that is tried again later; what fails is told of. Whether it was done."""
    try:
        await do()
    except TillstreamError as error:
        events.housekeeping_failed(what, error)
        return False
    return True
