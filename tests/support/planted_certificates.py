"""Certificates of a server, good and bad, made by openssl once and varied byte by byte.

OpenSSL does not check the signature of a certificate that it is told to trust, so what stands in one can be changed.
"""

from __future__ import annotations

import base64
import re
import shutil
import ssl
import subprocess
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

OPENSSL: Final = shutil.which("openssl")
HOST: Final = "localhost"
OTHER: Final = "elsewhere"
_DAY: Final = 86_400
_TIME: Final = re.compile(rb"\x17\x0d\d{12}Z")
_MAKE: Final = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "9")


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate and its key, in one PEM file."""

    file: Path

    def context(self) -> ssl.SSLContext:
        """What a server shows it with."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.file)
        return context


def certificate(file: Path, *, since_days: int = -30, days: int = 90, host: str = HOST) -> Certificate:
    """A certificate that is valid from and to so many days from now, for `localhost` or `elsewhere`."""
    assert len(host) == len(HOST)
    key, plain = _made()
    now = time.time()
    times = iter(_utc(now + offset * _DAY) for offset in (since_days, days))
    varied = _TIME.sub(lambda _: b"\x17\x0d" + next(times), plain).replace(HOST.encode(), host.encode())
    body = base64.encodebytes(varied).decode()
    file.write_text(f"-----BEGIN CERTIFICATE-----\n{body}-----END CERTIFICATE-----\n{key}")
    return Certificate(file)


def _utc(seconds: float) -> bytes:
    return time.strftime("%y%m%d%H%M%SZ", time.gmtime(seconds)).encode()


@cache
def _made() -> tuple[str, bytes]:
    """A key as PEM, and a certificate as DER."""
    assert OPENSSL is not None
    with TemporaryDirectory() as place:
        key, cert = Path(place, "key.pem"), Path(place, "cert.der")
        named = ("-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST}")
        subprocess.run(
            [OPENSSL, *_MAKE, "-outform", "DER", "-keyout", key, "-out", cert, *named], check=True, capture_output=True
        )
        return key.read_text(), cert.read_bytes()
