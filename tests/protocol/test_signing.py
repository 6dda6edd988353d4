"""A request is taken only from the device that signed it, whole and unaltered."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import VerifyKey

from tillstream_protocol.errors import InvalidInput
from tillstream_protocol.signing import (
    BadSignature,
    SignedRequest,
    SignKey,
    Unsigned,
    content_digest,
    fingerprint,
    from_text,
    sign_request,
    to_text,
    verify,
)

DEVICE = SignKey(b"\1" * 32)
PATH = "/till/v1/batches"


def signed(body: bytes = b"frames", *, created: int = 1_767_349_800) -> dict[str, str]:
    return sign_request(DEVICE, "POST", PATH, body, created=created)


def parsed(headers: dict[str, str]) -> SignedRequest:
    return SignedRequest.parse(headers["Content-Digest"], headers["Signature-Input"], headers["Signature"])


@given(st.binary(max_size=200), st.integers(0, 10**12 - 1))
def test_a_signed_request_verifies(body: bytes, created: int) -> None:
    request = parsed(signed(body, created=created))
    assert (request.key_id, request.created) == (DEVICE.key_id, created)
    request.verify(DEVICE.public, "POST", PATH, body)


def test_the_vector_verifies_by_the_words_of_the_rfcs(vectors: Callable[[str], Any]) -> None:
    """RFC 9421 sections 2.3, 2.5 and 3.2, RFC 9530 section 2, worked out from the headers alone."""
    v = vectors("signature")
    headers = {name.lower(): value for name, value in v["headers"].items()}
    label, _, parameters = headers["signature-input"].partition("=")
    components = re.findall(r'"([^"]+)"', parameters[: parameters.index(")")])
    values = {"@method": v["method"], "@path": v["path"], **headers}
    lines = [f'"{component}": {values[component]}' for component in components]
    base = "\n".join([*lines, f'"@signature-params": {parameters}'])
    signature = base64.b64decode(re.fullmatch(rf"{label}=:(.*):", headers["signature"])[1])  # type: ignore[index]
    VerifyKey(bytes.fromhex(v["public_key"])).verify(base.encode("ascii"), signature)
    digest = hashlib.sha256(bytes.fromhex(v["body"])).digest()
    assert headers["content-digest"] == f"sha-256=:{base64.b64encode(digest).decode()}:"
    assert components == ["@method", "@path", "content-digest"]
    assert f'keyid="{v["key_id"]}"' in parameters


def test_the_vector_is_what_we_sign(vectors: Callable[[str], Any]) -> None:
    v = vectors("signature")
    key = SignKey(bytes.fromhex(v["seed"]))
    assert key.public.hex() == v["public_key"]
    assert sign_request(key, v["method"], v["path"], bytes.fromhex(v["body"]), created=v["created"]) == v["headers"]


@pytest.mark.parametrize(
    ("public", "method", "path", "body"),
    [
        (SignKey(b"\2" * 32).public, "POST", PATH, b"frames"),
        (DEVICE.public, "PUT", PATH, b"frames"),
        (DEVICE.public, "POST", "/till/v1/other", b"frames"),
        (DEVICE.public, "POST", PATH, b"other frames"),
        (b"no key", "POST", PATH, b"frames"),
    ],
    ids=["another device", "another method", "another path", "another body", "no key at all"],
)
def test_a_signature_does_not_hold_for(public: bytes, method: str, path: str, body: bytes) -> None:
    with pytest.raises(BadSignature):
        parsed(signed()).verify(public, method, path, body)


def test_a_signature_does_not_hold_with_another_time_or_digest() -> None:
    request = parsed(signed())
    with pytest.raises(BadSignature):
        replace(request, created=request.created + 1).verify(DEVICE.public, "POST", PATH, b"frames")
    with pytest.raises(BadSignature):
        replace(request, digest=content_digest(b"other")).verify(DEVICE.public, "POST", PATH, b"other")


@pytest.mark.parametrize(
    ("field", "header", "value"),
    [
        ("Signature-Input", "Signature-Input", ""),
        ("Signature-Input", "Signature-Input", 'sig1=("@method");created=1;keyid="0011223344556677";alg="ed25519"'),
        ("Signature-Input", "Signature-Input", signed()["Signature-Input"].replace("ed25519", "hmac-sha256")),
        ("Signature-Input", "Signature-Input", signed()["Signature-Input"] + ";nonce=1"),
        ("Signature-Input", "Signature-Input", signed()["Signature-Input"].replace("1767349800", "١٢٣")),
        ("Signature-Input", "Signature-Input", signed()["Signature-Input"] + "\n"),
        ("Signature", "Signature", ""),
        ("Signature", "Signature", "sig1=:AAAA:"),
        ("Signature", "Signature", "sig2" + signed()["Signature"][4:]),
    ],
)
def test_a_request_signed_in_another_form_is_unsigned(field: str, header: str, value: str) -> None:
    with pytest.raises(Unsigned) as refused:
        parsed({**signed(), header: value})
    assert (refused.value.field, refused.value.code) == (field, "unsigned")


@given(st.text(max_size=200), st.text(max_size=120), st.text(max_size=80))
def test_headers_from_strangers_are_refused(digest: str, given_input: str, signature: str) -> None:
    with pytest.raises(Unsigned):
        SignedRequest.parse(digest, given_input, signature)
    with pytest.raises(BadSignature):
        replace(parsed(signed()), digest=digest).verify(DEVICE.public, "POST", PATH, b"frames")


@given(message=st.binary(max_size=50), signature=st.binary(max_size=70), key=st.binary(max_size=40))
def test_random_bytes_are_no_signature(message: bytes, signature: bytes, key: bytes) -> None:
    with pytest.raises(BadSignature):
        verify(key, message, signature)
    with pytest.raises(BadSignature):
        verify(DEVICE.public, message, signature)


def test_a_signature_over_any_bytes_verifies() -> None:
    verify(DEVICE.public, b"a pack", DEVICE.sign(b"a pack"))


# Text for people


@given(st.binary(max_size=60))
def test_keys_come_back_from_their_text(data: bytes) -> None:
    assert from_text(to_text(data)) == data
    assert re.fullmatch(r"[A-Za-z0-9_-]*", to_text(data))


@given(st.text(max_size=60))
def test_any_text_is_a_key_or_is_refused(text: str) -> None:
    try:
        data = from_text(text)
    except InvalidInput:
        return
    assert isinstance(data, bytes)


@pytest.mark.parametrize("text", ["a", "no spaces", "é", "????"])
def test_text_that_is_no_base64_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        from_text(text)


def test_the_vector_fingerprint_is_that_of_the_servers_key(vectors: Callable[[str], Any]) -> None:
    v = vectors("messages")
    assert fingerprint(bytes.fromhex(v["server_public_key"])).hex() == v["token"]["fingerprint"]


@pytest.mark.parametrize("last", range(256))
def test_bytes_as_text_lose_none_of_their_last_letters(last: int) -> None:
    for size in (1, 2, 3):
        data = bytes(size - 1) + bytes([last])
        assert from_text(to_text(data)) == data
