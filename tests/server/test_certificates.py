"""When a server's certificate ends is read from its file, long before it does."""

from __future__ import annotations

import ssl
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.certificates import certificate, needs_openssl
from support.serving import serving
from tillstream_server.certificates import ends_at


def dated(pem: Path) -> int:
    """The same by OpenSSL's own reading."""
    command = ["openssl", "x509", "-in", str(pem), "-noout", "-enddate"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    return int(ssl.cert_time_to_seconds(said.removeprefix("notAfter=")))


@needs_openssl
@pytest.mark.parametrize("days", [5, 365 * 40])  # the second is past 2049, where the form of dates changes
def test_it_agrees_with_openssl(days: int, tmp_path: Path) -> None:
    pem, _ = certificate(tmp_path, days=days)
    assert ends_at(pem.read_text()) == dated(pem)


@needs_openssl
def test_of_a_chain_the_first_to_end_counts(tmp_path: Path) -> None:
    long, short = certificate(tmp_path, "long", days=100)[0], certificate(tmp_path, "short", days=10)[0]
    assert ends_at(long.read_text() + short.read_text()) == dated(short)


def test_two_digit_years_are_from_1950_on() -> None:
    validity = b"\x17\x0d" + b"500101000000Z" + b"\x17\x0d" + b"491231235959Z"
    assert ends_at(pem_of(validity)) == int(datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp())


def pem_of(validity: bytes, version: bytes = b"\xa0\x03\x02\x01\x02") -> str:
    """The outline of a certificate with these dates."""
    inner = version + b"\x02\x01\x01" + b"\x30\x00" + b"\x30\x00" + b"\x30" + bytes([len(validity)]) + validity
    outer = b"\x30" + bytes([len(inner)]) + inner
    return ssl.DER_cert_to_PEM_cert(b"\x30" + bytes([len(outer)]) + outer)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no certificate",
        "-----BEGIN CERTIFICATE-----\n????\n-----END CERTIFICATE-----",
        pem_of(b"\x17\x0d500101000000Z\x04\x00"),
        pem_of(b"\x17\x0d500101000000Z\x17\x0d49123123595"),
        pem_of(b"\x17\x0d500101000000Z\x17\x0d491331235959Z"),
    ],
)
def test_what_is_none_has_no_end(text: str) -> None:
    assert ends_at(text) is None


@given(st.binary(max_size=200))
def test_no_bytes_make_it_fail(data: bytes) -> None:
    ends_at(ssl.DER_cert_to_PEM_cert(data))
    ends_at(ssl.DER_cert_to_PEM_cert(b"\x30\x81\xc8\x30\x81\xc5" + data))


@needs_openssl
async def test_the_server_tells_when_its_certificate_ends(tmp_path: Path) -> None:
    pem, key = certificate(tmp_path)
    async with serving(tmp_path / "data", tls_certificate=str(pem), tls_key=str(key)) as server:
        assert server.count("tls_certificate_end_timestamp_seconds") == dated(pem)
