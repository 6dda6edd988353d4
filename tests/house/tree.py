"""The repository as a list of files, and its Python as syntax trees."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("protocol/src", "agent/src", "server/src")
SHIPPED = (*PACKAGES, "deploy", "benchmarks")

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def files(suffix: str = "", *, under: tuple[str, ...] = ("",)) -> tuple[Path, ...]:
    """What belongs to the repository: tracked, or about to be. Without git, whatever a clone would hold."""
    return tuple(
        path
        for path in _listed()
        if path.suffix.endswith(suffix) and path.relative_to(ROOT).as_posix().startswith(under)
    )


@cache
def _listed() -> tuple[Path, ...]:
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listing = subprocess.run(command, capture_output=True, check=True, text=True).stdout.split("\0")
        found = (ROOT / name for name in listing if name)
    except (FileNotFoundError, subprocess.CalledProcessError):
        found = (path for path in ROOT.rglob("*") if not _generated(path.relative_to(ROOT)))
    return tuple(sorted(path for path in found if path.is_file()))


def _generated(path: Path) -> bool:
    hidden = {".venv", ".venv-agent", ".git", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis"}
    return not hidden.isdisjoint(path.parts) or bool({"__pycache__", "build", "dist"} & set(path.parts))


@dataclass(frozen=True, slots=True)
class Definition:
    """A function or class, and where it stands."""

    path: Path
    name: str
    node: FunctionNode | ast.ClassDef
    public: bool
    """Neither it nor anything around it begins with an underscore, and no function is around it."""

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.node.lineno} {self.name}"


def definitions(under: tuple[str, ...]) -> Iterator[Definition]:
    """Every function and class of the Python files under these folders."""
    for path in files(".py", under=under):
        yield from _within(path, ast.parse(path.read_text(encoding="utf-8")), "", public=True)


def _within(path: Path, parent: ast.AST, prefix: str, *, public: bool) -> Iterator[Definition]:
    for node in ast.iter_child_nodes(parent):
        if isinstance(node, FunctionNode | ast.ClassDef):
            name = f"{prefix}{node.name}"
            open_here = public and not node.name.startswith("_")
            yield Definition(path, name, node, open_here)
            inside = open_here and isinstance(node, ast.ClassDef)
            yield from _within(path, node, f"{name}.", public=inside)
        else:
            yield from _within(path, node, prefix, public=public)
