"""One server and one till as real processes, forked from a zygote, killed and started again at will."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgpack

from support.zygote import AGENT, SERVER, Zygote

RETAILER: Final = "acme"
START_S: Final = 60.0


@dataclass
class Fork:
    """A long-running process that can be started again and again."""

    zygote: Zygote
    name: str
    entry: str
    arguments: list[str]
    folder: Path
    pid: int = field(default=0, init=False)
    kills: int = field(default=0, init=False)

    @property
    def out(self) -> Path:
        """What it prints."""
        return self.folder / f"{self.name}.out"

    @property
    def log(self) -> Path:
        """What it logs, over all its lives."""
        return self.folder / f"{self.name}.log"

    def start(self, gate: Path | None = None) -> None:
        """Fork it; it comes up by itself, or waits at its gate."""
        self.out.unlink(missing_ok=True)
        self.pid = self.zygote.start(self.entry, self.arguments, out=self.out, log=self.log, gate=gate)

    def running(self) -> bool:
        """Whether it is there."""
        return bool(self.pid) and self.zygote.poll(self.pid) is None

    def kill(self) -> None:
        """SIGKILL. Raises `AssertionError` if it had ended by itself before."""
        self.must_run()
        self.zygote.kill(self.pid)
        self.kills += 1

    def stop(self, seconds: float = 30.0) -> int:
        """SIGTERM, and wait; the exit code."""
        if self.running():
            self.zygote.signal(self.pid, signal.SIGTERM)
        return self.zygote.wait(self.pid, seconds) if self.pid else 0

    def must_run(self) -> None:
        """Raise `AssertionError` with the end of its log if it ended by itself."""
        code = self.zygote.poll(self.pid)
        said = self.log.read_text(errors="replace").splitlines()[-8:] if self.log.exists() else []
        assert code is None, f"{self.name} ended with {code}:\n" + "\n".join(said)

    def memory(self) -> tuple[int, int]:
        """Its own memory now, and what it keeps for itself alone: resident and private bytes."""
        rolled = Path(f"/proc/{self.pid}/smaps_rollup").read_text(encoding="ascii")
        sizes = {
            parts[0]: int(parts[1]) * 1024 for line in rolled.splitlines() if (parts := line.split())[2:] == ["kB"]
        }
        return sizes["Rss:"], sizes["Private_Clean:"] + sizes["Private_Dirty:"]


@dataclass
class Stand:
    """The server and the till, and where they lie."""

    zygote: Zygote
    folder: Path
    server: Fork
    till: Fork
    url: str = ""

    @property
    def data(self) -> Path:
        """The server's data folder."""
        return Path(self.server.arguments[self.server.arguments.index("--data") + 1])

    @property
    def state(self) -> Path:
        """The till's state folder."""
        return Path(self.till.arguments[self.till.arguments.index("--state") + 1])

    @property
    def socket(self) -> Path:
        """The till's Unix socket."""
        return self.state / "hook.sock"

    def serve(self) -> None:
        """Start the server on its port, and wait until it listens."""
        self.server.start()
        self.await_server()

    def await_server(self) -> None:
        """Wait until the server says where it listens; it keeps that port from then on."""
        ends = time.monotonic() + START_S
        while not (self.server.out.exists() and self.server.out.read_bytes().endswith(b"\n")):
            self.server.must_run()
            assert time.monotonic() < ends, "the server does not come up"
            time.sleep(0.002)
        self.url = json.loads(self.server.out.read_text().splitlines()[0])["listening"]
        self.server.arguments[-1] = self.url.rpartition(":")[2]

    async def open_till(self) -> None:
        """Start the till, and wait until its socket answers."""
        self.till.start()
        await self.await_till()

    async def await_till(self) -> None:
        """Wait until the socket answers."""
        async with asyncio.timeout(START_S):
            while await self.status() is None:
                self.till.must_run()
                await asyncio.sleep(0.002)

    async def ask(self, call: object) -> dict[str, Any] | None:
        """One call on the till's socket; its reply, or None where nobody answers."""
        try:
            reader, writer = await asyncio.open_unix_connection(str(self.socket))
        except OSError:
            return None
        try:
            writer.write(msgpack.packb(call))
            unpacker = msgpack.Unpacker()
            while data := await reader.read(65536):
                unpacker.feed(data)
                for reply in unpacker:
                    found: dict[str, Any] = reply
                    return found
        except OSError:
            return None
        finally:
            writer.close()
        return None

    async def status(self) -> dict[str, Any] | None:
        """What the till says of itself, or None while it does not answer."""
        reply = await self.ask({"call": "status"})
        return None if reply is None else reply["body"]

    async def drained(self, seconds: float) -> float:
        """Wait until the server has acknowledged everything; the seconds that it took. Raises `TimeoutError`."""
        began = time.monotonic()
        async with asyncio.timeout(seconds):
            while (status := await self.status()) is None or status["queue"]["records"]:
                self.till.must_run()
                self.server.must_run()
                await asyncio.sleep(0.05)
        return time.monotonic() - began

    def command(self, *arguments: str, seconds: float = 60) -> str:
        """A command of the server's tool on this data folder; what it printed."""
        return self.zygote.run(SERVER, [*arguments, "--data", str(self.data)], self.folder, seconds)

    def token(self, till: str = "1") -> str:
        """A token by which one till may join."""
        said = self.command("token", "create", "--retailer", RETAILER, "--store", "north", "--till", till, "--json")
        return str(json.loads(said)["token"])

    def enrol(self, address: str | None = None) -> None:
        """Have the till join the server, which it may know by another address."""
        where = ("--server", address or self.url, "--token", self.token(), "--state", str(self.state))
        self.zygote.run(AGENT, ["enroll", *where], self.folder)


@contextmanager
def standing(
    folder: Path, zygote: Zygote | None = None, *, state: Path | None = None, data: Path | None = None
) -> Iterator[Stand]:
    """A server that serves and a till beside it, not yet enrolled; both are gone afterwards.

    `zygote` is one that lives on. `state` and `data` are the till's and the server's folder, where they lie elsewhere.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with Zygote(AGENT, SERVER) if zygote is None else nullcontext(zygote) as parent:
        serve = ["serve", "--data", str(data or folder / "server"), "--port", "0"]
        run = ["run", "--state", str(state or folder / "till"), "--log-level", "warning", "--hook-port", "0"]
        server = Fork(parent, "serving", SERVER, serve, folder)
        till = Fork(parent, "till", AGENT, run, folder)
        stand = Stand(parent, folder, server, till)
        try:
            stand.command("init")
            stand.serve()
            yield stand
        finally:
            for process in (till, server):
                if process.running():
                    process.kill()
