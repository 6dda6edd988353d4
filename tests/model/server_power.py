"""The server's power is cut at every write of a script; then it starts again, and nothing it acknowledged is missing.

The real pipeline takes batches into a real ledger while `support.sqlite_vfs` notes what SQLite does to its files. For
each of those calls, and for each whim of a disk, the files as they may lie there after the cut are made; on them

- the databases open, and SQLite finds them whole,
- every acknowledged record is there exactly once, and any other batch is there as a whole or not at all,
- every item of the vault opens,
- when every batch was sent again, ledger and projections are those of a server that never lost power, and equal a
  rebuild.

    PYTHONPATH=tests python -m model.server_power [--batches 12] [--every 1] [--seed 0]      prints JSON
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final

from support.pipelining import Listener, Server, SetClock, Till, member, prepare, sale, void
from support.sqlite_vfs import WHIMS, Recording, Whim, recording
from tillstream_protocol.messages import Batch
from tillstream_protocol.transaction import Transaction
from tillstream_server.customers.vault import Vault
from tillstream_server.keys import ServerKeys
from tillstream_server.ledger.database import Database
from tillstream_server.pipeline.process import Pipeline
from tillstream_server.pipeline.rebuild import rebuild

CHECKPOINT_PAGES: Final = 40
"""So few that the WAL is folded back, and begun anew, again and again while the script runs."""
FILES: Final = ("ledger.db", "vault-keys.db")


class Violation(AssertionError):
    """A power cut after which something does not hold; the message says which and how to see it again."""


@dataclass
class Script:
    """What was sent, what was acknowledged when, and what SQLite did meanwhile."""

    keys: ServerKeys
    till: Till
    batches: tuple[Batch, ...]
    recorded: Recording
    acknowledged: tuple[int, ...]
    """By batch: how many calls there had been when its acknowledgement left."""
    truth: Mapping[str, list[str]]
    names: Mapping[int, range]
    """By batch: the seqs in it."""


@dataclass
class Figures:
    """What was tried, and what became of it."""

    calls: int = 0
    cuts: int = 0
    disks: int = 0
    whims: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    duplicates: int = 0
    refused_starts: int = 0


@asynccontextmanager
async def serving_on(folder: Path, keys: ServerKeys) -> AsyncIterator[Server]:
    """The real parts on the databases of a folder."""
    database = await Database.open(folder / FILES[0], readers=1, checkpoint_pages=CHECKPOINT_PAGES)
    try:
        vault_keys = await Database.open(folder / FILES[1], readers=1, checkpoint_pages=CHECKPOINT_PAGES)
        try:
            clock, listener = SetClock(), Listener()
            vault = Vault(vault_keys, keys.vault_key, clock, os.urandom)
            pipeline = Pipeline(database, vault, keys, listener, clock, os.urandom)
            yield Server(database, vault_keys, vault, keys, listener, clock, pipeline)
        finally:
            await vault_keys.close()
    finally:
        await database.close()


def bodies(number: int, per_batch: int) -> list[Transaction]:
    """One batch: sales of a few members, and what undoes the first sale of the batch before."""
    first = number * per_batch
    sales = [
        sale(str(first + n), 100 + first + n, 250, customer=member(str((first + n) % 7)))
        for n in range(per_batch - (number > 0))
    ]
    return [*sales, void(f"void-{number}", str(first - per_batch))] if number else sales


async def run_script(folder: Path, batches: int, per_batch: int) -> Script:
    """Take the batches on a fresh server, in a folder that must be empty."""
    keys = await prepare(folder)
    till = Till(keys)
    sent = [till.batch(*bodies(number, per_batch)) for number in range(batches)]
    acknowledged = []
    with recording(folder) as recorded:
        async with serving_on(folder, keys) as server:
            for batch in sent:
                outcome = await server.pipeline.process(till.device, batch)
                if outcome.counts["stored"] != per_batch:
                    raise Violation(f"the script itself fails: {dict(outcome.counts)}")
                acknowledged.append(recorded.position)
            truth = await server.projections()
    names = {number: range(number * per_batch, (number + 1) * per_batch) for number in range(batches)}
    return Script(keys, till, tuple(sent), recorded, tuple(acknowledged), truth, names)


async def check(script: Script, disk: Mapping[str, bytes], position: int, folder: Path, figures: Figures) -> None:
    """Start a server on what the disk holds after `position` calls. Raises `Violation`."""
    for name, content in disk.items():
        (folder / name).write_bytes(content)
    try:
        for name in FILES:
            _integrity(folder / name)
        async with serving_on(folder, script.keys) as server:
            await _check_ledger(script, server, position, figures)
            await _check_vault(server)
            await _check_repeats(script, server)
    except Violation:
        raise
    except Exception as error:
        figures.refused_starts += 1
        raise Violation(f"the server does not start or work: {error!r}") from error
    finally:
        for path in folder.iterdir():
            path.unlink()


def _integrity(path: Path) -> None:
    conn = sqlite3.connect(path)
    try:
        found = [row[0] for row in conn.execute("PRAGMA integrity_check")]
    finally:
        conn.close()
    if found != ["ok"]:
        raise Violation(f"{path.name} is damaged: {found[0]}")


async def _check_ledger(script: Script, server: Server, position: int, figures: Figures) -> None:
    seqs = Counter([seq for (seq,) in await server.rows("SELECT seq FROM ledger")])
    figures.duplicates += sum(n - 1 for n in seqs.values())
    for number, names in script.names.items():
        there = sum(seqs[name] for name in names)
        if script.acknowledged[number] <= position and there != len(names):
            figures.lost += len(names) - there
            raise Violation(f"batch {number} was acknowledged, and {there} of its {len(names)} records are there")
        if there not in (0, len(names)):
            raise Violation(f"batch {number} is there in part: {there} of {len(names)}")
    ranges = await server.rows("SELECT first_seq, last_seq FROM received ORDER BY first_seq")
    received = [seq for first, last in ranges for seq in range(first, last + 1)]
    if received != sorted(seqs):
        raise Violation(f"the ledger holds {len(seqs)} records, and {len(received)} count as received")


async def _check_vault(server: Server) -> None:
    items = 0
    for (subject,) in await server.rows("SELECT DISTINCT subject FROM vault_item"):
        async with server.database.read() as conn:
            items += len(await server.vault.reveal(conn, subject))
    ((there,),) = await server.rows("SELECT count(*) FROM vault_item")
    if items != there:
        raise Violation(f"{there - items} items of the vault have no key")


async def _check_repeats(script: Script, server: Server) -> None:
    """Send everything again, as tills do that never heard of an acknowledgement."""
    for batch in script.batches:
        await server.pipeline.process(script.till.device, batch)
    ((count, different),) = await server.rows("SELECT count(*), count(DISTINCT seq) FROM ledger")
    expected = sum(map(len, script.names.values()))
    if (count, different) != (expected, expected):
        raise Violation(f"sent again, the ledger holds {count} rows for {expected} records")
    if await server.projections() != script.truth:
        raise Violation("sent again, the projections are not those of a server that never lost power")
    await rebuild(server.database)
    if await server.projections() != script.truth:
        raise Violation("the projections do not equal a rebuild")


async def campaign(
    script: Script, folder: Path, *, every: int, seed: int, whims: Sequence[Whim] = WHIMS, seconds: float | None = None
) -> Figures:
    """Cut the power after every so many calls, with every whim; disks that are alike are tried once.

    It ends early after so many seconds, and the figures say how far it came.
    """
    figures = Figures(calls=len(script.recorded.calls))
    tried: set[tuple[int, frozenset[tuple[str, bytes]]]] = set()
    end = None if seconds is None else time.monotonic() + seconds
    for position in range(0, figures.calls + 1, every):
        if end is not None and time.monotonic() > end:
            break
        figures.cuts += 1
        due = sum(at <= position for at in script.acknowledged)
        for whim in whims:
            disk = script.recorded.after(position, whim, Random(f"{seed}:{position}:{whim}"))
            alike = due, frozenset((name, _digest(data)) for name, data in disk.items())
            figures.whims[whim] += 1
            if alike in tried:
                continue
            tried.add(alike)
            figures.disks += 1
            try:
                await check(script, disk, position, folder, figures)
            except Violation as error:
                raise Violation(f"power cut after call {position}, {whim}, --seed {seed}: {error}") from error
    return figures


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


async def run(batches: int, per_batch: int, every: int, seed: int, seconds: float | None = None) -> Figures:
    """The whole of it in a temporary folder."""
    with tempfile.TemporaryDirectory() as root:
        before, after = Path(root, "script"), Path(root, "cut")
        after.mkdir()
        script = await run_script(before, batches, per_batch)
        return await campaign(script, after, every=every, seed=seed, seconds=seconds)


def main(argv: Sequence[str] | None = None) -> int:
    """Run it and print what was tried as JSON; 1 if anything did not hold."""
    parser = argparse.ArgumentParser(description="Cut the server's power at every write of a script.")
    parser.add_argument("--batches", type=int, default=12)
    parser.add_argument("--records", type=int, default=5, help="in each batch")
    parser.add_argument("--every", type=int, default=1, help="cut after every so many calls")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, help="stop after about so long")
    given = parser.parse_args(argv)
    began = time.monotonic()
    try:
        figures = asyncio.run(run(given.batches, given.records, given.every, given.seed, given.seconds))
    except Violation as violation:
        print(json.dumps({"violation": str(violation)}))
        return 1
    print(
        json.dumps(
            {
                "calls": figures.calls,
                "power_cuts": figures.cuts,
                "disks_tried": sum(figures.whims.values()),
                "different_disks": figures.disks,
                "acknowledged_lost": figures.lost,
                "duplicates": figures.duplicates,
                "refused_starts": figures.refused_starts,
                "seconds": round(time.monotonic() - began, 1),
            }
        )
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
