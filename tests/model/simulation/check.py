"""What must hold when everything is over: read from the server's own tables, against what must have become of each
record."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from tillstream_server.ledger import schema
from tillstream_server.pipeline.rebuild import rebuild

from .fate import Violation
from .ledger import Ledger, read
from .notice import check_notices
from .world import World


async def check(world: World) -> None:
    """Raises `Violation`."""
    world.watch.check()
    ledger = read(world.server.root / "ledger.db")
    _nothing_lost(world, ledger)
    _nothing_twice(ledger)
    _nothing_invented(world, ledger)
    _received_is_what_is_there(ledger)
    check_notices(world, ledger)
    await _projections_are_a_rebuild(world)


def _nothing_lost(world: World, ledger: Ledger) -> None:
    for record in world.fate.required():
        name = f"{record.name[0].hex()[:6]}/{record.name[1]}"
        if record.name not in ledger.names:
            raise Violation(
                f"sale {record.sale} was acknowledged as {name} of {record.machine}, and is not in the ledger"
            )
        if ledger.names[record.name] != record.sale:
            raise Violation(f"{name} is sale {ledger.names[record.name]} in the ledger, and was sale {record.sale}")


def _nothing_twice(ledger: Ledger) -> None:
    for sale, names in ledger.sales.items():
        if len(names) > 1:
            raise Violation(f"sale {sale} is in the ledger {len(names)} times")
    if ledger.conflicts:
        raise Violation(f"{ledger.conflicts} records came under another's name")
    if ledger.dead:
        raise Violation(f"dead letters: {', '.join(ledger.dead)}")


def _nothing_invented(world: World, ledger: Ledger) -> None:
    for name, sale in ledger.names.items():
        known = world.fate.records.get(name)
        if known is not None and known.sale != sale:
            raise Violation(f"sale {known.sale} is sale {sale} in the ledger")
        if sale not in world.fate.attempted:
            raise Violation(f"the ledger has a sale that nobody rang up: {sale}")


def _received_is_what_is_there(ledger: Ledger) -> None:
    there = set(ledger.names) | ledger.others
    if there != ledger.received:
        odd = sorted(there ^ ledger.received)
        raise Violation(f"what is noted as received is not what is there: {odd[:3]}")


async def _projections_are_a_rebuild(world: World) -> None:
    path = world.server.root / "ledger.db"
    before = _projections(path)
    await rebuild(world.server.parts.database)
    after = _projections(path)
    for table, rows in before.items():
        if rows != after[table]:
            raise Violation(f"a rebuild changes {table}")


def _projections(path: Path) -> Mapping[str, list[tuple[object, ...]]]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        return {
            table.name: sorted(db.execute(f"SELECT * FROM {table.name}").fetchall(), key=repr)
            for table in schema.PROJECTIONS
        }
