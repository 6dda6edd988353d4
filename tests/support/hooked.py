"""An enrolled agent as a process of its own, for what calls its hook from outside."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from support.agents import enrolled
from support.gateways import Gateway, gateway
from tillstream_agent.folder import Folder
from tillstream_protocol.decisions import Campaign

_RUN = "import sys; from tillstream_agent.cli import main; sys.exit(main(sys.argv[1:]))"
_CAPTURES = re.compile(r"^tillstream_agent_captures_total\{.*\} (\S+)$", re.MULTILINE)


@dataclass
class Till:
    """A running agent with its hook."""

    folder: Folder
    server: Gateway
    port: int
    process: asyncio.subprocess.Process
    settings: dict[str, str]

    @property
    def url(self) -> str:
        """Where the hook is."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def token(self) -> str:
        """The hook's token."""
        return self.folder.hook_token()

    async def captured(self) -> int:
        """How many records this process has captured."""
        headers = {"Authorization": f"Bearer {self.token}"}
        async with aiohttp.ClientSession() as client, client.get(f"{self.url}/metrics", headers=headers) as reply:
            return round(sum(float(value) for value in _CAPTURES.findall(await reply.text())))

    async def stops(self) -> None:
        """End the agent as its operator would."""
        self.process.terminate()
        await self.process.wait()

    async def starts(self) -> None:
        """Run it again, on the port it had."""
        self.process, self.port = await _started(self.folder, self.port, self.settings)


@asynccontextmanager
async def till(
    folder: Path, origins: Sequence[str] = (), campaigns: tuple[Campaign, ...] = (), **settings: object
) -> AsyncIterator[Till]:
    """An agent that has joined a stand-in server. `settings` are named as in the environment, in small letters."""
    given = {"HOOK_ORIGINS": ",".join(origins), **{name.upper(): str(value) for name, value in settings.items()}}
    async with gateway() as server:
        server.campaigns = campaigns
        joined = await enrolled(folder / "state", server)
        process, port = await _started(joined, 0, given)
        running = Till(joined, server, port, process, given)
        try:
            yield running
        finally:
            if running.process.returncode is None:
                await running.stops()


async def _started(folder: Folder, port: int, settings: dict[str, str]) -> tuple[asyncio.subprocess.Process, int]:
    command = [sys.executable, "-c", _RUN, "run", "--state", str(folder.path), "--hook-port", str(port)]
    with (folder.path.parent / "agent.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *command, env={f"TILLSTREAM_{name}": value for name, value in settings.items()}, stderr=log
        )
    async with asyncio.timeout(60):
        while not folder.port_file.exists():
            assert process.returncode is None, (folder.path.parent / "agent.log").read_text()
            await asyncio.sleep(0.02)
    return process, int(folder.port_file.read_text())
