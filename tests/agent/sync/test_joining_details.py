"""What an agent tells of itself when it joins, and what it tells people when that fails."""

from __future__ import annotations

import platform
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.agents import Telling, enrolled
from support.gateways import Gateway, gateway
from tillstream_agent.sync.enrol import Return
from tillstream_agent.sync.transport import Transport
from tillstream_protocol import versions
from tillstream_protocol.versions import VersionMismatch


@pytest.fixture
async def server() -> AsyncIterator[Gateway]:
    async with gateway() as opened:
        yield opened


async def test_the_platform_is_named_as_far_as_there_is_room_for_it(
    server: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "machine", lambda: "m" * 100)
    await enrolled(tmp_path, server)
    assert server.enrolments[0].platform == "Linux " + "m" * 58


async def test_who_speaks_another_version_is_told_which_the_server_speaks(
    server: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tillstream_agent.sync.enrol.PROTOCOL", versions.PROTOCOL + 1)
    with pytest.raises(VersionMismatch) as caught:
        await enrolled(tmp_path, server)
    assert caught.value.limit == f"{versions.PROTOCOL} to {versions.PROTOCOL}"


async def test_a_till_that_was_taken_back_is_named_as_the_server_names_it(server: Gateway, tmp_path: Path) -> None:
    folder = await enrolled(tmp_path, server)
    who = folder.identity()
    telling = Telling()
    server.forgets_till()
    transport = Transport(server.address, tls=None, timeout=5)
    assert await Return(transport, folder.device_key(who), who.certificate, telling.events).ask() is True
    assert [line["till"] for line in telling.lines()] == [who.till]
    await transport.close()
