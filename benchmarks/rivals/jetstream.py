"""NATS JetStream with file storage: a server process of its own, publish and its acknowledgement over loopback."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from ..records import Basket
from . import Entrant, Rival, RivalFailed

_START_S = 20.0


@asynccontextmanager
async def _server(folder: Path, sync: str) -> AsyncIterator[str]:
    """A server process; its address."""
    program = Path(sys.executable).parent / "nats-server"
    if not program.exists():
        raise RivalFailed("nats-server is not installed here")
    settings = folder / "nats.conf"
    settings.write_text(
        f'host: "127.0.0.1"\nport: -1\nports_file_dir: "{folder}"\nmax_payload: 8MB\n'
        f'jetstream {{ store_dir: "{folder / "store"}"\nsync_interval: {sync} }}\n'
    )
    with (folder / "nats.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            str(program), "-c", str(settings), stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        yield await _address(folder, process)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _address(folder: Path, process: asyncio.subprocess.Process) -> str:
    async with asyncio.timeout(_START_S):
        while process.returncode is None:
            for file in folder.glob("nats-server_*.ports"):
                found = file.read_text().partition('"nats://')[2].partition('"')[0]
                if found:
                    return f"nats://{found}"
            await asyncio.sleep(0.02)
    said = (folder / "nats.log").read_text(errors="replace").splitlines()[-1:]
    raise RivalFailed(f"nats-server ended with exit code {process.returncode}: {' '.join(said)}")


def _jetstream(sync: str) -> Callable[[Path], AbstractAsyncContextManager[Rival]]:
    @asynccontextmanager
    async def opened(folder: Path) -> AsyncIterator[Rival]:
        import nats

        async with _server(folder, sync) as address:
            client = await nats.connect(address)
            try:
                stream = client.jetstream()
                await stream.add_stream(name="sales", subjects=["sales"], storage="file")

                async def put(basket: Basket) -> None:
                    await stream.publish("sales", basket.body)

                async def held() -> int:
                    return int((await stream.stream_info("sales")).state.messages)

                yield Rival(put, held)
            finally:
                await client.close()

    return opened


LOOPBACK = "floor: bare loopback round trip"
JETSTREAM = Entrant("NATS JetStream, publish and ack", "process", _jetstream("2m"), LOOPBACK, across=True)
JETSTREAM_ALWAYS = Entrant("NATS JetStream, sync always", "disk", _jetstream("always"), LOOPBACK, across=True)
