from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.pipelining import Server, server_at


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with server_at(tmp_path) as server:
        yield server
