"""Every sample of a POS's own bytes, with the adapter that reads it and what the till is set to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from zoneinfo import ZoneInfo

from support.golden import golden, sample
from tillstream_protocol.adapters import Adapter, Reading, Setting
from tillstream_protocol.adapters.registry import ADAPTERS

_BERLIN = Setting("EUR", ZoneInfo("Europe/Berlin"))
_STOCKHOLM = Setting(zone=ZoneInfo("Europe/Stockholm"))
_NEW_YORK = Setting("USD", ZoneInfo("America/New_York"))


@dataclass(frozen=True)
class Sample:
    """One payload as a POS sends it."""

    name: str
    adapter: Adapter
    data: bytes
    setting: Setting

    @property
    def sells(self) -> int:
        """How many transactions it holds by its golden file; none where it is only a hint to fetch one."""
        return 0 if self.name in HINTS else len(golden(self.name))

    def read(self) -> list[Reading]:
        """What its adapter makes of it."""
        return self.adapter.read(self.data, self.setting)


def _one(path: str, setting: Setting) -> Sample:
    return Sample(path, ADAPTERS[path.partition("/")[0]], sample(path), setting)


def _signed(number: int) -> Sample:
    """A request of fiskaltrust with the response after it."""
    request, response = (
        sample(f"fiskaltrust/0{number}_request.json"),
        sample(f"fiskaltrust/0{number + 1}_response.json"),
    )
    both = b'{"request": ' + request + b', "response": ' + response + b"}"
    return Sample(f"fiskaltrust/0{number + 1}_response.json", ADAPTERS["fiskaltrust"], both, _BERLIN)


HINTS = ("square/OrderUpdatedEvent.json", "square/PaymentUpdatedEvent.json")
SAMPLES = (
    _one("poslog/SMALL.xml", _NEW_YORK),
    _one("digital_receipt/swe-standard-dr-sale.xml", _STOCKHOLM),
    _one("digital_receipt/swe-standard-dr-return.xml", _STOCKHOLM),
    _one("digital_receipt/swe-standard-dr-sample-1.xml", _STOCKHOLM),
    _one("digital_receipt/swe-standard-dr-sample-2.xml", _STOCKHOLM),
    _one("square/CreateOrderResponse.json", _NEW_YORK),
    _one("square/OrderUpdatedEvent.json", _NEW_YORK),
    _one("square/PaymentUpdatedEvent.json", _NEW_YORK),
    _one("shopify/order.json", _NEW_YORK),
    _one("woocommerce/order_created_response.json", _NEW_YORK),
    *(_one(f"fiskaltrust/0{number}_request.json", _BERLIN) for number in (1, 3, 5)),
    *(_signed(number) for number in (1, 3, 5)),
    _one("escpos/python-escpos-3.1_tcp9100.bin", _BERLIN),
    _one("odoo/sync_from_ui.json", _BERLIN),
    _one("odoo/create_from_ui.json", _BERLIN),
    _one("erpnext/pos_invoice.json", _BERLIN),
    _one("erpnext/pos_invoice_return.json", _BERLIN),
    _one("naxml/journal.xml", _NEW_YORK),
)
"""Genuine ones first; the last five are typed after public documentation."""

Breaking = Callable[[bytes], bytes]
BROKEN: dict[str, Breaking] = {
    "cut off": lambda data: data[: len(data) * 2 // 3],
    "of another format": lambda data: b"<a/>" if data.lstrip()[:1] in b"{[" else b'{"a": 1}',
    "no text": lambda data: bytes(range(128, 256)) + data,
    "nothing": lambda _data: b"",
}
"""What a broken POS, a broken disk or a wrong setting makes of a payload."""
