"""A server with somebody of head office before it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.consoles import Visitor, visitor
from support.serving import Server, serving


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    """A server that serves on a free port."""
    async with serving(tmp_path / "data") as running:
        yield running


@pytest.fixture
async def guest(server: Server) -> AsyncIterator[Visitor]:
    """Somebody before a server that nobody may sign in to yet."""
    async with visitor(server) as one:
        yield one


@pytest.fixture
async def admin(server: Server) -> AsyncIterator[Visitor]:
    """Somebody who may do everything, signed in."""
    async with visitor(server) as one:
        await one.comes_in("ada", "admin")
        yield one
