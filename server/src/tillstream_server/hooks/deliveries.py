"""What one delivery of a webhook is: which event, when it happened, and whether anything in it is a sale.

Facts of the vendors' public documentation:

Square        retries for 24 hours (older pages: 72); `event_id` and `created_at` stand in the signed body
Shopify       retries eight times in four hours; `X-Shopify-Event-Id` and `X-Shopify-Triggered-At` are headers
WooCommerce   never retries, and tells no time of the event; a `webhook_id=…` without a signature is its ping
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct

from tillstream_protocol.errors import InvalidInput, TillstreamError

from .signatures import EVENT, TIMESTAMP, Kind

T = TypeVar("T", bound=Struct)

DAY_MS: Final = 24 * 3600 * 1000
WINDOW_MS: Final[Mapping[Kind, int]] = {"square": 4 * DAY_MS, "shopify": 4 * DAY_MS, "generic": 5 * 60 * 1000}
"""How old a delivery may be, where it tells a time: longer than the vendor goes on trying."""
AHEAD_MS: Final = 5 * 60 * 1000
"""How far another's clock may be ahead of ours."""
MOST_EVENT: Final = 128
OWN_EVENT: Final = re.compile(rf"[A-Za-z0-9_:-]{{1,{MOST_EVENT}}}")
"""An event's id in our own form: without a dot, for dots part what is signed."""
PING: Final = re.compile(rb"webhook_id=[0-9]{1,20}\s*")
TOPIC: Final[Mapping[Kind, str]] = {"shopify": "X-Shopify-Topic", "woocommerce": "X-WC-Webhook-Topic"}
"""The header that says what a delivery is about. It is outside of the signature; Square's topic stands in the body."""
FORM: Final = "application/x-www-form-urlencoded"

_SHOPIFY: Final = frozenset(
    f"orders/{what}" for what in ("create", "updated", "paid", "cancelled", "fulfilled", "partially_fulfilled")
)
_WOOCOMMERCE: Final = frozenset({"order.created", "order.updated", "order.restored"})
_SQUARE: Final = frozenset(
    {"order.created", "order.updated", "order.fulfillment.updated"}
    | {f"{what}.{change}" for what in ("payment", "refund") for change in ("created", "updated")}
)
_TOPICS: Final[Mapping[Kind, frozenset[str]]] = {
    "square": _SQUARE,
    "shopify": _SHOPIFY,
    "woocommerce": _WOOCOMMERCE,
}
"""What is about a sale. Everything else is acknowledged, and nothing of it is stored."""
_SHOPIFY_ORDER: Final = "gid://shopify/Order/"
_WOOCOMMERCE_ORDER: Final = "/orders/"


class StaleDelivery(TillstreamError):
    """A delivery that is older than its vendor would send it, or comes from the future: played again, perhaps."""

    code = "stale_delivery"


class _Square(Struct, frozen=True):
    """What every event of Square says."""

    type: str = ""
    event_id: str = ""
    created_at: str = ""


class _Changed(Struct, frozen=True):
    """When an order last changed, as Shopify and WooCommerce say it."""

    updated_at: str | None = None
    date_modified_gmt: str | None = None


class _Identified(Struct, frozen=True):
    """What Shopify's and WooCommerce's signed bodies say of their own kind, whatever it is."""

    admin_graphql_api_id: Any = None
    links: Any = msgspec.field(default=None, name="_links")


@dataclass(frozen=True, slots=True)
class Delivery:
    """One delivery whose signature is good.

    `event` is the vendor's id of the event; `told_ms` is when the vendor says it was sent off, `happened_ms` when what
    it tells of happened: the same however often it is delivered.
    """

    kind: Kind
    topic: str
    event: str
    told_ms: int | None
    happened_ms: int | None
    media_type: str
    body: bytes

    @property
    def concerns_sales(self) -> bool:
        """Whether it is of a topic that is read here; one without a topic is, for then nothing unsigned says so."""
        topics = _TOPICS.get(self.kind)
        return topics is None or not self.topic or self.topic in topics

    def require_order(self) -> None:
        """Raise `InvalidInput` where the signed body itself says that it is no order, whatever its topic says."""
        said = _peek(self.body, _Identified)
        if said is None:
            return
        if self.kind == "shopify" and said.admin_graphql_api_id is not None:
            if not str(said.admin_graphql_api_id).startswith(_SHOPIFY_ORDER):
                raise InvalidInput("is no order", field="admin_graphql_api_id", limit=_SHOPIFY_ORDER)
        elif self.kind == "woocommerce" and said.links is not None and _WOOCOMMERCE_ORDER not in _own_link(said.links):
            raise InvalidInput("is no order", field="_links.self[0].href", limit=_WOOCOMMERCE_ORDER)

    def require_fresh(self, now_ms: int) -> None:
        """Raise `StaleDelivery` where it tells a time that is too far away."""
        window = WINDOW_MS.get(self.kind)
        if self.told_ms is None or window is None:
            return
        if not now_ms - window <= self.told_ms <= now_ms + AHEAD_MS:
            raise StaleDelivery(
                "this was sent off too long ago, or too far ahead of our clock",
                field=TIMESTAMP if self.kind == "generic" else None,
                limit=f"{window // 1000} s ago to {AHEAD_MS // 1000} s ahead",
                hint="set both clocks by NTP",
            )


def delivery_of(kind: Kind, headers: Mapping[str, str], media_type: str, body: bytes) -> Delivery:
    """What headers and body say, once the signature is known to be good. Raises `InvalidInput` for a header."""
    match kind:
        case "square":
            said = _peek(body, _Square) or _Square()
            at_ms = _moment_ms(said.created_at)
            return Delivery(kind, said.type, said.event_id[:MOST_EVENT], at_ms, at_ms, media_type, body)
        case "shopify":
            event = headers.get("X-Shopify-Event-Id") or headers.get("X-Shopify-Webhook-Id", "")
            told_ms = _moment_ms(headers.get("X-Shopify-Triggered-At", ""))
            happened_ms = _moment_ms((_peek(body, _Changed) or _Changed()).updated_at or "")
            return Delivery(
                kind, _topic(kind, headers), event[:MOST_EVENT], told_ms, happened_ms or told_ms, media_type, body
            )
        case "woocommerce":
            event = headers.get("X-WC-Webhook-Delivery-ID", "")
            happened_ms = _moment_ms((_peek(body, _Changed) or _Changed()).date_modified_gmt or "")
            return Delivery(kind, _topic(kind, headers), event[:MOST_EVENT], None, happened_ms, media_type, body)
        case "generic":
            return _ours(headers, media_type, body)


def is_ping(kind: Kind, media_type: str, body: bytes) -> bool:
    """Whether this is what WooCommerce sends, unsigned, when a webhook is saved: it does nothing."""
    return kind == "woocommerce" and media_type == FORM and PING.fullmatch(body) is not None


def _ours(headers: Mapping[str, str], media_type: str, body: bytes) -> Delivery:
    event, told = headers.get(EVENT, ""), headers.get(TIMESTAMP, "")
    if OWN_EVENT.fullmatch(event) is None:
        limit = f"1 to {MOST_EVENT} of A to Z, a to z, 0 to 9 and _ : -"
        raise InvalidInput("say which event this is", field=EVENT, limit=limit)
    if re.fullmatch(r"[0-9]{1,12}", told, re.ASCII) is None:
        raise InvalidInput("say when this is sent", field=TIMESTAMP, limit="seconds since 1970")
    at_ms = int(told) * 1000
    return Delivery("generic", "", event, at_ms, at_ms, media_type, body)


def _topic(kind: Kind, headers: Mapping[str, str]) -> str:
    topic = headers.get(TOPIC[kind], "")
    if not topic:
        raise InvalidInput("say what this is about", field=TOPIC[kind], hint="let the proxy pass headers unchanged")
    return topic


def _own_link(links: Any) -> str:
    """The address of what a body of WooCommerce's tells of, as the shop's own API has it."""
    try:
        return str(links["self"][0]["href"])
    except (KeyError, IndexError, TypeError):
        return ""


def _peek(body: bytes, of: type[T]) -> T | None:
    try:
        return msgspec.json.decode(body, type=of)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


def _moment_ms(text: str) -> int | None:
    """A time in ISO 8601, in milliseconds since 1970; without an offset it is UTC. None for what is none."""
    try:
        read = datetime.fromisoformat(text.strip())
        at_ms = round((read if read.tzinfo is not None else read.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        return None
    return max(at_ms, 0)
