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
from support.mangling import sample
from support.zygote import AGENT, SERVER, Zygote

pytestmark = pytest.mark.system

FILES = 60
KILLS = 6
WAIT_S = 90


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with Zygote(AGENT, SERVER) as parent:
        yield parent


def order(number: int) -> bytes:
    """An order of its own."""
    said = json.loads(sample("woocommerce/order_created_response.json"))
    return json.dumps({**said, "id": number, "number": str(number)}).encode()


async def until_empty(stand: Stand, folder: Path) -> None:
    """Wait until no file of the POS is there, or on its way out."""
    ends = time.monotonic() + WAIT_S
    while list(folder.glob("*.json")) or list(folder.glob(".tillstream/*")):
        stand.till.must_run()
        assert time.monotonic() < ends, "the folder does not become empty"
        await asyncio.sleep(0.05)


async def test_an_agent_killed_over_and_over_captures_every_file_once(zygote: Zygote, tmp_path: Path) -> None:
    chance, folder = random.Random(5), tmp_path / "pos"
    folder.mkdir(mode=0o700)
    settings = tmp_path / "agent.toml"
    settings.write_text(f'[[drop]]\nfolder = "{folder}"\nadapter = "woocommerce"\npoll_s = 0.05\nsettle_s = 0.05\n')
    with standing(tmp_path, zygote) as stand:
        stand.enrol()
        stand.till.arguments += ["--config", str(settings)]
        stand.till.start()
        for number in range(1, FILES + 1):
            (folder / f"{number}.tmp").write_bytes(order(number))
            (folder / f"{number}.tmp").rename(folder / f"{number}.json")
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
