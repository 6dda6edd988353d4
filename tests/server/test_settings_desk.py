"""Settings on their way to many tills while some of the first cannot take them."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from support.serving import serving
from tillstream_protocol.messages import Push, SettingsPush
from tillstream_protocol.settings import SettingsReport
from tillstream_server import app
from tillstream_server.config import Config
from tillstream_server.events import Events, json_logger
from tillstream_server.folder import Folder
from tillstream_server.gateway import settings
from tillstream_server.metrics import Metrics
from tillstream_server.office_settings import ConfigSet, ConfigShow, ConfigStage

NEVER = SettingsReport(0, 0, "none")


async def test_a_rollout_is_halted_while_it_is_still_being_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path / "data") as server:
        tills = [await server.till() for _ in range(3)]
    monkeypatch.setattr(settings, "_AT_ONCE", 1)
    around = app.Surroundings(
        server.clock, os.urandom, Events(Metrics(CollectorRegistry()), json_logger(io.StringIO()))
    )
    async with app.opened(Folder(tmp_path / "data"), Config(), around) as parts:
        sent: list[bytes] = []

        def send(till_id: bytes, push: Push) -> None:
            assert isinstance(push.body, SettingsPush)
            sent.append(till_id)
            parts.settings.hear(devices[till_id], SettingsReport(0, version, "refused", "no such setting"))

        devices = {}
        for till in tills:
            device = await parts.devices.find(till.device.key_id)
            assert device is not None
            devices[device.till_id] = device
        monkeypatch.setattr(parts.hub, "send", send)
        version = int(str((await parts.office.run(ConfigSet("acme", {"log.level": "debug"})))["version"]))
        await parts.office.run(ConfigStage("acme", version))
        for device in devices.values():
            parts.settings.hear(device, NEVER)
        await parts.settings.flush()
        shown = await parts.office.run(ConfigShow("acme"))
    assert len(sent) == 1, "the others were not sent it"
    assert shown["tills"] == {"kept": 0, "trial": 0, "refused": 1, "rolled_back": 0, "waiting": 0, "ahead": 0}
