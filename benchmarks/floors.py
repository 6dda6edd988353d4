"""What the same bytes cost without any of it: the least that anything of the kind can take."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

_SIZE = 4


@dataclass(frozen=True, slots=True)
class File:
    """A plain file that is appended to."""

    number: int

    async def write(self, body: bytes) -> None:
        """A bare `write()`: it survives the process, and nothing else is known of it."""
        os.write(self.number, body)

    async def sync(self, body: bytes) -> None:
        """The same, and the disk has confirmed it. Waits for it as the simplest program would."""
        os.write(self.number, body)
        os.fdatasync(self.number)

    async def sync_off_the_loop(self, body: bytes) -> None:
        """The same, waited for in a thread: a disk that hangs then stops nobody but who asked for its promise."""
        os.write(self.number, body)
        await asyncio.get_running_loop().run_in_executor(None, os.fdatasync, self.number)


@asynccontextmanager
async def file(folder: Path) -> AsyncIterator[File]:
    """A file in the same file system as everything else."""
    number = os.open(folder / "floor.bin", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    try:
        yield File(number)
    finally:
        os.close(number)


@dataclass(frozen=True, slots=True)
class Echo:
    """A connection to a process that answers each message with one byte."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def round_trip(self, body: bytes) -> None:
        """There and back."""
        self.writer.write(len(body).to_bytes(_SIZE, "big") + body)
        await self.reader.readexactly(1)


@asynccontextmanager
async def echo(path: Path | None) -> AsyncIterator[Echo]:
    """An echoing process, on a Unix socket or, without a path, on loopback TCP."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.floors", *([] if path is None else [str(path)])),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        said = (await asyncio.wait_for(process.stdout.readline(), 20)).decode().strip()
        if path is None:
            reader, writer = await asyncio.open_connection("127.0.0.1", int(said))
        else:
            reader, writer = await asyncio.open_unix_connection(str(path))
        try:
            yield Echo(reader, writer)
        finally:
            writer.close()
            await writer.wait_closed()
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
        if process.stdin is not None:
            process.stdin.close()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            await reader.readexactly(int.from_bytes(await reader.readexactly(_SIZE), "big"))
            writer.write(b"\x01")
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def _serve(path: str | None) -> None:
    """Say where, and echo until whoever started this ends or says so."""
    if path is None:
        server = await asyncio.start_server(_answer, "127.0.0.1", 0)
        print(server.sockets[0].getsockname()[1], flush=True)
    else:
        server = await asyncio.start_unix_server(_answer, path)
        print(path, flush=True)
    async with server:
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1] if len(sys.argv) > 1 else None))
