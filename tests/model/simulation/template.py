"""A server with enrolled tills, made once: every seed begins with a copy of it."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tillstream_agent.folder import Folder as TillFolder
from tillstream_agent.sync import enrol
from tillstream_protocol.messages import Token
from tillstream_server import app, office
from tillstream_server.folder import Folder as ServerFolder

from . import loop
from .chance import Chance, Clock
from .history import History
from .inline import Connections
from .network import Link, SimTransport
from .nodes import Process, adopt_tasks
from .server import Server, simulated_sockets
from .till import simulated_agents

TILLS: Final = 3
RETAILER: Final = "acme"
STORE: Final = "north"

_CAMPAIGNS: Final[tuple[dict[str, Any], ...]] = (
    {
        "id": "big-sale",
        "version": 1,
        "name": "Big sale",
        "trigger": "transaction",
        "condition": {">=": [{"var": "sale.total"}, 4000]},
        "effects": [{"type": "cashier_message", "text": "Say thanks"}],
    },
    {
        "id": "regular",
        "version": 1,
        "name": "Regular",
        "trigger": "transaction",
        "condition": {">=": [{"var": "member.visits"}, 2]},
        "effects": [{"type": "customer_message", "text": "Nice to see you again"}],
    },
)
"""One that the tills decide themselves, and one that only the server can."""


@dataclass(frozen=True, slots=True)
class Template:
    """Where the prepared folders lie."""

    root: Path

    def server_into(self, root: Path) -> None:
        """A copy of the server's data folder."""
        shutil.copytree(self.root / "server", root)

    def till_into(self, number: int, root: Path) -> None:
        """A copy of a till's state folder."""
        shutil.copytree(self.root / f"till-{number}", root)


def prepare(root: Path) -> Template:
    """Make the folders. The same every time, but for what databases note of themselves."""
    with simulated_agents(), simulated_sockets():
        return loop.run(_prepare(root))


async def _prepare(root: Path) -> Template:
    import asyncio

    here = asyncio.get_running_loop()
    adopt_tasks(here)
    chance, clock = Chance(0, "template"), Clock(here.time)
    folder = ServerFolder(root / "server")
    await app.init(folder, "USD", chance.randbytes)
    server = Server(folder.root, chance.stream("server"), clock, History(here.time))
    await server.start()
    for campaign in _CAMPAIGNS:
        await server.parts.office.run(office.CampaignPut(RETAILER, json.dumps(campaign)))
    for number in range(TILLS):
        link = Link(server, chance.stream(f"link-{number}"))
        await _enrol(root / f"till-{number}", server, link, chance.stream(f"till-{number}"), clock)
    await server.kill()
    return Template(root)


async def _enrol(root: Path, server: Server, link: Link, chance: Chance, clock: Clock) -> None:
    made = await server.parts.office.run(office.TokenCreate(RETAILER, STORE, None))
    token = Token.parse(str(made["token"]))
    process = Process("enrolment", None)
    process.connections = Connections()
    transport: Any = SimTransport(link)
    joining = enrol.Enrolment(TillFolder(root), transport, clock, chance.randbytes, "1.0")
    await process.spawn(joining.join("http://127.0.0.1:1", token, replace=False))
    process.connections.lose()
