"""`make demo` in short: real baskets, real processes, killed meanwhile, and the proof."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.system

ROOT = Path(__file__).parents[2]


def run(module: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "deploy")}
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False)


def test_the_demo_proves_its_result_though_everything_is_killed_meanwhile(tmp_path: Path) -> None:
    done = run("demo", "--baskets", "600", "--tills", "2", "--headless", "--chaos", "--report", tmp_path / "r.json")
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads((tmp_path / "r.json").read_text())
    assert report["baskets_sent"] == report["transactions_captured"] == report["transactions_stored"] == 600
    assert report["revenue_sent_minor"] == report["revenue_stored_minor"] > 0
    assert report["offers_pushed"] == report["offers_expected"] > 0
    assert report["duplicates"] == 0
    assert report["kills"] == 9
    assert report["hook_us"].keys() == {"p50", "p99", "p999", "max"}
    assert "every basket is in the ledger once" in done.stderr


def test_the_demo_refuses_a_folder_that_is_there(tmp_path: Path) -> None:
    done = run("demo", "--baskets", "10", "--headless", "--keep", tmp_path)
    assert done.returncode == 1
    assert "is there already" in done.stderr
