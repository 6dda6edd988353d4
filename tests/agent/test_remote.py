"""Settings from afar at the till: taken, tried, kept or gone back from, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import AsyncIterator, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
import msgspec
import pytest

from support.agents import enrolled, running_agent, sale
from support.gateways import TILL_ID, Gateway, gateway
from support.tills import TurnedClock
from tillstream_agent import config, following
from tillstream_agent.baskets import Baskets
from tillstream_agent.clock import SystemClock
from tillstream_agent.config import Config, ConfigError, load, overlaid, standing
from tillstream_agent.folder import Folder, StateError, write_private
from tillstream_agent.following import Following
from tillstream_agent.hooks import crowd
from tillstream_agent.hooks.http import HttpDoor
from tillstream_agent.inspection import look
from tillstream_agent.remote import Remote, current
from tillstream_agent.trial import Health, Trial, TrialTimes
from tillstream_protocol.errors import Damaged
from tillstream_protocol.messages import PackPush, Rotate, SettingsPush
from tillstream_protocol.settings import REMOTE, Settings, SettingsReport, SignedSettings, sign_settings
from tillstream_protocol.signing import BadSignature, SignKey

FULL = {"journal.reserve_bytes": str(2**50)}
SLOW = {"sync.heartbeat_s": "0.5"}
QUICK = {"sync.heartbeat_s": "1"}


@pytest.fixture
async def server() -> AsyncIterator[Gateway]:
    async with gateway() as opened:
        yield opened


@pytest.fixture
async def folder(server: Gateway, tmp_path: Path) -> Folder:
    return await enrolled(tmp_path / "state", server)


def signed(server: Gateway, version: int, values: Mapping[str, str], till: bytes = TILL_ID) -> SignedSettings:
    return sign_settings(Settings(version, till, 0, dict(values)), server.key)


def opened(folder: Folder) -> Remote:
    return Remote.open(folder, folder.identity(), partial(overlaid, Config()))


async def reported(server: Gateway, want: SettingsReport) -> None:
    await server.until(lambda server: bool(server.vitals) and server.vitals[-1].settings == want)


async def sells(folder: Folder, port: int, pos_id: str) -> int:
    headers = {"Authorization": f"Bearer {folder.hook_token()}", "Content-Type": "application/json"}
    async with (
        aiohttp.ClientSession() as client,
        client.post(
            f"http://127.0.0.1:{port}/v1/transactions?ack=disk", data=msgspec.json.encode(sale(pos_id)), headers=headers
        ) as reply,
    ):
        return reply.status


def said(log: Any) -> list[str]:
    return [msgspec.json.decode(line)["event"] for line in log.getvalue().splitlines()]


# Applied by a whole agent


async def test_settings_are_tried_kept_and_there_after_a_restart(server: Gateway, folder: Folder) -> None:
    async with running_agent(folder) as (port, log):
        assert await sells(folder, port, "before") == 201
        await server.push(1, SettingsPush(signed(server, 3, QUICK)))
        await reported(server, SettingsReport(3, 3, "trial"))
        assert await sells(folder, port, "meanwhile") == 201, "on the same port"
        await reported(server, SettingsReport(3, 3, "kept"))
        assert (await look(folder, SystemClock())).settings == SettingsReport(3, 3, "kept")
        await server.until(lambda server: len(server.records) == 2)
    assert [event for event in said(log) if event.startswith("settings")] == [
        "settings_waiting",
        "settings_tried",
        "settings_kept",
    ]
    assert said(log).count("started") == 2
    assert opened(folder).values == QUICK
    async with running_agent(folder):
        await reported(server, SettingsReport(3, 3, "kept"))


async def test_a_till_that_can_capture_no_more_goes_back_by_itself(server: Gateway, folder: Folder) -> None:
    async with running_agent(folder, trial=TrialTimes(watch_s=30, ill_s=0.2, every_s=0.05)) as (port, log):
        await server.push(1, SettingsPush(signed(server, 1, FULL)))
        await reported(server, SettingsReport(0, 1, "rolled_back", "journal_full"))
        assert await sells(folder, port, "after") == 201
        await server.push(2, SettingsPush(signed(server, 1, FULL)))
        await server.until(lambda server: 2 in server.receipts)
        assert said(log).count("settings_tried") == 1, "a version is tried once"


async def test_a_hook_that_cannot_be_opened_is_gone_back_from_at_once(server: Gateway, folder: Folder) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        async with running_agent(folder, trial=TrialTimes(watch_s=30)) as (port, _):
            values = {"hook.port": str(taken.getsockname()[1])}
            await server.push(1, SettingsPush(signed(server, 1, values)))
            await server.until(
                lambda server: any(v.settings and v.settings.outcome == "rolled_back" for v in server.vitals)
            )
            report = server.vitals[-1].settings
            assert report is not None
            assert report.reason.startswith("port_in_use")
            assert await sells(folder, port, "after") == 201


async def test_a_line_that_does_not_come_back_is_gone_back_from(server: Gateway, folder: Folder) -> None:
    async with running_agent(folder, trial=TrialTimes(watch_s=0.6, ill_s=0.2, every_s=0.05)) as (_, log):
        await server.until(lambda server: bool(server.vitals))
        server.answers(503, times=10_000)
        await server.push(1, SettingsPush(signed(server, 1, QUICK)))
        async with asyncio.timeout(10):
            while "settings_rolled_back" not in said(log):
                await asyncio.sleep(0.02)
        server.heals()
        await reported(server, SettingsReport(0, 1, "rolled_back", "server_not_reached"))


async def test_newer_settings_end_the_trial_of_older_ones(server: Gateway, folder: Folder) -> None:
    async with running_agent(folder, trial=TrialTimes(watch_s=2.0, every_s=0.05)):
        await server.push(1, SettingsPush(signed(server, 1, QUICK)))
        await reported(server, SettingsReport(1, 1, "trial"))
        await server.push(2, SettingsPush(signed(server, 2, QUICK | {"log.level": "debug"})))
        await reported(server, SettingsReport(2, 2, "kept"))


async def test_settings_that_parts_break_down_over_are_gone_back_from(
    server: Gateway, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_door = HttpDoor.open

    async def breaks(door: HttpDoor, port: int) -> int:
        if port == 65535:
            raise OSError(24, "Too many open files")
        return await open_door(door, port)

    monkeypatch.setattr(HttpDoor, "open", breaks)
    async with running_agent(folder) as (port, _):
        await server.push(1, SettingsPush(signed(server, 1, {"hook.port": "65535"})))
        await reported(server, SettingsReport(0, 1, "rolled_back", "OSError: [Errno 24] Too many open files"))
        assert await sells(folder, port, "after") == 201


async def test_no_part_is_closed_for_settings_that_cannot_be_written_down(
    server: Gateway, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "AGAIN_S", 0.02)
    tried = 0

    def full(*_: object) -> None:
        nonlocal tried
        tried += 1
        raise OSError(28, "No space left on device")

    assert await opened(folder).take(signed(server, 1, QUICK))
    with monkeypatch.context() as patch:
        patch.setattr("tillstream_agent.remote.write_private", full)
        async with running_agent(folder) as (port, log):
            async with asyncio.timeout(10):
                while tried < 5:
                    await asyncio.sleep(0.01)
            assert said(log).count("started") == 1
            assert await sells(folder, port, "meanwhile") == 201
            patch.undo()
            await reported(server, SettingsReport(1, 1, "kept"))


async def test_what_strangers_do_at_the_hook_is_not_held_against_settings(
    server: Gateway, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crowd, "STRANGERS_A_SECOND", 1)
    async with running_agent(folder):
        await server.push(1, SettingsPush(signed(server, 1, QUICK)))
        await reported(server, SettingsReport(1, 1, "kept"))


async def test_a_till_that_cannot_capture_does_not_wait_for_its_customers_to_be_helped(
    server: Gateway, folder: Folder
) -> None:
    async with running_agent(folder, trial=TrialTimes(watch_s=30, ill_s=30, every_s=0.05)) as (port, _):
        await server.push(1, SettingsPush(signed(server, 1, FULL)))
        await reported(server, SettingsReport(1, 1, "trial"))
        headers = {"Authorization": f"Bearer {folder.hook_token()}"}
        basket = f"http://127.0.0.1:{port}/v1/baskets/7"
        async with (
            aiohttp.ClientSession() as client,
            client.put(basket, json={"revision": 1, "state": "open"}, headers=headers) as reply,
        ):
            assert reply.status == 200, await reply.text()
        assert await sells(folder, port, "1") == 507
        await server.push(2, SettingsPush(signed(server, 2, QUICK)))
        await reported(server, SettingsReport(2, 2, "trial"))
        assert await sells(folder, port, "1") == 201


async def test_a_file_that_was_spoiled_meanwhile_does_not_end_an_agent_that_is_built_anew(
    server: Gateway, folder: Folder, tmp_path: Path
) -> None:
    file = tmp_path / "agent.toml"
    file.write_text("[hook]\nport = 0\n[sync]\nheartbeat_s = 7\n")
    async with running_agent(folder, apply=standing(file, {})) as (port, _):
        await server.until(lambda server: bool(server.vitals))
        former = folder.identity().device_key_id
        file.write_text("[hook]\nport = 'x'\n")
        await server.push(1, Rotate("a test"))
        await server.until(lambda server: server.presents[-1].device_key_id != former)
        assert await sells(folder, port, "after") == 201
        await server.until(lambda server: len(server.records) == 1)
    with pytest.raises(ConfigError, match=r"hook\.port"):
        standing(file, {})


async def test_kept_settings_with_heartbeats_further_apart_than_allowed_stay_after_an_upgrade(
    server: Gateway, folder: Folder
) -> None:
    remote = opened(folder)
    await remote.take(signed(server, 1, {"sync.heartbeat_s": "600", "log.level": "debug"}))
    await remote.begin()
    await remote.keep()
    async with running_agent(folder) as (port, log):
        assert await sells(folder, port, "after") == 201
        await server.until(lambda server: len(server.records) == 1)
    assert (config := opened(folder).config()).sync_heartbeat_s == 100
    assert config.log_level == "debug", "and what else was set from afar, a hook's port say"
    assert log.getvalue().count('"names": ["sync.heartbeat_s"], "event": "settings_lowered"') == 1


async def test_an_open_basket_keeps_no_till_ill_whose_trial_was_cut_short(server: Gateway, folder: Folder) -> None:
    remote, clock = opened(folder), SystemClock()
    await remote.take(signed(server, 1, FULL))
    await remote.begin()
    baskets = Baskets(clock, os.urandom)
    baskets.keep(baskets.open("1"))
    looks: list[str] = []

    class Ill(Following):
        async def look(self) -> Health:
            looks.append("ill")
            return Health("journal_full")

    over, times = asyncio.Event(), TrialTimes(watch_s=30, ill_s=0.3, every_s=0.05)
    nobody = cast("Any", None)
    events = cast("Any", SimpleNamespace(capture_trouble=""))
    watching = Ill(remote, nobody, baskets, nobody, events, clock, times, nobody)
    remote.changed.set()  # another device key, say
    await asyncio.wait_for(watching.run(over), 5)
    assert over.is_set()
    assert len(looks) > 2
    assert remote.trying, "and the next life goes back from them"


async def test_a_server_from_before_there_were_settings_is_not_told_of_any(server: Gateway, folder: Folder) -> None:
    server.revisions = False
    async with running_agent(folder) as (port, _):
        await server.until(lambda server: bool(server.vitals))
        assert server.vitals[-1].settings is None
        await server.push(1, PackPush(server.pack(2)))
        await server.until(lambda server: server.receipts == [1])
        assert await sells(folder, port, "1") == 201
        await server.until(lambda server: len(server.records) == 1)


# Kept in the folder


async def test_what_is_not_signed_by_our_server_for_us_is_not_taken(server: Gateway, folder: Folder) -> None:
    remote = opened(folder)
    for bad, error in (
        (sign_settings(Settings(1, TILL_ID, 0, {}), SignKey(b"o" * 32)), BadSignature),
        (signed(server, 1, {}, till=b"u" * 16), Damaged),
    ):
        with pytest.raises(error):
            await remote.take(bad)
    assert remote.report() == SettingsReport(0, 0, "none")
    assert not folder.settings_file.exists()


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (
            {"hook.port": "99999"},
            "hook.port set by head office is '99999', which is not a whole number from 0 to 65535",
        ),
        ({"hook.prot": "1"}, "'hook.prot' cannot be set from afar"),
        ({"sync.ca_file": "/x"}, "'sync.ca_file' cannot be set from afar"),
        ({"run.uvloop": "false"}, "'run.uvloop' cannot be set from afar"),
    ],
)
async def test_what_cannot_be_used_is_refused_with_the_reason(
    server: Gateway, folder: Folder, values: dict[str, str], why: str
) -> None:
    remote = opened(folder)
    assert not await remote.take(signed(server, 4, values))
    assert remote.report() == SettingsReport(0, 4, "refused", why)
    assert opened(folder).report() == remote.report()
    assert not remote.changed.is_set()


@pytest.mark.parametrize("well", [True, False])
async def test_what_is_refused_while_others_are_tried_is_told_as_refused(
    server: Gateway, folder: Folder, well: bool
) -> None:
    remote = opened(folder)
    await remote.take(signed(server, 1, QUICK))
    await remote.begin()
    assert not await remote.take(signed(server, 2, {"hook.port": "x"}))
    told = remote.report()
    assert (told.running, told.newest, told.outcome) == (1, 2, "refused")
    await (remote.keep() if well else remote.roll_back("a test"))
    assert remote.report() == SettingsReport(1 if well else 0, 2, "refused", told.reason)
    assert opened(folder).report() == remote.report()


async def test_an_agent_that_ended_while_it_tried_them_goes_back(server: Gateway, folder: Folder) -> None:
    first = opened(folder)
    assert await first.take(signed(server, 1, SLOW | QUICK))
    await first.begin()
    await first.keep()
    assert await first.take(signed(server, 2, FULL))
    await first.begin()
    async with running_agent(folder) as (_, log):
        await reported(server, SettingsReport(1, 2, "rolled_back", "the agent ended while it tried them"))
    assert said(log)[0] == "settings_rolled_back"


async def test_settings_that_waited_when_the_agent_ended_are_tried_at_its_next_start(
    server: Gateway, folder: Folder
) -> None:
    assert await opened(folder).take(signed(server, 1, QUICK))
    async with running_agent(folder):
        await reported(server, SettingsReport(1, 1, "kept"))


async def test_an_older_version_never_comes_back(server: Gateway, folder: Folder) -> None:
    remote = opened(folder)
    await remote.take(signed(server, 5, QUICK))
    await remote.begin()
    await remote.keep()
    assert not await remote.take(signed(server, 5, FULL))
    assert not await remote.take(signed(server, 4, FULL))
    assert (remote.values, remote.running) == (QUICK, 5)


async def test_a_damaged_file_or_another_tills_counts_for_nothing(server: Gateway, folder: Folder) -> None:
    remote = opened(folder)
    await remote.take(signed(server, 5, QUICK))
    await remote.begin()
    await remote.keep()
    whole = folder.settings_file.read_bytes()
    payload = msgspec.json.decode(whole)["good"]["payload"].encode()
    folder.settings_file.write_bytes(whole.replace(payload, payload[:-4] + b"AAAA"))
    assert opened(folder).running == 0, "altered"
    folder.settings_file.write_bytes(whole.replace(TILL_ID.hex().encode(), b"00" * 16))
    assert opened(folder).newest == 0, "of an earlier enrolment"
    folder.settings_file.write_bytes(b"{")
    assert opened(folder).newest == 0
    folder.settings_file.write_bytes(whole)
    assert opened(folder).running == 5


async def test_a_full_disk_keeps_settings_waiting_and_goes_back_all_the_same(
    server: Gateway, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = opened(folder)
    await remote.take(signed(server, 1, QUICK))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("tillstream_agent.remote.write_private", full)
        with pytest.raises(StateError, match="No space left"):
            await remote.begin()
        assert (remote.trying, remote.waiting) == (False, True)
    await remote.begin()
    monkeypatch.setattr("tillstream_agent.remote.write_private", full)
    with pytest.raises(StateError):
        await remote.roll_back("a test")
    assert (remote.running, remote.outcome) == (0, "rolled_back")
    assert opened(folder).trying, "and so the next start goes back as well"


async def test_settings_that_could_not_be_kept_may_come_again(
    server: Gateway, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = opened(folder)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("tillstream_agent.remote.write_private", full)
        for values in (QUICK, {"hook.prot": "1"}):
            with pytest.raises(StateError):
                await remote.take(signed(server, 1, values))
            assert (remote.report(), remote.waiting) == (SettingsReport(0, 0, "none"), False)
    assert await remote.take(signed(server, 1, QUICK))
    assert (remote.waiting, remote.changed.is_set()) == (True, True)


@pytest.mark.parametrize("end", ["keep", "roll_back"])
async def test_what_is_decided_on_a_trial_is_not_about_settings_that_come_meanwhile(
    server: Gateway, folder: Folder, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    remote = opened(folder)
    await remote.take(signed(server, 1, QUICK))
    await remote.begin()
    written = threading.Event()

    def slow(file: Path, content: bytes) -> None:
        written.wait(10)
        write_private(file, content)

    monkeypatch.setattr("tillstream_agent.remote.write_private", slow)
    taking = asyncio.create_task(remote.take(signed(server, 2, FULL)))
    await asyncio.sleep(0.05)
    ending = asyncio.create_task(remote.keep() if end == "keep" else remote.roll_back("a test"))
    await asyncio.sleep(0.05)
    written.set()
    assert await taking
    await ending
    assert (remote.waiting, remote.values, remote.report()) == (True, {}, SettingsReport(0, 2, "trial"))
    assert opened(folder).report() == remote.report()
    await remote.begin()
    assert remote.values == FULL


async def test_a_refusal_is_still_told_of_when_an_earlier_trial_has_ended(server: Gateway, folder: Folder) -> None:
    remote = opened(folder)
    await remote.take(signed(server, 1, QUICK))
    await remote.begin()
    assert not await remote.take(signed(server, 2, {"hook.prot": "1"}))
    refused = remote.report()
    assert refused.outcome == "refused"
    assert await remote.keep()
    assert remote.report() == refused
    assert (remote.values, remote.running) == (QUICK, 1)


async def test_an_agent_that_no_longer_knows_a_setting_does_without(server: Gateway, folder: Folder) -> None:
    remote = opened(folder)
    await remote.take(signed(server, 1, QUICK))
    await remote.begin()
    await remote.keep()

    def older(values: Mapping[str, str]) -> Config:
        if values:
            raise ConfigError("there is no such setting", field="x")
        return Config()

    assert current(folder, older) == Config()


def test_nothing_is_set_from_afar_where_no_till_is_enrolled(tmp_path: Path) -> None:
    assert current(Folder(tmp_path), partial(overlaid, Config(hook_port=1))).hook_port == 1


# Which place wins


def test_head_office_is_above_the_file_and_below_environment_and_flags(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text('[log]\nlevel = "error"\n[sync]\nheartbeat_s = 5\ntimeout_s = 5\n[hook]\nport = 1\n')
    remote = {"log.level": "debug", "sync.heartbeat_s": "6", "sync.timeout_s": "6"}
    found = load(file, {"TILLSTREAM_SYNC_TIMEOUT_S": "7"}, {"log.level": "info"}, remote)
    assert (found.hook_port, found.sync_heartbeat_s, found.sync_timeout_s, found.log_level) == (1, 6.0, 7.0, "info")


def test_what_is_edited_while_the_agent_runs_counts_at_its_next_start(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text('[log]\nlevel = "error"\n[sync]\nheartbeat_s = 5\n')
    running = standing(file, {"TILLSTREAM_SYNC_TIMEOUT_S": "7"}, {"hook.port": 2})
    afar = {"log.level": "debug", "sync.timeout_s": "6", "hook.port": "3"}
    before = running(afar)
    assert before == load(file, {"TILLSTREAM_SYNC_TIMEOUT_S": "7"}, {"hook.port": 2}, afar)
    assert (before.log_level, before.sync_timeout_s, before.hook_port) == ("debug", 7.0, 2)
    file.write_text("[log")
    assert running(afar) == before
    assert running({}).sync_heartbeat_s == 5
    with pytest.raises(ConfigError, match="not valid TOML"):
        standing(file, {})
    with pytest.raises(ConfigError, match=r"hook\.port"):
        running({"hook.port": "x"})


def settings() -> list[str]:
    """The names of all settings."""
    return [setting.name for setting in config._SETTINGS]


def test_every_setting_that_may_come_from_afar_is_one() -> None:
    values = {
        "hook.origins": "https://pos.example",
        "display.language": "de",
        "display.member": "kind",
        "display.buttons": '[{"kind": "mood", "label": "Mood"}]',
        "log.level": "info",
    }
    overlaid(Config(), dict.fromkeys(REMOTE, "100") | values)
    assert set(settings()) - REMOTE == {"sync.ca_file", "log.kept_bytes", "run.uvloop"}, "as the reference says"
    with pytest.raises(ConfigError, match="no setting 'a'"):
        load(None, {}, None, {"a": "1"})


# The watch


@pytest.mark.parametrize(
    ("looks", "verdict"),
    [
        ([Health()], ""),
        ([Health("silent"), Health("silent"), Health()], ""),
        ([Health("silent")], "silent"),
        ([Health("", "offline"), Health()], ""),
        ([Health("", "offline")], "offline"),
    ],
)
async def test_what_the_pos_would_notice_counts_soon_and_the_line_at_the_end(looks: list[Health], verdict: str) -> None:
    clock, seen = TurnedClock(), list(looks)

    async def look() -> Health:
        clock.turn(1.0)
        return seen.pop(0) if len(seen) > 1 else seen[0]

    begun = clock.monotonic()
    assert await Trial(look, lambda: False, clock, TrialTimes(45, 5, 0)).verdict() == verdict
    lasted = clock.monotonic() - begun
    assert lasted <= (7 if verdict == "silent" else 46)


async def test_the_watch_ends_without_a_verdict_when_there_is_nothing_more_to_watch() -> None:
    async def look() -> Health:
        raise AssertionError("nobody looks")

    assert await Trial(look, lambda: True, TurnedClock(), TrialTimes()).verdict() is None
    times = TrialTimes()
    assert times.watch_s + times.every_s + 10 < 60, "with room for the parts to be built anew"
