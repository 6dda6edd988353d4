"""A small file system of its own, which can be filled up."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

FILLER: Final = "filler"
_PIECE: Final = 4096


def mounting_refuses() -> str:
    """Why nothing can be mounted here; empty where it can."""
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("mount") is None:
        return "only root may mount a small file system, on Linux"
    tried = subprocess.run(
        ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, check=False
    )
    return "" if tried.returncode == 0 else "mounting is not permitted here"


@contextmanager
def small_disk(place: Path, size: int) -> Iterator[Path]:
    """A tmpfs of `size` bytes at `place`, gone afterwards."""
    place.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(place: Path, leave: int = 0) -> None:
    """Fill a disk up until at most `leave` bytes are free."""
    with (place / FILLER).open("ab", buffering=0) as file:
        while (free := shutil.disk_usage(place).free) > leave:
            try:
                file.write(bytes(max(_PIECE, min(free - leave, 1 << 20))))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                return


def empty(place: Path) -> None:
    """Give the room back."""
    (place / FILLER).unlink(missing_ok=True)
