"""A real Prometheus on a free port, with the shipped rules at a pace that a test can wait for."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

SHIPPED: Final = Path(__file__).parents[2] / "deploy" / "observability"
RANGE: Final = "10s"
"""What every range of a rule or panel becomes: some scrapes."""
INSTALLED: Final = shutil.which("prometheus") is not None and shutil.which("promtool") is not None
needs_prometheus = pytest.mark.skipif(not INSTALLED, reason="tests/support/prometheus.sh installs prometheus")

_LISTENING: Final = re.compile(r'msg="Listening on" address=\S*?:(\d+)')
_READY: Final = "Server is ready to receive web requests"


@dataclass(frozen=True)
class Prometheus:
    """A running Prometheus."""

    port: int

    async def asks(self, path: str, **query: str) -> Any:
        """The data of an answer of its API."""
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        return await asyncio.to_thread(_get, url)

    async def values(self, expr: str) -> list[str]:
        """What a query comes to now, one text a series."""
        result = (await self.asks("query", query=expr))["result"]
        return [series["value"][1] for series in result]

    async def firing(self) -> set[str]:
        """The names of the alerts that fire."""
        alerts = (await self.asks("alerts"))["alerts"]
        return {one["labels"]["alertname"] for one in alerts if one["state"] == "firing"}


def _get(url: str) -> Any:
    try:
        with urllib.request.urlopen(url, timeout=10) as reply:
            return json.load(reply)["data"]
    except urllib.error.HTTPError as error:
        raise AssertionError(f"{url}: {error.read().decode()}") from error


def hurried(rules: str) -> str:
    """Rules that mean the same and take seconds: short ranges, and alerts that wait for a second."""
    rules = re.sub(r"\[\w+\]", f"[{RANGE}]", rules)
    return re.sub(r"for: \w+", "for: 1s", re.sub(r"offset \w+", "offset 2s", rules))


def configuration(server: str, agent: str, ca_file: Path) -> str:
    """The shipped prometheus.yml for these addresses, at a scrape every other second.

    `ca_file` has the server's certificate.
    """
    text = (SHIPPED / "prometheus.yml").read_text(encoding="utf-8")
    text = text.replace("scrape_interval: 15s", "scrape_interval: 2s").replace("15s", "1s")
    text = text.replace("127.0.0.1:8700", server).replace("127.0.0.1:8710", agent)
    text = text.replace(
        "  - job_name: tillstream-server\n",
        f"  - job_name: tillstream-server\n    scheme: https\n    tls_config: {{ca_file: {ca_file}}}\n",
    )
    begin = text.index("  # - job_name: tillstream-agent")
    return text[:begin] + re.sub(r"^  # ", "  ", text[begin:], flags=re.MULTILINE)


@asynccontextmanager
async def prometheus(folder: Path, config: str) -> AsyncIterator[Prometheus]:
    """A Prometheus that reads the shipped rules, hurried, until the end of the block."""
    (folder / "rules").mkdir(parents=True)
    for rules in (SHIPPED / "rules").glob("*.yml"):
        (folder / "rules" / rules.name).write_text(hurried(rules.read_text(encoding="utf-8")), encoding="utf-8")
    (folder / "prometheus.yml").write_text(config, encoding="utf-8")
    process = await asyncio.create_subprocess_exec(
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        "--web.listen-address=127.0.0.1:0",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    said: list[str] = []
    try:
        async with asyncio.timeout(30):
            port = await _port(process.stderr, said)
        reading = asyncio.create_task(process.stderr.read())
        yield Prometheus(port)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
    await reading


async def _port(log: asyncio.StreamReader, said: list[str]) -> int:
    """Where it listens, by its log, once it answers there."""
    port = 0
    async for line in log:
        said.append(line.decode())
        found = _LISTENING.search(said[-1])
        if found is not None:
            port = int(found[1])
        if port and _READY in said[-1]:
            return port
    raise AssertionError("".join(said))
