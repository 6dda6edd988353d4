"""Other people's tools, run to check what is written for them; a test skips where one is not installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]
SERVER: Final = ROOT / "deploy" / "server"
BESIDE: Final = Path(sys.executable).parent


def tool(name: str, why: str) -> str:
    """Where a program is; skips the test where it is not, saying how to have it."""
    found = shutil.which(name, path=f"{BESIDE}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        pytest.skip(f"there is no {name}: {why}")
    return found


def run(
    arguments: Sequence[str | Path], *, environment: Mapping[str, str] | None = None, folder: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end."""
    return subprocess.run(
        [str(one) for one in arguments],
        cwd=folder,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
