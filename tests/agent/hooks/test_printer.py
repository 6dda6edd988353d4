"""The printer port: byte for byte to the printer and back, and a copy of each receipt in the journal."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from support.agents import Counter, counter
from support.disks import TroubledDisk
from support.golden import sample
from support.printers import ASKS, OF_A_BROWSER, READY, FakePrinter, printing, unused_port
from tillstream_agent.config_doors import Address, Doors, PrinterSetting
from tillstream_agent.hooks import printer as printer_module
from tillstream_agent.hooks.http import PortInUse
from tillstream_agent.hooks.payloads import Payloads
from tillstream_agent.hooks.print_jobs import JobCopy
from tillstream_agent.hooks.printer import PrinterPort
from tillstream_agent.journal import Disk
from tillstream_protocol.adapters import Setting
from tillstream_protocol.adapters.registry import ADAPTERS

RECEIPT = sample("escpos/python-escpos-3.1_tcp9100.bin")
CUT = b"\x1dV\x00"
DRAWER = b"\x1b@\x1bp\x00\x19\xfa"
LOGO = b"\x1dv0\x00\x02\x00\x03\x00\x1dV\x00\x1bi\x00"


def receipt(number: int, *, cut: bool = True) -> bytes:
    """A small receipt of its own."""
    text = f"Coffee    3.50\nTOTAL     3.50\nCash      3.50\nReceipt {number}  2026-01-01 10:00:00\n"
    return text.encode() + (CUT if cut else b"")


@dataclass
class Shop:
    """A till with a printer's port, and perhaps a printer behind it."""

    behind: Counter
    port: PrinterPort
    number: int
    printer: FakePrinter | None

    async def connects(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.number)

    async def prints(self, *data: bytes) -> bytes:
        """Print over one connection, ending it as most do; what came back."""
        reader, writer = await self.connects()
        for part in data:
            writer.write(part)
            await writer.drain()
        writer.write_eof()
        answer = await reader.read()
        await closed(writer)
        return answer

    async def settles(self) -> None:
        """Wait until no copy waits to be captured, and no connection is open."""
        async with asyncio.timeout(10):
            while self.port._sessions:
                await asyncio.sleep(0.005)
            await self.port.capture.captured()

    async def captures(self, records: int) -> None:
        """Wait until so many records were captured."""
        async with asyncio.timeout(10):
            while self.captured < records:
                await asyncio.sleep(0.005)

    @property
    def captured(self) -> int:
        return self.behind.journal.position.seq

    def counted(self, outcome: str) -> float:
        return self.behind.telling.counted("print_jobs", outcome=outcome)

    def connections(self, outcome: str) -> float:
        return self.behind.telling.counted("print_connections", outcome=outcome)

    @property
    def real(self) -> FakePrinter:
        assert self.printer is not None
        return self.printer


async def closed(writer: asyncio.StreamWriter) -> None:
    """Hang up; the other end may have done so before."""
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


@asynccontextmanager
async def shop(
    folder: Path, printer: FakePrinter | None, disk: Disk | None = None, to: Address | None = None, **about: Any
) -> AsyncIterator[Shop]:
    where = to or Address("127.0.0.1", printer.port if printer is not None else unused_port())
    setting = replace(PrinterSetting(where, Address("127.0.0.1", 0)), **about)
    async with counter(folder, disk=disk, doors=Doors()) as behind:
        port = PrinterPort(setting, behind.payloads, behind.telling.events, behind.clock)
        number = await port.open()
        try:
            yield Shop(behind, port, number, printer)
        finally:
            await port.close()


@pytest.fixture
async def open_shop(tmp_path: Path) -> AsyncIterator[Shop]:
    async with printing() as printer, shop(tmp_path, printer) as opened:
        yield opened


@pytest.fixture
async def without_printer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Shop]:
    monkeypatch.setattr(printer_module, "GRACE_S", 0.1)
    async with shop(tmp_path, None) as opened:
        yield opened


async def test_a_receipt_is_printed_byte_for_byte_and_captured(open_shop: Shop) -> None:
    await open_shop.prints(RECEIPT)
    await open_shop.settles()
    assert open_shop.real.printed == RECEIPT
    assert (open_shop.captured, open_shop.counted("captured"), open_shop.connections("forwarded")) == (1, 1, 1)
    assert open_shop.behind.telling.counted("captures", door="printer", kind="transaction", ack="os") == 1


async def test_any_bytes_arrive_as_they_were_sent(open_shop: Shop) -> None:
    noise = os.urandom(300_000)
    await open_shop.prints(noise[:7], noise[7:100_000], noise[100_000:])
    assert open_shop.real.printed == noise


async def test_the_printers_status_comes_back_in_mid_job(open_shop: Shop) -> None:
    reader, writer = await open_shop.connects()
    for _ in range(3):
        writer.write(ASKS)
        assert await reader.readexactly(1) == READY
    writer.write(receipt(1))
    await open_shop.captures(1)
    await closed(writer)
    await open_shop.settles()
    assert open_shop.counted("captured") == 1


async def test_what_the_printer_says_after_the_pos_has_ended_its_half_still_arrives(open_shop: Shop) -> None:
    open_shop.real.farewell = b"printed"
    assert await open_shop.prints(receipt(1)) == b"printed"
    assert open_shop.real.ended == [True]


async def test_the_printer_hears_when_the_pos_has_ended_its_half(open_shop: Shop) -> None:
    await open_shop.prints(receipt(1))
    await open_shop.settles()
    assert open_shop.real.ended == [True]


async def test_a_pos_that_stays_connected_is_captured_at_each_cut(open_shop: Shop) -> None:
    reader, writer = await open_shop.connects()
    for number in range(1, 4):
        writer.write(receipt(number))
        await open_shop.captures(number)
    writer.write(receipt(4, cut=False))
    writer.write_eof()
    await reader.read()
    await closed(writer)
    await open_shop.settles()
    assert (open_shop.captured, open_shop.counted("captured")) == (4, 4)


async def test_a_receipt_that_is_not_cut_is_over_after_some_silence(tmp_path: Path) -> None:
    async with printing() as printer, shop(tmp_path, printer, idle_s=0.05) as here:
        _, writer = await here.connects()
        writer.write(receipt(1, cut=False))
        await here.captures(1)
        writer.write(receipt(2, cut=False))
        await here.captures(2)
        await closed(writer)
        await here.settles()
        assert (here.counted("captured"), here.captured) == (2, 2)


async def test_lines_that_are_printed_one_by_one_are_one_receipt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with printing() as printer, shop(tmp_path, printer, idle_s=0.1) as here:
        put, found = here.port.capture.put, []

        def noted(job: bytes, sales: Any = None) -> None:
            found.append((job, [sale.transaction.receipt for sale in sales or ()]))
            put(job, sales)

        monkeypatch.setattr(here.port.capture, "put", noted)
        _, writer = await here.connects()
        for line in receipt(1, cut=False).splitlines(keepends=True):
            writer.write(line)
            await asyncio.sleep(0.2)
        await here.captures(1)
        await closed(writer)
        await here.settles()
        assert here.captured == 1
        assert (receipt(1, cut=False), ["1"]) in found


async def test_a_receipt_without_a_date_that_is_not_cut_is_over_after_a_longer_silence(tmp_path: Path) -> None:
    async with printing() as printer, shop(tmp_path, printer, idle_s=0.05) as here:
        _, writer = await here.connects()
        writer.write(b"Coffee    3.50\nTOTAL     3.50\nCash      3.50\n")
        await here.captures(1)
        await closed(writer)
        await here.settles()
        assert here.counted("captured") == 1


@pytest.mark.parametrize("job", [DRAWER, LOGO, ASKS, b"KITCHEN\n2 x Soup\n" + CUT, b"", b"\x1dV"])
async def test_what_is_no_receipt_is_printed_and_not_captured(open_shop: Shop, job: bytes) -> None:
    await open_shop.prints(job)
    await open_shop.settles()
    assert open_shop.real.printed == job
    assert (open_shop.captured, open_shop.counted("refused"), open_shop.counted("captured")) == (0, 0, 0)


async def test_a_receipt_that_is_printed_again_is_a_repeat(open_shop: Shop) -> None:
    for _ in range(2):
        await open_shop.prints(receipt(1))
    await open_shop.settles()
    assert (open_shop.captured, open_shop.counted("captured"), open_shop.counted("repeat")) == (1, 1, 1)


async def test_a_receipt_without_a_date_was_made_when_it_was_printed(open_shop: Shop) -> None:
    await open_shop.prints(b"Coffee    3.50\nTOTAL     3.50\nCash      3.50\n")
    await open_shop.settles()
    assert open_shop.captured == 1


async def test_without_a_printer_the_receipt_is_captured_and_the_pos_sees_the_failure(without_printer: Shop) -> None:
    reader, writer = await without_printer.connects()
    writer.write(receipt(1))
    with pytest.raises(ConnectionResetError):
        assert await reader.read()
    await closed(writer)
    await without_printer.settles()
    assert (without_printer.captured, without_printer.connections("printer_gone")) == (1, 1)


async def test_a_printer_that_is_gone_is_told_of_once_and_again_when_it_is_back(tmp_path: Path) -> None:
    where = Address("127.0.0.1", unused_port())
    async with shop(tmp_path, None, to=where) as here:
        for number in (1, 2):
            _, writer = await here.connects()
            writer.write(receipt(number))
            writer.write_eof()
            await here.captures(number)
            await closed(writer)
        await here.settles()
        assert here.behind.telling.said().count("printer_gone") == 1
        server = await asyncio.start_server(FakePrinter().serve, where.host, where.port)
        await here.prints(receipt(3))
        await here.settles()
        server.close()
        assert here.behind.telling.said().count("printer_back") == 1


async def test_a_printer_whose_name_leads_nowhere_is_gone_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(printer_module, "GRACE_S", 0.1)
    async with shop(tmp_path, None, to=Address("printer.invalid", 9100)) as here:
        _, writer = await here.connects()
        writer.write(receipt(1))
        await here.captures(1)
        await closed(writer)


async def test_a_printer_that_does_not_answer_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_: object, **__: object) -> None:
        await asyncio.sleep(60)

    monkeypatch.setattr(printer_module, "GRACE_S", 0.1)
    monkeypatch.setattr(printer_module, "CONNECT_S", 0.2)
    async with shop(tmp_path, None) as here:
        _, writer = await here.connects()
        with monkeypatch.context() as patched:
            patched.setattr(asyncio, "open_connection", never)
            writer.write(receipt(1))
            await here.captures(1)
            await here.settles()
        await closed(writer)
        assert here.connections("printer_gone") == 1


async def test_a_printer_whose_plug_is_pulled_loses_no_sale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(printer_module, "GRACE_S", 0.2)
    async with printing() as printer, shop(tmp_path, printer) as here:
        reader, writer = await here.connects()
        writer.write(receipt(1, cut=False))
        await printer.until(10)
        printer.breaks_off()
        writer.write(CUT)
        with pytest.raises(OSError):
            assert await reader.read()
        await closed(writer)
        await here.settles()
        assert (here.captured, here.connections("printer_gone")) == (1, 1)


async def test_a_pos_that_waits_for_its_status_hears_at_once_that_the_printer_broke_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(printer_module, "GRACE_S", 0.05)
    async with printing() as printer, shop(tmp_path, printer) as here:
        reader, writer = await here.connects()
        writer.write(b"x")
        await printer.until(1)
        printer.breaks_off()
        async with asyncio.timeout(5):
            with suppress(ConnectionResetError):
                assert await reader.read() == b""
        await closed(writer)


async def test_a_jam_holds_up_the_pos_and_neither_the_sale_nor_memory(tmp_path: Path) -> None:
    async with printing() as printer, shop(tmp_path, printer) as here:
        printer.jam()
        reader, writer = await here.connects()
        writer.write(receipt(1))
        await here.captures(1)
        flood = b"z" * 40_000_000
        writer.write(flood)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await writer.drain()
        (session,) = here.port._sessions.values()
        assert session._to_printer is not None
        assert session._to_printer.transport.get_write_buffer_size() < 2 * printer_module.BUFFER
        assert len(session._copy) <= 1024 * 1024
        printer.unjam()
        writer.write_eof()
        await reader.read()
        await closed(writer)
        assert len(printer.printed) == len(flood) + len(receipt(1))


async def test_a_job_that_the_pos_leaves_behind_is_printed_when_the_jam_is_over(tmp_path: Path) -> None:
    async with printing() as printer, shop(tmp_path, printer) as here:
        printer.jam()
        _, writer = await here.connects()
        writer.write(receipt(1))
        await closed(writer)
        await here.captures(1)
        printer.unjam()
        await printer.until(len(receipt(1)))
        assert printer.printed == receipt(1)


async def test_a_pos_that_breaks_off_has_its_receipt_captured_and_printed(open_shop: Shop) -> None:
    _, writer = await open_shop.connects()
    writer.write(receipt(1))
    await open_shop.real.until(len(receipt(1)))
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    await open_shop.settles()
    assert open_shop.real.printed == receipt(1)
    assert open_shop.captured == 1


async def test_connections_that_print_are_capped(open_shop: Shop) -> None:
    writers = [(await open_shop.connects())[1] for _ in range(printer_module.MOST_CONNECTIONS)]
    for writer in writers:
        writer.write(b"x")
    await open_shop.real.until(len(writers))
    reader, extra = await open_shop.connects()
    with pytest.raises(ConnectionResetError):
        await reader.read()
    for writer in (*writers, extra):
        await closed(writer)
    assert open_shop.connections("refused") == 1


async def test_of_the_connections_that_say_nothing_the_oldest_makes_room(open_shop: Shop) -> None:
    _, busy = await open_shop.connects()
    busy.write(b"x")
    await open_shop.real.until(1)
    silent = [await open_shop.connects() for _ in range(printer_module.MOST_CONNECTIONS)]
    with pytest.raises(ConnectionResetError):
        await silent[0][0].read()
    await open_shop.prints(receipt(1))
    with pytest.raises(ConnectionResetError):
        await silent[1][0].read()
    silent[2][1].write(receipt(2))
    busy.write(receipt(3))
    await open_shop.captures(3)
    assert len(open_shop.real.received) == 3
    for _, writer in (*silent, (None, busy)):
        await closed(writer)
    await open_shop.settles()
    ended = [open_shop.connections(outcome) for outcome in ("refused", "forwarded", "silent")]
    assert ended == [0, 3, len(silent) - 1]


async def test_who_says_nothing_is_hung_up_on_and_the_printer_hears_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(printer_module, "SILENT_S", 0.05)
    async with printing() as printer, shop(tmp_path, printer) as here:
        reader, writer = await here.connects()
        with pytest.raises(ConnectionResetError):
            await reader.read()
        await closed(writer)
        await here.settles()
        assert (printer.received, here.connections("silent")) == ([], 1)


async def test_who_only_looks_whether_the_port_is_open_sees_an_orderly_end(open_shop: Shop) -> None:
    assert await open_shop.prints() == b""
    await open_shop.settles()
    assert (open_shop.real.received, open_shop.connections("silent")) == ([], 1)


async def test_a_defect_in_looking_for_a_receipt_is_told_and_printing_goes_on(tmp_path: Path) -> None:
    def fails(_data: bytes, _setting: Setting) -> list[Any]:
        raise ZeroDivisionError

    async with printing() as printer, shop(tmp_path, printer, idle_s=0.05) as here:
        here.behind.payloads._formats["escpos"] = replace(ADAPTERS["escpos"], read=fails)
        reader, writer = await here.connects()
        writer.write(b"first half, ")
        async with asyncio.timeout(5):
            while "defect" not in here.behind.telling.said():
                await asyncio.sleep(0.005)
        writer.write(b"second half")
        writer.write_eof()
        assert await reader.read() == b""
        await closed(writer)
        await here.settles()
        assert (printer.printed, here.connections("forwarded")) == (b"first half, second half", 1)


@pytest.mark.parametrize("part", ["feed", "cut"])
async def test_a_defect_in_keeping_the_copy_is_told_and_printing_goes_on(
    open_shop: Shop, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patched:
        patched.setattr(JobCopy, part, fails)
        await open_shop.prints(receipt(1))
        await open_shop.settles()
    await open_shop.prints(receipt(2))
    await open_shop.settles()
    assert open_shop.real.printed == receipt(1) + receipt(2)
    assert ("defect" in open_shop.behind.telling.said(), open_shop.captured) == (True, 1 if part == "feed" else 2)


@pytest.mark.parametrize(("where", "what", "more"), [(JobCopy, "cut", b""), (Payloads, "read", b"more\n")])
async def test_what_is_printed_does_not_wait_for_its_copy(
    tmp_path: Path, where: type, what: str, more: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking, may_look, looks = asyncio.Event(), asyncio.Event(), getattr(where, what)

    async def slowly(*given: Any, **named: Any) -> Any:
        looking.set()
        await may_look.wait()
        return await looks(*given, **named)

    monkeypatch.setattr(where, what, slowly)
    job = receipt(1, cut=not more)
    async with printing() as printer, shop(tmp_path, printer, idle_s=0.02) as here:
        _, writer = await here.connects()
        writer.write(job)
        await looking.wait()
        writer.write(more)
        await printer.until(len(job + more))
        assert here.captured == 0
        may_look.set()
        await here.captures(1)
        await closed(writer)


async def test_a_job_that_is_too_long_is_printed_and_told_of(open_shop: Shop) -> None:
    picture = b"\x1dv0\x00\xff\x00\xff\x00" + b"z" * 1_100_000 + b"\n"
    await open_shop.prints(picture + receipt(1))
    await open_shop.settles()
    assert open_shop.real.printed == picture + receipt(1)
    assert (open_shop.counted("lost"), open_shop.captured) == (1, 0)
    assert "print_job_lost" in open_shop.behind.telling.said()


@pytest.mark.parametrize("switched_on", [True, False])
@pytest.mark.parametrize("head", OF_A_BROWSER)
async def test_a_web_page_can_neither_print_nor_sell(
    tmp_path: Path, head: bytes, switched_on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(printer_module, "GRACE_S", 0.1)
    async with printing() as printer, shop(tmp_path, printer if switched_on else None) as here:
        _, writer = await here.connects()
        writer.write(head + b"\r\n\r\n" + receipt(1))
        async with asyncio.timeout(5):
            while not here.connections("refused"):
                await asyncio.sleep(0.005)
        await here.settles()
        await closed(writer)
        assert (printer.printed, here.captured) == (b"", 0)
        assert here.connections("refused") == 1


async def test_a_journal_that_takes_nothing_has_its_receipts_later(tmp_path: Path) -> None:
    disk = TroubledDisk(tmp_path / "journal")
    async with printing() as printer, shop(tmp_path, printer, disk) as here:
        disk.trouble.write = errno.ENOSPC
        for number in (1, 2):
            await here.prints(receipt(number))
        assert printer.printed == receipt(1) + receipt(2)
        assert here.captured == 0
        disk.trouble.write = None
        await here.settles()
        assert (here.captured, here.counted("captured")) == (2, 2)


async def test_what_waits_for_the_journal_is_bounded_and_what_is_lost_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tillstream_agent.hooks.print_jobs.MOST_WAITING", 2 * len(receipt(1)))
    disk = TroubledDisk(tmp_path / "journal")
    async with printing() as printer, shop(tmp_path, printer, disk) as here:
        disk.trouble.write = errno.EIO
        for number in range(1, 5):
            await here.prints(receipt(number))
        assert here.counted("lost") == 2
        await here.port.close()
        assert here.counted("lost") == 4
        assert len(printer.printed) == 4 * len(receipt(1))


async def test_what_was_read_when_the_agent_ends_is_captured(tmp_path: Path) -> None:
    async with printing() as printer, shop(tmp_path, printer) as here:
        _, writer = await here.connects()
        writer.write(receipt(1, cut=False))
        await printer.until(10)
        await here.port.close()
        assert here.captured == 1
        await closed(writer)


async def test_what_was_read_when_the_agent_ends_is_printed_whole(tmp_path: Path) -> None:
    async with printing() as printer, shop(tmp_path, printer) as here:
        printer.jam()
        _, writer = await here.connects()
        job = receipt(1, cut=False) + b"x" * 100_000
        writer.write(job)
        await writer.drain()
        async with asyncio.timeout(5):
            while not here.port._sessions or len(next(iter(here.port._sessions.values()))._copy) < len(job):
                await asyncio.sleep(0.005)
        closing = asyncio.create_task(here.port.close())
        printer.unjam()
        await closing
        await printer.until(len(job))
        await closed(writer)
        assert printer.printed == job


async def test_a_job_that_cannot_be_read_or_fails_holds_up_no_other(open_shop: Shop) -> None:
    def fails(data: bytes, setting: Setting) -> list[Any]:
        if b"crash" in data:
            raise ZeroDivisionError
        return ADAPTERS["escpos"].read(data, setting)

    open_shop.behind.payloads._formats["escpos"] = replace(ADAPTERS["escpos"], read=fails)
    for job in (b"crash" + CUT, b"line\n" * 3_000 + CUT, receipt(1)):
        await open_shop.prints(job)
    await open_shop.settles()
    assert (open_shop.captured, open_shop.counted("refused")) == (1, 2)


async def test_a_port_that_is_taken_is_named(open_shop: Shop) -> None:
    setting = replace(open_shop.port.setting, listen=Address("127.0.0.1", open_shop.number))
    second = PrinterPort(setting, open_shop.behind.payloads, open_shop.port.events, open_shop.behind.clock)
    with pytest.raises(PortInUse, match=str(open_shop.number)):
        await second.open()
    await second.close()
