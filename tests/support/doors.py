"""The loopback door with the cashier's page behind it, for tests."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from support.agents import Counter
from tillstream_agent.config import Button
from tillstream_agent.display import actions
from tillstream_agent.display.stream import Display
from tillstream_agent.hooks.crowd import Caps
from tillstream_agent.hooks.http import HttpDoor
from tillstream_agent.hooks.pairing import Pairing
from tillstream_agent.hooks.screens import ByDesk
from tillstream_protocol.limits import DEFAULT, Limits

TOKEN = "k" * 43


def pairing_of(behind: Counter, folder: Path) -> Pairing:
    """Pairing that is kept in `folder`."""
    return Pairing(folder / "paired.json", TOKEN, behind.clock, os.urandom, behind.board.wake)


def http_door(
    behind: Counter,
    pairing: Pairing,
    *,
    limits: Limits = DEFAULT,
    origins: tuple[str, ...] = (),
    language: str = "auto",
    buttons: Sequence[Button] | None = None,
    page_calls: actions.Counter | None = None,
    caps: Caps = Caps(),  # noqa: B008 (it is frozen)
) -> HttpDoor:
    """A door that is not open yet."""
    calls = page_calls or ByDesk(behind.desk, behind.telling.events, behind.clock)
    return HttpDoor(
        behind.desk,
        behind.payloads,
        Display(behind.board, calls, language=language, buttons=buttons, origins=origins),
        pairing,
        behind.telling.events,
        behind.telling.metrics,
        behind.clock,
        token=TOKEN,
        origins=origins,
        limits=limits,
        gauges=behind.reporter.gauges,
        caps=caps,
    )
