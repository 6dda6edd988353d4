"""When the certificates of a PEM file end.

The standard library reads a certificate's dates only once it has come over a connection and was found good, and a file
has to be watched before it is bad. So the few levels of DER that lead to the dates are walked here (X.509, RFC 5280,
section 4.1; lengths and tags as in X.690).
"""

from __future__ import annotations

import re
import ssl
from datetime import UTC, datetime
from typing import Final

_PEM: Final = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_SEQUENCE: Final = 0x30
_VERSION: Final = 0xA0
_UTC_TIME: Final = 0x17
_GENERALIZED_TIME: Final = 0x18


def ends_at(pem: str) -> int | None:
    """The second since 1970 at which the first of a file's certificates ends; None where none can be read."""
    ends = []
    for found in _PEM.finditer(pem):
        try:
            ends.append(_end(ssl.PEM_cert_to_DER_cert(found[0])))
        except (ValueError, IndexError):
            return None
    return min(ends, default=None)


def _end(der: bytes) -> int:
    """`notAfter` of one certificate. Raises `ValueError` or `IndexError` for bytes that are none."""
    certificate = _content(der, 0, _SEQUENCE)
    at, end = _content(der, certificate[0], _SEQUENCE)  # tbsCertificate
    if der[at] == _VERSION:
        at = _skip(der, at)
    for _ in ("serialNumber", "signature", "issuer"):
        at = _skip(der, at)
    at, end = _content(der, at, _SEQUENCE)  # validity
    at = _skip(der, at)  # notBefore
    first, last = _bounds(der, at)
    if last > end:
        raise ValueError("the dates are cut off")
    return _seconds(der[at], der[first:last].decode("ascii"))


def _seconds(tag: int, text: str) -> int:
    """A date of DER, which is always in UTC and to the second. Two-digit years are those from 1950 to 2049."""
    if tag == _UTC_TIME:
        text = ("19" if text[:2] >= "50" else "20") + text
    elif tag != _GENERALIZED_TIME:
        raise ValueError("there is no date")
    return int(datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp())


def _content(der: bytes, at: int, tag: int) -> tuple[int, int]:
    """Where the content of the element at `at` begins and ends, if it has this tag."""
    if der[at] != tag:
        raise ValueError("this is no certificate")
    return _bounds(der, at)


def _skip(der: bytes, at: int) -> int:
    return _bounds(der, at)[1]


def _bounds(der: bytes, at: int) -> tuple[int, int]:
    length, at = der[at + 1], at + 2
    if length & 0x80:
        size = length & 0x7F
        length, at = int.from_bytes(der[at : at + size], "big"), at + size
    if at + length > len(der):
        raise ValueError("the certificate is cut off")
    return at, at + length
