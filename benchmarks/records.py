"""The sales that everything is measured on. Every one is another sale."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgpack
import msgspec

from tillstream_protocol.codec import encode
from tillstream_protocol.events import Record
from tillstream_protocol.transaction import Transaction

RETAILER, STORE = "bench", "bench"
USUAL = 10
"""Lines of the usual basket; with them a sale is about 1.7 KB of JSON."""
MEMBERS = 5_000


def sale(number: int, name: str, lines: int = USUAL) -> dict[str, Any]:
    """One sale as a POS sends it."""
    total = sum(149 + 100 * (k % 20) for k in range(lines))
    return {
        "source": {"system": "bench"}, "kind": "sale", "pos_id": name, "business_date": "2026-01-31",
        "end": {"at": 1_769_000_000_000 + number, "offset_minutes": 60, "text": "2026-01-31 12:00:00"},
        "currency": "EUR", "total": total,
        "lines": [_line(number, k) for k in range(lines)], "tenders": [{"type": "cash", "amount": total}],
        "customer": {"identifiers": [{"scheme": "loyalty", "value": f"M{number % MEMBERS}"}]},
    }  # fmt: skip


def _line(number: int, k: int) -> dict[str, Any]:
    return {
        "seq": k, "sku": f"{1000000 + (number * 7 + k) % 90000}", "name": f"ARTICLE {k} OF GROUP {number % 13}",
        "quantity": "1", "price": f"{1 + k % 20}.49", "amount": 149 + 100 * (k % 20),
        "hierarchy": ["GROCERY", f"GROUP {k % 20}"],
    }  # fmt: skip


@dataclass(frozen=True)
class Basket:
    """One round's sale, in the forms that the subjects take it in. Made before the clock runs."""

    number: int
    name: str
    lines: int = USUAL

    @cached_property
    def sale(self) -> dict[str, Any]:
        """The sale itself."""
        return sale(self.number, self.name, self.lines)

    @cached_property
    def body(self) -> bytes:
        """As JSON."""
        return json.dumps(self.sale).encode()

    @cached_property
    def text(self) -> str:
        """As JSON, for queues that take text alone."""
        return self.body.decode()

    @cached_property
    def http(self) -> bytes:
        """The same sale under another name, as JSON: the agent that takes both doors' sales is to meet it once."""
        return json.dumps({**self.sale, "pos_id": f"h-{self.name}"}).encode()

    @property
    def record(self) -> bytes:
        """What a till of the stand makes of it, ready for the journal."""
        body = {**self.sale, "pos_id": f"q-{self.name}", "retailer": RETAILER, "store": STORE, "till": "1"}
        return encode(Record(body=msgspec.convert(body, Transaction), captured_at=time.time_ns() // 1_000_000))

    def call(self, ack: str) -> bytes:
        """As a call on the agent's socket, under a name of its own."""
        body = {**self.sale, "pos_id": f"s-{self.name}"}
        packed: bytes = msgpack.packb({"call": "transactions", "ack": ack, "body": body})
        return packed


@dataclass(frozen=True)
class Given:
    """A basket with the socket's call made ready."""

    basket: Basket
    call: bytes
    record: bytes
    """The sale under a third name, as the record that capturing would make of it; `tag` is the one it goes by."""
    tag: bytes


def given(number: int, prefix: str, lines: int, ack: str) -> Given:
    """A round's basket with everything made that the subjects send."""
    basket = Basket(number, f"{prefix}-{number}", lines)
    _ = basket.body, basket.text, basket.http
    return Given(basket, basket.call(ack), basket.record, os.urandom(16))
