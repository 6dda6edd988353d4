"""Puts what the console's pages need from npm into the server's package: `make assets`.

`package-lock.json` names each package with the hash of its archive, and npm takes nothing else. What is taken out of
them is named here with its own hash, so that the files that are served are those that somebody looked at, wherever
the archives came from. Their licences lie beside them.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
TARGET: Final = HERE.parent / "src" / "tillstream_server" / "console" / "assets" / "vendor"
FILES: Final = {
    "htmx.min.js": ("htmx.org/dist/htmx.min.js", "d6fdc75f204e6bdefa99b69bf1e6d4ac69b8a364f77929f45c13476b4000f717"),
    "htmx.LICENSE": ("htmx.org/LICENSE", "d3d2456f76414f2456104660ebd65aff1c04cd7966b942bdabd63f3cdb316a38"),
    "uPlot.iife.min.js": (
        "uplot/dist/uPlot.iife.min.js",
        "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    ),
    "uPlot.min.css": ("uplot/dist/uPlot.min.css", "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04"),
    "uPlot.LICENSE": ("uplot/LICENSE", "8f989229699b4fe2f1a0432d0e9edc338a8a911e250e2d1b01ecd770a5f5b1bd"),
}
"""Name in the package → where npm put it, and its SHA-256."""


def vendor(modules: Path, target: Path) -> list[str]:
    """Copy every file whose hash is right; what is wrong with the others. Nothing is copied unless all are right."""
    wrong: list[str] = []
    for source, wanted in FILES.values():
        try:
            found = hashlib.sha256((modules / source).read_bytes()).hexdigest()
        except OSError as error:
            wrong.append(f"{source}: {error.strerror}")
            continue
        if found != wanted:
            wrong.append(f"{source}: its SHA-256 is {found}, not {wanted}")
    if not wrong:
        target.mkdir(parents=True, exist_ok=True)
        for name, (source, _) in FILES.items():
            shutil.copyfile(modules / source, target / name)
    return wrong


if __name__ == "__main__":
    complaints = vendor(HERE / "node_modules", TARGET)
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    sys.exit(1 if complaints else 0)
