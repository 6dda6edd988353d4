"""How long does it take to fold a ledger into all projections again? The floor is reading and decoding its rows."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path

from tillstream_server.ledger.bodies import decode_transaction
from tillstream_server.ledger.schema import PROJECTIONS
from tillstream_server.office import Rebuild

from .figures import Answer, Conclusion, Measure
from .ledgers import NotStored, filled
from .sizes import Sizes
from .stand import data

QUESTION = "rebuild"
OURS, FLOOR = "every projection, folded again", "floor: every row read and decoded"


async def run(folder: Path, sizes: Sizes) -> Answer:
    """One rebuild of the ledger that has filled up, with the figures before and after compared."""
    place = await filled(folder.parent, sizes.ledger)
    ledger = place / "ledger.db"
    before = _figures(ledger)
    async with data(place) as parts:
        started, cpu = time.perf_counter(), time.process_time()
        folded = await parts.office.run(Rebuild())
        wall, cpu = time.perf_counter() - started, time.process_time() - cpu
    count = folded["transactions"]
    assert isinstance(count, int)
    if _figures(ledger) != before or count < sizes.ledger:
        raise NotStored("the projections are not what they were before the rebuild")
    started = time.perf_counter()
    read = _read(ledger)
    floor = time.perf_counter() - started
    condition = f"ledger of {count:,}"
    share = round(read / floor and (count / wall) / (read / floor), 4)
    measures = (
        Measure(QUESTION, OURS, condition, round(wall, 1), "seconds"),
        Measure(QUESTION, OURS, condition, round(count / wall), "transactions/s", floor_share=share),
        Measure(QUESTION, OURS, condition, round(cpu / count * 1e6, 1), "µs of processor a transaction"),
        Measure(QUESTION, FLOOR, condition, round(read / floor), "transactions/s", "floor"),
    )
    text = f"Two million transactions would be folded again in {2e6 * wall / count / 60:.1f} minutes at this rate."
    return Answer(measures=measures, conclusions=(Conclusion(QUESTION, text),))


def _figures(ledger: Path) -> dict[str, list[tuple[object, ...]]]:
    """Every projection's sums and counts, which a rebuild must not change."""
    with closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as database:
        return {table.name: database.execute(_sums(table.name, database)).fetchall() for table in PROJECTIONS}


def _sums(table: str, database: sqlite3.Connection) -> str:
    columns = [name for _, name, kind, *_ in database.execute(f"PRAGMA table_info({table})") if "INT" in kind.upper()]
    return f"SELECT count(*), {', '.join(f'total({name})' for name in columns) or '0'} FROM {table}"


def _read(ledger: Path) -> int:
    count = 0
    with closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as database:
        for (body,) in database.execute("SELECT body FROM ledger ORDER BY id"):
            decode_transaction(body)
            count += 1
    return count
