"""Certificates of this machine's loopback, made by OpenSSL's command."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

needs_openssl: Final = pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl command here")

_REQUEST: Final = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost"


def certificate(folder: Path, name: str = "server", *, days: int = 5) -> tuple[Path, Path]:
    """A certificate for so many days, and its key."""
    pem, key = folder / f"{name}.pem", folder / f"{name}.key"
    command = ["openssl", *_REQUEST.split(), "-addext", "subjectAltName=IP:127.0.0.1", "-days", str(days)]
    subprocess.run([*command, "-keyout", str(key), "-out", str(pem)], check=True, capture_output=True)
    return pem, key
