"""Puts Odoo's module together: `python deploy/pos/odoo/build.py 18 DIR` writes `DIR/pos_tillstream`."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from pprint import pformat
from typing import Any, Final

HERE: Final = Path(__file__).parent
SERIES: Final = ("17", "18")
NAME: Final = "pos_tillstream"
FILES: Final = ("tillstream.js", "bridge.js", "till.js", "hooks.js", "strip.js", "strip.css")
_MODULE: Final = "/** @odoo-module */\n"


def manifest(series: str) -> dict[str, Any]:
    """What Odoo reads of a module."""
    return {
        "name": "Tillstream",
        "summary": "What happens at the till reaches Tillstream, and its offers the cashier",
        "version": f"{series}.0.1.0.0",
        "category": "Sales/Point of Sale",
        "license": "Other OSI approved licence",
        "author": "Tillstream",
        "depends": ["point_of_sale"],
        "assets": {"point_of_sale._assets_pos": [f"{NAME}/static/src/{file}" for file in FILES]},
        "installable": True,
    }


def build(series: str, folder: Path) -> Path:
    """Write the module for one series of Odoo; returns its folder."""
    made = folder / NAME
    static = made / "static" / "src"
    static.mkdir(parents=True)
    (made / "__init__.py").write_text("")
    (made / "__manifest__.py").write_text(pformat(manifest(series), sort_dicts=False) + "\n")
    for source in (HERE.parent / "web", HERE / "common", HERE / f"v{series}"):
        for file in FILES:
            if (source / file).exists():
                _copy(source / file, static / file)
    shutil.copy(HERE.parents[2] / "LICENSE", made / "LICENSE")
    return made


def _copy(source: Path, target: Path) -> None:
    """Odoo 17 takes a file for a module by its first comment."""
    text = source.read_text(encoding="utf-8")
    if source.suffix == ".js" and not text.startswith(_MODULE):
        text = _MODULE + text
    target.write_text(text, encoding="utf-8")


def main(arguments: list[str]) -> int:
    """Build as asked on the command line."""
    if len(arguments) != 2 or arguments[0] not in SERIES:
        print(f"usage: build.py {'|'.join(SERIES)} DIR", file=sys.stderr)
        return 2
    print(build(arguments[0], Path(arguments[1])))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
