"""The agent's packages, built once, and tills that they are installed on: scratch roots, and users of their own."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import msgspec
import pytest

from support.agents import sale
from support.serving import Server

ROOT = Path(__file__).resolve().parents[2]
PACKAGER = ROOT / ".venv-package" / "bin" / "python"
REPORT = ROOT / "build" / "check-deploy.jsonl"
CONFINED = Path(__file__).with_name("confined.py")
WAIT_S = 60

asked_for = pytest.mark.skipif(
    not os.environ.get("TILLSTREAM_CHECK_DEPLOY"), reason="`make check-deploy` builds packages and tries them"
)
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can install and become another user")


def needs(*programs: str) -> pytest.MarkDecorator:
    """Skips where a program is missing."""
    missing = [name for name in programs if shutil.which(name) is None]
    reason = f"there is no {', '.join(missing)} here (tests/support/packaging.sh installs what can be)"
    return pytest.mark.skipif(bool(missing), reason=reason)


def report(**facts: object) -> None:
    """Say something with figures in it at the end of `make check-deploy`."""
    REPORT.parent.mkdir(exist_ok=True)
    with REPORT.open("a", encoding="utf-8") as file:
        file.write(json.dumps(facts) + "\n")


def output(*command: str | Path, **options: object) -> str:
    """What a command says on both streams. Fails with it."""
    done = subprocess.run(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
        **options,  # type: ignore[call-overload]
    )
    assert done.returncode == 0, done.stdout
    return str(done.stdout)


def packages_of(out: Path, *kinds: str) -> dict[str, Path]:
    """The packages that TILLSTREAM_PACKAGES names the folder of, or else those that were built by this run; each by its
    kind. What is not built yet is built into `out`."""
    given = os.environ.get("TILLSTREAM_PACKAGES")
    if given:
        patterns = {"deb": "*.deb", "rpm": "*.rpm", "bundle": "*-bundle-*.tar.gz"}
        return {kind: next(Path(given).resolve().glob(patterns[kind])) for kind in kinds}
    missing = tuple(kind for kind in kinds if kind not in _built)
    if missing:
        _built.update(build(out, missing))
    return {kind: _built[kind] for kind in kinds}


_built: dict[str, Path] = {}


def build(out: Path, kinds: tuple[str, ...]) -> dict[str, Path]:
    """Build packages; each by its kind."""
    only = [part for kind in kinds for part in ("--only", kind)]
    environment = {"PATH": os.environ["PATH"], "HOME": str(out), "PYTHONPATH": str(ROOT / "deploy")}
    environment |= {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    said = output(PACKAGER, "-m", "packager", "--out", out, "--pip", sys.executable, *only, cwd=out, env=environment)
    made = [json.loads(line) for line in said.splitlines() if line.startswith('{"made"')]
    for one in made:
        report(**{name: value for name, value in one.items() if name != "path"})
    return {one["made"]: Path(one["path"]) for one in made}


@contextmanager
def scratch() -> Iterator[Path]:
    """An empty root that every user may enter."""
    with tempfile.TemporaryDirectory(prefix="tillstream-root-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@dataclass(frozen=True)
class Installed:
    """A till: the root that the agent was installed into. Every command runs as the agent's own user."""

    root: Path

    @property
    def state(self) -> Path:
        return self.root / "var" / "lib" / "tillstream-agent"

    @property
    def user(self) -> tuple[int, int]:
        """The agent's user and group, as the root's own passwd has them."""
        line = re.search(
            r"^tillstream-agent:[^:]*:(\d+):(\d+):", (self.root / "etc" / "passwd").read_text(), re.MULTILINE
        )
        assert line is not None
        return int(line[1]), int(line[2])

    def command(self, *arguments: str) -> list[str]:
        user, group = self.user
        become = ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", "--no-new-privs"]
        return [*become, "env", "-i", "PATH=/usr/bin:/bin", str(self.root / "usr/bin/tillstream-agent"), *arguments]

    async def runs(self, *arguments: str) -> str:
        """A command of the agent's, to its end; what it printed."""
        return await asyncio.to_thread(output, *self.command(*arguments), cwd="/")

    @asynccontextmanager
    async def serving(self, *before: str) -> AsyncIterator[Running]:
        """The agent, as its service would start it, once it says that it is ready."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            place = self.root / "notify"
            place.unlink(missing_ok=True)
            manager.bind(str(place))
            place.chmod(0o777)
            manager.setblocking(False)
            command = self.command("run", "--hook-port", "0")
            path = command.index("-i") + 1
            command[path:path] = [f"NOTIFY_SOCKET={place}", "WATCHDOG_USEC=3000000"]
            start = time.monotonic()
            process = await asyncio.create_subprocess_exec(*before, *command, cwd="/", stderr=asyncio.subprocess.PIPE)
            told = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(manager, 4096), WAIT_S)
            assert told.startswith(b"READY=1\n"), told
            running = Running(self, process, manager, time.monotonic() - start)
            try:
                yield running
            finally:
                if process.returncode is None:
                    process.terminate()
                _, said = await process.communicate()
                running.log = said.decode()
                assert process.returncode == 0, running.log


@dataclass
class Running:
    """The agent of an installed till."""

    till: Installed
    process: asyncio.subprocess.Process
    manager: socket.socket
    ready_s: float
    log: str = ""

    async def sells(self, name: str) -> None:
        """One sale, by the hook, with the token that a POS is given."""
        port = (self.till.state / "hook.port").read_text().strip()
        headers = {"Authorization": f"Bearer {(self.till.state / 'hook-token').read_text().strip()}"}
        url = f"http://127.0.0.1:{port}/v1/transactions?ack=disk"
        async with aiohttp.ClientSession(headers=headers) as client:
            reply = await client.post(url, json=msgspec.to_builtins(sale(name)))
            assert reply.status == 201, await reply.text()

    async def gives_a_sign_of_life(self) -> None:
        """The watchdog hears of it."""
        said = b""
        while b"WATCHDOG=1" not in said:
            said = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self.manager, 4096), WAIT_S)

    def facts(self) -> dict[str, int]:
        """Its user, and the KiB of memory that it holds."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        found = {name: re.search(rf"^{name}:\s+(\d+)", text, re.MULTILINE) for name in ("Uid", "VmRSS")}
        return {name: int(one[1]) for name, one in found.items() if one is not None}


async def arrived(server: Server, count: int) -> None:
    """Wait until the ledger has so many transactions."""
    headers = await server.key()
    async with asyncio.timeout(WAIT_S):
        while (await server.get("/api/v1/ledger/summary", headers)).json()["transactions"] < count:
            await asyncio.sleep(0.05)


def everybodys_python() -> str:
    """A Python of this one's version that the agent's user may run too."""
    name = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    for path in (f"/usr/bin/{name}", f"/usr/local/bin/{name}", f"{sys.base_prefix}/bin/{name}"):
        asked = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", path, "-c", ""]
        if Path(path).exists() and subprocess.run(asked, capture_output=True).returncode == 0:
            return path
    pytest.skip(f"there is no {name} here that users other than root may run")
