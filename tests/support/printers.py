"""A receipt printer's network port, as well behaved as a test wants it."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

READY = b"\x12"
"""What a printer answers to `DLE EOT 1` when it is online."""
ASKS = b"\x10\x04\x01"
OF_A_BROWSER = (
    b"POST /print HTTP/1.1\r\nHost: 127.0.0.1:9100\r\n\r\n",
    b"GET http://127.0.0.1:9100/ HTTP/1.1\r\n",
    b"OPTIONS * HTTP/1.1\r\n",
    b"POST /" + b"x" * 70_000,
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"\x00\x03\x00\x08!\x12\xa4B0BAF0uckfrPV\x00\x19\x00\x04\x11\x00\x00\x00",
    b"\x00l\x00\x01\x00X!\x12\xa4B6M46F8r8ZU5F\x00\x06\x00\x12TOTAL+99+EVIL:bvlc",
    b"\x00\x0a\x00\x01\x00\x0a!\x12\xa4B6M46F8r8ZU5F",
)
"""How connections begin that a page made: requests, TLS, what Chromium sends to a TURN relay and to a peer by TCP."""


class FakePrinter:
    """Keeps what it is sent, by connection, and answers questions for its status."""

    def __init__(self) -> None:
        self.received: list[bytearray] = []
        self.ended: list[bool] = []
        """Of each connection: whether the other end has said its last."""
        self.jammed = asyncio.Event()
        """While it is set, nothing is taken."""
        self.port = 0
        self.farewell = b""
        """What it says when the other end has said its last."""
        self._moved = asyncio.Event()
        self._writers: list[asyncio.StreamWriter] = []

    @property
    def printed(self) -> bytes:
        """Everything, of all connections."""
        return b"".join(self.received)

    async def until(self, size: int) -> None:
        """Return when it has so many bytes."""
        async with asyncio.timeout(10):
            while len(self.printed) < size:
                self._moved.clear()
                await self._moved.wait()

    def breaks_off(self) -> None:
        """Its plug is pulled."""
        for writer in self._writers:
            with suppress(OSError):  # it is closed already
                said = writer.get_extra_info("socket")
                said.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    def unjam(self) -> None:
        """Paper is put in."""
        self.jammed.clear()
        self._freed.set()

    def jam(self) -> None:
        """It is out of paper: it takes nothing more."""
        self.jammed.set()
        self._freed = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        number = len(self.received)
        self.received.append(bytearray())
        self.ended.append(False)
        self._writers.append(writer)
        with suppress(OSError):
            while True:
                if self.jammed.is_set():
                    await self._freed.wait()
                data = await reader.read(4096)
                if not data:
                    break
                self.received[number] += data
                self._moved.set()
                writer.write(READY * data.count(ASKS))
                await writer.drain()
            self.ended[number] = True
            writer.write(self.farewell)
            writer.close()
            await writer.wait_closed()
        self._moved.set()


@asynccontextmanager
async def printing() -> AsyncIterator[FakePrinter]:
    """A printer that is switched on."""
    printer = FakePrinter()
    tasks: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with suppress(asyncio.CancelledError):
            await printer.serve(reader, writer)

    server = await asyncio.start_server(accept, "127.0.0.1", 0, limit=4096)
    printer.port = server.sockets[0].getsockname()[1]
    try:
        yield printer
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        printer.breaks_off()
        await asyncio.sleep(0)


def unused_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])
