"""The server's ledger, read straight from its database."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from tillstream_protocol.events import KIND_NUMBERS
from tillstream_protocol.ranges import collect
from tillstream_protocol.transaction import Transaction
from tillstream_server.ledger.bodies import decode_transaction

from .fate import Name


@dataclass(frozen=True, slots=True)
class Ledger:
    """What the server holds."""

    sales: Mapping[str, list[Name]]
    """By POS id: the names of its ledger rows; more than one is a sale counted twice."""
    names: Mapping[Name, str]
    """Which sale came under which name, the names of refused copies too."""
    others: frozenset[Name]
    """Names of records that are no transactions."""
    received: frozenset[Name]
    conflicts: int
    dead: Sequence[str]


def read(path: Path) -> Ledger:
    """Read the ledger as it lies on the disk."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        kind = KIND_NUMBERS[Transaction]
        rows = db.execute("SELECT id, epoch, seq, kind, body FROM ledger").fetchall()
        ids = {id_: decode_transaction(body).pos_id for id_, _, _, k, body in rows if k == kind}
        sales: dict[str, list[Name]] = {}
        names: dict[Name, str] = {}
        for id_, epoch, seq, k, _ in rows:
            if k == kind:
                sales.setdefault(ids[id_], []).append((epoch, seq))
                names[epoch, seq] = ids[id_]
        others = {(epoch, seq) for _, epoch, seq, k, _ in rows if k != kind}
        for epoch, seq, id_ in db.execute("SELECT epoch, seq, ledger_id FROM duplicate"):
            if id_ in ids:
                names[epoch, seq] = ids[id_]
            else:
                others.add((epoch, seq))
        received = {
            (epoch, seq)
            for epoch, first, last in db.execute("SELECT epoch, first_seq, last_seq FROM received")
            for seq in range(first, last + 1)
        }
        conflicts = db.execute("SELECT COUNT(*) FROM conflict").fetchone()[0]
        dead = [
            f"{code} {epoch.hex()[:6]}/{seq}"
            for code, epoch, seq in db.execute("SELECT code, epoch, seq FROM dead_letter")
        ]
        return Ledger(sales, names, frozenset(others), frozenset(received), conflicts, dead)


def digest_of(ledger: Ledger) -> str:
    """The names and sales in the ledger, as text."""
    spans = {
        epoch: collect(sorted(s for e, s in ledger.received if e == epoch)) for epoch, _ in sorted(ledger.received)
    }
    return " ".join(f"{epoch.hex()}:{[(r.first, r.last) for r in ranges]}" for epoch, ranges in spans.items())
