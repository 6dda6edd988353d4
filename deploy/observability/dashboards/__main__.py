"""Writes every dashboard as JSON into a folder: `make dashboards`."""

from __future__ import annotations

import sys
from pathlib import Path

from . import ALL
from .draw import drawn


def main(folder: Path) -> None:
    """Write `NAME.json` for each dashboard."""
    for one in ALL:
        (folder / f"{one.name}.json").write_text(drawn(one), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
