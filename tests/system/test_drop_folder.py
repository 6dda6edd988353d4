"""Files that a POS drops before a real agent, which is killed again and again: each is in the ledger exactly once."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from crash.proof import counts, held
from crash.stand import Stand, standing
from support.golden import sample
from support.mounts import empty, fill, mounting_refuses, small_disk
from support.zygote import AGENT, SERVER, Zygote

pytestmark = pytest.mark.system

FILES = 60
KILLS = 6
DISK = 8 * 1024 * 1024
WAIT_S = 90


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with Zygote(AGENT, SERVER) as parent:
        yield parent


def order(number: int) -> bytes:
    """An order of its own."""
    said = json.loads(sample("woocommerce/order_created_response.json"))
    return json.dumps({**said, "id": number, "number": str(number)}).encode()


def drop(folder: Path, number: int) -> None:
    """The POS writes an order, as it should."""
    (folder / f"{number}.tmp").write_bytes(order(number))
    (folder / f"{number}.tmp").rename(folder / f"{number}.json")


def configured(stand: Stand, folder: Path, more: str = "") -> None:
    """Enrol the till, and have it watch a folder."""
    stand.enrol()
    settings = stand.folder / "agent.toml"
    watch = f'[[drop]]\nfolder = "{folder}"\nadapter = "woocommerce"\npoll_s = 0.05\nsettle_s = 0.05\n'
    settings.write_text(watch + more)
    stand.till.arguments += ["--config", str(settings)]


async def until_empty(stand: Stand, folder: Path) -> None:
    """Wait until no file of the POS is there, or on its way out."""
    ends = time.monotonic() + WAIT_S
    while list(folder.glob("*.json")) or list(folder.glob(".tillstream/*")):
        stand.till.must_run()
        assert time.monotonic() < ends, "the folder does not become empty"
        await asyncio.sleep(0.05)


@pytest.mark.skipif(bool(mounting_refuses()), reason=mounting_refuses() or "mounting is permitted")
async def test_on_a_full_disk_files_stay_and_are_captured_once_there_is_room(zygote: Zygote, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", DISK) as disk, standing(tmp_path, zygote, state=disk / "till") as stand:
        folder = disk / "pos"
        folder.mkdir(mode=0o700)
        configured(stand, folder, more=f"[journal]\nreserve_bytes = {DISK // 8}\n")
        await stand.open_till()
        fill(disk, leave=DISK // 16)
        for number in range(1, 31):
            drop(folder, number)
        await refused_for_want_of_room(stand)
        assert len(list(folder.glob("*.json"))) > 1
        assert not (folder / "error").exists()
        empty(disk)
        await until_empty(stand, folder)
        await stand.drained(WAIT_S)
        assert sorted(int(name) for name, _, _ in held(stand.data)) == list(range(1, 31))


async def refused_for_want_of_room(stand: Stand) -> None:
    """Wait until the agent says that it cannot capture."""
    async with asyncio.timeout(WAIT_S):
        while (status := await stand.status()) is None or "journal_full" not in status["trouble"]:
            await asyncio.sleep(0.05)


async def test_an_agent_killed_over_and_over_captures_every_file_once(zygote: Zygote, tmp_path: Path) -> None:
    chance, folder = random.Random(5), tmp_path / "pos"
    folder.mkdir(mode=0o700)
    with standing(tmp_path, zygote) as stand:
        configured(stand, folder)
        stand.till.start()
        for number in range(1, FILES + 1):
            drop(folder, number)
            if number % (FILES // KILLS) == 0:
                await asyncio.sleep(chance.uniform(0.3, 0.9))
                stand.till.kill()
                stand.till.start()
        await until_empty(stand, folder)
        await stand.drained(WAIT_S)
        assert stand.till.kills == KILLS
        assert sorted(int(name) for name, _, _ in held(stand.data)) == list(range(1, FILES + 1))
        assert not any(count for name, count in counts(stand.data).items() if name != "ledger")
        assert not (folder / "error").exists()
