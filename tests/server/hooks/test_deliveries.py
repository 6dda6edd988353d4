"""Signatures as vendors publish them, and what strangers' headers and bodies can do: nothing."""

from __future__ import annotations

import io
import re
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.hooks import ORDER_UPDATED, PAYMENT_UPDATED, SECRET, SHOPIFY, WOOCOMMERCE
from tillstream_protocol.errors import InvalidInput
from tillstream_server.hooks import readings, signatures
from tillstream_server.hooks.deliveries import Delivery, StaleDelivery, delivery_of
from tillstream_server.hooks.signatures import EVENT, KINDS, SIGNATURE, TIMESTAMP, BadHookSignature

ROOT = Path(__file__).parents[3]
NAMES = ["X-Shopify-Topic", "X-Shopify-Triggered-At", "X-Shopify-Event-Id", "X-WC-Webhook-Topic", TIMESTAMP, EVENT]


def test_squares_published_example_is_good() -> None:
    headers = {SIGNATURE["square"]: "2kRE5qRU2tR+tBGlDwMEw2avJ7QM4ikPYD/PJ3bd9Og="}
    url = "https://example.com/webhook"
    signatures.require("square", ("asdf1234",), b'{"hello":"world"}', headers, url)
    with pytest.raises(BadHookSignature):
        signatures.require("square", ("asdf1234",), b'{"hello":"world"}', headers, url + "/")


def test_the_example_in_the_documentation_signs_what_the_server_wants() -> None:
    page = (ROOT / "docs" / "how-to" / "connect-a-cloud-pos.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    sent: list[Any] = []

    def urlopen(request: urllib.request.Request, timeout: float) -> io.BytesIO:
        sent.append(request)
        return io.BytesIO()

    names["urllib"] = SimpleNamespace(request=SimpleNamespace(Request=urllib.request.Request, urlopen=urlopen))
    names["deliver"]("https://hooks.example.com/hooks/generic/own", SECRET, "event-1", b"{}")
    headers = {name: sent[0].get_header(name.capitalize()) for name in (SIGNATURE["generic"], TIMESTAMP, EVENT)}
    signatures.require("generic", (SECRET,), b"{}", headers, "")


@given(
    kind=st.sampled_from(KINDS),
    headers=st.dictionaries(st.sampled_from(NAMES), st.text(max_size=40)),
    body=st.binary(max_size=200) | st.sampled_from([SHOPIFY, WOOCOMMERCE, ORDER_UPDATED, PAYMENT_UPDATED]),
    now_ms=st.integers(0, 2**45),
)
def test_whatever_is_signed_is_told_or_refused_by_name(
    kind: Any, headers: dict[str, str], body: bytes, now_ms: int
) -> None:
    try:
        delivery = delivery_of(kind, headers, "application/json", body)
        delivery.require_fresh(now_ms)
    except (InvalidInput, StaleDelivery):
        return
    assert len(delivery.event) <= 128
    kept = readings.kept_of(readings.kept(delivery))
    assert kept is not None
    assert (kept.delivery().body, kept.delivery().topic) == (body, delivery.topic)


@given(st.binary(max_size=300))
def test_what_is_no_kept_delivery_is_taken_for_none(plain: bytes) -> None:
    assert readings.kept_of(plain) is None


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b'{"data": 1}', b'{"data": {"object": {"order_updated": {}}}}', PAYMENT_UPDATED],
)
def test_what_names_no_order_is_no_hint(body: bytes) -> None:
    assert readings.hint_of(Delivery("square", "", "", None, None, "application/json", body)) is None
    assert readings.hint_of(Delivery("shopify", "", "", None, None, "application/json", ORDER_UPDATED)) is None
