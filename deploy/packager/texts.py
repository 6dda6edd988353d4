"""Manual page and shell completion, made from the command line as the agent itself defines it."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path
from typing import Final

DESCRIPTION: Final = "captures what happens at a till, keeps it in a sealed queue, and syncs it"
COMPLETIONS: Final = {
    "bash": "usr/share/bash-completion/completions/tillstream-agent",
    "zsh": "usr/share/zsh/vendor-completions/_tillstream-agent",
}
"""Shells, and where each looks for completions."""
MANUAL: Final = "usr/share/man/man1/tillstream-agent.1.gz"


def write_texts(root: Path) -> None:
    """Put them where a system looks for them below `root`. Raises `CalledProcessError`."""
    for shell, place in COMPLETIONS.items():
        _put(root / place, _made("shtab", "--shell", shell, "tillstream_agent.cli.parser").encode())
    _put(root / MANUAL, squeezed(_manual().encode()))


def squeezed(data: bytes) -> bytes:
    """As gzip, the same at every build."""
    return gzip.compress(data, compresslevel=9, mtime=0)


def _manual() -> str:
    return _made(
        "argparse-manpage",
        "--module=tillstream_agent.cli",
        "--function=parser",
        "--project-name=tillstream-agent",
        f"--description={DESCRIPTION}",
        "--author=The Tillstream authors",
        "--manual-title=Tillstream",
        "--format=single-commands-section",
    )


def _made(program: str, *arguments: str) -> str:
    command = [str(Path(sys.executable).with_name(program)), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
