"""How each vendor signs what it sends. Pure: a delivery, the secrets that are in force, and what to compare.

Square        base64 of HMAC-SHA256 over the notification URL as it was subscribed, then the body
Shopify       base64 of HMAC-SHA256 over the body, keyed with the app's client secret
WooCommerce   base64 of HMAC-SHA256 over the body, keyed with the webhook's secret
generic       hex of HMAC-SHA256 over `timestamp.event.` and then the body; ours

Headers are outside of every vendor's signature: what only a header says is believed of no delivery where it would
matter. In ours, the time and the event's id are signed; neither may hold a dot, so that nothing of one can be moved
into the other, or into the body, under the same signature.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable, Mapping
from typing import Final, Literal

from tillstream_protocol.errors import TillstreamError

Kind = Literal["square", "shopify", "woocommerce", "generic"]
KINDS: Final[tuple[Kind, ...]] = ("square", "shopify", "woocommerce", "generic")

SIGNATURE: Final[Mapping[Kind, str]] = {
    "square": "x-square-hmacsha256-signature",
    "shopify": "X-Shopify-Hmac-Sha256",
    "woocommerce": "X-WC-Webhook-Signature",
    "generic": "Tillstream-Signature",
}
"""The header that has the signature."""
TIMESTAMP: Final = "Tillstream-Timestamp"
EVENT: Final = "Tillstream-Event"
_OURS: Final = "v1="


class BadHookSignature(TillstreamError):
    """A delivery that nobody signed who knows the source's secret."""

    code = "bad_signature"


def signature_of(kind: Kind, secret: str, body: bytes, headers: Mapping[str, str], url: str) -> str:
    """The signature that a delivery has to bear; `url` is the notification URL, of which Square alone has use."""
    if kind == "generic":
        signed = f"{headers.get(TIMESTAMP, '')}.{headers.get(EVENT, '')}.".encode(errors="surrogateescape")
        return _OURS + _hmac(secret, signed, body).hex()
    return base64.b64encode(_hmac(secret, url.encode() if kind == "square" else b"", body)).decode()


def require(kind: Kind, secrets: Iterable[str], body: bytes, headers: Mapping[str, str], url: str) -> None:
    """Raise `BadHookSignature` unless one of the secrets made the delivery's signature.

    The time it takes tells neither which of them did, nor how much of a wrong one was right.
    """
    given = headers.get(SIGNATURE[kind], "").encode(errors="surrogateescape")
    right = [hmac.compare_digest(signature_of(kind, secret, body, headers, url).encode(), given) for secret in secrets]
    if not any(right):
        raise BadHookSignature(
            "this is not signed with the source's secret",
            field=SIGNATURE[kind],
            hint="compare the secret, and for Square the URL, with what the vendor has: tillstream-server source",
        )


def _hmac(secret: str, before: bytes, body: bytes) -> bytes:
    state = hmac.new(secret.encode(), before, hashlib.sha256)
    state.update(body)
    return state.digest()
