"""What else there is to put a captured sale into, each behind the same two calls.

`put` takes a round's basket as its maker's documentation says to; `held` asks the store itself how much it holds, so
that no row is the time of work that was not done. What is not installed or does not start is told, not left out.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from ..figures import Promise, Skipped
from ..harness import Subject
from ..records import Basket, Given


class RivalFailed(Exception):
    """A rival that is installed and does not work here; the message says how it failed."""


class NothingDone(Exception):
    """A store holds less than was put into it."""


def _nothing_to_tidy() -> None:
    """Most stores keep what they have on the disk."""


@dataclass(frozen=True, slots=True)
class Rival:
    """A store that is open."""

    put: Callable[[Basket], Awaitable[object]]
    held: Callable[[], Awaitable[int]]
    """How many records it was given and has not lost."""
    tidy: Callable[[], None] = _nothing_to_tidy
    """Called after each round, untimed."""


@dataclass(frozen=True, slots=True)
class Entrant:
    """A rival's name, what a returned `put` promises, and how to open its store in a folder."""

    name: str
    promise: Promise
    open: Callable[[Path], AbstractAsyncContextManager[Rival]]
    floor: str | None = None
    across: bool = False
    """Whether it lives in a process of its own."""


@dataclass(frozen=True, slots=True)
class Entered:
    """A rival that takes part."""

    entrant: Entrant
    rival: Rival

    def subject(self, versus: str | None = None) -> Subject[Given]:
        """It, to be timed beside one of ours."""

        async def put(round_: Given) -> None:
            await self.rival.put(round_.basket)

        return Subject(self.entrant.name, put, "rival", self.entrant.promise, floor=self.entrant.floor, versus=versus)


async def enter(
    stack: AsyncExitStack, question: str, folder: Path, entrants: Iterable[Entrant]
) -> tuple[list[Entered], list[Skipped]]:
    """Open every rival that can be opened; of the others, why not."""
    entered, skipped = [], []
    for number, entrant in enumerate(entrants):
        place = folder / f"rival-{number}"
        place.mkdir(parents=True)
        try:
            rival = await stack.enter_async_context(entrant.open(place))
        except ImportError as error:
            skipped.append(Skipped(question, entrant.name, f"not installed here: {error.name}"))
        except (OSError, TimeoutError, RivalFailed) as error:
            skipped.append(Skipped(question, entrant.name, str(error) or type(error).__name__))
        else:
            entered.append(Entered(entrant, rival))
    return entered, skipped


async def check(entered: Iterable[Entered], put: int) -> None:
    """See that every store holds what was put into it. Raises `NothingDone`."""
    for one in entered:
        held = await one.rival.held()
        if held < put:
            raise NothingDone(f"{one.entrant.name} holds {held} of {put} records")
