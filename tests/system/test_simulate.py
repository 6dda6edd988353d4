"""A made-up sale goes the whole way to a real server's ledger, and into no figure that anybody looks at."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path

from support.agents import running_agent
from support.serving import NOW, serving
from support.tills import TurnedClock
from tillstream_agent.folder import Folder
from tillstream_agent.simulation import simulate
from tillstream_agent.sync.asking import Asker
from tillstream_agent.sync.enrol import Enrolment
from tillstream_protocol.messages import Token

FIGURES = ("product_day", "decision")


async def joined(folder: Folder, address: str, token: str, clock: TurnedClock) -> None:
    client = Asker(address, tls=None, timeout=5)
    try:
        await Enrolment(folder, client, clock, os.urandom, "1.0").join(address, Token.parse(token), replace=False)
    finally:
        await client.close()


async def test_a_simulated_sale_is_in_the_ledger_and_in_no_figure(tmp_path: Path) -> None:
    clock, folder = TurnedClock(NOW), Folder(tmp_path / "till")
    async with serving(tmp_path / "server") as server:
        await joined(folder, server.address, await server.token(), clock)
        async with running_agent(folder, clock=clock):
            done = await simulate(folder, clock, os.urandom, ack="disk", timer=time.perf_counter)
        summary = (await server.get("/api/v1/ledger/summary", await server.key())).json()
    assert done.sent
    assert (summary["transactions"], summary["amount_minor"], summary["dead_letters"]) == (0, {}, 0)
    ledger = sqlite3.connect(tmp_path / "server" / "ledger.db")
    try:
        kept = ledger.execute("SELECT lower(hex(epoch)), seq FROM ledger WHERE training = 1").fetchall()
        assert kept == [(done.epoch, done.seq)]
        assert ledger.execute("SELECT counted_ms FROM sale").fetchall() == [(None,)]
        for table in FIGURES:
            assert ledger.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,), table
    finally:
        ledger.close()
