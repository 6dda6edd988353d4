"""The upgrade guide, step by step: its own commands, on a folder as a former version leaves it."""

from __future__ import annotations

import json
import sqlite3
import urllib.request
from contextlib import closing
from pathlib import Path

import pytest

from support.formats import bring_to, newest_and_former
from support.guides import arguments, blocks, served
from support.serving import sale, serving
from tillstream_server.cli import main

STEPS = {about.removeprefix("sh "): commands for about, commands in blocks("upgrade.md") if about.startswith("sh ")}
NEWEST, FORMER = newest_and_former()


def step(name: str, places: dict[str, str]) -> list[list[str]]:
    """The arguments of a step's commands, with folders put in."""
    return [arguments(command, places) for command in STEPS[name]]


def revision(ledger: Path) -> tuple[str, int]:
    """A ledger's schema, and how many records there are."""
    with closing(sqlite3.connect(ledger)) as conn:
        (schema,) = conn.execute("SELECT version_num FROM alembic_version").fetchone()
        (records,) = conn.execute("SELECT count(*) FROM ledger").fetchone()
    return schema, records


@pytest.fixture
async def former(tmp_path: Path) -> Path:
    """A data folder with sales in it, with the schema of the version before."""
    async with serving(tmp_path / "DIR") as server:
        till = await server.till()
        await till.sends(sale(1), sale(2))
    bring_to(tmp_path / "DIR" / "ledger.db", FORMER, down=True)
    return tmp_path


@pytest.mark.system
def test_every_step_of_the_guide_does_what_it_says(former: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = {name: str(former / name) for name in ("DIR", "BACKUP", "TRIAL", "OLD")}
    assert revision(former / "DIR" / "ledger.db") == (FORMER, 2)
    for name in ("before", "rehearsal"):
        for given in step(name, places):
            assert main(given) == 0, capsys.readouterr().err
    assert revision(former / "TRIAL" / "ledger.db") == (NEWEST, 2)
    assert revision(former / "DIR" / "ledger.db") == (FORMER, 2)
    (after,) = step("after", places)
    with served(after) as address:
        with urllib.request.urlopen(f"{address}/readyz", timeout=30) as ready:
            assert json.load(ready) == {"status": "ready"}
        for given in step("look", places):
            assert main(given) == 0, capsys.readouterr().err
    assert revision(former / "DIR" / "ledger.db") == (NEWEST, 2)
    restore, serve = step("back", places)
    assert main(restore) == 0
    assert serve == ["serve", "--data", places["OLD"]]
    assert revision(former / "OLD" / "ledger.db")[1] == 2


@pytest.mark.system
def test_a_folder_of_a_newer_version_is_not_opened(former: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with closing(sqlite3.connect(former / "DIR" / "ledger.db")) as conn, conn:
        conn.execute("UPDATE alembic_version SET version_num = '9999'")
    assert main(["till", "list", "--data", str(former / "DIR")]) != 0
    assert "upgrade the server" in capsys.readouterr().err


def test_the_steps_are_all_tried() -> None:
    assert set(STEPS) == {"before", "rehearsal", "after", "look", "back"}
    assert all(STEPS.values())
