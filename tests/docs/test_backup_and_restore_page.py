"""The guide to backups, restores and lost keys, step by step: its own commands, in its own order."""

from __future__ import annotations

import json
import sqlite3
import urllib.request
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from support.guides import arguments, blocks, served
from support.serving import sale, serving
from tillstream_server.cli import main

COMMANDS = [command for _, commands in blocks("backup-and-restore.md") for command in commands]


@dataclass
class Operator:
    """Somebody who works through the page, and gives a new name to each backup."""

    place: Path
    capsys: pytest.CaptureFixture[str]
    left: list[str] = field(default_factory=lambda: list(COMMANDS))
    places: dict[str, str] = field(default_factory=dict)

    def next(self, start: str) -> list[str]:
        """The page's next command, which has to begin like this."""
        command = self.left.pop(0)
        assert command.removeprefix("tillstream-server ").startswith(start), command
        named = {name: str(self.place / name) for name in ("DIR", "NEWDIR", "BACKUP", "FILE")}
        return arguments(command, named | self.places)

    def does(self, start: str) -> None:
        """Carry it out."""
        assert main(self.next(start)) == 0, self.capsys.readouterr().err

    def serves(self) -> None:
        """Serve, and see that it is ready."""
        with served(self.next("serve")) as address, urllib.request.urlopen(f"{address}/readyz", timeout=30) as ready:
            assert json.load(ready) == {"status": "ready"}

    def takes_the_escrow_key_away(self) -> None:
        (self.place / "DIR" / "escrow-private.key").replace(self.place / "FILE")


def records(ledger: Path) -> int:
    with closing(sqlite3.connect(ledger)) as conn:
        (found,) = conn.execute("SELECT count(*) FROM ledger").fetchone()
    return int(found)


@pytest.fixture
async def shop(tmp_path: Path) -> Path:
    """A data folder with sales in it."""
    async with serving(tmp_path / "DIR") as server:
        till = await server.till()
        await till.sends(sale(1), sale(2))
    return tmp_path


@pytest.mark.system
def test_every_command_of_the_page_does_what_it_says(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    operator = Operator(shop, capsys)
    operator.takes_the_escrow_key_away()
    operator.does("backup")
    operator.does("restore")
    operator.serves()
    assert records(shop / "NEWDIR" / "ledger.db") == 2

    operator.does("key rotate-box")
    operator.does("key rotate-escrow")
    operator.takes_the_escrow_key_away()
    (shop / "DIR" / "keys" / "box.key").unlink()
    operator.does("key recover")
    operator.serves()
    operator.does("key forget-escrow")
    operator.does("key rotate-escrow")
    operator.places = {"BACKUP": str(shop / "LATER")}
    operator.does("backup")
    assert records(shop / "LATER" / "ledger.db") == 2
    assert operator.next("batch import")[-1] == str(shop / "FILE")
    assert operator.left == []
