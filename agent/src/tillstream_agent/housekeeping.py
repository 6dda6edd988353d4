"""What the agent does beside the path of a sale: keeping acknowledgements, sweeping old chunks, forgetting offers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from tillstream_protocol.errors import TillstreamError

from .events import Events
from .journal import Journal
from .letters import Letters
from .state import State

SAVE_EVERY_S: Final = 1.0
SWEEP_EVERY_S: Final = 60.0
RESTART_AFTER_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Housekeeping:
    """Keeps state and journal tidy. What fails is told of and tried again, and keeps nothing else from its turn."""

    journal: Journal
    state: State
    past_ms: Callable[[], int]
    """A time that is over for sure, in ms since 1970: offers that expired by then may go."""
    events: Events
    acknowledged: asyncio.Event
    take_answered: Callable[[], list[bytes]]
    letters: Letters
    leave_baskets: Callable[[], None]
    """Gives up baskets that nobody comes back to."""

    async def keep_acknowledgements(self) -> None:
        """Save what the server holds, and what it would not take, soon after it said so, at most once a second."""
        while True:
            await self.acknowledged.wait()
            self.acknowledged.clear()
            await self._attempt("keep acknowledgements", self._save_acked)
            await self._attempt("keep dead letters", self._save_letters)
            await asyncio.sleep(SAVE_EVERY_S)

    async def sweep_for_ever(self) -> None:
        """Unlink what is over its time, now and every minute."""
        while True:
            await self.sweep()
            await asyncio.sleep(SWEEP_EVERY_S)

    async def sweep(self) -> None:
        """One round."""
        await self._attempt("leave baskets", self._leave_baskets)
        await self._attempt("sweep the journal", self._sweep_journal)
        await self._attempt("keep dead letters", self._save_letters)
        await self._attempt("forget offers", self._forget_offers)

    async def finish(self) -> None:
        """Save everything, at the end."""
        await self._attempt("keep acknowledgements", self._save_acked)
        await self._attempt("keep dead letters", self._save_letters)
        await self._attempt("forget offers", self._forget_offers)

    async def _save_acked(self) -> None:
        acked = dict(self.journal.acked())
        await self.state.save_acked(acked)
        self.journal.kept(acked)

    async def _save_letters(self) -> None:
        changes = self.letters.changes()
        if not changes:
            return
        try:
            await self.state.save_letters(changes)
        except BaseException:
            self.letters.give_back(changes)
            raise

    async def _sweep_journal(self) -> None:
        """What the next run must know of a chunk is kept before it goes.

        Or a lease would become whole again, and what was acknowledged would be called missing.
        """
        swept = self.journal.sweep()
        if swept.chunks:
            await self._save_acked()
            await self.state.save_settled(swept.spends)
            self.journal.discard(swept)

    async def _leave_baskets(self) -> None:
        self.leave_baskets()

    async def _forget_offers(self) -> None:
        await self.state.drop_offers(answered=self.take_answered(), expired_before_ms=self.past_ms())

    async def _attempt(self, what: str, do: Callable[[], Awaitable[None]]) -> None:
        try:
            await do()
        except TillstreamError as error:
            self.events.housekeeping_failed(what, error)
        except Exception as error:  # noqa: BLE001 (a defect in one duty must not end the others)
            self.events.crashed(what, error)


async def keep_running(name: str, run: Callable[[], Awaitable[None]], events: Events) -> None:
    """Run something that never ends by itself, and begin anew after a defect: capturing must not end with it."""
    while True:
        try:
            await run()
        except Exception as error:  # noqa: BLE001 (a defect in one part must not end the others)
            events.crashed(name, error)
        await asyncio.sleep(RESTART_AFTER_S)
