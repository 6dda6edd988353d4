"""Python, the agent and every library that it needs, in one folder that runs from anywhere.

A till's own Python, or its lack of one, plays no part then. What the folder does need is a C library as new as the
newest symbol that anything in it asks for: `needed_glibc` reads that, and the packages depend on it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path
from typing import Final

NAME: Final = "tillstream-agent"
HIDDEN: Final = ("_cffi_backend",)
"""Modules that only compiled code imports, where no search finds them."""
LEFT_OUT: Final = ("setuptools", "pkg_resources", "distutils", "readline", "tkinter", "lib2to3", "pydoc", "PyInstaller")
_NEEDS: Final = re.compile(rb"\0GLIBC_(\d+)\.(\d+)(?=[.\0])")
_LICENCES: Final = ("licen", "copying", "notice")


def freeze(work: Path) -> Path:
    """The folder, made below `work`; its program is called like it. Raises `CalledProcessError`."""
    options = [f"--hidden-import={name}" for name in HIDDEN] + [f"--exclude-module={name}" for name in LEFT_OUT]
    places = {"distpath": work / "frozen", "workpath": work / "pyinstaller", "specpath": work}
    command = [sys.executable, "-m", "PyInstaller", "--noconfirm", "--onedir", "--strip", "--log-level=WARN"]
    command += [f"--name={NAME}", f"--copy-metadata={NAME}", "--collect-data=tillstream_agent"]
    command += ["--collect-submodules=tillstream_agent", "--collect-submodules=tillstream_protocol", *options]
    command += [part for name, path in places.items() for part in (f"--{name}", str(path))]
    subprocess.run([*command, str(Path(__file__).with_name("entry.py"))], check=True)
    folder = work / "frozen" / NAME
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o755 if path == folder / NAME else 0o644)
    return folder


def needed_glibc(folder: Path) -> str:
    """The oldest C library, as `2.34`, with everything that the folder's programs and libraries ask for."""
    versions = {
        (int(found[1]), int(found[2])) for path in _binaries(folder) for found in _NEEDS.finditer(path.read_bytes())
    }
    return "{}.{}".format(*max(versions, default=(2, 0)))


def _binaries(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as opened:
                if opened.read(4) == b"\x7fELF":
                    yield path


def copy_licences(to: Path, names: frozenset[str]) -> None:
    """The licences of these distributions, and Python's own, each in a folder of its name."""
    for one in distributions():
        if one.name.lower().replace("_", "-") not in names:
            continue
        for file in one.files or ():
            if any(part in file.name.lower() for part in _LICENCES):
                target = to / one.name / file.name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(str(file.locate()), target)
    pythons = Path(sys.base_prefix) / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "LICENSE.txt"
    if pythons.exists():
        (to / "python").mkdir(parents=True, exist_ok=True)
        shutil.copyfile(pythons, to / "python" / "LICENSE.txt")
