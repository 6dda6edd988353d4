"""A server with somebody of head office before it."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.consoles import Visitor, visitor
from support.serving import Server, serving
from tillstream_server import app
from tillstream_server.folder import Folder


@pytest.fixture(scope="session")
def initialised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder as `init` leaves it, to be copied: making one takes longer than most of what is tested on it."""
    root = tmp_path_factory.mktemp("initialised") / "data"
    asyncio.run(app.init(Folder(root), "USD", os.urandom))
    return root


@pytest.fixture
async def server(initialised: Path, tmp_path: Path) -> AsyncIterator[Server]:
    """A server that serves on a free port."""
    shutil.copytree(initialised, tmp_path / "data")
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
