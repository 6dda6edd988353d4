"""The intake of a server without its doors: what comes before it is signed and let in already."""

from __future__ import annotations

import io

from prometheus_client import CollectorRegistry

from support.pipelining import NOW, Server, Till, sale
from tillstream_server import tills
from tillstream_server.devices import Devices
from tillstream_server.events import Events, json_logger
from tillstream_server.gateway.batches import Intake
from tillstream_server.gateway.flow import Flow
from tillstream_server.gateway.hub import Hub
from tillstream_server.metrics import Metrics


class Desk:
    """An intake before a pipeline, and the tills that it knows."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.devices = Devices(server.database, "USD", server.clock)
        events = Events(Metrics(CollectorRegistry()), json_logger(io.StringIO()))
        flow = Flow(max_bytes=1 << 18, max_waiting=8, clock=server.clock, metrics=events.metrics)
        self.intake = Intake(server.database, self.devices, server.pipeline, Hub(), flow, server.clock, events)

    async def enrols(self, name: str = "1") -> Till:
        """A till that the server knows."""
        till = self.server.till(name)
        async with self.server.database.write() as conn:
            place = await tills.make(conn, till.till_id, "acme", "s1", name, NOW)
            device = tills.NewDevice(till.key.key_id, till.key.public, "", "")
            await tills.give_device(conn, place, device, NOW)
        return till

    async def letters(self) -> list[tuple[int, int, str]]:
        """Dead letters: id, seq, code."""
        rows = await self.server.rows("SELECT id, seq, code FROM dead_letter ORDER BY id")
        return [(id_, seq, code) for id_, seq, code in rows]

    async def stored(self) -> list[int]:
        """The seqs of everything in the ledger."""
        return [seq for (seq,) in await self.server.rows("SELECT seq FROM ledger ORDER BY seq")]

    async def fails_over(self, till: Till, *poison: str, sales: int = 10) -> None:
        """Take sales 0 to `sales`, of which some set off a defect."""
        for number in range(sales):
            self.server.listener.error = ZeroDivisionError() if str(number) in poison else None
            await self.server.pipeline.process(till.device, till.batch(sale(str(number))))
        self.server.listener.error = None
