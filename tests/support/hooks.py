"""Cloud POS systems that call a server's webhooks, signing as their vendors say they do."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import aiohttp
import msgspec

from support.golden import sample
from support.serving import Reply, Server, sale
from tillstream_server import office

SECRET: Final = "a secret of the vendor's making"
BASE: Final = "https://hooks.example.com"
JSON: Final = "application/json"
SHOPIFY: Final = sample("shopify/order.json")
WOOCOMMERCE: Final = sample("woocommerce/order_created_response.json")
SQUARE: Final = sample("square/CreateOrderResponse.json")
ORDER_UPDATED: Final = sample("square/OrderUpdatedEvent.json")
PAYMENT_UPDATED: Final = sample("square/PaymentUpdatedEvent.json")


def mac(secret: str, *parts: bytes) -> bytes:
    """HMAC-SHA256."""
    return hmac.new(secret.encode(), b"".join(parts), hashlib.sha256).digest()


def b64(data: bytes) -> str:
    """Base64 as header text."""
    return base64.b64encode(data).decode()


@dataclass
class Cloud:
    """Every vendor's cloud, before one server."""

    server: Server
    secret: str = SECRET

    async def source(self, kind: Any, **fields: Any) -> dict[str, Any]:
        """A source at acme's store north."""
        given = {"retailer": "acme", "store": "north", "secret": self.secret, "url": BASE, "currency": "USD", **fields}
        return await self.server.order(office.SourceCreate(kind=kind, **given))

    async def square(self, body: bytes, *, path: str = "/hooks/square", **headers: str) -> Reply:
        """An event of Square's."""
        signature = b64(mac(self.secret, (BASE + path).encode(), body))
        return await self.posts(path, body, {"x-square-hmacsha256-signature": signature, **headers})

    async def shopify(self, body: bytes = SHOPIFY, *, topic: str = "orders/create", **more: Any) -> Reply:
        """A webhook of Shopify's."""
        told = more.get("told") or iso(self.server.clock.now_ms())
        headers = {
            "X-Shopify-Topic": topic,
            "X-Shopify-Event-Id": more.get("event", "event-1"),
            "X-Shopify-Triggered-At": told,
            "X-Shopify-Hmac-Sha256": b64(mac(self.secret, body)),
        }
        return await self.posts("/hooks/shopify", body, headers)

    async def woocommerce(
        self,
        body: bytes = WOOCOMMERCE,
        *,
        topic: str = "order.created",
        event: str = "1",
        path: str = "/hooks/woocommerce",
    ) -> Reply:
        """A webhook of WooCommerce's."""
        headers = {
            "X-WC-Webhook-Topic": topic,
            "X-WC-Webhook-Delivery-ID": event,
            "X-WC-Webhook-Signature": b64(mac(self.secret, body)),
        }
        return await self.posts(path, body, headers)

    async def generic(self, body: bytes, *, name: str = "own", event: str = "event-1", **more: Any) -> Reply:
        """A delivery in our own form."""
        told = str(more.get("told", self.server.clock.now_ms() // 1000))
        headers = {
            "Content-Type": more.get("media_type", JSON),
            "Tillstream-Timestamp": told,
            "Tillstream-Event": event,
            "Tillstream-Signature": "v1=" + mac(self.secret, f"{told}.{event}.".encode(), body).hex(),
        }
        return await self.posts(f"/hooks/generic/{name}", body, headers)

    async def posts(self, path: str, body: bytes, headers: Mapping[str, str]) -> Reply:
        """Any delivery."""
        return await self.server.send("POST", path, body, {"Content-Type": JSON, **headers})

    async def sales(self) -> list[dict[str, Any]]:
        """What the ledger holds, in its order."""
        return await self.rows("SELECT id, till_id, epoch, seq, amount_minor, store FROM ledger ORDER BY id")

    async def rows(self, statement: str) -> list[dict[str, Any]]:
        """Rows of the server's database, as another reader sees them."""
        with contextlib.closing(sqlite3.connect(f"file:{self.server.folder.ledger}?mode=ro", uri=True)) as conn:
            conn.row_factory = sqlite3.Row
            return [dict(row) for row in conn.execute(statement)]

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Another process holds the database's lock meanwhile, so that nothing can be written."""
        with contextlib.closing(sqlite3.connect(self.server.folder.ledger, isolation_level=None)) as conn:
            conn.execute("PRAGMA wal_autocheckpoint=0")
            conn.execute("BEGIN IMMEDIATE")
            yield
            conn.execute("ROLLBACK")

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Change what the server remembers, behind its back."""
        with contextlib.closing(sqlite3.connect(self.server.folder.ledger, isolation_level=None)) as conn:
            conn.execute("PRAGMA wal_autocheckpoint=0")
            yield conn

    async def retried(self) -> dict[str, Any]:
        """Try every dead letter again."""
        return await self.server.order(office.DeadLettersRetry())

    async def until_it_answers(self, body: bytes) -> Reply:
        """Deliver to a server that begins again just now, as a vendor does who tries again."""
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                return await self.shopify(body, event="again")
            await asyncio.sleep(0.05)

    async def letters(self) -> list[tuple[str, str]]:
        """Dead letters: code and reason."""
        listed = await self.server.order(office.DeadLettersList())
        return [(one["code"], one["reason"]) for one in listed["dead_letters"]]

    async def revenue(self) -> Any:
        """The summary that head office sees."""
        return (await self.server.get("/api/v1/ledger/summary", await self.server.key())).json()

    def count(self, kind: str, outcome: str) -> float:
        """How many deliveries came to this."""
        return self.server.count("hooks_total", kind=kind, outcome=outcome)


def iso(at_ms: int) -> str:
    """A time as vendors write it."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat()


def altered(body: bytes, **fields: Any) -> bytes:
    """A JSON payload with other fields; Shopify's sample has its order under `order`."""
    data = json.loads(body)
    inner = data.get("order", data)
    inner.update(fields)
    return msgspec.json.encode(data)


def canonical(number: int, **fields: object) -> bytes:
    """A sale of acme's store north as our own form takes it."""
    return msgspec.json.encode(msgspec.structs.replace(sale(number), **fields))
