"""Which boot of the machine this is: what tells a power cut from a killed process."""

from __future__ import annotations

from pathlib import Path
from typing import Final

LINUX: Final = Path("/proc/sys/kernel/random/boot_id")


def boot_id(file: Path = LINUX) -> str | None:
    """An id that changes with every boot, or None where the platform has none."""
    try:
        return file.read_text(encoding="ascii").strip() or None
    except (OSError, UnicodeDecodeError):
        return None
