"""What a server's ledger holds, against what tills were told: everything once, and figures as a rebuild gives them."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from crash.cashier import Ack
from crash.stand import Stand
from tillstream_server.ledger import schema

REBUILD_S: Final = 1800.0
"""Longer than a week of records takes."""
NEVER: Final = ("duplicate", "conflict", "dead_letter", "quarantine")
"""Tables in which a row would mean that something came twice, differently, or could not be taken."""


@contextmanager
def reading(data: Path) -> Iterator[sqlite3.Connection]:
    """The ledger's database, read-only; a server may run beside it."""
    with closing(sqlite3.connect(f"{(data / 'ledger.db').absolute().as_uri()}?mode=ro", uri=True)) as database:
        yield database


def held(data: Path) -> Iterator[tuple[str, str, int]]:
    """POS id (or id of the event), epoch and seq of every sale and identification in the ledger."""
    with reading(data) as database:
        for epoch, seq, body in database.execute("SELECT epoch, seq, body FROM ledger"):
            said: dict[str, Any] = msgspec.msgpack.decode(body)
            name = said.get("pos_id") or said.get("event_id")
            if name:
                yield name, epoch.hex(), seq


def projections(data: Path) -> dict[str, list[str]]:
    """Every projection's rows as text, in an order of their own."""
    with reading(data) as database:
        return {
            table.name: sorted(map(repr, database.execute(f"SELECT * FROM {table.name}")))
            for table in schema.PROJECTIONS
        }


def counts(data: Path) -> dict[str, int]:
    """How many rows the ledger has, and the tables that should be empty."""
    with reading(data) as database:
        return {name: database.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in ("ledger", *NEVER)}


def holes(data: Path) -> int:
    """Seqs that are missing between those received, over all epochs. Each epoch begins with 0."""
    missing = 0
    following: Counter[bytes] = Counter()
    with reading(data) as database:
        rows = database.execute("SELECT epoch, first_seq, last_seq FROM received ORDER BY till_id, epoch, first_seq")
        for epoch, first, last in rows:
            missing += first - following[epoch]
            following[epoch] = last + 1
    return missing


def compare(data: Path, acknowledged: Mapping[str, Ack]) -> dict[str, int]:
    """Acknowledged records that the ledger has not, has under another name, or has more than once."""
    names: dict[str, tuple[str, int]] = {}
    more = 0
    for name, epoch, seq in held(data):
        more += name in names
        names[name] = (epoch, seq)
    lost = [name for name in acknowledged if name not in names]
    renamed = [
        name for name, ack in acknowledged.items() if names.get(name, (ack.epoch, ack.seq)) != (ack.epoch, ack.seq)
    ]
    never = {f"{name}s": count for name, count in counts(data).items() if name in NEVER}
    return {"lost": len(lost), "renamed": len(renamed), "more_than_once": more, "holes": holes(data), **never}


def rebuilt_alike(stand: Stand) -> bool:
    """Whether a rebuild comes to the projections that are there. The server may run."""
    before = projections(stand.data)
    stand.command("rebuild", seconds=REBUILD_S)
    return before == projections(stand.data)
