"""The committed vectors are what their script makes."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

VECTORS = Path(__file__).parents[2] / "protocol" / "vectors"


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("vectors_make", VECTORS / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_script_makes_the_committed_files() -> None:
    make = script()
    made = {name: make.render(document) for name, document in make.documents().items()}
    committed = {path.name: path.read_text(encoding="utf-8") for path in VECTORS.glob("*.json")}
    assert made == committed
