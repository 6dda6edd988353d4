"""The server's power is cut while it writes: the short form of `model.server_power`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from model import server_power
from model.server_power import Script, Violation
from support import sqlite_vfs
from support.sqlite_vfs import Call, Recording

BATCHES = 5
EVERY = 23


@pytest.fixture(scope="module")
def reachable() -> None:
    """Skips where Python's SQLite is built into the interpreter."""
    try:
        sqlite_vfs.library()
    except sqlite_vfs.Unavailable as error:
        pytest.skip(str(error))


@pytest.fixture
async def script(tmp_path: Path, reachable: None) -> Script:
    """A few batches, taken and acknowledged; the folder `cut` is for what is left after a power cut."""
    (tmp_path / "cut").mkdir()
    return await server_power.run_script(tmp_path / "script", BATCHES, 3)


async def test_a_power_cut_loses_nothing_acknowledged_and_counts_nothing_twice(script: Script, tmp_path: Path) -> None:
    figures = await server_power.campaign(script, tmp_path / "cut", every=EVERY, seed=1)
    assert figures.cuts == figures.calls // EVERY + 1
    assert figures.disks > figures.cuts
    assert (figures.lost, figures.duplicates, figures.refused_starts) == (0, 0, 0)


async def test_the_wal_was_folded_back_and_begun_anew_meanwhile(script: Script) -> None:
    first, last = script.acknowledged[0], script.acknowledged[-1]
    during = script.recorded.calls[first:last]
    assert any(call.name == "ledger.db" and call.step == "write" for call in during)
    assert any(call.name == "ledger.db-wal" and call.step == "write" and call.offset == 0 for call in during)


async def test_a_disk_that_lies_about_its_syncs_is_found_out(script: Script, tmp_path: Path) -> None:
    script.recorded.calls = [call for call in script.recorded.calls if call.step != "sync"]
    script.acknowledged = tuple(0 for _ in script.acknowledged)
    with pytest.raises(Violation, match="batch 0 was acknowledged"):
        await server_power.campaign(script, tmp_path / "cut", every=EVERY, seed=1, whims=["dropped"])


async def test_an_acknowledgement_before_the_commit_is_found_out(script: Script, tmp_path: Path) -> None:
    early = replace(script, acknowledged=(0, *script.acknowledged[:-1]))
    with pytest.raises(Violation, match="was acknowledged, and 0 of its 3"):
        await server_power.campaign(early, tmp_path / "cut", every=EVERY, seed=1)


def recorded(*calls: Call) -> Recording:
    """The calls on a file that held two letters."""
    return Recording(Path("folder"), {"f": b"ab"}, list(calls))


def test_what_was_synced_is_there_whatever_the_disk_makes_of_the_rest() -> None:
    notes = recorded(Call("write", "f", 2, b"cd"), Call("sync", "f"), Call("write", "f", 0, b"xy"))
    assert notes.after(2, "dropped", Random(1)) == {"f": b"abcd"}
    assert notes.after(3, "dropped", Random(1)) == {"f": b"abcd"}
    assert notes.after(3, "kept", Random(1)) == {"f": b"xycd"}
    assert notes.after(1, "dropped", Random(1)) == {"f": b"ab"}


def test_unsynced_writes_survive_in_part_and_in_any_order() -> None:
    notes = recorded(Call("write", "f", 0, b"xx"), Call("write", "f", 2, b"yyyy"))
    assert notes.after(2, "reordered", Random(1)) == {"f": b"abyyyy"}
    torn = {notes.after(2, "torn", Random(seed))["f"] for seed in range(50)}
    assert torn == {b"xx", b"xxy", b"xxyy", b"xxyyy", b"xxyyyy"}
    chance = {notes.after(2, "random", Random(seed))["f"] for seed in range(200)}
    assert {b"ab", b"xxyyyy", b"abyyyy", b"xb"} <= chance


def test_a_deletion_that_was_not_synced_may_be_undone_with_all_that_followed() -> None:
    notes = recorded(Call("delete", "f"), Call("create", "f"), Call("write", "f", 0, b"new"))
    assert notes.after(3, "dropped", Random(1)) == {"f": b"ab"}
    assert notes.after(3, "reordered", Random(1)) == {"f": b"ab"}
    assert notes.after(3, "kept", Random(1)) == {"f": b"new"}
    assert notes.after(1, "kept", Random(1)) == {}
