"""The agent, installed from its wheels into an environment of its own, brings nothing of the server."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from house.tree import ROOT

ALONE = ROOT / ".venv-agent" / "bin"
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}

pytestmark = pytest.mark.skipif(not (ALONE / "python").exists(), reason="`make test` sets up the agent's environment")


def run(*command: str, folder: Path) -> str:
    """The output of a command, run where no source lies beside it."""
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=CLEAN, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def python(code: str, folder: Path) -> str:
    return run(str(ALONE / "python"), "-W", "error", "-c", code, folder=folder)


def required(name: str) -> set[str]:
    text = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z0-9-]+)==", text, re.MULTILINE))


def test_no_package_of_the_servers_is_installed(tmp_path: Path) -> None:
    code = "from importlib.metadata import distributions\nfor one in distributions(): print(one.name)"
    installed = {re.sub(r"[-_.]+", "-", name).lower() for name in python(code, tmp_path).split()}
    assert {"tillstream-agent", "tillstream-protocol"} <= installed
    assert installed <= {"tillstream-agent", "tillstream-protocol"} | required("agent") | required("test")


@pytest.mark.parametrize("module", ["sqlalchemy", "alembic", "tillstream_server"])
def test_what_the_server_is_made_of_cannot_be_imported(module: str, tmp_path: Path) -> None:
    code = f"import importlib.util\nprint(importlib.util.find_spec({module!r}))"
    assert python(code, tmp_path).strip() == "None"


def test_the_agents_command_can_be_imported(tmp_path: Path) -> None:
    where = python("import tillstream_agent.cli as cli\nprint(cli.__file__)", tmp_path)
    assert Path(where.strip()).is_relative_to(ROOT / ".venv-agent")


def test_the_agents_command_runs_and_names_what_it_can_do(tmp_path: Path) -> None:
    text = run(str(ALONE / "tillstream-agent"), "--help", folder=tmp_path)
    assert all(name in text for name in ("enroll", "run", "status", "doctor"))
