"""Debian's Chromium, headless, driven by playwright. `tests/support/browser.sh` installs it; without it tests skip."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from playwright.async_api import Browser

QUIET: Final = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
)
"""It asks for nothing but what the tests ask for."""


def missing() -> str:
    """Why no browser can be started here; empty where one can."""
    if shutil.which("chromium") is None:
        return "there is no chromium here: tests/support/browser.sh installs it"
    if importlib.util.find_spec("playwright") is None:
        return "playwright is not installed here"
    return ""


needs_chromium = pytest.mark.skipif(bool(missing()), reason=missing())


@asynccontextmanager
async def chromium(*arguments: str, names: Sequence[str] = ()) -> AsyncIterator[Browser]:
    """A browser with a profile of its own that ends with the block. `names` are hosts that it takes for 127.0.0.1."""
    from playwright.async_api import async_playwright  # it is not there where the agent is tested alone

    rules = ", ".join(f"MAP {name} 127.0.0.1" for name in names)
    given = [*QUIET, *arguments, *([f"--host-resolver-rules={rules}"] if rules else [])]
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=shutil.which("chromium"),
            args=given,
            chromium_sandbox=os.geteuid() != 0,  # Chromium refuses to sandbox what root starts
        )
        try:
            yield browser
        finally:
            await browser.close()
