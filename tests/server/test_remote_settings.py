"""Settings that head office makes, stages and halts, and tills that take them or cannot."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from support.serving import NOW, Pushes, Server, Till, serving
from tillstream_protocol import versions
from tillstream_protocol.errors import TillstreamError
from tillstream_protocol.messages import SettingsPush
from tillstream_protocol.settings import Outcome, Settings, SettingsReport, open_settings
from tillstream_server import backup, office
from tillstream_server.backup import Copying
from tillstream_server.folder import Folder
from tillstream_server.office_fleet import TillRevoke, TillShow
from tillstream_server.office_settings import (
    ConfigHalt,
    ConfigHistory,
    ConfigRollBack,
    ConfigSet,
    ConfigShow,
    ConfigStage,
)
from tillstream_server.remote import Rollout, meant_for, share

GERMAN = {"display.language": "de"}
FIRST = NOW // 1000
ENGLISH = {"display.language": "en"}


async def made(server: Server, values: dict[str, str], **staged: Any) -> int:
    """A version, rolled out if so asked."""
    version = int((await server.order(ConfigSet("acme", values)))["version"])
    if staged:
        await server.order(ConfigStage("acme", version, **staged))
    return version


@asynccontextmanager
async def speaking(till: Till, running: int = 0, newest: int = 0, outcome: Outcome = "none") -> AsyncIterator[Pushes]:
    """A till on the channel that says what settings it has."""
    async with till.on_push(subprotocols=versions.subprotocols()) as pushes:
        await pushes.says(till.heartbeat(0, settings=SettingsReport(running, newest, outcome)))
        yield pushes


def opened(till: Till, body: SettingsPush) -> Settings:
    return open_settings(body.settings, till.introduction.server_public_key, till.reply.till_id)


async def told(server: Server, **what: Any) -> dict[str, Any]:
    """What head office sees of the newest version, once it says this of the tills."""
    async with asyncio.timeout(10):
        while True:
            shown = await server.order(ConfigShow("acme"))
            if {name: shown["tills"][name] for name in what} == what:
                return shown
            await asyncio.sleep(0.02)


async def test_a_till_that_comes_gets_what_was_staged_and_says_how_it_went(server: Server) -> None:
    till = await server.till("till-1")
    version = await made(server, GERMAN, percent=100)
    async with speaking(till) as pushes:
        _, body = await pushes.next(SettingsPush)
        got = opened(till, body)
        assert (got.version, got.settings) == (version, GERMAN)
        await pushes.says(till.heartbeat(0, settings=SettingsReport(version, version, "kept")))
        await told(server, kept=1)
    shown = await server.order(TillShow("acme", "north", "till-1"))
    assert (shown["settings"]["running"], shown["settings"]["state"]) == (version, "kept")
    assert server.count("settings_reported_total", outcome="kept") == 1


async def test_a_connected_till_gets_what_is_staged_now(server: Server) -> None:
    till = await server.till()
    async with speaking(till) as pushes:
        async with asyncio.timeout(10):
            while not server.count("settings_reported_total", outcome="none"):
                await asyncio.sleep(0.02)
        version = await made(server, GERMAN, percent=100)
        _, body = await pushes.next(SettingsPush)
        assert opened(till, body).version == version


async def test_nothing_is_sent_before_it_is_staged_or_to_a_till_that_has_it(server: Server) -> None:
    first = await made(server, GERMAN, percent=100)
    await made(server, ENGLISH)
    till = await server.till()
    async with speaking(till, first, first, "kept") as pushes:
        await told(server, kept=0)
        await server.order(ConfigRollBack("acme", first))
        _, body = await pushes.next(SettingsPush)
    assert opened(till, body).version == first + 2


async def test_an_agent_from_before_there_were_settings_is_never_sent_any_and_goes_on(server: Server) -> None:
    till = await server.till()
    await made(server, GERMAN, percent=100)
    async with till.on_push() as pushes:
        await pushes.says(till.heartbeat(0))
        key = await server.key("operator")
        async with asyncio.timeout(10):
            while (await server.get("/api/v1/tills", key)).json()["tills"][0]["seen_ms"] is None:
                await asyncio.sleep(0.02)
        await server.order(ConfigRollBack("acme", 0))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pushes.next(SettingsPush), 0.3)


async def test_settings_on_a_channel_that_did_not_agree_to_them_end_it(server: Server) -> None:
    till = await server.till()
    async with till.on_push() as pushes:
        await pushes.says(till.heartbeat(0, settings=SettingsReport(0, 0, "none")))
        assert (await pushes.is_closed())[1] == "broken"


async def test_a_roll_back_at_a_till_halts_the_rollout_and_reaches_nobody_new(server: Server) -> None:
    good = await made(server, GERMAN, percent=100)
    bad = await made(server, {"journal.reserve_bytes": "1125899906842624"}, percent=100)
    one, other, third = [await server.till() for _ in range(3)]
    async with speaking(one, good, good, "kept") as pushes:
        await pushes.next(SettingsPush)
        went = SettingsReport(good, bad, "rolled_back", "nothing can be captured")
        await pushes.says(one.heartbeat(0, settings=went))
        shown = await told(server, rolled_back=1)
        assert shown["rollout"]["halted_why"] == "1 tills could not take it"
        assert [(till["till"], till["reason"]) for till in shown["failed"]] == [("till-1", "nothing can be captured")]
    async with speaking(other) as pushes:
        _, body = await pushes.next(SettingsPush)
        assert opened(other, body).version == good
    async with speaking(third, bad, bad, "kept"):
        await told(server, kept=1)
    assert server.count("rollouts_halted_total") == 1
    assert server.logged("rollout_halted")[0]["version"] == bad
    with pytest.raises(TillstreamError, match="no such version"):
        await server.order(ConfigShow("acme", 99))


@pytest.mark.parametrize("how", ["halted", "rolled_back"])
async def test_settings_that_a_till_did_not_fetch_in_time_are_taken_back(server: Server, how: str) -> None:
    bad = await made(server, ENGLISH, percent=100)
    away = await server.till()
    async with speaking(away) as pushes:
        await pushes.next(SettingsPush)  # its receipt never comes: the line is cut
    await server.order(ConfigHalt("acme", bad) if how == "halted" else ConfigRollBack("acme", 0))
    async with away.on_push(subprotocols=versions.subprotocols()) as pushes:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pushes.next(SettingsPush), 0.3)
    await server.order(ConfigStage("acme", bad if how == "halted" else bad + 1))
    async with speaking(away) as pushes:
        _, body = await pushes.next(SettingsPush)
        assert opened(away, body).version == (bad if how == "halted" else bad + 1)


async def test_tills_that_said_nothing_yet_are_counted_too(server: Server) -> None:
    tills = [await server.till() for _ in range(3)]
    version = await made(server, GERMAN)
    assert (await server.order(ConfigShow("acme")))["tills"]["waiting"] == 0, "it is not staged"
    assert (await server.order(ConfigStage("acme", version, stores=("nroth",))))["waiting"] == 0, "no such store"
    await server.order(TillRevoke("acme", "north", "till-3"))
    assert (await server.order(ConfigStage("acme", version)))["waiting"] == 2
    async with speaking(tills[0], version, version, "kept"):
        shown = await told(server, kept=1)
    assert shown["tills"] == {"kept": 1, "trial": 0, "refused": 0, "rolled_back": 0, "waiting": 1, "ahead": 0}
    await server.order(ConfigHalt("acme", version))
    assert (await server.order(ConfigShow("acme")))["tills"]["waiting"] == 0


async def test_a_rollout_takes_as_many_failures_as_it_was_told_and_goes_on_when_staged_again(server: Server) -> None:
    version = await made(server, GERMAN, percent=100, halt_after=2)
    tills = [await server.till() for _ in range(2)]
    for number, till in enumerate(tills, start=1):
        async with speaking(till) as pushes:
            await pushes.next(SettingsPush)
            await pushes.says(till.heartbeat(0, settings=SettingsReport(0, version, "refused", "no such setting")))
            shown = await told(server, refused=number)
        assert ("halted_ms" in shown["rollout"]) is (number == 2)
    again = await server.order(ConfigStage("acme", version, halt_after=5))
    assert "halted_ms" not in again


async def test_going_back_gives_the_earlier_settings_a_new_number(server: Server) -> None:
    first = await made(server, GERMAN, percent=100)
    await made(server, ENGLISH, percent=100)
    back = await server.order(ConfigRollBack("acme", first))
    assert (await server.order(ConfigShow("acme")))["settings"] == GERMAN
    none = await server.order(ConfigRollBack("acme", 0))
    assert (await server.order(ConfigShow("acme")))["settings"] == {}
    history = (await server.order(ConfigHistory("acme")))["versions"]
    assert [one["version"] for one in history] == [none["version"], back["version"], first + 1, first]
    assert (await server.order(ConfigHistory("other")))["versions"] == []


async def test_heartbeats_are_never_so_far_apart_that_well_tills_count_as_silent(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as server:
        version = await made(server, {"sync.heartbeat_s": "100"})
        assert await made(server, {"sync.heartbeat_s": "soon"}), "what is no number is for the till to refuse"
    async with serving(tmp_path / "data", silent_seconds=240) as server:
        for command in (ConfigSet("acme", {"sync.heartbeat_s": "81"}), ConfigRollBack("acme", version)):
            with pytest.raises(TillstreamError, match="heartbeat_s") as refused:
                await server.order(command)
            assert refused.value.limit == "at most 80 s"
    async with serving(tmp_path / "data", silent_seconds=3600) as server:
        with pytest.raises(TillstreamError, match="heartbeat_s") as refused:
            await server.order(ConfigSet("acme", {"sync.heartbeat_s": "101"}))
        assert refused.value.limit == "at most 100 s", "a till would lower it"


async def test_where_a_pos_finds_its_hook_changes_only_if_somebody_says_that_it_follows(server: Server) -> None:
    moved = {**GERMAN, "hook.port": "9000"}
    first = await made(server, GERMAN)
    with pytest.raises(TillstreamError, match="cut off") as refused:
        await server.order(ConfigSet("acme", moved))
    assert (refused.value.field, "--even-if-the-pos-must-follow" in str(refused.value.hint)) == ("hook.port", True)
    await server.order(ConfigSet("acme", moved, pos_follows=True))
    assert await made(server, {**ENGLISH, "hook.port": "9000"}), "what was said once holds on"
    for command in (ConfigSet("acme", GERMAN), ConfigRollBack("acme", first), ConfigRollBack("acme", 0)):
        with pytest.raises(TillstreamError, match=r"hook\.port changes"):
            await server.order(command)
    await server.order(ConfigRollBack("acme", first, pos_follows=True))
    with pytest.raises(TillstreamError, match=r"hook\.origins changes"):
        await server.order(ConfigSet("acme", {"hook.origins": "https://pos.example.com"}))
    assert (await server.order(ConfigShow("acme")))["settings"] == GERMAN


@pytest.mark.parametrize(
    ("command", "field"),
    [
        (ConfigSet("acme", {"sync.ca_file": "/x"}), "sync.ca_file"),
        (ConfigSet("acme", {f"hook.port{n}": "1" for n in range(3)}), "hook.port0"),
        (ConfigSet("acme", {"sync.heartbeat_s": "100.1"}), "sync.heartbeat_s"),
        (ConfigStage("acme", 9), "version"),
        (ConfigStage("acme", FIRST), "version"),
        (ConfigStage("acme", FIRST + 1, percent=49, stores=("north",)), "percent"),
        (ConfigStage("acme", FIRST + 1, percent=50, stores=("south",)), "stores"),
        (ConfigHalt("acme", FIRST + 2), "version"),
        (ConfigRollBack("acme", 9), "version"),
    ],
)
async def test_what_cannot_be_meant_is_refused_by_name(server: Server, command: Any, field: str) -> None:
    await made(server, GERMAN, percent=100)
    await made(server, ENGLISH, percent=50, stores=("north",))
    await made(server, GERMAN)
    with pytest.raises(TillstreamError) as refused:
        await server.order(command)
    assert refused.value.field == field


async def test_a_rollout_grows_and_survives_a_restart(server: Server) -> None:
    version = await made(server, GERMAN, percent=10, stores=("north",))
    await server.order(ConfigStage("acme", version, percent=50, stores=("north", "south")))
    grown = await server.order(ConfigStage("acme", version, percent=50))
    assert (grown["stores"], grown["percent"], grown["began_ms"]) == ([], 50, server.clock.now_ms())
    halted = await server.order(ConfigHalt("acme", version, "a doubt"))
    assert await server.order(ConfigHalt("acme", version, "another")) == halted
    shown = await server.order(ConfigShow("acme"))
    assert (shown["rollout"]["percent"], shown["rollout"]["halted_why"]) == (50, "a doubt")


async def test_after_a_restart_a_till_gets_what_it_lacks(server: Server) -> None:
    till = await server.till()
    version = await made(server, GERMAN, percent=100)
    await server.order(office.KeyRotateBox())  # after which the server reads everything anew
    async with asyncio.timeout(20):
        while True:
            try:
                async with speaking(till) as pushes:
                    _, body = await pushes.next(SettingsPush)
                    break
            except OSError:
                await asyncio.sleep(0.05)
    assert opened(till, body).version == version


def rollout(version: int, percent: int = 100, stores: tuple[str, ...] = (), halted: bool = False) -> Rollout:
    return Rollout("acme", version, stores, percent, 1, 0, 0, 1 if halted else None)


def test_a_share_grows_without_anybody_dropping_out_and_is_about_that_many() -> None:
    tills = [number.to_bytes(16, "big") for number in range(2000)]
    reached = [{till for till in tills if rollout(7, percent).reaches(till, "north")} for percent in (1, 10, 50, 100)]
    assert all(less <= more for less, more in pairwise(reached))
    assert len(reached[-1]) == 2000
    assert 140 <= len(reached[1]) <= 260
    assert {share(tills[0], version) for version in range(50)} != {share(tills[0], 0)}, "each version draws anew"


@pytest.mark.parametrize(
    ("rollouts", "running", "meant"),
    [
        ((), 0, 0),
        ((rollout(2), rollout(1)), 0, 2),
        ((rollout(2, stores=("south",)), rollout(1)), 0, 1),
        ((rollout(2, halted=True), rollout(1)), 1, 1),
        ((rollout(2, halted=True), rollout(1)), 2, 2),
        ((rollout(2, halted=True),), 0, 0),
    ],
)
def test_the_newest_rollout_that_reaches_a_till_counts(rollouts: tuple[Rollout, ...], running: int, meant: int) -> None:
    assert meant_for(rollouts, b"t" * 16, "north", running) == meant


async def test_a_restored_server_gives_no_version_a_number_that_tills_have_had(server: Server, tmp_path: Path) -> None:
    till, copying = await server.till(), Copying(server.clock.now_ms, os.urandom, "1.2.3")
    await made(server, GERMAN, percent=100)
    await asyncio.to_thread(backup.backup, server.folder, tmp_path / "backup", copying)
    server.clock.turn(60)
    lost = [await made(server, ENGLISH, percent=100) for _ in range(3)]
    server.clock.turn(60)
    await backup.restore(tmp_path / "backup", Folder(tmp_path / "new"), copying)
    async with serving(tmp_path / "new", clock=server.clock) as restored:
        till.server = restored
        version = await made(restored, {"log.level": "debug"}, percent=100)  # no till has spoken yet
        async with speaking(till, lost[-1], lost[-1], "kept") as pushes:
            _, body = await pushes.next(SettingsPush)
    assert opened(till, body).version == version > lost[-1]


async def test_tills_that_pass_a_version_over_are_counted(server: Server) -> None:
    """They were given a later one by a server that is lost; the restored one's clock is behind."""
    tills = [await server.till("till-1"), await server.till("till-2")]
    version = await made(server, GERMAN, percent=100)
    async with speaking(tills[0], version + 60, version + 60, "kept"), speaking(tills[1], version, version, "kept"):
        await told(server, kept=1, ahead=1)
    staged = await server.order(ConfigStage("acme", await made(server, ENGLISH)))
    assert (staged["waiting"], staged["ahead"]) == (1, 1)
    server.clock.turn(61)
    staged = await server.order(ConfigStage("acme", await made(server, ENGLISH)))
    assert (staged["waiting"], staged["ahead"]) == (2, 0), "with the clock right, none is left out"


async def test_versions_made_within_a_second_or_after_the_clock_was_put_back_still_grow(server: Server) -> None:
    versions = [await made(server, GERMAN), await made(server, GERMAN)]
    server.clock.turn(-3600)
    versions.append(await made(server, GERMAN))
    assert versions == [FIRST, FIRST + 1, FIRST + 2]
