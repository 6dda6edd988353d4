"""The server is killed after it committed a batch and before the till has its reply, again and again.

    PYTHONPATH=tests python -m crash.replies --times 1000

Between the two stands a proxy that swallows the first bytes of a good reply to a batch, and kills the server then: the
reply leaves after the commit, so what the till never hears of is in the ledger.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from crash.cashier import Cashier
from crash.kills import DRAIN_S, figures, held_the_promise
from crash.stand import Stand, standing
from support.zygote import Zygote

RATE: Final = 50.0
BATCH: Final = b"POST /till/v1/batches "
TAKEN: Final = b"HTTP/1.1 200 "
WAIT_S: Final = 60.0


@dataclass
class Toll:
    """Passes bytes on between till and server, but keeps every other acknowledgement, and says so.

    Those in between pass, since a till that is never answered waits longer and longer.
    """

    target: Callable[[], int]
    """The server's port."""
    swallowed: Callable[[], None]
    kept: int = 0
    _keeping: bool = True
    _open: set[asyncio.StreamWriter] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of the till."""
        try:
            there, out = await asyncio.open_connection("127.0.0.1", self.target())
        except OSError:
            writer.close()
            return
        asked = [False]
        ends = (writer, out)
        self._open.update(ends)
        ways = [
            asyncio.create_task(self._ask(reader, out, asked)),
            asyncio.create_task(self._answer(there, writer, asked)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            for end in ends:
                end.close()
            self._open.difference_update(ends)

    def hang_up(self) -> int:
        """Close every connection; how many ends are still open."""
        for end in self._open:
            end.close()
        return len(self._open)

    async def _ask(self, reader: asyncio.StreamReader, out: asyncio.StreamWriter, asked: list[bool]) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                if data.startswith((b"POST ", b"GET ")):
                    asked[0] = data.startswith(BATCH)
                out.write(data)
                await out.drain()

    async def _answer(self, there: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: list[bool]) -> None:
        with suppress(OSError):
            while data := await there.read(65536):
                if asked[0] and data.startswith(TAKEN):
                    self._keeping = not self._keeping
                    if self._keeping:
                        self.kept += 1
                        self.swallowed()
                        return
                writer.write(data)
                await writer.drain()


@asynccontextmanager
async def tolling(stand: Stand, swallowed: Callable[[], None]) -> AsyncIterator[tuple[Toll, str]]:
    """A proxy in front of the stand's server, and the address at which the till finds it."""
    toll = Toll(lambda: int(stand.url.rpartition(":")[2]), swallowed)
    listening = await asyncio.start_server(toll.serve, "127.0.0.1", 0)
    try:
        yield toll, f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    finally:
        listening.close()
        while toll.hang_up():
            await asyncio.sleep(0.01)


async def run(folder: Path, times: int, seconds: float, zygote: Zygote | None = None) -> dict[str, Any]:
    """Kill so many times, drain, compare; what came of it."""
    with standing(folder, zygote) as stand:
        gone = asyncio.Event()

        def swallowed() -> None:
            stand.server.kill()
            gone.set()

        async with tolling(stand, swallowed) as (toll, address):
            await asyncio.to_thread(stand.enrol, address)
            await stand.open_till()
            cashier = Cashier(stand.socket, 1, RATE)
            selling = asyncio.create_task(cashier.work())
            try:
                await _kill_between(stand, toll, gone, times, time.monotonic() + seconds)
                cashier.stop()
                await asyncio.wait_for(selling, DRAIN_S)
            finally:
                selling.cancel()
            await stand.drained(DRAIN_S)
            return {"replies_swallowed": toll.kept, **figures(stand, cashier)}


async def _kill_between(stand: Stand, toll: Toll, gone: asyncio.Event, times: int, ends: float) -> None:
    while toll.kept < times and time.monotonic() < ends:
        gone.clear()
        await asyncio.wait_for(gone.wait(), WAIT_S)
        toll.hang_up()
        stand.serve()


def main(arguments: list[str] | None = None) -> int:
    """Run as the module's text says."""
    parser = argparse.ArgumentParser(prog="python -m crash.replies", description="kill the server before its reply")
    parser.add_argument("--times", type=int, default=100, help="how often (100)")
    parser.add_argument("--minutes", type=float, default=20.0, help="at most (20)")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="crash-") as folder:
        told = asyncio.run(run(Path(folder), given.times, given.minutes * 60))
    print(json.dumps(told))
    return 0 if held_the_promise(told) and told["replies_swallowed"] == given.times else 1


if __name__ == "__main__":
    sys.exit(main())
