"""The door for a POS that can only print: a printer's port that passes everything on, and keeps a copy of each job.

What the POS sends goes to the printer byte for byte, what the printer answers goes back, and either end may end its
half of the connection while the other goes on. A printer that is slow slows the POS, once `BUFFER` bytes wait. If the
printer is gone, what the POS has to say is read all the same, for the copy; then the connection is reset, as the
printer's own would have been.

The copy never holds up the print: bytes go on first, and what goes wrong with the copy is told and changes nothing.

A web page can have the till's browser talk to this port. So a connection that begins like HTTP, like TLS, or like
WebRTC's STUN is reset at once: such a request is neither printed nor captured. The printer is called only when
something is there to print: who says nothing occupies no printer, is forgotten after a while, and sooner where others
need the room.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

from ..clock import Clock
from ..config_doors import PrinterSetting
from ..events import Events
from .http import PortInUse
from .payloads import Payloads, Sale
from .print_jobs import JobCopy, PrintCapture

MOST_CONNECTIONS: Final = 16
BUFFER: Final = 256 * 1024
"""Bytes that may wait for the printer, beside what the system's own buffers hold."""
SILENT_S: Final = 30.0
"""How long a POS that has connected may take to say its first word."""
CONNECT_S: Final = 5.0
GRACE_S: Final = 1.0
"""How long, once the printer is gone, a POS may be silent before its connection is reset."""
HALF_CLOSED_S: Final = 30.0
"""How long one end may be silent after the other has said its last."""
FLUSH_S: Final = 300.0
"""How long the printer may take over what a POS that has gone left for it."""
SETTLE_S: Final = 2.0
"""How long the printer may take over what was read for it when the agent ends."""
UNDATED: Final = 10
"""How many times as long as a receipt with a date one without waits for more: its date may still be printed."""
_READ: Final = 64 * 1024
_RESET: Final = struct.pack("ii", 1, 0)
_BROWSER: Final = re.compile(
    rb"[A-Z]{3,10} (?:/|\*|https?:)[^\s\x00-\x1f]*(?: HTTP/|$)|\x16\x03|(?:..)?\x00[\x01\x03]..\x21\x12\xa4\x42",
    re.DOTALL,
)
"""How a request begins that a web page can have made: one in HTTP, the greeting of TLS, or STUN by TCP, with a length
before it or without, by which WebRTC asks for a way to a peer or to a relay (RFC 8489, RFC 6544, RFC 8656)."""


class PrinterPort:
    """One port, and the printer behind it."""

    def __init__(
        self, setting: PrinterSetting, payloads: Payloads, events: Events, clock: Clock, *, dialect: str = ""
    ) -> None:
        self.setting = setting
        self.capture = PrintCapture(setting.adapter, payloads, events, clock)
        self.events = events
        self.clock = clock
        self.dialect = dialect
        self._server: asyncio.Server | None = None
        self._worker: asyncio.Task[None] | None = None
        self._sessions: dict[asyncio.Task[None], _Session] = {}
        self._printer_gone = False

    async def open(self) -> int:
        """Listen; returns the port. Raises `PortInUse`."""
        listen = self.setting.listen
        try:
            self._server = await asyncio.start_server(self._accept, listen.host, listen.port, limit=_READ)
        except OSError as error:
            hint = "another program prints there, or [[printer]] listen names an address of another machine"
            raise PortInUse(f"{listen} cannot be listened on: {error.strerror}", field="printer", hint=hint) from error
        self._worker = asyncio.create_task(self.capture.run(), name="print capture")
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Take no more connections, end those that are open, and capture what they brought."""
        if self._server is not None:
            self._server.close()
        await asyncio.gather(*(session.settle() for session in self._sessions.values()))
        await _ended(list(self._sessions))
        if self._worker is not None:
            self._worker.cancel()
            with suppress(asyncio.CancelledError):
                await self._worker
        await self.capture.finish()

    def printer(self, *, gone: bool, reason: str = "") -> None:
        """The printer was reached, or could not be."""
        if gone and not self._printer_gone:
            self.events.printer_gone(str(self.setting.to), reason)
        elif self._printer_gone and not gone:
            self.events.printer_back(str(self.setting.to))
        self._printer_gone = gone

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._sessions) >= MOST_CONNECTIONS and not self._make_room():
            self.events.print_connection("refused")
            _reset(writer)
            return
        task = asyncio.current_task()
        assert task is not None
        session = self._sessions[task] = _Session(self, reader, writer)
        try:
            await session.run()
        except asyncio.CancelledError:
            return  # the agent ends
        except Exception as error:  # noqa: BLE001 (the border of the process: a defect must not end the port)
            self.events.crashed("printer", error)
        finally:
            session.end()
            del self._sessions[task]

    def _make_room(self) -> bool:
        """Give up the oldest of the connections that have said nothing yet; False where there is none."""
        for session in self._sessions.values():
            if session.silent:
                session.give_up()
                return True
        return False


class _PrinterGone(Exception):
    """The printer could not be reached, or broke off."""


class _Session:
    """One connection of a POS, and the one to the printer that belongs to it."""

    def __init__(self, port: PrinterPort, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._port = port
        self._pos = reader
        self._to_pos = writer
        self._printer: asyncio.StreamReader | None = None
        self._to_printer: asyncio.StreamWriter | None = None
        self._copy = JobCopy(dialect=port.dialect, lost=lambda: port.events.printed("lost"))
        self._one_ended = asyncio.Event()
        self._silences = 0
        """How often the copy was looked through for a receipt since something came last."""
        self._looking: asyncio.Task[None] | None = None
        self.silent = True
        """Whether it still may say its first word."""

    async def run(self) -> None:
        """Pass on in both directions until both have ended, or one has broken off."""
        _keep_alive(self._to_pos)
        first = await self._first_word()
        self.silent = False
        if not first:
            self._port.events.print_connection("silent")
            if self._pos.at_eof():
                await self._flush()
        elif _BROWSER.match(first):
            self._port.events.print_connection("refused")
        else:
            await self._pass_on(first)

    def give_up(self) -> None:
        """Somebody else needs the room."""
        self.silent = False
        _reset(self._to_pos)

    async def _first_word(self) -> bytes:
        with suppress(TimeoutError, OSError):
            async with asyncio.timeout(SILENT_S):
                return await self._pos.read(_READ)
        return b""

    async def _pass_on(self, first: bytes) -> None:
        connected = asyncio.create_task(self._connect())
        ways = [asyncio.create_task(self._forward(first, connected)), asyncio.create_task(self._back(connected))]
        try:
            done, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_EXCEPTION)
            for way in done:
                way.result()
            await self._flush()
            self._port.events.print_connection("forwarded")
        except _PrinterGone as error:
            self._port.printer(gone=True, reason=str(error))
            self._port.events.print_connection("printer_gone")
            await _ended(ways)
            await self._hear_out()
        finally:
            self._look_away()
            await _ended([*ways, connected])

    async def settle(self) -> None:
        """Give the printer a moment to take what was read for it: the agent ends."""
        if self._to_printer is not None:
            self._to_printer.transport.set_write_buffer_limits(high=0)
            with suppress(TimeoutError, OSError):
                async with asyncio.timeout(SETTLE_S):
                    await self._to_printer.drain()

    def end(self) -> None:
        """The connection is over: so is its job. A POS that still waits sees a failure, the printer an end."""
        self._job(self._copy.end())
        _reset(self._to_pos)
        if self._to_printer is not None:
            self._to_printer.transport.abort()

    async def _connect(self) -> None:
        to = self._port.setting.to
        try:
            async with asyncio.timeout(CONNECT_S):
                self._printer, self._to_printer = await asyncio.open_connection(to.host, to.port, limit=_READ)
        except TimeoutError as error:
            raise _PrinterGone("it does not answer") from error
        except OSError as error:
            raise _PrinterGone(error.strerror or "its address leads nowhere") from error
        self._to_printer.transport.set_write_buffer_limits(high=BUFFER)
        _keep_alive(self._to_printer)
        self._port.printer(gone=False)

    async def _forward(self, data: bytes, connected: asyncio.Task[None]) -> None:
        """From the POS to the printer, and then to the copy. Raises `_PrinterGone`."""
        while data:
            try:
                await asyncio.shield(connected)
                assert self._to_printer is not None
                self._to_printer.write(data)
            finally:  # the copy is whole, whatever becomes of the printer
                self._keep(data)
            await self._cut()
            await self._taken(self._to_printer)
            data = await self._heard()
        self._look_away()
        self._job(self._copy.end())
        self._one_ended.set()
        if self._to_printer is not None and not self._to_printer.is_closing():
            with suppress(OSError):
                self._to_printer.write_eof()

    @contextmanager
    def _copying(self) -> Iterator[None]:
        """A defect in what is done with the copy is told, and what there is of it handed on; printing goes on."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 (whatever it is, it must not break printing)
            self._port.events.crashed("printer", error)
            self._job(self._copy.end())

    def _keep(self, data: bytes) -> None:
        self._look_away()
        with self._copying():
            self._copy.feed(data, self._port.clock.monotonic())
        self._silences = 0

    async def _cut(self) -> None:
        """A job that was cut off by what came is over, whatever the printer makes of it."""
        with self._copying():
            self._job(await self._copy.cut())

    async def _heard(self) -> bytes:
        """What the POS sends next; nothing at its end, and also where it breaks off or has nothing more to say."""
        while True:
            limit = HALF_CLOSED_S if self._one_ended.is_set() else self._patience()
            try:
                async with asyncio.timeout(limit):
                    return await self._pos.read(_READ)
            except TimeoutError:
                if self._one_ended.is_set():
                    return b""
                self._look()
            except OSError:
                return b""

    def _patience(self) -> float | None:
        """How long the POS may be silent before its job is looked at; None where there is nothing to look at."""
        if not len(self._copy) or self._silences > 1:
            return None
        return self._port.setting.idle_s * (UNDATED if self._silences else 1)

    async def _taken(self, printer: asyncio.StreamWriter) -> None:
        """Wait while too much waits for the printer. Raises `_PrinterGone`."""
        try:
            await printer.drain()
        except OSError as error:
            raise _PrinterGone(error.strerror or "it broke off") from error

    async def _back(self, connected: asyncio.Task[None]) -> None:
        """From the printer to the POS. Raises `_PrinterGone`."""
        await asyncio.shield(connected)
        assert self._printer is not None
        while data := await self._answered(self._printer):
            try:
                self._to_pos.write(data)
                await self._to_pos.drain()
            except OSError:
                return  # the POS has gone without waiting for its answer
        self._one_ended.set()
        with suppress(OSError):
            self._to_pos.write_eof()

    async def _answered(self, printer: asyncio.StreamReader) -> bytes:
        """What the printer says next. After the POS's last word it has a while to say its own."""
        answer = asyncio.ensure_future(printer.read(_READ))
        ended = asyncio.ensure_future(self._one_ended.wait())
        try:
            await asyncio.wait((answer, ended), return_when=asyncio.FIRST_COMPLETED)
            async with asyncio.timeout(None if answer.done() else HALF_CLOSED_S):
                return await answer
        except TimeoutError:
            return b""
        except OSError as error:
            raise _PrinterGone(error.strerror or "it broke off") from error
        finally:
            answer.cancel()
            ended.cancel()

    def _look(self) -> None:
        """The POS has said nothing for a while: look for a receipt, and listen on meanwhile."""
        self._look_away()
        if len(self._copy):
            self._looking = asyncio.create_task(self._silent(dated=not self._silences))
        self._silences += 1

    def _look_away(self) -> None:
        """What is looked at now is not all of it."""
        if self._looking is not None:
            self._looking.cancel()

    async def _silent(self, *, dated: bool) -> None:
        """A receipt that is there so far is all of it."""
        with self._copying():
            sales = await self._port.capture.receipts(self._copy.so_far(), dated=dated)
            if sales:
                self._job(self._copy.end(), sales)

    async def _hear_out(self) -> None:
        """The printer is gone: read what the POS has sent, and sends now, so that the copy is whole."""
        await self._cut()
        with suppress(TimeoutError, OSError):
            async with asyncio.timeout(CONNECT_S):
                while True:
                    async with asyncio.timeout(GRACE_S):
                        data = await self._pos.read(_READ)
                    if not data:
                        return
                    self._keep(data)
                    await self._cut()

    async def _flush(self) -> None:
        """Give the printer what it has not taken yet, and close both."""
        for writer, seconds in ((self._to_printer, FLUSH_S), (self._to_pos, HALF_CLOSED_S)):
            if writer is not None:
                writer.close()
                with suppress(TimeoutError, OSError):
                    async with asyncio.timeout(seconds):
                        await writer.wait_closed()

    def _job(self, job: bytes, sales: Sequence[Sale] | None = None) -> None:
        self._port.capture.put(job, sales)


async def _ended(tasks: list[asyncio.Task[None]]) -> None:
    """Cancel what still runs; what failed has been told."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close so that the other end sees a failure, and not an orderly end."""
    with suppress(OSError):  # it is closed already
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()


def _keep_alive(writer: asyncio.StreamWriter) -> None:
    """Have the system notice when the other end is switched off."""
    with suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
