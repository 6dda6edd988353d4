"""Following head office: watching the till with other settings, and taking the next ones up in a quiet moment."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Final

from tillstream_protocol.errors import TillstreamError

from .baskets import Baskets
from .clock import Clock
from .events import Events
from .folder import StateError
from .remote import Remote, rolled_back
from .status import Reporter
from .sync.link import Link
from .sync.transport import Transport
from .trial import Health, Trial, TrialTimes

QUIET_S: Final = 0.25
QUIET_TRIES: Final = 480
"""Other settings wait two minutes at most for the customers at the till."""
BUSY_S: Final = 600.0
"""A basket that nobody touched for so long keeps nobody waiting."""
AGAIN_S: Final = 60.0
"""After how long it is tried again to write down that other settings are tried."""
HOOK_S: Final = 2.0
_NOT_OF_SETTINGS: Final = frozenset({"", "poison", "revoked"})
"""Troubles of uploading that no setting brings about."""


@dataclass(frozen=True, slots=True)
class Following:
    """What one life of the agent's parts does about settings from afar."""

    remote: Remote
    reporter: Reporter
    baskets: Baskets
    link: Link
    events: Events
    clock: Clock
    times: TrialTimes
    token: Callable[[], str]
    """The hook's: with it, a look at the hook is not among the strangers' calls."""

    async def run(self, over: asyncio.Event) -> None:
        """Watch those that are on trial, then wait for others, or another device key. Sets `over` when the parts are to
        be built anew."""
        trying = self.remote.trying
        if not trying or await self._is_well():
            if trying and self.remote.changed.is_set():
                await self._quiet_or_ill()
            else:
                await self._quiet_next()
            await self._begin()
        over.set()

    async def _quiet_next(self) -> None:
        """Wait for others, and then for a quiet moment."""
        if not self.remote.waiting:
            await self.remote.changed.wait()
        await self._quiet()

    async def _is_well(self) -> bool:
        """Whether the till can stay as it is: the settings on trial are kept, or others wait already."""
        verdict = await Trial(self.look, self.remote.changed.is_set, self.clock, self.times).verdict()
        if verdict:
            await rolled_back(self.remote, verdict, self.events)
            return False
        if verdict is not None:
            await self._keep()
        return True

    async def _keep(self) -> None:
        try:
            if not await self.remote.keep():
                return
        except StateError as error:
            self.events.housekeeping_failed("remember the settings", error)
        self.events.settings_kept(self.remote.running)

    async def _begin(self) -> None:
        """Write down that others are tried before anything is closed for them, as soon as that can be done: a disk
        without room must not have all parts closed and built anew for nothing."""
        while True:
            try:
                return await self.remote.begin()
            except StateError as error:
                self.events.housekeeping_failed("remember the settings", error)
            await asyncio.sleep(AGAIN_S)

    async def _quiet(self) -> None:
        """Wait until no customer is being served, within reason: open baskets are not remembered beyond a restart."""
        for _ in range(QUIET_TRIES):
            if self._is_quiet():
                return
            await asyncio.sleep(QUIET_S)

    def _is_quiet(self) -> bool:
        """A till that cannot capture serves nobody."""
        return bool(self.events.capture_trouble) or not self.baskets.busy(BUSY_S)

    async def _quiet_or_ill(self) -> None:
        """The same where a trial was cut short; a till that is ill with what it tries waits for no customer."""
        times = replace(self.times, watch_s=QUIET_TRIES * QUIET_S)
        await Trial(self.look, self._is_quiet, self.clock, times).verdict()

    async def look(self) -> Health:
        """How the till is: does its hook answer, can it capture, is the server reached."""
        status = self.reporter.status()
        short = status.disk_free is not None and status.disk_free < self.reporter.reserve
        at_the_till = self.events.capture_trouble or ("journal_full" if short else "") or await self._hook_trouble()
        reached = self.link.push_connected and self.link.upload_trouble in _NOT_OF_SETTINGS
        return Health(at_the_till, "" if reached else "server_not_reached")

    async def _hook_trouble(self) -> str:
        """Ask the till's own hook whether it is there, as a POS would."""
        hook = Transport(f"http://127.0.0.1:{self.reporter.http_port}", tls=None, timeout=HOOK_S)
        try:
            answer = await hook.get("/healthz", {"Authorization": f"Bearer {self.token()}"})
        except TillstreamError:
            return "hook_silent"
        finally:
            await hook.close()
        return "" if answer.status == HTTPStatus.OK else "hook_failing"


async def begin_trial(remote: Remote, events: Events) -> None:
    """Run with settings that wait, on trial; where that cannot be written down, they wait on."""
    try:
        await remote.begin()
    except StateError as error:
        events.housekeeping_failed("remember the settings", error)
    if remote.trying:
        events.settings_tried(remote.running)
