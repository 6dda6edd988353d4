"""Settings from afar and requests for another key, as the push channel takes them: what is kept, told and receipted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import aiohttp
import pytest
from msgspec import structs
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from support.channels import Till, channel
from support.gateways import TILL_ID
from tillstream_agent.folder import StateError
from tillstream_protocol.messages import Rotate, SettingsPush
from tillstream_protocol.settings import Settings, SettingsReport, sign_settings
from tillstream_protocol.signing import SignKey
from tillstream_protocol.versions import REVISION, subprotocols

REPORT = SettingsReport(3, 3, "kept")


@pytest.fixture
async def till(tmp_path: Path) -> AsyncIterator[Till]:
    async with channel(tmp_path) as opened:
        opened.start()
        yield opened


def pushed(till: Till, version: int, values: Mapping[str, str], key: SignKey | None = None) -> SettingsPush:
    return SettingsPush(sign_settings(Settings(version, TILL_ID, 0, dict(values)), key or till.server.key))


async def receipted(till: Till, seqs: list[int]) -> None:
    await till.server.until(lambda server: server.receipts == seqs)
    assert await till.state.last_push() == seqs[-1]


async def test_settings_wait_to_be_tried_and_are_told_of_by_their_version(till: Till) -> None:
    await till.server.push(1, pushed(till, 4, {"sync.heartbeat_s": "2"}))
    await receipted(till, [1])
    assert till.remote.waiting
    assert [line["version"] for line in till.said("settings_waiting")] == [4]


async def test_settings_that_no_till_can_use_are_refused_with_the_reason_and_the_same_again_in_silence(
    till: Till,
) -> None:
    await till.server.push(1, pushed(till, 4, {"hook.port": "no number"}))
    await till.server.push(2, pushed(till, 4, {"hook.port": "no number"}))
    await receipted(till, [1, 2])
    (refused,) = till.said("settings_refused")
    assert (refused["version"], refused["reason"]) == (4, till.remote.reason)
    assert "hook.port" in till.remote.reason
    assert till.said("settings_waiting") == []


async def test_settings_of_another_server_are_let_go_and_told_of(till: Till) -> None:
    await till.server.push(1, pushed(till, 4, {}, SignKey(b"o" * 32)))
    await receipted(till, [1])
    assert till.remote.newest == 0
    assert [line["code"] for line in till.said("push_refused")] == ["bad_signature"]


async def test_settings_that_cannot_be_written_down_get_no_receipt_and_come_again(
    till: Till, monkeypatch: pytest.MonkeyPatch
) -> None:
    take, failures = till.remote.take, iter([True])

    async def fails_once(_remote: object, signed: object) -> bool:
        if next(failures, False):
            raise StateError("no room", hint="make some")
        return await take(signed)  # type: ignore[arg-type]

    monkeypatch.setattr(type(till.remote), "take", fails_once)
    await till.server.push(1, pushed(till, 4, {"sync.heartbeat_s": "2"}))
    await receipted(till, [1])
    closed = till.said("push_closed")[0]
    assert (closed["code"], closed["reason"]) == ("state_unavailable", "no room")
    assert till.remote.newest == 4


async def test_a_request_for_another_key_is_told_of_with_its_reason(till: Till) -> None:
    await till.server.push(1, Rotate("the till was lent out"))
    await receipted(till, [1])
    assert till.rotations == ["asked"]
    assert [line["reason"] for line in till.said("rotation_asked")] == ["the till was lent out"]


async def test_how_settings_went_is_told_to_a_server_that_knows_of_them(till: Till) -> None:
    vitals = structs.replace(till.channel.vitals(), settings=REPORT)
    till.channel.vitals = lambda: vitals
    await till.server.until(lambda server: bool(server.vitals) and server.vitals[-1].settings == REPORT)
    assert till.link.revision == REVISION


async def test_a_server_from_before_there_were_revisions_is_told_nothing_of_settings(till: Till) -> None:
    vitals = structs.replace(till.channel.vitals(), settings=REPORT)
    till.server.revisions, till.channel.vitals = False, lambda: vitals
    await till.server.hangs_up()
    told = len(till.server.vitals)
    await till.server.until(lambda server: len(server.vitals) > told and len(server.presents) > 0)
    assert till.link.revision == 0
    assert till.server.vitals[-1].settings is None


async def test_where_no_revision_may_be_offered_none_is(till: Till, monkeypatch: pytest.MonkeyPatch) -> None:
    offered: list[object] = []
    request = aiohttp.RequestInfo(URL("http://127.0.0.1"), "GET", CIMultiDictProxy(CIMultiDict()))

    async def ws_connect(_client: object, _url: str, **options: object) -> None:
        offered.append(options["protocols"])
        raise aiohttp.WSServerHandshakeError(request, (), status=400)

    await till.hears("push_opened")
    monkeypatch.setattr(aiohttp.ClientSession, "ws_connect", ws_connect)
    await till.server.hangs_up()
    async with asyncio.timeout(10):
        while len(offered) < 2:
            await asyncio.sleep(0.005)
    assert offered[:2] == [subprotocols(), ()]
