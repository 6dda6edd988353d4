"""`make package`: builds what is asked for, and prints a JSON line of name, bytes and seconds for each.

It runs in an environment that holds exactly what is pinned: the agent, its libraries, and what packages them.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Final

from .bundle import write_bundle
from .freeze import NAME, freeze
from .stage import Release, Sources, description, place_common, place_packaged

ROOT: Final = Path(__file__).resolve().parents[2]
KINDS: Final = ("deb", "rpm", "bundle")


def main() -> int:
    """Build. Returns the exit code."""
    given = _arguments()
    sources, work = Sources(ROOT), ROOT / "build" / "package"
    given.out.mkdir(parents=True, exist_ok=True)
    work.mkdir(parents=True, exist_ok=True)
    release = Release(version(NAME), _made_at())
    wanted = given.only or KINDS
    try:
        if {"deb", "rpm"} & set(wanted):
            tree, config = work / "tree", work / "nfpm.yaml"
            _timed("tree", lambda: _stage(sources, work, tree, release))
            config.write_text(description(sources, tree, release), encoding="utf-8")
            for kind in ("deb", "rpm"):
                if kind in wanted:
                    _timed(kind, lambda kind=kind: _nfpm(kind, config, given.out))  # type: ignore[misc]
        if "bundle" in wanted:
            wheels = ROOT / "build" / "wheels"
            _timed("bundle", lambda: write_bundle(sources, work, wheels, given.pip, release, given.out))
    except subprocess.CalledProcessError as error:
        print(f"package: {Path(error.cmd[0]).name} failed: {error.stderr or 'see above'}", file=sys.stderr)
        return 1
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="package", description="Build the agent's packages.")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where they go")
    parser.add_argument("--pip", type=Path, required=True, metavar="PYTHON", help="a Python with pip, for the bundle")
    parser.add_argument("--only", action="append", choices=KINDS, help="build this kind alone; may be repeated")
    return parser.parse_args()


def _stage(sources: Sources, work: Path, tree: Path, release: Release) -> Path:
    shutil.rmtree(tree, ignore_errors=True)
    place_common(sources, tree)
    pins = (ROOT / "requirements" / "bundle.txt").read_text(encoding="utf-8")
    shipped = frozenset(re.findall(r"^([a-z0-9-]+)==", pins, re.MULTILINE))
    place_packaged(sources, tree, freeze(work), shipped, release)
    return tree


def _nfpm(kind: str, config: Path, out: Path) -> Path:
    command = [str(Path(sys.executable).with_name("nfpm")), "package", "--packager", kind, "--config", str(config)]
    said = subprocess.run([*command, "--target", str(out)], check=True, capture_output=True, text=True).stdout
    (found,) = re.findall(r"created package: (.+)", said)
    return Path(found)


def _made_at() -> int:
    """When the sources were last changed, in seconds since 1970, so that one commit gives one package."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given:
        return int(given)
    command = ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"]
    try:
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    except (OSError, subprocess.CalledProcessError, ValueError):
        return int((ROOT / "CHANGELOG.md").stat().st_mtime)


def _timed(name: str, make: Callable[[], Path]) -> None:
    start = time.monotonic()
    path = make()
    size = sum(one.stat().st_size for one in (path.rglob("*") if path.is_dir() else [path]) if one.is_file())
    print(json.dumps({"made": name, "path": str(path), "bytes": size, "seconds": round(time.monotonic() - start, 1)}))


if __name__ == "__main__":
    sys.exit(main())
