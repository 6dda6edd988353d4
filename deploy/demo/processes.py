"""The server and the agents as real processes, started, killed and started again."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path

BIN = Path(sys.executable).parent
START_S = 30.0
RETAILER = "complete-journey"
USER = "demo"


class DemoFailed(Exception):
    """Something that the demo needs did not work; the message says what, and where to look."""


@dataclass
class Program:
    """One long-running process, with its output in files."""

    name: str
    arguments: list[str]
    folder: Path
    process: asyncio.subprocess.Process | None = field(default=None, init=False)
    kills: int = field(default=0, init=False)

    @property
    def log(self) -> Path:
        """Where the process writes what it says."""
        return self.folder / f"{self.name}.log"

    @property
    def out(self) -> Path:
        """Where the process writes its data."""
        return self.folder / f"{self.name}.out"

    async def start(self) -> None:
        """Start it, appending to its log."""
        with self.log.open("ab") as log, self.out.open("wb") as out:
            self.process = await asyncio.create_subprocess_exec(
                str(BIN / self.arguments[0]),
                *self.arguments[1:],
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=log,
            )

    async def kill(self) -> None:
        """SIGKILL: it gets no chance to tidy up."""
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()
            self.kills += 1

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL for what has not ended after ten seconds."""
        if self.process is None or self.process.returncode is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self.process.wait(), 10)
        except TimeoutError:
            await self.kill()

    def must_run(self) -> None:
        """Raise `DemoFailed` with the end of the log if the process ended by itself."""
        if self.process is not None and self.process.returncode is not None:
            said = "\n".join(self.log.read_text(errors="replace").splitlines()[-5:])
            raise DemoFailed(f"{self.name} ended with exit code {self.process.returncode}:\n{said}")


async def command(*arguments: str) -> str:
    """Run one of the command-line tools to its end; its stdout. Raises `DemoFailed` with its stderr."""
    process = await asyncio.create_subprocess_exec(
        str(BIN / arguments[0]), *arguments[1:], stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    if process.returncode != 0:
        raise DemoFailed(f"{' '.join(arguments[:3])} failed: {err.decode(errors='replace').strip()}")
    return out.decode()


@dataclass
class Server:
    """The server, its address, and a key for its API."""

    folder: Path
    program: Program
    url: str = ""
    key: str = ""
    password: str = ""
    """Of the console's user `demo`."""

    @classmethod
    async def set_up(cls, folder: Path) -> Server:
        """Make a data folder, put the campaigns in force, and serve on a free port."""
        data = folder / "server"
        await command("tillstream-server", "init", "--data", str(data))
        campaigns = sorted((Path(__file__).parent / "campaigns").glob("*.json"))
        for campaign in campaigns:
            await command(
                "tillstream-server", "campaign", "put", "--data", str(data), "--retailer", RETAILER, str(campaign)
            )
        server = cls(
            data, Program("server", ["tillstream-server", "serve", "--data", str(data), "--port", "0"], folder)
        )
        await server.start()
        said = await command("tillstream-server", "key", "create", "--data", str(data), "--role", "operator", "--json")
        server.key = json.loads(said)["key"]
        said = await command(
            *("tillstream-server", "user", "create", "--data", str(data), "--name", USER, "--role", "admin", "--json")
        )
        server.password = json.loads(said)["password"]
        return server

    async def start(self) -> None:
        """Start it, on the port that it had, and wait until it says where it listens."""
        await self.program.start()
        async with asyncio.timeout(START_S):
            while not (said := self.program.out.read_text()).endswith("\n"):
                self.program.must_run()
                await asyncio.sleep(0.02)
        self.url = json.loads(said.splitlines()[0])["listening"]
        self.program.arguments[-1] = self.url.rpartition(":")[2]

    async def token(self, store: str, till: str) -> str:
        """A token by which one till may join."""
        arguments = ("--data", str(self.folder), "--retailer", RETAILER, "--store", store, "--till", till, "--json")
        token: str = json.loads(await command("tillstream-server", "token", "create", *arguments))["token"]
        return token


@dataclass
class Till:
    """One agent, where it stands, and how its hook is called."""

    store: str
    state: Path
    program: Program
    url: str = ""
    token: str = ""

    @classmethod
    async def set_up(cls, folder: Path, server: Server, store: str, number: int) -> Till:
        """Enrol an agent through a token, and start it on a free port."""
        name = f"till-{number}"
        state = folder / name
        token = await server.token(store, name)
        await command("tillstream-agent", "enroll", "--server", server.url, "--token", token, "--state", str(state))
        arguments = ["tillstream-agent", "run", "--state", str(state), "--log-level", "warning", "--hook-port", "0"]
        till = cls(store, state, Program(name, arguments, folder))
        await till.start()
        return till

    async def start(self) -> None:
        """Start it, on the port that it had."""
        port = self.state / "hook.port"
        if not self.url:
            port.unlink(missing_ok=True)
        await self.program.start()
        async with asyncio.timeout(START_S):
            while not port.exists():
                self.program.must_run()
                await asyncio.sleep(0.02)
        number = port.read_text().strip()
        self.url = f"http://127.0.0.1:{number}"
        self.program.arguments[-1] = number
        self.token = (self.state / "hook-token").read_text().strip()

    async def display(self) -> str:
        """The link that opens the cashier's page."""
        return (await command("tillstream-agent", "display", "--state", str(self.state))).strip()
