"""python-escpos prints through a real agent's port to a printer: unharmed, and its receipt is in the ledger."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import pytest
from escpos.printer import Dummy, Network

from crash.proof import held
from crash.stand import standing
from support.printers import ASKS, printing, unused_port
from tillstream_protocol.adapters import Setting
from tillstream_protocol.adapters.registry import ADAPTERS

pytestmark = pytest.mark.system


def receipt(printer: Network | Dummy) -> None:
    """What a POS prints of one sale: a logo, text in a code page of its own, a QR code, a cut, the drawer."""
    printer.hw("INIT")
    printer.set(align="center", bold=True, double_height=True, double_width=True)
    printer.textln("LADEN AM ECK")
    printer.set(align="left", bold=False, double_height=False, double_width=False)
    printer.charcode("CP858")
    printer.textln("Bon-Nr. 4711        03.04.2026 17:15:09")
    printer.textln("Käse                       3,50")
    printer.textln("Brot                       6,50")
    printer.textln("SUMME           EUR       10,00")
    printer.textln("Bar                       10,00")
    printer.qr("https://shop.example/r/4711", native=True)
    printer.barcode("4006381333931", "EAN13", 64, 2, "", "")
    printer.cut()
    printer.cashdraw(2)


def prints(port: int) -> bool:
    """Print it over the network, as a POS does; whether the printer said that it is online."""
    printer = Network("127.0.0.1", port, timeout=10)
    receipt(printer)
    online = bool(printer.is_online())
    printer.close()
    return online


async def test_python_escpos_prints_through_the_port(tmp_path: Path) -> None:
    expected, port = Dummy(), unused_port()
    receipt(expected)
    with standing(tmp_path) as stand:
        stand.enrol()
        async with printing() as printer:
            settings = tmp_path / "agent.toml"
            settings.write_text(
                f'[[printer]]\nto = "127.0.0.1:{printer.port}"\nlisten = "127.0.0.1:{port}"\n'
                '[adapters.escpos]\ncurrency = "EUR"\nzone = "Europe/Berlin"\n'
            )
            stand.till.arguments += ["--config", str(settings)]
            await stand.open_till()
            assert await asyncio.to_thread(prints, port)
            await printer.until(len(expected.output) + len(ASKS))
            assert printer.printed == expected.output + ASKS
            async with asyncio.timeout(30):
                while not list(held(stand.data)):
                    await asyncio.sleep(0.05)
        assert [name for name, _, _ in held(stand.data)] == ["4711"]


def test_the_receipt_is_read_as_it_was_printed() -> None:
    printed = Dummy()
    receipt(printed)
    (reading,) = ADAPTERS["escpos"].read(printed.output, Setting("EUR"))
    sale = reading.transaction
    assert (sale.pos_id, sale.total, sale.currency, [line.name for line in sale.lines]) == (
        "4711",
        1000,
        "EUR",
        ["Käse", "Brot"],
    )
    assert hashlib.sha256(reading.original).digest() == hashlib.sha256(printed.output).digest()
