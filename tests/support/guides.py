"""The commands of a guide, taken from its page and carried out."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

HOW_TO: Final = Path(__file__).resolve().parents[2] / "docs" / "how-to"
PROGRAM: Final = "import sys; from tillstream_server.cli import main; sys.exit(main())"
_FENCED: Final = re.compile(r"^ *```(?P<about>[^\n]*)\n(?P<body>.*?)^ *```", re.MULTILINE | re.DOTALL)
_REMARK: Final = re.compile(r"\s{3,}\S.*$")
SERVER: Final = "tillstream-server "


def blocks(page: str) -> Iterator[tuple[str, list[str]]]:
    """What stands after each fence, and the server's commands in it, without remarks."""
    text = (HOW_TO / page).read_text(encoding="utf-8")
    for found in _FENCED.finditer(text):
        lines = [_REMARK.sub("", line.strip()) for line in found["body"].splitlines()]
        yield found["about"].strip(), [line for line in lines if line.startswith(SERVER)]


def arguments(command: str, places: Mapping[str, str]) -> list[str]:
    """A command's arguments, with real folders and files for those that the page names."""
    return [places.get(word, word) for word in shlex.split(command)[1:]]


@contextmanager
def served(given: list[str]) -> Iterator[str]:
    """What `serve` was asked for, as a process of its own on a free port; gives its address."""
    command = [sys.executable, "-c", PROGRAM, *given, "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["listening"]
        process.terminate()
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 0, errors
    finally:
        process.kill()
        process.communicate()
