"""What the tests of the whole server share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.serving import Server, serving


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    """A server that serves on a free port."""
    async with serving(tmp_path / "data") as running:
        yield running
