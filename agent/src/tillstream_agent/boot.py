"""Which machine this is, and which boot of it: what tells a power cut from a killed process, and a copy."""

from __future__ import annotations

from pathlib import Path
from typing import Final

LINUX: Final = Path("/proc/sys/kernel/random/boot_id")
MACHINE: Final = Path("/etc/machine-id")


def boot_id(file: Path = LINUX) -> str | None:
    """An id that changes with every boot, or None where the platform has none."""
    try:
        return file.read_text(encoding="ascii").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def machine_id(file: Path = MACHINE) -> str | None:
    """An id that stays with an installed system (machine-id(5)), or None where there is none yet."""
    try:
        found = file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return found if len(found) == 32 else None
