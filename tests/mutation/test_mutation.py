"""The short form of `make mutate`: one small part of it, and a list of excuses that is never stale."""

from __future__ import annotations

import ast
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from mutation.justified import Mutant, justified
from mutation.parts import PARTS, ROOT

SOURCES = {"tillstream_protocol": ROOT / "protocol" / "src", "tillstream_agent": ROOT / "agent" / "src"}


@pytest.mark.skipif(importlib.util.find_spec("mutmut") is None, reason="`make .venv/mutate` installs what it needs")
def test_no_mutant_of_ranges_and_backoff_goes_unnoticed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mutation", "--only", "ranges", "--jobs", "1", "--folder", str(tmp_path)]
    run = subprocess.run(command, cwd=ROOT / "tests", capture_output=True, text=True, timeout=600, check=False)
    assert run.returncode == 0, run.stderr
    figures = json.loads(run.stdout)
    assert figures["part"] == "ranges"
    assert figures["killed"] > 60


def test_every_source_and_test_of_a_part_is_there() -> None:
    for part in PARTS.values():
        for source in part.sources:
            assert (SOURCES[source.partition("/")[0]] / source).is_file()
        for test in part.tests:
            assert (ROOT / test).exists()


@pytest.mark.parametrize("package", ["journal", "sync"])
def test_no_module_of_a_package_is_left_out(package: str) -> None:
    mutated = {source for part in PARTS.values() for source in part.sources}
    for module in (SOURCES["tillstream_agent"] / "tillstream_agent" / package).glob("*.py"):
        if _functions(ast.parse(module.read_text(encoding="utf-8"))):
            assert f"tillstream_agent/{package}/{module.name}" in mutated


@pytest.mark.parametrize("mutant", justified(), ids=lambda mutant: mutant.where)
def test_what_is_justified_still_stands_there_and_has_a_reason(mutant: Mutant) -> None:
    assert len(justified()[mutant].split()) >= 4
    assert mutant.before != mutant.after
    assert mutant.before in _text(mutant.where)


def _text(where: str) -> str:
    """A function's lines, joined by single spaces."""
    module, _, mangled = where.rpartition(".")
    of_class, _, name = mangled.removeprefix("xǁ").rpartition("ǁ") if "ǁ" in mangled else ("", "", mangled[2:])
    file = SOURCES[module.partition(".")[0]] / (module.replace(".", "/") + ".py")
    source = file.read_text(encoding="utf-8")
    tree: ast.Module | ast.ClassDef = ast.parse(source)
    if of_class:
        tree = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == of_class)
    function = next(node for node in tree.body if node in _functions(tree) and node.name == name)
    segment = ast.get_source_segment(source, function) or ""
    return " ".join(line.strip() for line in segment.splitlines())


def _functions(tree: ast.AST) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
