"""Signatures of devices and of the server (Ed25519).

Requests carry HTTP Message Signatures (RFC 9421) over method, path and content digest (RFC 9530), in exactly one
form. A batch that is replayed is only a repeat, so the creation time is advisory: a till whose clock is wrong must
still be heard.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from typing import Final

from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from .errors import Damaged, InvalidInput
from .sealing import key_id

SIGNATURE_SIZE: Final = 64
FINGERPRINT_SIZE: Final = 16

_INPUT = re.compile(
    r'sig1=(?P<params>\("@method" "@path" "content-digest"\)'
    r';created=(?P<created>[0-9]{1,12});keyid="(?P<key>[0-9a-f]{16})";alg="ed25519")'
)
_SIGNATURE = re.compile(r"sig1=:(?P<value>[A-Za-z0-9+/]{86}==):")


class BadSignature(Damaged):
    """A signature that this key did not make over these bytes."""

    code = "bad_signature"


class Unsigned(InvalidInput):
    """A request without a signature in the form of SPEC.md."""

    code = "unsigned"


class SignKey:
    """A private Ed25519 key. `key_id` is the 8-byte name of its public half."""

    def __init__(self, seed: bytes) -> None:
        self._key = SigningKey(seed)
        self.public = bytes(self._key.verify_key)
        self.key_id = key_id(self.public)

    def sign(self, message: bytes) -> bytes:
        """64 bytes."""
        return self._key.sign(message).signature


def fingerprint(public_key: bytes) -> bytes:
    """The 16 bytes by which an enrolment token names a server's signing key."""
    return hashlib.blake2b(public_key, digest_size=FINGERPRINT_SIZE, person=b"tillstream-print").digest()


def verify(public_key: bytes, message: bytes, signature: bytes) -> None:
    """Raise `BadSignature` unless the key signed the message."""
    try:
        VerifyKey(public_key).verify(message, signature)
    except (BadSignatureError, ValueError) as error:
        raise BadSignature("the signature does not fit the key and the bytes") from error


def content_digest(body: bytes) -> str:
    """The value of `Content-Digest` (RFC 9530) for a body."""
    return f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"


def sign_request(key: SignKey, method: str, path: str, body: bytes, *, created: int) -> dict[str, str]:
    """The headers that sign a request; `created` is in seconds since 1970."""
    digest = content_digest(body)
    params = _params(created, key.key_id.hex())
    value = base64.b64encode(key.sign(_base(method, path, digest, params))).decode()
    return {
        "Content-Digest": digest,
        "Signature-Input": f"sig1={params}",
        "Signature": f"sig1=:{value}:",
    }


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """A request's signature headers, parsed but not yet verified."""

    key_id: bytes
    created: int
    digest: str
    signature: bytes

    @classmethod
    def parse(cls, digest: str, signature_input: str, signature: str) -> SignedRequest:
        """Read the three headers. Raises `Unsigned` naming the header."""
        given = _INPUT.fullmatch(signature_input)
        if given is None:
            raise Unsigned("the request is not signed in the form that is spoken here", field="Signature-Input")
        value = _SIGNATURE.fullmatch(signature)
        if value is None:
            raise Unsigned("the request carries no signature", field="Signature")
        return cls(bytes.fromhex(given["key"]), int(given["created"]), digest, base64.b64decode(value["value"]))

    def verify(self, public_key: bytes, method: str, path: str, body: bytes) -> None:
        """Raise `BadSignature` unless the key's owner sent exactly this request."""
        if self.digest != content_digest(body):
            raise BadSignature("the body does not fit its digest", field="Content-Digest")
        params = _params(self.created, self.key_id.hex())
        verify(public_key, _base(method, path, self.digest, params), self.signature)


def _params(created: int, key: str) -> str:
    return f'("@method" "@path" "content-digest");created={created};keyid="{key}";alg="ed25519"'


def _base(method: str, path: str, digest: str, params: str) -> bytes:
    """The signature base of RFC 9421, section 2.5."""
    return (f'"@method": {method}\n"@path": {path}\n"content-digest": {digest}\n"@signature-params": {params}').encode()


def to_text(data: bytes) -> str:
    """URL-safe base64 without padding, for keys and tokens that people carry about."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def from_text(text: str) -> bytes:
    """The inverse of `to_text`. Raises `InvalidInput`."""
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidInput("not a key or token: it is no URL-safe base64") from error
