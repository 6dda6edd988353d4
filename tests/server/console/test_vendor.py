"""What the console takes from npm: pinned by hash, and nothing of it where one is wrong."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

WEB = Path(__file__).parents[3] / "server" / "web"


@pytest.fixture
def script() -> ModuleType:
    """The script that `make assets` runs."""
    spec = importlib.util.spec_from_file_location("vendor", WEB / "vendor.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_lock_names_versions_and_hashes_and_no_registry() -> None:
    packages = json.loads((WEB / "package-lock.json").read_text(encoding="utf-8"))["packages"]
    fetched = {name: one for name, one in packages.items() if name}
    assert {name.rpartition("/")[2]: one["version"] for name, one in fetched.items()} == {
        "htmx.org": "2.0.11",
        "uplot": "1.6.32",
    }
    assert all(one["integrity"].startswith("sha512-") and "resolved" not in one for one in fetched.values())


def test_what_has_the_right_hash_is_copied(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = hashlib.sha256(b"code").hexdigest()
    monkeypatch.setattr(script, "FILES", {"a.js": ("one/a.js", right), "b.js": ("two/b.js", right)})
    for name in ("one/a.js", "two/b.js"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"code")
    assert script.vendor(tmp_path, tmp_path / "target") == []
    assert (tmp_path / "target" / "b.js").read_bytes() == b"code"


def test_nothing_is_copied_where_one_is_missing_or_another(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = hashlib.sha256(b"code").hexdigest()
    monkeypatch.setattr(script, "FILES", {"a": ("a.js", right), "b": ("b.js", right), "c": ("c.js", right)})
    (tmp_path / "a.js").write_bytes(b"code")
    (tmp_path / "b.js").write_bytes(b"other code")
    wrong = script.vendor(tmp_path, tmp_path / "target")
    assert [complaint.partition(":")[0] for complaint in wrong] == ["b.js", "c.js"]
    assert not (tmp_path / "target").exists()
