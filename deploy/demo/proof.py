"""The proof at the end: the whole ledger, exported record by record, against the source data."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from .baskets import Expectations
from .processes import BIN, DemoFailed


class Body(msgspec.Struct):
    """What the proof needs of a record."""

    pos_id: str = ""
    total: int = 0


class Row(msgspec.Struct):
    """One exported record."""

    type: str
    body: Body


_decode = msgspec.json.Decoder(Row).decode


@dataclass
class Found:
    """What lies in the ledger: every sale's total by its basket id, and how often each basket is there."""

    totals: dict[str, int] = field(default_factory=dict)
    times: Counter[str] = field(default_factory=Counter)
    events: int = 0

    @property
    def duplicates(self) -> int:
        """Sales that are in the ledger although their basket is already."""
        return self.times.total() - len(self.times)


async def read_ledger(data: Path) -> Found:
    """Export the ledger and count. Raises `DemoFailed`."""
    found = Found()
    process = await asyncio.create_subprocess_exec(
        str(BIN / "tillstream-server"),
        "ledger",
        "export",
        "--data",
        str(data),
        stdout=asyncio.subprocess.PIPE,
        limit=8 * 1024 * 1024,
    )
    assert process.stdout is not None
    async for line in process.stdout:
        row = _decode(line)
        if row.type == "transaction":
            found.totals[row.body.pos_id] = row.body.total
            found.times[row.body.pos_id] += 1
        else:
            found.events += 1
    if await process.wait() != 0:
        raise DemoFailed("the ledger could not be exported")
    return found


def compare(found: Found, expected: Expectations) -> list[str]:
    """Every way in which the ledger differs from the source data; nothing, if each basket is there once."""
    source = expected.totals()
    complaints = []
    missing = source.keys() - found.totals.keys()
    strange = found.totals.keys() - source.keys()
    wrong = [basket for basket, total in found.totals.items() if source.get(basket, total) != total]
    if missing:
        complaints.append(f"{len(missing)} baskets are not in the ledger, e.g. {min(missing)}")
    if strange:
        complaints.append(f"{len(strange)} sales in the ledger are no baskets of the data, e.g. {min(strange)}")
    if found.duplicates:
        complaints.append(f"{found.duplicates} baskets are in the ledger more than once")
    if wrong:
        complaints.append(f"{len(wrong)} baskets have another total in the ledger, e.g. {min(wrong)}")
    return complaints


def offer_times(data: Path) -> list[float]:
    """Milliseconds from the capture of a sale to the till's receipt of the offer that it led to."""
    ledger = sqlite3.connect(f"file:{data / 'ledger.db'}?mode=ro", uri=True)
    try:
        ledger.execute("PRAGMA query_only=ON")
        rows = ledger.execute(
            "SELECT d.received_ms - l.captured_ms FROM decision d JOIN ledger l ON l.id = d.ledger_id"
            " WHERE d.decided_at = 'server' AND d.received_ms IS NOT NULL"
        )
        return sorted(float(row[0]) for row in rows)
    finally:
        ledger.close()
